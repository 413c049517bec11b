/**
 * What the words behind a flag mean: whole numbers, numbers and sizes within their range, lists of tokens. A word that means
 * nothing is refused before anything starts. It knows no command.
 */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { InvalidArgumentError } from "commander"; // small, kept, and prints its own help
import { BYTE_SIZE, parseBytes } from "../byte-size.ts";
import { TidepoolError } from "../errors.ts";
import { fileKind, insteadOf } from "../file-kind.ts";
import { parseJson } from "../json-floats.ts";

type Parse<T> = (text: string) => T;

/** Whole numbers from `least` to `most`. */
export function whole(least: number, most = Number.MAX_SAFE_INTEGER): Parse<number> {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (value >= least && value <= most && Number.isSafeInteger(value)) return value;
    const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new InvalidArgumentError(`expected a whole number ${range}`);
  };
}

/** One of a few numbers. */
export function oneOf(...values: number[]): Parse<number> {
  return (text) => {
    const value = values.find((each) => String(each) === text);
    if (value !== undefined) return value;
    throw new InvalidArgumentError(`expected one of ${values.join(", ")}`);
  };
}

/** Numbers that `isWithin`; `range` says which those are. */
export function decimal(range: string, isWithin: (value: number) => boolean): Parse<number> {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (Number.isFinite(value) && isWithin(value)) return value;
    throw new InvalidArgumentError(`expected a number ${range}`);
  };
}

/** Sizes in bytes, of at least `least`. */
export function size(least: number): Parse<number> {
  return (text) => {
    const value = parseBytes(text);
    if (value >= least) return value;
    throw new InvalidArgumentError(`expected a number of ${BYTE_SIZE}${least > 0 ? "; at least 1" : ""}`);
  };
}

/** Some text; with `before`, one more of a flag that may be given several times. */
export function texts(text: string, before: readonly string[] = []): string[] {
  if (text === "") throw new InvalidArgumentError("expected some text");
  return [...before, text];
}

export function tokenList(text: string): number[] {
  const id = whole(0);
  return text === "" ? [] : text.split(",").map((part) => id(part.trim()));
}

/** Without the flags that were not given. */
export function withoutUndefined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
}

/** The bytes of a file that a flag names. @throws TidepoolError `not_found`, `source` */
export async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    const isAbsent = error instanceof Error && "code" in error && error.code === "ENOENT";
    if (isAbsent) throw new TidepoolError("not_found", `${path} does not exist`, { path });
    const problem = error instanceof Error ? error.message : "";
    throw new TidepoolError("source", `${path} cannot be read: ${problem}`, { path });
  }
}

/** A file's JSON, in which 1.0 stays a float. "-" is standard input. @throws TidepoolError with the file's name */
export async function jsonFile(path: string): Promise<unknown> {
  const name = path === "-" ? "standard input" : path;
  const bytes = path === "-" ? readFileSync(0) : await readBytes(path);
  try {
    return parseJson(new TextDecoder().decode(bytes));
  } catch (error) {
    const kind = fileKind(bytes);
    const isOther = kind && kind.what !== "a JSON file";
    const problem = isOther ? insteadOf("JSON", bytes) : `is not JSON: ${(error as Error).message}`;
    throw new TidepoolError("invalid_argument", `${name} ${problem}`);
  }
}
