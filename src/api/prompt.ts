/** The prompt of a command: an argument, or standard input. It reads no model. */
import { existsSync } from "node:fs";
import process from "node:process";
import { TidepoolError } from "../errors.ts";
import { DEFAULT_MODEL, RUNNABLE_NAMES } from "./shipped.ts";

/** The longest prompt that is read from standard input, in bytes: far more than any context holds. */
export const MAX_STDIN_BYTES = 64 * 2 ** 20;

/** The argument that stands for standard input. */
const STDIN = "-";

export interface PromptSource {
  model: string;
  /** `undefined`: it comes from standard input. */
  prompt: string | undefined;
}

/** Which arguments are model and prompt. One argument is a prompt for the default model, or a model whose prompt is piped in. */
export function modelAndPrompt(
  first: string | undefined,
  second: string | undefined,
  isPiped: boolean,
): PromptSource {
  const piped = (word: string | undefined): string | undefined => (word === STDIN ? undefined : word);
  if (first !== undefined && second !== undefined) return { model: first, prompt: piped(second) };
  if (first !== undefined && !isModel(first)) return { model: DEFAULT_MODEL, prompt: piped(first) };
  if (isPiped) return { model: first ?? DEFAULT_MODEL, prompt: undefined };
  const what = first === undefined ? "prompt is missing" : `"${first}" is a model, but the prompt is missing`;
  throw new TidepoolError("invalid_argument", `${what}: give it as an argument or on standard input`);
}

function isModel(word: string): boolean {
  return RUNNABLE_NAMES.includes(word) || /\.(gguf|safetensors)$/.test(word) || existsSync(word);
}

/** All of standard input as text, without the newline at its end. @throws TidepoolError `invalid_argument` */
export async function readPrompt(input: AsyncIterable<Uint8Array> = process.stdin): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of input) {
    bytes += chunk.length;
    if (bytes > MAX_STDIN_BYTES)
      throw problem(`more than ${MAX_STDIN_BYTES} bytes, which no model's context holds`);
    chunks.push(chunk);
  }
  const text = decoded(Buffer.concat(chunks)).replace(/\r?\n$/, "");
  if (text === "") throw problem("nothing: expected a prompt");
  return text;
}

function decoded(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw problem("something that is not UTF-8 text");
  }
}

function problem(what: string): TidepoolError {
  return new TidepoolError("invalid_argument", `standard input holds ${what}`);
}
