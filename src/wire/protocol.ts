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

/** The number types of the kernels. */
export type Dtype = "f32" | "f16";

export type { HubOptions, ModelsOptions };

/**
 * Where models named by a Hub id or a URL come from, and where downloads are kept.
 *
 * @example
 * ```ts
 * const source: SourceOptions = { models: { directory: "models" } };
 * const report = await inspect("https://models.example/tide-dense.gguf", source);
 * console.log(report.runs); // true
 * ```
 */
export interface SourceOptions {
  hub?: HubOptions | undefined;
  models?: ModelsOptions | undefined;
}

/**
 * The settings of an engine.
 *
 * @example
 * ```ts
 * const options: EngineOptions = { dtype: "f32", blockTokens: 16, maxRequests: 4, poolTokens: 8192 };
 * const report = await inspect("tide-dense.gguf", options);
 * console.log(report.memory?.dtype); // f32
 * ```
 */
export interface EngineOptions extends SourceOptions {
  /** The type of arithmetic and activations. Default "auto": f16 on a hardware adapter that has it, otherwise f32. */
  dtype?: Dtype | "auto" | undefined;
  /** The type of stored keys and values. Default: `dtype`; with dtype "auto", f16 on every adapter that has it. */
  kvDtype?: Dtype | undefined;
  /** Tokens per KV block: 16, 32 or 64. Default 32. */
  blockTokens?: number | undefined;
  /** The most prompt tokens in a prefill step, 1 to 512. Default 256. */
  chunkTokens?: number | undefined;
  /** The most requests that decode at once, 1 to 16. Default 8. */
  maxRequests?: number | undefined;
  /**
   * How many tokens of KV the GPU pool may grow to, for all requests together. Default: as many as fit 1 GiB, at least 8,192,
   * and at most `maxRequests` contexts.
   */
  poolTokens?: number | undefined;
  /** The same in bytes; overrides `poolTokens`. */
  poolBytes?: number | undefined;
  /** How many tokens of KV the GPU pool starts with; it doubles when requests need more. Default 2,048. */
  poolStartTokens?: number | undefined;
  /**
   * The most GPU memory that the model may take, in bytes: weights, KV pool, recurrent states and workspace. Loading fails if
   * the model needs more, and the pool does not grow beyond it. Default: the device's limit.
   */
  memoryBytes?: number | undefined;
  /** Part of the adapter's name; loading fails if the name does not contain it. */
  adapter?: string | undefined;
  /** false: do not use subgroup operations. Default: use them if the adapter has them. */
  subgroups?: boolean | undefined;
  /**
   * The longest that chat template and tokenizer may take for a prompt, in ms, 10 to 3,600,000; a request that takes longer ends
   * with `timed_out`. Default 10,000.
   */
  textTimeoutMs?: number | undefined;
  /** Lower tiers of the KV cache. */
  cache?: CacheOptions | undefined;
}

/**
 * Where and how computed keys and values are stored below the GPU.
 *
 * @example
 * ```ts
 * const cache: CacheOptions = { directory: "kv", diskBytes: 8 * 2 ** 30, policy: "lru", namespace: "alice" };
 * await using engine = await Engine.load("tide-dense.gguf", { cache });
 * console.log((await engine.cache.stats()).gpu.policy); // lru
 * ```
 */
export interface CacheOptions {
  /**
   * Node and Deno: a folder for the disk tier; without a folder there is no disk tier. Browsers: the name of the store,
   * default "tidepool-kv".
   */
  directory?: string | undefined;
  /** false: no disk tier. */
  disk?: boolean | undefined;
  /** Budget of the RAM tier. Default: 32,768 tokens of the model, at least 256 MiB and at most an eighth of the machine's memory. */
  ramBytes?: number | undefined;
  /** Budget of the disk tier. Default: 4 GiB, at most half of the origin's quota in browsers and a tenth of the file system elsewhere. */
  diskBytes?: number | undefined;
  /** How stored blocks are restored: "auto" (default) loads them, computes them, or does both, depending on measured rates. */
  restore?: "auto" | "load" | "compute" | "both" | undefined;
  /** The policy that decides which snapshots are taken and what is evicted first. Default "marconi". */
  policy?: Exclude<PolicyName, "offline"> | undefined;
  /** Salts the keys, so that users of one app cannot find each other's prefixes. */
  namespace?: string | undefined;
  /** Stored blocks expire this many milliseconds after they were computed. Default: never. */
  maxAgeMs?: number | undefined;
  /**
   * Quantises stored blocks to this many bits. Off by default, because it changes what is computed from them. Such blocks are
   * marked and never served to an engine that stores exactly or in more bits.
   */
  atRestBits?: 8 | 4 | undefined;
  /** Stores recurrent states in 16 bits, which halves their bytes in RAM and on disk. Off by default, and marked, for the same reason. */
  atRestStateBits?: 16 | undefined;
  /**
   * Trusted public keys, as `newSigningKey` returns them; archives that none of them signed are refused. Default: any archive is
   * imported, so its maker must be trusted like the maker of code.
   */
  trust?: readonly string[] | undefined;
}

