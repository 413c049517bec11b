/**
 * What may be asked in OpenAI's form: a rule for each field of a body. null counts as not given, as it does there. A field that is
 * unknown, or that is OpenAI's and not supported here, is refused by its name.
 */
import { flag, integer, list, number, object, oneOf, orOne, rule, text, type Rule } from "../check.ts";
import { TidepoolError } from "../errors.ts";
import type { ChatMessage, EmbedInput, GenerateParams, Priority } from "../wire/protocol.ts";
import {
  chatMessages,
  embedInputs,
  generateFields,
  templateVariables,
  textOrTokens,
} from "../wire/arguments.ts";

/** Choices of one request, and prompts times choices, at most. */
const MAX_CHOICES = 16;
const MAX_PROMPTS = 128;
const MAX_NAME_CHARS = 1024;

/** Settings that OpenAI's API does not have, by Tidepool's own names. */
export interface TidepoolFields {
  ttftMs?: number | undefined;
  tbtMs?: number | undefined;
  deadlineMs?: number | undefined;
  priority?: Priority | undefined;
  overflow?: GenerateParams["overflow"];
  cache?: GenerateParams["cache"];
  cacheMaxAgeMs?: number | undefined;
  prefill?: boolean | undefined;
}

/** What both kinds of completions take. */
export interface CompletionFields {
  /** Default: the first model. */
  model?: string | undefined;
  /** Default 1, as OpenAI's. */
  temperature?: number | null | undefined;
  top_p?: number | null | undefined;
  frequency_penalty?: number | null | undefined;
  presence_penalty?: number | null | undefined;
  logit_bias?: Readonly<Record<string, number>> | null | undefined;
  /** Default: another for each request. */
  seed?: number | null | undefined;
  stop?: string | readonly string[] | null | undefined;
  /** Choices, 1 to 16, which share the computing of the prompt. Choice i has the seed `seed + i`. */
  n?: number | null | undefined;
  max_tokens?: number | null | undefined;
  stream?: boolean | null | undefined;
  stream_options?: { include_usage?: boolean | undefined; include_obfuscation?: boolean | undefined } | null;
  user?: string | null | undefined;
  /** Not OpenAI's, by the names that vLLM, SGLang and llama.cpp have given them. */
  top_k?: number | null | undefined;
  min_p?: number | null | undefined;
  repetition_penalty?: number | null | undefined;
  /** Not OpenAI's: Tidepool's settings of a request. */
  tidepool?: TidepoolFields | null | undefined;
}

/**
 * What `chat.completions.create` takes: OpenAI's fields, and settings of the model's template.
 *
 * @example
 * ```ts
 * const tidepool: TidepoolFields = { cache: "memory", ttftMs: 60_000 };
 * const messages = [{ role: "user", content: "Hello." }];
 * const body = { messages, max_completion_tokens: 4, temperature: 0, tidepool } satisfies ChatBody;
 * const { usage } = await engine.openai.chat.completions.create(body);
 * console.log(usage.completion_tokens); // 4
 * ```
 */
export interface ChatBody extends CompletionFields {
  /** In OpenAI's form; content is text. */
  messages: readonly object[];
  max_completion_tokens?: number | null | undefined;
  logprobs?: boolean | null | undefined;
  top_logprobs?: number | null | undefined;
  /** Passed to the chat template; "none" also sets its `enable_thinking` to false. */
  reasoning_effort?: string | null | undefined;
  /** Not OpenAI's: passed to the chat template. */
  enable_thinking?: boolean | null | undefined;
  /** Not OpenAI's: variables for the chat template. */
  chat_template_kwargs?: Readonly<Record<string, unknown>> | null | undefined;
}

/**
 * What `completions.create` takes.
 *
 * @example
 * ```ts
 * const body = { prompt: ["The tide was low and", "The boat"], max_tokens: 4 } satisfies TextBody;
 * console.log((await engine.openai.completions.create(body)).choices.length); // 2
 * ```
 */
export interface TextBody extends CompletionFields {
  prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  logprobs?: number | null | undefined;
}

