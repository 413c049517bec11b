/**
 * Keeps special tokens that somebody wrote into a message apart from those of the chat template: the former are broken by a
 * mark before rendering, and mended after the text has been split at the latter.
 */
import { TidepoolError } from "../errors.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { invalid, isRecord } from "./vocabulary.ts";

/** Noncharacters, which no text should hold; one that the conversation does not hold is the mark. */
const MARKS = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

export interface Marker {
  /** Puts the mark into every control token that is written in a string of the message. */
  mark(value: unknown): unknown;
  /** Encodes rendered text: the template's special tokens as such, marked ones as plain text without the mark. */
  encode(text: string, continues: boolean): number[];
}

/** A marker for these messages. One that has nothing to mark changes nothing. */
export function createMarker(tokenizer: Tokenizer, messages: readonly unknown[]): Marker {
  // A token of one character cannot be broken; none is in use.
  const texts = tokenizer.controlTokens.filter((token) => token.length > 1);
  const everything = JSON.stringify(messages);
  const unused = MARKS.find((candidate) => !everything.includes(candidate));
  if (unused === undefined) {
    throw new TidepoolError(
      "invalid_argument",
      "the conversation holds all 32 noncharacters U+FDD0 to U+FDEF",
    );
  }
  const mark = unused;
  if (!texts.some((text) => everything.includes(JSON.stringify(text).slice(1, -1)))) {
    return {
      mark: (value) => value,
      encode: (text, continues) => tokenizer.encode(text, { special: true, continues }),
    };
  }
  const control = anyOf(texts);
  return {
    mark: (value) => mapStrings(value, (text) => breakTokens(text, control, mark)),
    encode: (text, continues) => encodeMarked(tokenizer, text, control, mark, continues),
  };
}

/** Matches any of the texts, longer ones first. */
function anyOf(texts: readonly string[]): RegExp {
  const longestFirst = [...texts].sort((a, b) => b.length - a.length);
  try {
    return new RegExp(longestFirst.map(escapeRegExp).join("|"), "gu");
  } catch {
    throw invalid(`the tokenizer's ${texts.length} control tokens are too many to be looked for in a text`);
  }
}

/** Breaks every control token of the text; breaking one can uncover another that overlapped it. */
function breakTokens(text: string, control: RegExp, mark: string): string {
  let broken = text;
  for (let before = ""; before !== broken;) {
    before = broken;
    broken = broken.replace(control, (token) => {
      const first = String.fromCodePoint(token.codePointAt(0) as number);
      return first + mark + token.slice(first.length);
    });
  }
  return broken;
}

/**
 * Only stretches that hold the mark are encoded as plain text; everything else goes the way of a conversation without marks, so
 * that a control token in one message leaves the ids of the others as they were.
 *
 *     <|user|>hi<|end|><|user|>  x<mark>y  <|end|><|user|>
 *     [------- special -------] [ plain ] [-- special --]
 */
function encodeMarked(
  tokenizer: Tokenizer,
  text: string,
  control: RegExp,
  mark: string,
  continues: boolean,
): number[] {
  const ids: number[] = [];
  let done = 0;
  const encode = (end: number, special: boolean): void => {
    const piece = text.slice(done, end);
    const options = { special, continues: continues && done === 0 };
    append(ids, tokenizer.encode(special ? piece : piece.replaceAll(mark, ""), options));
    done = end;
  };
  for (const [start, end] of piecesBetween(text, control)) {
    if (!text.slice(start, end).includes(mark)) continue;
    encode(start, true);
    encode(end, false);
  }
  encode(text.length, true);
  return ids;
}

/** Where the text between the control tokens stands. */
function piecesBetween(text: string, control: RegExp): [start: number, end: number][] {
  const pieces: [number, number][] = [];
  let at = 0;
  for (const match of text.matchAll(control)) {
    pieces.push([at, match.index]);
    at = match.index + match[0].length;
  }
  return [...pieces, [at, text.length]];
}

function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  // A `Number` object is a float (json-floats.ts).
  if (!isRecord(value) || value instanceof Number) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change)]),
  );
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** Not `push(...items)`: an argument list has a limit that a long prompt reaches. */
export function append(ids: number[], more: readonly number[]): void {
  for (const id of more) ids.push(id);
}