/** The outcome of importing an archive. */
export interface ArchiveImport {
  /** Keys of the imported records. */
  keys: string[];
  /**
   * How many records were not imported, by reason: "fingerprint" (from another model, or other settings of it), "encoding"
   * (coarser than this engine serves), "expired", "room" (no tier has room for them).
   */
  rejected: Record<string, number>;
  /** The prompt that the archive's records cover. */
  tokens: number[];
  /** The signer's public key; absent if the archive is not signed, or if this runtime cannot check signatures. */
  signedBy?: string;
}

/** A problem with the storage that the user should know of, reported once. */
export interface Notice {
  code: string;
  message: string;
}

/** A feature that this platform lacks, what is lost without it, and what can be done about it. */
export type Capability = Notice;

/** Progress of a load. */
export interface LoadProgress {
  /**
   * Downloading and uploading overlap. "waiting": another tab or process is downloading the same model; reported once, without
   * amounts. "retrying": a request failed for the `done`th time in a row and is repeated, at most `total` times. "weights": the
   * upload to the GPU. "finishing": all pipelines are ready, while the tokenizer and the GPU may still be working; reported once,
   * without amounts.
   */
  phase: "header" | "waiting" | "retrying" | "download" | "weights" | "pipelines" | "finishing";
  /** "retrying": the server, and what is wrong. */
  reason?: string | undefined;
  /** Bytes kept or uploaded, pipelines ready, or failures. */
  done: number;
  total: number;
  /** An estimate from the recent rate; absent while it is unknown. */
  secondsLeft?: number;
}

/** The loaded model, and what the engine chose for it. */
export interface EngineInfo {
  /**
   * "alone": not shared with other tabs. "owner": this tab's worker runs the engine for all tabs that share it. "guest": another
   * tab's worker does.
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
  /** The kernel variants that the engine chose for this adapter. */
  kernels: { dtype: Dtype; kvDtype: Dtype; subgroups: boolean };
  /** Bytes on the GPU, with both pools at their present size. `stateMaxBytes`: what the pool of recurrent states may grow to. */
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
  /** "ready", or why text cannot be encoded. */
  tokenizer: string;
  /** "ready", or why chats cannot be rendered. */
  chatTemplate: string;
  /** Where the file's template and tokenizer run: "own worker", "not needed", or why they run in the engine's thread. */
  textWorker: string;
  /** Features that this platform lacks; empty if nothing is missing. */
  capabilities: Capability[];
}

/** A part of a message's content, in OpenAI's form. */
export interface TextPart {
  type: "text";
  text: string;
}

/**
 * A call of a tool, in OpenAI's form.
 *
 * @example
 * ```ts
 * const call: ToolCall = { id: "1", function: { name: "berthOf", arguments: { ship: "Marlow" } } };
 * const message: ChatMessage = { role: "assistant", content: null, tool_calls: [call] };
 * const answer: ChatMessage = { role: "tool", tool_call_id: "1", content: "12" };
 * ```
 */
export interface ToolCall {
  id?: string | undefined;
  type?: "function" | undefined;
  /** `arguments`: JSON text or an object; the chat template gets the form that it supports. */
  function: { name: string; arguments?: string | Readonly<Record<string, unknown>> | undefined };
}

