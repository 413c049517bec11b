/**
 * Every message between the caller's side and the worker, one union for each direction, and nothing else. All members
 * survive structured cloning; errors travel as `WireError`.
 */
import type { CacheEvent as CacheDecision } from "../cache/events.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import type { WireError } from "../errors.ts";
import type { HubOptions } from "../load/download/hub.ts";
import type { ModelsOptions } from "../load/download/model-store.ts";

/** A file under its name: Node's worker threads clone a `File` to a nameless `Blob`. */
export interface NamedBlob {
  name: string;
  blob: Blob;
}

/** What to load: a path, a URL, or files. */
export type ModelSpec = string | readonly NamedBlob[];

/** Types of numbers that the kernels compute with. */
export type Dtype = "f32" | "f16";

export type { HubOptions, ModelsOptions };

/** Where models that are named by a Hub id or a URL come from, and where they are kept. */
export interface SourceOptions {
  hub?: HubOptions | undefined;
  models?: ModelsOptions | undefined;
}

/** What can be set when a model is loaded. */
export interface EngineOptions extends SourceOptions {
  /** Arithmetic and activations. Default "auto": f16 on a hardware adapter that has it, else f32. */
  dtype?: Dtype | "auto" | undefined;
  /** Stored keys and values. Default: as `dtype`, and with dtype "auto" f16 on every adapter that has it. */
  kvDtype?: Dtype | undefined;
  /** Tokens a KV block: 16, 32 or 64. Default 32. */
  blockTokens?: number | undefined;
  /** Prompt tokens a prefill step at most, 1 to 512. Default 256. */
  chunkTokens?: number | undefined;
  /** Requests that decode at once, 1 to 16. Default 8. */
  maxRequests?: number | undefined;
  /**
   * Tokens of KV that the GPU pool may grow to, for all requests together. Default: what 1 GiB holds, at least 8,192, and
   * no more than `maxRequests` contexts.
   */
  poolTokens?: number | undefined;
  /** The same in bytes; goes before `poolTokens`. */
  poolBytes?: number | undefined;
  /** Tokens of KV that the GPU pool has at first; it doubles when requests need more. Default 2,048. */
  poolStartTokens?: number | undefined;
  /**
   * GPU memory that the model may take in all, in bytes: weights, KV pool, recurrent states and workspace. Less than it
   * needs is an error; the pool grows no further than this allows. Default: no limit but the device's.
   */
  memoryBytes?: number | undefined;
  /** Part of the wanted adapter's name. */
  adapter?: string | undefined;
  /** false: no subgroup operations. Default: used where the adapter has them. */
  subgroups?: boolean | undefined;
  /**
   * The longest that a prompt's text may take to become tokens, through chat template and tokenizer; what is late is
   * ended with `timed_out`. 10 to 3,600,000. Default 10,000.
   */
  textTimeoutMs?: number | undefined;
  /** Lower tiers of the KV cache. */
  cache?: CacheOptions | undefined;
}

/** Where computed keys and values are kept. */
export interface CacheOptions {
  /**
   * Node and Deno: a folder for the disk tier; without one there is no disk tier. Browsers: the name of the store,
   * default "tidepool-kv".
   */
  directory?: string | undefined;
  /** false: no disk tier. */
  disk?: boolean | undefined;
  /**
   * Budgets in bytes. RAM by default: 32,768 tokens of the model, from 256 MiB up to an eighth of the machine's memory.
   * Disk by default: 4 GiB, at most half of the origin's quota in browsers and a tenth of the file system elsewhere.
   */
  ramBytes?: number | undefined;
  diskBytes?: number | undefined;
  /** How stored blocks come back: "auto" (default) loads, computes or does both by measured rates. */
  restore?: "auto" | "load" | "compute" | "both" | undefined;
  /** What is evicted first, and which snapshots are taken. Default "marconi". */
  policy?: Exclude<PolicyName, "offline"> | undefined;
  /** Salts the keys, so that users of one app cannot find each other's prefixes. */
  namespace?: string | undefined;
  /** Stored blocks expire so long after they were computed. Default: never. */
  maxAgeMs?: number | undefined;
  /**
   * Stores blocks quantised; off by default, because it changes what is computed from them. What such an engine stores is
   * marked, and is not served to an engine that stores exactly or in more bits.
   */
  atRestBits?: 8 | 4 | undefined;
  /**
   * Stores recurrent states in 16 bits: half of their bytes in RAM and on disk. Off by default, and marked, for the same
   * reason.
   */
  atRestStateBits?: 16 | undefined;
  /**
   * Public keys of whom archives are imported from, as `newSigningKey` gives them; archives without a signature by one of
   * them are refused. Default: any archive is imported, and its maker must be trusted as the maker of code is.
   */
  trust?: readonly string[] | undefined;
}

