/**
 * JSON of a model's files: parsed only if it is not nested deeper than anything that is published, so that what walks over it
 * (or sends it to another thread) cannot run out of stack. It does not know what the JSON means.
 */
import { TidepoolError } from "../errors.ts";

/** Levels of brackets; a tokenizer.json has about ten. */
const MAX_DEPTH = 64;

/** @param what part of the file, for the message: "header", or "" for all of it. @throws TidepoolError `invalid_file`. */
export function parseJson(text: string, file: string, what = ""): unknown {
  const subject = what === "" ? `${file}:` : `${file}: ${what}`;
  const depth = depthOf(text);
  if (depth > MAX_DEPTH) {
    throw new TidepoolError(
      "invalid_file",
      `${subject} is nested ${depth} levels deep, at most ${MAX_DEPTH}`,
      {
        file,
      },
    );
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TidepoolError("invalid_file", `${subject} is not JSON: ${why}`, { file });
  }
}

/**
 * JSON as Python and transformers write and read it: with Infinity, -Infinity and NaN. Infinities become numbers; NaN becomes the text
 * "NaN", so that whoever wants a number there complains.
 * @throws TidepoolError `invalid_file`.
 */
export function parsePythonJson(text: string, file: string): unknown {
  if (!/Infinity|NaN/.test(text)) return parseJson(text, file);
  return parseJson(withoutBareNames(text.replace(WRAPPED, "$1")), file);
}

/** How version 5 of transformers writes these numbers. Inside of a string the quotes would be escaped. */
const WRAPPED = /\{\s*"__float__"\s*:\s*"(-?Infinity|NaN)"\s*\}/g;

const BARE_NAMES: Readonly<Record<string, string>> = { Infinity: "1e999", NaN: '"NaN"' };

/** Replaces the names of numbers outside strings by what JSON.parse takes. */
function withoutBareNames(text: string): string {
  const parts: string[] = [];
  let from = 0;
  const next = /"|Infinity|NaN/g;
  for (let found = next.exec(text); found; found = next.exec(text)) {
    const [token] = found;
    if (token === '"') next.lastIndex = endOfString(text, found.index) + 1;
    else {
      parts.push(text.slice(from, found.index), BARE_NAMES[token] as string);
      from = next.lastIndex;
    }
  }
  return parts.join("") + text.slice(from);
}

/** The most brackets that are open at once, outside strings. `text` need not be JSON. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at);
    if (char === QUOTE) at = endOfString(text, at);
    else if (char === BRACE || char === BRACKET) deepest = Math.max(deepest, ++depth);
    else if (char === END_BRACE || char === END_BRACKET) depth--;
  }
  return deepest;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const BRACE = 0x7b;
const BRACKET = 0x5b;
const END_BRACE = 0x7d;
const END_BRACKET = 0x5d;

/** The index of the quote that closes the string opened at `at`; the text's end where none does. */
export function endOfString(text: string, at: number): number {
  for (let i = at + 1; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === BACKSLASH) i++;
    else if (char === QUOTE) return i;
  }
  return text.length;
}