/** What `embeddings.create` takes. */
export interface EmbeddingsBody {
  model?: string | undefined;
  input: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  encoding_format?: "float" | "base64" | null | undefined;
  dimensions?: number | null | undefined;
  user?: string | null | undefined;
}

/** Without null: fields that are given. */
type Given<T> = { [K in keyof T]: Exclude<T[K], null> };

export type GivenChat = Given<Omit<ChatBody, "messages">> & { messages: readonly ChatMessage[] };
export type GivenText = Given<Omit<TextBody, "prompt">> & { prompt: readonly (string | readonly number[])[] };
export type GivenEmbeddings = Given<Omit<EmbeddingsBody, "input">> & { input: readonly EmbedInput[] };

/** Fields of OpenAI's that mean nothing here, or only what is so anyway. */
const HINTS = {
  user: text(),
  metadata: rule<unknown>("an object", (value) => typeof value === "object"),
  safety_identifier: text(),
  prompt_cache_key: text(),
  prompt_cache_retention: text(),
  service_tier: oneOf({ auto: true, default: true }),
  store: only(false),
  parallel_tool_calls: flag,
};

/** Fields of OpenAI's that are refused, so that nobody takes them for a slip of the pen. */
const UNSUPPORTED = new Set([
  ...["audio", "modalities", "functions", "function_call", "prediction", "web_search_options", "verbosity"],
  ...["moderation", "prompt_cache_options", "best_of", "suffix", "echo", "grammar"],
]);

/** A field that has one value here. */
function only(value: unknown): Rule<unknown> {
  return rule(`${JSON.stringify(value)}, the only value supported`, (given) => given === value);
}

/** A list that must be empty. */
const nothing = rule<unknown>(
  "an empty array: tools are not supported",
  (value) => Array.isArray(value) && value.length === 0,
);

const completionFields = {
  ...HINTS,
  model: text(1, MAX_NAME_CHARS),
  temperature: generateFields.temperature,
  top_p: number("from 0 to 1", (p) => p >= 0 && p <= 1),
  frequency_penalty: generateFields.frequencyPenalty,
  presence_penalty: generateFields.presencePenalty,
  logit_bias: generateFields.logitBias as Rule<Readonly<Record<string, number>>>,
  seed: integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  stop: generateFields.stop,
  n: integer(1, MAX_CHOICES),
  max_tokens: integer(1, Number.MAX_SAFE_INTEGER),
  stream: flag,
  stream_options: object<{ include_usage?: boolean; include_obfuscation?: boolean }>("include_usage", {
    include_usage: flag,
    include_obfuscation: flag,
  }),
  top_k: rule<number>(
    "a whole number of 0 or more, or -1",
    (k) => Number.isSafeInteger(k) && Number(k) >= -1,
  ),
  min_p: generateFields.minP,
  repetition_penalty: generateFields.repetitionPenalty,
  tidepool: object<TidepoolFields>("settings of Tidepool", {
    ttftMs: generateFields.ttftMs,
    tbtMs: generateFields.tbtMs,
    deadlineMs: generateFields.deadlineMs,
    priority: generateFields.priority,
    overflow: generateFields.overflow,
    cache: generateFields.cache,
    cacheMaxAgeMs: generateFields.cacheMaxAgeMs,
    prefill: generateFields.prefill,
  }),
};

/** A rule for a body; what it reads has the types of the interfaces above. */
function bodyOf(what: string, fields: object, ...needed: string[]): Rule<object> {
  const make = object as (what: string, fields: object, needed: object) => Rule<object>;
  return make(what, fields, Object.fromEntries(needed.map((name) => [name, true])));
}

const chatRule = bodyOf(
  "messages",
  {
    ...completionFields,
    messages: chatMessages,
    max_completion_tokens: completionFields.max_tokens,
    logprobs: flag,
    top_logprobs: generateFields.logprobs,
    reasoning_effort: text(1, MAX_NAME_CHARS),
    enable_thinking: flag,
    chat_template_kwargs: templateVariables,
    response_format: bodyOf("a type", { type: only("text") }, "type"),
    tools: nothing,
    tool_choice: oneOf({ auto: true, none: true }),
  },
  "messages",
);