/** What became of an archive. */
export interface ArchiveImport {
  /** Keys of the records that are stored now. */
  keys: string[];
  /**
   * How many were not taken, by reason: "fingerprint" (made with another model, or other settings of it), "encoding"
   * (coarser than what this engine serves), "expired", "room" (they fit into no tier).
   */
  rejected: Record<string, number>;
  /** The prompt that the archive holds, as far as its records go. */
  tokens: number[];
  /** The public key of whoever signed it; absent if nobody did, or if this runtime cannot check signatures. */
  signedBy?: string;
}

/** Something about the disk that the user should hear of, said once. */
export interface Notice {
  code: string;
  message: string;
}

/** Something that this platform lacks, what is lost by it, and what can be done. */
export type Capability = Notice;

/** What is said while a model loads. */
export interface LoadProgress {
  /**
   * Downloading and uploading go on at the same time. "waiting": another tab or process downloads the same model, told once
   * and without amounts. "retrying": a request failed for now, the `done`th time in a row, and is made again, `total` times at
   * most. "weights": the upload to the GPU. "finishing": all pipelines are ready; what may still be under way is the tokenizer
   * and the GPU's part of the upload. Told once, without amounts.
   */
  phase: "header" | "waiting" | "retrying" | "download" | "weights" | "pipelines" | "finishing";
  /** "retrying": which server, and what is wrong. */
  reason?: string | undefined;
  /** Bytes kept or uploaded, pipelines ready, or failures. */
  done: number;
  total: number;
  /** By the rate of late; absent while nobody can know. */
  secondsLeft?: number;
}

/** What was loaded and what was chosen for it. */
export interface EngineInfo {
  /**
   * "alone": not shared with other tabs. "owner": this tab's worker has the model, for all tabs that share it. "guest": another
   * tab's has.
   */
  role: "alone" | "owner" | "guest";
  model: {
    name: string;
    architecture: string;
    parameters: number;
    contextTokens: number;
    vocabSize: number;
    layers: number;
  };
  adapter: { name: string; software: boolean };
  /** What was chosen from the adapter's features. */
  kernels: { dtype: Dtype; kvDtype: Dtype; subgroups: boolean };
  /** Bytes on the GPU; both pools as they are now. `stateMaxBytes`: what the pool of recurrent states may grow to. */
  memory: {
    weightBytes: number;
    kvPoolBytes: number;
    kvPoolTokens: number;
    statePoolBytes: number;
    stateMaxBytes: number;
    workspaceBytes: number;
  };
  /** `poolTokens`: what the KV pool may grow to. */
  limits: { blockTokens: number; chunkTokens: number; maxRequests: number; poolTokens: number };
  /** Whether text can be encoded and chats rendered, or why not. */
  tokenizer: string;
  chatTemplate: string;
  /** Where the file's template and tokenizer run: "own worker", "not needed", or why in the engine's thread. */
  textWorker: string;
  /** What this platform lacks, each in a sentence; empty where nothing is missing. */
  capabilities: Capability[];
}

/** A part of a message's content. */
export interface TextPart {
  type: "text";
  text: string;
}

/** A tool's call, in OpenAI's form. */
export interface ToolCall {
  id?: string | undefined;
  type?: "function" | undefined;
  /** `arguments`: JSON text or the object itself; the chat template gets the one that it works with. */
  function: { name: string; arguments?: string | Readonly<Record<string, unknown>> | undefined };
}

/** A tool that the model may call, in OpenAI's form; `parameters` is a JSON schema. */
export interface Tool {
  type: "function";
  function: {
    name: string;
    description?: string | undefined;
    parameters?: Readonly<Record<string, unknown>> | undefined;
  };
}

/** Who wrote a message. */
export type ChatRole = "system" | "developer" | "user" | "assistant" | "tool";

/**
 * A message of a conversation, in OpenAI's form. Special tokens written in it are plain text. Numbers in arguments and schemas
 * print as JavaScript writes them; a `Number` object prints as a float ("1.0").
 */