/**
 * A tool that the model may call, in OpenAI's form; `parameters` is a JSON schema.
 *
 * @example
 * ```ts
 * const tool: Tool = {
 *   type: "function",
 *   function: {
 *     name: "berthOf",
 *     description: "The berth of a ship",
 *     parameters: { type: "object", properties: { ship: { type: "string" } } },
 *   },
 * };
 * const question: ChatMessage = { role: "user", content: "Where is the Marlow?" };
 * await engine.chat([question], { tools: [tool], maxTokens: 4 }).result();
 * ```
 */
export interface Tool {
  type: "function";
  function: {
    name: string;
    description?: string | undefined;
    parameters?: Readonly<Record<string, unknown>> | undefined;
  };
}

/** The author of a message. */
export type ChatRole = "system" | "developer" | "user" | "assistant" | "tool";

/**
 * A message of a conversation, in OpenAI's form. The names of special tokens in it are plain text. Numbers in arguments and
 * schemas print as JavaScript writes them; a `Number` object prints as a float ("1.0").
 *
 * @example
 * ```ts
 * const messages: ChatMessage[] = [
 *   { role: "system", content: "You answer in one sentence." },
 *   { role: "user", content: [{ type: "text", text: "Tell me about the harbour." }] },
 * ];
 * await engine.chat(messages, { maxTokens: 16 }).result();
 * ```
 */
