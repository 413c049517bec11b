/**
 * What leaves the doors in OpenAI's shape, as types. They are the project's own, so that nobody needs OpenAI's package to compile a
 * page; a test compares them with the package's. What is not OpenAI's is optional there: `tidepool`, and `reasoning_content`.
 */
import type { CountsByPlace, PromptUsage } from "../wire/protocol.ts";

/** Why a choice ended. */
export type FinishReason = "stop" | "length";

/**
 * The tokens of a request, in OpenAI's form; `tidepool` tells which tier the prompt's tokens came from.
 *
 * @example
 * ```ts
 * const { usage } = await engine.openai.completions.create({ prompt: "The tide was low and", max_tokens: 4 });
 * const { prompt_tokens_details, tidepool }: OpenAiUsage = usage;
 * console.log(prompt_tokens_details.cached_tokens + tidepool.computed_tokens === usage.prompt_tokens); // true
 * ```
 */
export interface OpenAiUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
  completion_tokens_details?: { reasoning_tokens: number };
  /** Not OpenAI's: where the prompt's tokens came from. */
  tidepool: {
    computed_tokens: number;
    cached_tokens: CountsByPlace;
    restore?: PromptUsage["restore"];
    prefilled_tokens?: number;
    /** Milliseconds to the first token of the first choice. */
    ttft_ms: number;
  };
}

/** A token with its log-probability; `bytes` are those that it adds to the text, `token` the same read as UTF-8. */
export interface LikelyToken {
  token: string;
  bytes: number[];
  logprob: number;
}

/** A chosen token, and the likeliest at its place. */
export interface ChosenToken extends LikelyToken {
  top_logprobs: LikelyToken[];
}

/** The log-probabilities of a choice's tokens. */
export interface ChatLogprobs {
  content: ChosenToken[];
  refusal: null;
}

/** An answer. */
export interface AnswerMessage {
  role: "assistant";
  content: string;
  refusal: null;
  /** Not OpenAI's: what the model wrote between `<think>` and `</think>`. */
  reasoning_content?: string;
}

/**
 * An answer as a whole, in OpenAI's form.
 *
 * @example
 * ```ts
 * const messages = [{ role: "user", content: "Hello." }] as const;
 * const completion: ChatCompletion = await engine.openai.chat.completions.create({ messages, max_tokens: 4 });
 * console.log(completion.choices[0]!.finish_reason); // length
 * ```
 */
export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: {
    index: number;
    message: AnswerMessage;
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason;
  }[];
  usage: OpenAiUsage;
}

/**
 * A piece of a streamed answer, in OpenAI's form.
 *
 * @example
 * ```ts
 * const messages = [{ role: "user", content: "Hello." }] as const;
 * let answer = "";
 * const add = ({ choices }: ChatCompletionChunk) => void (answer += choices[0]?.delta.content ?? "");
 * for await (const chunk of await engine.openai.chat.completions.create({ messages, stream: true, max_tokens: 4 })) add(chunk);
 * ```
 */
export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: {
    index: number;
    delta: { role?: "assistant"; content?: string; reasoning_content?: string };
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason | null;
  }[];
  usage?: OpenAiUsage | null;
}

/** The log-probabilities of a continuation's tokens, in the older form. */
export interface TextLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
  text_offset: number[];
}

/**
 * A continuation of a prompt, whole or a piece of it, in OpenAI's form.
 *
 * @example
 * ```ts
 * const body = { prompt: "The tide was low and", max_tokens: 4 };
 * const { choices }: TextCompletion = await engine.openai.completions.create(body);
 * console.log(choices[0]!.finish_reason); // length
 * ```
 */
export interface TextCompletion {
  id: string;
  object: "text_completion";
  created: number;
  model: string;
  choices: { index: number; text: string; logprobs: TextLogprobs | null; finish_reason: FinishReason }[];
  usage: OpenAiUsage;
}

/** A piece of a streamed continuation. */
export type TextCompletionChunk = Omit<TextCompletion, "choices" | "usage"> & {
  choices: {
    index: number;
    text: string;
    logprobs: TextLogprobs | null;
    finish_reason: FinishReason | null;
  }[];
  usage?: OpenAiUsage | null;
};

/**
 * Vectors of texts, in OpenAI's form.
 *
 * @example
 * ```ts
 * await using encoder = await Engine.load("minilm.gguf");
 * const vectors: EmbeddingList = await encoder.openai.embeddings.create({ input: ["A boat", "A ship"] });
 * console.log(vectors.data.length); // 2
 * ```
 */
export interface EmbeddingList {
  object: "list";
  model: string;
  /** `embedding`: numbers, or with the encoding format "base64" little-endian floats in base64. */
  data: { object: "embedding"; index: number; embedding: number[] }[];
  usage: { prompt_tokens: number; total_tokens: number };
}

/** A model that may be asked. */
export interface ModelEntry {
  id: string;
  object: "model";
  created: number;
  owned_by: string;
}

/** All models that may be asked. */
export interface ModelList {
  object: "list";
  data: ModelEntry[];
}