export interface ChatMessage {
  role: ChatRole;
  /** Text, or parts whose texts are joined unless the chat template goes through parts; null: tool calls alone. */
  content: string | readonly TextPart[] | null;
  /**
   * Of an assistant's message: the tokens of a result, used in place of tokenising its text again. They count only if they
   * decode to the content and hold nothing else but the end of the turn: the text is tokenised again if it was edited, or
   * if there is a control token among them, which nobody would see.
   */
  tokens?: readonly number[] | undefined;
  tool_calls?: readonly ToolCall[] | undefined;
  /** Of a tool's message: the call that it answers. */
  tool_call_id?: string | undefined;
  name?: string | undefined;
  /** What a model thought before its answer, for templates that print it. */
  reasoning_content?: string | undefined;
}

export type RequestInput =
  | { kind: "text"; text: string }
  | { kind: "tokens"; tokens: readonly number[] }
  | {
      kind: "chat";
      messages: readonly ChatMessage[];
      template?: Record<string, unknown>;
      tools?: readonly Tool[];
    };

/** What to do when prompt and new tokens do not fit the context or the pool. */
export type Overflow = "error" | "truncateStart" | "stop";

/** How far a call's keys and values may go: nowhere (nor are stored ones used), GPU and RAM, or the disk too. */
export type CacheScope = "off" | "memory" | "disk";

/** How to generate. */
export interface GenerateParams {
  /** New tokens at most. Default: to the end of the sequence or of the context. */
  maxTokens?: number | undefined;
  /** 0 (default): greedy. */
  temperature?: number | undefined;
  /** 0 (default): off. */
  topK?: number | undefined;
  /** 1 (default): off. */
  topP?: number | undefined;
  /** 0 (default): off. */
  minP?: number | undefined;
  /** 1 (default): off. */
  repetitionPenalty?: number | undefined;
  presencePenalty?: number | undefined;
  frequencyPenalty?: number | undefined;
  /** Token id -> value added to its logit. */
  logitBias?: Readonly<Record<number, number>> | undefined;
  /** Default 0. Same seed, same adapter, same text. */
  seed?: number | undefined;
  /** Text at which generation ends, or several, at most 64; the result does not contain it. */
  stop?: string | readonly string[] | undefined;
  /** Report log-probabilities of the chosen token and of this many best, 0 to 20. Default: none. */
  logprobs?: number | undefined;
  /** Default "error". */
  overflow?: Overflow | undefined;
  /** How far this request's keys and values may go: nowhere, GPU and RAM, or (default) the disk too. */
  cache?: CacheScope | undefined;
  /**
   * What this request stores in RAM and on disk expires so long after it was computed; above 0. What was there already
   * keeps its own expiry. Default: the engine's `cache.maxAgeMs`.
   */
  cacheMaxAgeMs?: number | undefined;
}

/** How to score given tokens. */
export interface ScoreOptions {
  /** First position whose logits are wanted. Default 0. */
  from?: number | undefined;
  /** Give the logits raw too. Default false. */
  logits?: boolean | undefined;
  /** How far their keys and values may go. Default "disk", as of a request. */
  cache?: CacheScope | undefined;
}

/** How to make a prompt ready. */
export interface WarmOptions {
  /** How far its keys and values may go. Default "disk"; with "off" nothing is left to find. */
  cache?: CacheScope | undefined;
}

/** A chosen token with the natural logarithm of its probability, and the likeliest ones beside it. */
export interface TokenLogprob {
  token: number;
  logprob: number;
  top: { token: number; logprob: number }[];
}

/** Where a prompt's tokens came from: those computed and those cached add up to `promptTokens`. */
export interface PromptUsage {
  promptTokens: number;
  computedTokens: number;
  cachedTokens: { gpu: number; ram: number; disk: number };
  /** How stored blocks were brought back; absent where there were none. */
  restore?: "load" | "compute" | "both";
}

export interface Usage extends PromptUsage {
  completionTokens: number;
}

/** How long a request took: milliseconds to the first token, and rates of its two phases. */
export interface Timing {
  ttftMs: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
}

/** A request's whole result. */
export interface GenerationResult {
  text: string;
  tokens: number[];
  finishReason: "stop" | "length" | "aborted";
  usage: Usage;
  timing: Timing;
  logprobs?: TokenLogprob[];
}