export interface ChatMessage {
  role: ChatRole;
  /** Text; or parts, whose texts are joined unless the chat template handles parts; or null for a message of tool calls only. */
  content: string | readonly TextPart[] | null;
  /**
   * Of an assistant's message: the `tokens` of its result, which are used instead of tokenising the text again. They are used only
   * if they decode to the content and hold nothing else except the end of the turn; the text is tokenised again if it was edited
   * or if the tokens hold an invisible control token.
   */
  tokens?: readonly number[] | undefined;
  tool_calls?: readonly ToolCall[] | undefined;
  /** Of a tool's message: the id of the call that it answers. */
  tool_call_id?: string | undefined;
  name?: string | undefined;
  /** The model's reasoning before its answer, for templates that print it. */
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

/**
 * What to do if the prompt and the new tokens do not fit the context or the pool: refuse the request, drop the prompt's beginning,
 * or stop generating when the context is full.
 *
 * @example
 * ```ts
 * const overflow: Overflow = "error";
 * const generation = engine.generate("The tide was low and", { overflow, maxTokens: 100_000 });
 * await generation.result().catch((error: TidepoolError) => console.log(error.code)); // too_long
 * ```
 */
export type Overflow = "error" | "truncateStart" | "stop";

/**
 * How far down a call's keys and values are stored: nowhere (and no stored ones are used), on the GPU and in RAM, or on disk too.
 *
 * @example
 * ```ts
 * const cache: CacheScope = "memory";
 * await engine.generate("A secret", { cache, maxTokens: 4 }).result(); // leaves nothing on disk
 * ```
 */
export type CacheScope = "off" | "memory" | "disk";

/**
 * How to generate: sampling, length, stop texts and caching.
 *
 * @example
 * ```ts
 * const params: GenerateParams = { maxTokens: 4, logprobs: 2 };
 * const { logprobs } = await engine.generate("The tide was low and", params).result();
 * console.log(logprobs?.[0]?.top.length); // 2
 * ```
 */
export interface GenerateParams {
  /** The most new tokens. Default: until the model ends its answer, or the context is full. */
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
  /** Values to add to the logits of these token ids. */
  logitBias?: Readonly<Record<number, number>> | undefined;
  /** Default 0. The same seed on the same adapter gives the same text. */
  seed?: number | undefined;
  /** One text, or up to 64, at which generation ends; the result does not contain it. */
  stop?: string | readonly string[] | undefined;
  /** Reports the log-probabilities of each chosen token and of this many likeliest ones, 0 to 20. Default: none. */
  logprobs?: number | undefined;
  /** Default "error". */
  overflow?: Overflow | undefined;
  /** How far down this request's keys and values are stored. Default "disk". */
  cache?: CacheScope | undefined;
  /**
   * What this request stores in RAM and on disk expires this many milliseconds after it was computed; above 0. Records that were
   * stored before keep their own expiry. Default: the engine's `cache.maxAgeMs`.
   */
  cacheMaxAgeMs?: number | undefined;
}

/**
 * The options of `Engine.score`.
 *
 * @example
 * ```ts
 * const options: ScoreOptions = { from: 2, logits: true, cache: "off" };
 * const { logits } = await engine.score(await engine.tokenize("The tide was low"), options);
 * console.log(logits?.length === 2 * engine.info.model.vocabSize); // true
 * ```
 */
export interface ScoreOptions {
  /** The first position whose logits are computed. Default 0. */
  from?: number | undefined;
  /** Whether the result includes the raw logits. Default false. */
  logits?: boolean | undefined;
  /** How far down the keys and values are stored. Default "disk". */
  cache?: CacheScope | undefined;
}

/**
 * The options of `Engine.warm`.
 *
 * @example
 * ```ts
 * const options: WarmOptions = { cache: "memory" };
 * await engine.warm("The tide was low and ".repeat(16), options);
 * ```
 */
export interface WarmOptions {
  /** How far down the keys and values are stored. Default "disk"; with "off" nothing is stored. */
  cache?: CacheScope | undefined;
}

/** A chosen token with the natural logarithm of its probability, and the likeliest tokens at its position. */
export interface TokenLogprob {
  token: number;
  logprob: number;
  top: { token: number; logprob: number }[];
}

/** Numbers of the GPU and of each lower tier by its name. */
export interface CountsByPlace {
  gpu: number;
  ram: number;
  disk: number;
  [tier: string]: number;
}

/** Where a prompt's tokens came from; `computedTokens` and `cachedTokens` add up to `promptTokens`. */
export interface PromptUsage {
  promptTokens: number;
  computedTokens: number;
  cachedTokens: CountsByPlace;
  /** How stored blocks were restored; absent if there were none. */
  restore?: "load" | "compute" | "both";
}

/** A request's tokens: those of its prompt, and those of its answer. */
export interface Usage extends PromptUsage {
  completionTokens: number;
}

/**
 * How long a request took: the time to its first token, and the rates of its two phases.
 *
 * @example
 * ```ts
 * const { timing } = await engine.generate("The tide was low and", { maxTokens: 8 }).result();
 * const { ttftMs, decodeTokensPerSecond }: Timing = timing;
 * console.log(`first token after ${ttftMs} ms, then ${decodeTokensPerSecond} tokens per second`);
 * ```
 */
export interface Timing {
  ttftMs: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
}

/** The result of a request. */
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

/** Log-probabilities of given tokens: `logprobs[i]` belongs to token `from + 1 + i`, given the tokens before it. */
export interface ScoreResult {
  from: number;
  logprobs: number[];
  usage: PromptUsage;
  /** The raw logits of the rows from `from` on, [rows, vocabulary], if `logits` was true. */
  logits?: Float32Array<ArrayBuffer>;
}

/** What a model is, what it needs, and whether it would run here. */
export interface ModelReport {
  name: string;
  format: "gguf" | "safetensors";
  architecture: string;
  fileBytes: number;
  /** Tensors by type. */
  tensors: Record<string, number>;
  parameters: number;
  /** "ready", or why text cannot be encoded. */
  tokenizer: string;
  /** "ready", or why chats cannot be rendered. */
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
  /** What the model would take on the GPU. */
  memory?: {
    weightBytes: number;
    kvBytesPerToken: number;
    /** Tokens that the KV pool starts with, and what it may grow to. */
    kvStartTokens: number;
    kvPoolTokens: number;
    kvPoolBytes: number;
    /** What the pool of recurrent states starts with, and what it may grow to. */
    stateStartBytes: number;
    statePoolBytes: number;
    workspaceBytes: number;
    /** Everything together, with the pools at their first and at their largest size. */
    startBytes: number;
    maxBytes: number;
    dtype: Dtype;
    kvDtype: Dtype;
  };
  runs: boolean;
  /** The reasons why the model would not run. */
  problems: string[];
  /** Features that this platform lacks. */
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

/** The prompt that a conversation becomes through a model's chat template. */
export interface RenderedChat {
  text: string;
  tokens: number[];
}

/** Sizes and counts of one tier. */
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

/** Numbers of one tier with its name; `state` of one that is not in this process's memory: open, closed or lost. */
export interface NamedTierStats extends CacheTierStats {
  name: string;
  kind: "sync" | "async";
  state?: string;
}

/** What the cache holds, and what it has done for requests, by tier. */
export interface CacheStats {
  gpu: {
    blocks: { total: number; free: number; cached: number; inUse: number };
    bytes: number;
    /** Snapshots of recurrent states; all zeros in models without recurrent layers. `taken`: admitted to the tree since the start. */
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
    /** The weight of FLOP efficiency, if the policy has one, and how often the tuner has changed it. */
    alpha?: number;
    alphaChanges: number;
    lookups: number;
    tokensAsked: number;
    tokensMatched: number;
    /** Lookups that found a prefix: at a branch of inputs, or at the end of an earlier request. */
    branchHits: number;
    endHits: number;
    flopsSaved: number;
    evictions: number;
  };
  /** The lower tiers, the fastest first. */
  tiers: readonly NamedTierStats[];
  /** The same of the two usual ones. */
  ram: CacheTierStats;
  disk: CacheTierStats & { state: string };
  /** How long cached tokens would have taken to compute, at the rate measured in this session; 0 until there is one. */
  timeSavedMs: CountsByPlace;
  /** Blocks that were not copied to a lower tier because too many copies were under way. */
  spillsDropped: number;
  /** Records that wait to be written to disk. */
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
  /** false: quantised, or computed from quantised blocks. */
  exact: boolean;
}

/**
 * The bit of the RAM tier in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const blocks = nodes.flatMap(({ tiers }) => [...tiers]);
 * console.log(`${blocks.filter((bits) => bits & TIER_RAM).length} blocks are in RAM`);
 * ```
 */
export const TIER_RAM = 1;
/**
 * The bit of the disk tier in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const isStored = nodes.every(({ tiers }) => tiers.every((bits) => bits & TIER_DISK));
 * console.log(isStored ? "all blocks are on disk" : "some blocks are not on disk");
 * ```
 */
export const TIER_DISK = 2;
/**
 * The bit of the GPU's pool in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const onGpu = nodes.filter(({ tiers }) => tiers.some((bits) => bits & TIER_GPU));
 * console.log(`${onGpu.length} of ${nodes.length} runs have blocks on the GPU`);
 * ```
 */
export const TIER_GPU = 4;

/** A place that blocks can be in, and its bit in `CacheTreeNode`. */
export interface CachePlace {
  name: string;
  bit: number;
}

/** The cached prompts at one moment, as a tree of their common prefixes. */
export interface CacheTree {
  blockTokens: number;
  bytesPerBlock: number;
  bytesPerSnapshot: number;
  /** The GPU, and the lower tiers, the fastest first. */
  tiers: readonly CachePlace[];
  /** Parents come before their children, what the GPU holds before the rest, and recently used siblings before others. */
  nodes: CacheTreeNode[];
  /** Blocks on the GPU that the limit left out. */
  omittedBlocks: number;
  /** Whether the limit left out stored blocks too. */
  moreStored: boolean;
}

/** A run of tokens without a branch. */
export interface CacheTreeNode {
  /** Above 0 and constant if the GPU holds the node; below 0 if only lower tiers hold it. */
  id: number;
  /** The parent's id; 0: the root. */
  parent: number;
  /**
   * The number of tokens before the run, and to its end. A run begins where its parent ends; one that only lower tiers hold may
   * begin at any full block of its parent.
   */
  start: number;
  end: number;
  /** For each block whose last token is in the run, in order: the bits of the tiers that hold it. */
  tiers: Uint8Array;
  /** The bits of the tiers that hold the recurrent state at the end of the run; 0: none. */
  snapshot: number;
  /** Requests that use the run now. */
  pins: number;
  uses: number;
  /** Time since the last use, or since the computation of what only lower tiers hold; -1: older than the first listener. */
  idleMs: number;
}

/** A decision of the cache (src/cache/events.ts has its kinds and reasons), or the sum of several of one kind in a row. */
export interface CacheEvent extends Omit<CacheDecision, "clock" | "lastAccess"> {
  /** Milliseconds since 1970. */
  timeMs: number;
  /** Of an eviction: the time since the last use. */
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

/** What a loaded model is asked. */
export type Ask = Extract<ToWorker, { type: "submit" | "abort" | "call" }>;