const textRule = bodyOf(
  "prompt",
  {
    ...completionFields,
    logprobs: generateFields.logprobs,
    prompt: orOne(textOrTokens, list("prompts", textOrTokens, 1, MAX_PROMPTS)),
  },
  "prompt",
);

const embeddingsRule = bodyOf(
  "input",
  {
    model: completionFields.model,
    input: embedInputs,
    encoding_format: oneOf({ float: true, base64: true }),
    dimensions: integer(1, 2 ** 24),
    user: text(),
  },
  "input",
);

const tokenizeRule = bodyOf("a text or messages", {
  model: completionFields.model,
  content: text(),
  prompt: text(),
  messages: chatMessages,
  chat_template_kwargs: templateVariables,
});

export interface TokenizeBody {
  model?: string;
  content?: string;
  prompt?: string;
  messages?: readonly ChatMessage[];
  chat_template_kwargs?: Record<string, unknown>;
}

/** @throws TidepoolError `invalid_argument`, `unsupported`, naming the field */
export function readChat(body: unknown): GivenChat {
  return chatRule.read(withMessages(given(body)), "") as GivenChat;
}

/** @throws TidepoolError `invalid_argument`, `unsupported`, naming the field */
export function readText(body: unknown): GivenText {
  const fields = given(body);
  const { prompt } = fields;
  const read = textRule.read({ ...fields, prompt: isTokens(prompt) ? [prompt] : prompt }, "") as GivenText;
  const choices = read.prompt.length * (read.n ?? 1);
  if (choices <= MAX_PROMPTS) return read;
  const message = `n is ${read.n}, which with ${read.prompt.length} prompts makes ${choices} choices, expected at most ${MAX_PROMPTS}`;
  throw new TidepoolError("invalid_argument", message, { option: "n" });
}

/** @throws TidepoolError `invalid_argument` naming the field */
export function readEmbeddings(body: unknown): GivenEmbeddings {
  const fields = given(body);
  const { input } = fields;
  return embeddingsRule.read({ ...fields, input: isTokens(input) ? [input] : input }, "") as GivenEmbeddings;
}

/** @throws TidepoolError `invalid_argument` naming the field */
export function readTokenize(body: unknown): TokenizeBody {
  return tokenizeRule.read(withMessages(given(body)), "") as TokenizeBody;
}

/** One prompt in tokens, as against several prompts. */
function isTokens(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === "number");
}

/** The fields of a body that are not null. */
function given(body: unknown): Record<string, unknown> {
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new TidepoolError("invalid_argument", "the body is no object, expected one with fields", {});
  const fields = Object.entries(body).filter(([, value]) => value !== null && value !== undefined);
  const bad = fields.find(([name]) => UNSUPPORTED.has(name))?.[0];
  if (bad === undefined) return Object.fromEntries(fields);
  throw new TidepoolError("unsupported", `${bad} is not supported`, { option: bad });
}

function withMessages(fields: Record<string, unknown>): Record<string, unknown> {
  const { messages } = fields;
  return Array.isArray(messages) ? { ...fields, messages: messages.map(asMessage) } : fields;
}

/** Fields of an answer that clients send back with it, and that say nothing when they are empty. */
const EMPTY_IN_ANSWERS = ["refusal", "annotations", "audio", "function_call", "tool_calls"];

/** A message of OpenAI's as one of ours; what is wrong with it is left for the rule. */
function asMessage(message: unknown): unknown {
  if (typeof message !== "object" || message === null || Array.isArray(message)) return message;
  const fields = Object.entries(message).filter(([name, value]) => {
    if (name === "content") return true;
    const isEmpty = Array.isArray(value) && value.length === 0 && EMPTY_IN_ANSWERS.includes(name);
    return value !== null && !isEmpty;
  });
  const content = (message as { role?: unknown }).role === "assistant" ? { content: null } : {};
  return { ...content, ...Object.fromEntries(fields) };
}
