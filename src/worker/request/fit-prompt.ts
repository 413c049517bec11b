/**
 * Does a request fit? Prompt and new tokens against the context and the pool, before any work starts, and what the
 * caller's overflow policy makes of it. Pure.
 */
import { TidepoolError } from "../../errors.ts";
import type { ChatMessage, GenerateParams, RequestInput } from "../../wire/protocol.ts";

/** Normalisation (NFC) makes one character of this many at most before they become tokens. */
const MAX_COMPOSED_CHARS = 4;

/** What bounds a text before it is encoded. */
export interface TextBound {
  /** Positions that context and pool allow. */
  limit: number;
  /** Characters of the vocabulary's longest token. */
  longestToken: number;
  overflow: GenerateParams["overflow"];
}

/**
 * An input that may fit, so that no time goes into tokenising one that cannot: a text of more characters than `limit` of the
 * longest tokens hold. Of a text that is truncated anyway the end is left. What a template makes of earlier answers is not
 * known, so that they do not count.
 * @throws TidepoolError `too_long` with the numbers
 */
export function boundInput(input: RequestInput, { limit, longestToken, overflow }: TextBound): RequestInput {
  const most = limit * longestToken * MAX_COMPOSED_CHARS;
  if (input.kind === "tokens") return input;
  if (input.kind === "text") {
    if (input.text.length <= most) return input;
    if (overflow === "truncateStart") return { kind: "text", text: input.text.slice(-most) };
    throw tooManyChars(input.text.length, most, limit);
  }
  const asked = input.messages.filter(({ role }) => role !== "assistant");
  const chars = asked.reduce((sum, message) => sum + contentChars(message), 0);
  if (chars > most && overflow !== "truncateStart") throw tooManyChars(chars, most, limit);
  return input;
}

/** Characters of a message's text. */
export function contentChars({ content }: Pick<ChatMessage, "content">): number {
  if (typeof content === "string") return content.length;
  return (content ?? []).reduce((sum, { text }) => sum + text.length, 0);
}

function tooManyChars(chars: number, most: number, limit: number): TidepoolError {
  const message = `the prompt has ${chars} characters, at most ${most} can fit into the limit of ${limit} tokens`;
  return new TidepoolError("too_long", message, { characters: chars, maxCharacters: most, limit });
}

export interface FitInput {
  tokens: readonly number[];
  /** Leading tokens that truncation keeps: BOS and the system prompt. */
  protectedTokens: number;
  /** Positions that context and pool allow. */
  limit: number;
  params: Pick<GenerateParams, "maxTokens" | "overflow">;
}

/** New tokens that a truncated prompt leaves room for where the caller named no number. */
const DEFAULT_ROOM_TOKENS = 256;

/**
 * The prompt to run and how many tokens it may produce.
 * - "error" (default): everything must fit.
 * - "stop": the prompt must fit; generation ends where the context does.
 * - "truncateStart": the oldest tokens after `protectedTokens` are dropped until prompt and new tokens fit.
 * @throws TidepoolError `too_long` with the numbers; `invalid_argument` for an empty prompt.
 */
export function fitPrompt(input: FitInput): { prompt: readonly number[]; maxNewTokens: number } {
  const { tokens, protectedTokens, limit, params } = input;
  const { maxTokens, overflow = "error" } = params;
  if (tokens.length === 0)
    throw new TidepoolError("invalid_argument", "prompt is empty, expected at least one token", {
      option: "prompt",
    });
  const room = limit - tokens.length;
  const fits = room >= (maxTokens ?? 1);
  if (fits) return { prompt: tokens, maxNewTokens: maxTokens ?? room };
  if (overflow === "stop" && room >= 1) return { prompt: tokens, maxNewTokens: room };
  if (overflow === "truncateStart") return truncate(tokens, protectedTokens, limit, maxTokens);
  throw tooLong(tokens.length, maxTokens ?? 1, limit);
}

function truncate(
  tokens: readonly number[],
  protectedTokens: number,
  limit: number,
  maxTokens: number | undefined,
): { prompt: readonly number[]; maxNewTokens: number } {
  const wanted = maxTokens ?? Math.min(DEFAULT_ROOM_TOKENS, Math.floor(limit / 2));
  const tail = limit - wanted - protectedTokens;
  if (tail < 1) throw tooLong(protectedTokens + 1, wanted, limit);
  return {
    prompt: [...tokens.slice(0, protectedTokens), ...tokens.slice(tokens.length - tail)],
    maxNewTokens: wanted,
  };
}

function tooLong(prompt: number, newTokens: number, limit: number): TidepoolError {
  return new TidepoolError(
    "too_long",
    `${prompt} prompt tokens and ${newTokens} new ones are over the limit of ${limit} tokens`,
    { promptTokens: prompt, newTokens, limit },
  );
}
