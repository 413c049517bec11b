/**
 * What is asked of a model and what comes back: prompts, conversations, parameters, results. Plain data that survives
 * structured cloning; which values are allowed is in arguments.ts.
 */
import type { Objectives, Priority } from "../schedule/slo/objectives.ts";

export type { Objectives, Priority, RejectionMode, RejectionReason } from "../schedule/slo/objectives.ts";

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
export interface GenerateParams extends Objectives {
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
  /** Whom others wait for: "interactive" requests go before "background" ones, which wait but do not starve. Default "interactive". */
  priority?: Priority | undefined;
  /**
   * Whether the prompt may be sent to the engine's prefill service, if it has one. Default: true, but false with `cache: "memory"`; a
   * prompt with `cache: "off"` is never sent.
   */
  prefill?: boolean | undefined;
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

/** A text, or the token ids of one, which are used unchanged. */
export type EmbedInput = string | readonly number[];

/**
 * The options of `Engine.embed`, but its signal.
 *
 * @example
 * ```ts
 * const params: EmbedParams = { dimensions: 16, normalise: false };
 * await using encoder = await Engine.load("minilm.gguf");
 * const [vector] = await encoder.embed("A boat in the harbour", params);
 * console.log(vector?.length); // 16
 * ```
 */
export interface EmbedParams {
  /** How many leading numbers of each vector are returned; models trained for this (Matryoshka) keep most of their accuracy. Default: all. */
  dimensions?: number | undefined;
  /** Whether each vector is divided by its Euclidean length, so that a dot product is the cosine. Default true. */
  normalise?: boolean | undefined;
  /** Whether a text that is too long for the model loses its end. Default false: it is refused with `too_long`. */
  truncate?: boolean | undefined;
  /**
   * What the vectors are for, one of `info.model.embedding.tasks`: the model's own words for it are put before each text. Default:
   * nothing is put before a text.
   */
  task?: string | undefined;
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
  /** Prompt tokens that the prefill service computed for this request, which came by way of RAM; absent if it was not asked. */
  prefilledTokens?: number;
}

/**
 * How long a request was expected to take, and how long it took.
 *
 * @example
 * ```ts
 * const { usage } = await engine.generate("The tide was low and", { maxTokens: 8, ttftMs: 60_000 }).result();
 * const { predicted, ttftMs, kept }: Pace = usage.pace!;
 * console.log(`first token after ${ttftMs} ms, expected after ${predicted?.ttftMs} ms`);
 * console.log(kept); // true
 * ```
 */
export interface Pace {
  /** What was predicted on arrival; absent if another engine had accepted the request before. */
  predicted?: { ttftMs: number; tbtMs: number };
  ttftMs: number;
  /** Milliseconds between two tokens: the mean of the longest tenth of the gaps, and their 99th percentile; 0 with one token. */
  tbtMs: number;
  tbtP99Ms: number;
  /** Whether the request kept its objectives; absent if it had none, or was aborted. */
  kept?: boolean;
}

/** A request's tokens: those of its prompt, and those of its answer. */
export interface Usage extends PromptUsage {
  completionTokens: number;
  /** Absent if the request ended before its prompt was known. */
  pace?: Pace;
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

/**
 * What was generated for a request before, by an engine that is gone: it goes on behind it, and says none of it again. That engine
 * accepted the request, so this one does not reject it.
 */
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

/** Log-probabilities of given tokens: `logprobs[i]` belongs to token `from + 1 + i`, given the tokens before it. */
export interface ScoreResult {
  from: number;
  logprobs: number[];
  usage: PromptUsage;
  /** The raw logits of the rows from `from` on, [rows, vocabulary], if `logits` was true. */
  logits?: Float32Array<ArrayBuffer>;
}

/** The prompt that a conversation becomes through a model's chat template. */
export interface RenderedChat {
  text: string;
  tokens: number[];
}