/** What was generated for a request before, by an engine that is gone: it goes on behind it, and says none of it again. */
export interface Resume {
  tokens: readonly number[];
  /** Of these tokens, where the request asks for them. */
  logprobs?: readonly TokenLogprob[];
}

/** What one step added to one request. */
export interface StepOutput {
  id: number;
  text: string;
  tokens: number[];
  logprobs?: TokenLogprob[];
}

/** Questions with one answer. */
export type Call =
  | { method: "tokenize"; text: string }
  | { method: "detokenize"; tokens: readonly number[] }
  | { method: "countTokens"; input: RequestInput }
  | { method: "loseDevice" }
  | { method: "check" }
  | { method: "warm"; input: RequestInput; cache?: CacheScope }
  | { method: "cacheStats" }
  | { method: "cacheList" }
  | { method: "cacheVerify" }
  | { method: "cacheClear"; namespace?: string }
  | { method: "cacheBudgets"; ramBytes?: number; diskBytes?: number }
  | { method: "cacheExport"; input: RequestInput }
  | { method: "cacheImport"; archive: Uint8Array; verify?: number }
  | { method: "cacheDrain"; timeoutMs: number }
  | { method: "cacheTree"; limit: number }
  | { method: "cacheWatch"; on: boolean }
  | { method: "score"; tokens: readonly number[]; from: number; logits: boolean; cache?: CacheScope };

/** Log-probabilities of given tokens: `logprobs[i]` is that of token `from + 1 + i` after those before it. */
export interface ScoreResult {
  from: number;
  logprobs: number[];
  usage: PromptUsage;
  /** Raw logits of the rows from `from` on, [rows, vocabulary], where asked for. */
  logits?: Float32Array<ArrayBuffer>;
}

/** What a model's header says, and whether the model would run here. */
export interface ModelReport {
  name: string;
  format: "gguf" | "safetensors";
  architecture: string;
  fileBytes: number;
  /** Tensors by type. */
  tensors: Record<string, number>;
  parameters: number;
  /** "ready", or why there is none. */
  tokenizer: string;
  chatTemplate: string;
  shape?: {
    name: string;
    layers: number;
    /** Layers by kind of mixer. */
    mixers: Record<string, number>;
    hiddenSize: number;
    vocabSize: number;
    contextTokens: number;
  };
  adapter?: string;
  /** What it would take on the GPU, known beforehand. */
  memory?: {
    weightBytes: number;
    kvBytesPerToken: number;
    /** Tokens of the KV pool at first, and what it may grow to. */
    kvStartTokens: number;
    kvPoolTokens: number;
    kvPoolBytes: number;
    /** The pool of recurrent states at first, and what it may grow to. */
    stateStartBytes: number;
    statePoolBytes: number;
    workspaceBytes: number;
    /** Everything, with the pools as they are at first, and at most. */
    startBytes: number;
    maxBytes: number;
    dtype: Dtype;
    kvDtype: Dtype;
  };
  runs: boolean;
  /** Why it would not run. */
  problems: string[];
  /** What this platform lacks, each in a sentence. */
  capabilities: Capability[];
}

/** Questions about a store that need no model. */
export type StoreCall = Extract<
  Call,
  { method: "cacheStats" | "cacheList" | "cacheVerify" | "cacheClear" | "cacheImport" }
>;

/** Questions about the models that are kept. */
export type ModelsCall =
  | { method: "list" }
  | { method: "pull"; model: string }
  | { method: "remove"; model: string }
  | { method: "verify"; model?: string };

/** Questions about a model that its header answers. */
export type HeaderQuestion =
  | { ask: "inspect" }
  | { ask: "tokenize"; text: string }
  | { ask: "render"; input: Extract<RequestInput, { kind: "chat" }> };

/** What a conversation becomes through a model's chat template. */
export interface RenderedChat {
  text: string;
  tokens: number[];
}

/** Numbers of one tier. */
export interface CacheTierStats {
  bytes: number;
  budgetBytes: number;
  records: number;
  hits: number;
  /** By reason. */
  misses: Record<string, number>;
  promotions: number;
  demotions: number;
  drops: number;
}

/** What the cache holds and what it did for requests, by tier. */
export interface CacheStats {
  gpu: {
    blocks: { total: number; free: number; cached: number; inUse: number };
    bytes: number;
    /** Recurrent states; all zeros in models without recurrent layers. `taken`: admitted to the tree since the start. */
    snapshots: {
      total: number;
      free: number;
      cached: number;
      inUse: number;
      taken: number;
      evicted: number;
      bytes: number;
    };
    policy: string;
    /** The weight of FLOP efficiency in use, where the policy has one, and how often the tuner has changed it. */
    alpha?: number;
    alphaChanges: number;
    lookups: number;
    tokensAsked: number;
    tokensMatched: number;
    /** Lookups that found something: where inputs branch, or behind a former request's end. */
    branchHits: number;
    endHits: number;
    flopsSaved: number;
    evictions: number;
  };
  ram: CacheTierStats;
  disk: CacheTierStats & { state: string };
  /** What cached tokens would have taken to compute, by the rate measured in this session; 0 until one is. */
  timeSavedMs: { gpu: number; ram: number; disk: number };
  /** Blocks that were not copied down because too much was under way. */
  spillsDropped: number;
  /** Records that wait for the disk. */
  waiting: number;
}

/** One stored record. */
export interface CacheEntry {
  key: string;
  kind: string;
  blockIndex: number;
  tokens: number;
  bytes: number;
  createdAtMs: number;
  tiers: string[];
  /** false: quantised at rest, or computed from what was. */
  exact: boolean;
}

/** Bits of the places that have a block or a snapshot, as in `CacheTreeNode`: the RAM tier. */
export const TIER_RAM = 1;
/** The bit of the disk tier. */
export const TIER_DISK = 2;
/** The bit of the GPU's pool. */
export const TIER_GPU = 4;

/** What is known of prompts at one moment, by their beginnings. */
export interface CacheTree {
  blockTokens: number;
  bytesPerBlock: number;
  bytesPerSnapshot: number;
  /** Parents before their children; what the GPU has first, of siblings the last used one first. */
  nodes: CacheTreeNode[];
  /** Blocks on the GPU that the limit left out, and whether it left out stored ones too. */
  omittedBlocks: number;
  moreStored: boolean;
}

/** A run of tokens that goes on without a branch. */
export interface CacheTreeNode {
  /** Of what the GPU has: above 0, and the same as long as the node lives. Of what only lower tiers have: below 0. */
  id: number;
  /** 0: the root. */
  parent: number;
  /** Tokens before it, and to its end. It begins where its parent ends; a run that only lower tiers have may begin at any
   * full block of its parent. */
  start: number;
  end: number;
  /** One entry for each block whose last token lies on it, in order: bits of the places that have the block. */
  tiers: Uint8Array;
  /** Of the places that have the recurrent state at its end; 0: there is none. */
  snapshot: number;
  /** Requests that use it now. */
  pins: number;
  uses: number;
  /** Since its last use; of what only lower tiers have, since it was computed. -1: before anybody listened. */
  idleMs: number;
}

/** A decision of the cache (see its kinds and reasons in src/cache/events.ts), or several of one kind in a row, added up. */
export interface CacheEvent extends Omit<CacheDecision, "clock" | "lastAccess"> {
  /** Milliseconds since 1970. */
  timeMs: number;
  /** evicted: since the last use. */
  idleMs?: number;
}

export type ToWorker =
  | { type: "header"; model: ModelSpec; options: EngineOptions; question: HeaderQuestion }
  | { type: "store"; options: CacheOptions; call: StoreCall }
  | { type: "models"; options: SourceOptions; call: ModelsCall }
  | { type: "load"; model: ModelSpec; options: EngineOptions; share?: string }
  | { type: "submit"; id: number; input: RequestInput; params: GenerateParams; resume?: Resume }
  | { type: "abort"; id: number }
  | { type: "call"; id: number; call: Call }
  | { type: "close" };

export type FromWorker =
  | { type: "progress"; progress: LoadProgress }
  | { type: "loaded"; info: EngineInfo }
  | { type: "recovering" }
  | { type: "info"; info: EngineInfo }
  | { type: "header"; value: unknown }
  | { type: "failed"; error: WireError }
  | { type: "step"; outputs: StepOutput[] }
  | { type: "finished"; id: number; result: GenerationResult }
  | { type: "refused"; id: number; error: WireError }
  | { type: "answer"; id: number; value: unknown }
  | { type: "notice"; notice: Notice }
  | { type: "cacheEvents"; events: CacheEvent[]; dropped: number }
  | { type: "closed" };
