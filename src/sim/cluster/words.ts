/** Reads the words of a cluster's options; errors name the flag that has them. */
import { TidepoolError } from "../../errors.ts";
import type { RejectionMode } from "../../schedule/slo/objectives.ts";
import { selectionNames, type Selection } from "./conductor.ts";
import type { Instances } from "./settings.ts";

export const schedulerNames = ["none", "early", "predicted"] as const satisfies readonly RejectionMode[];

/** Instances of a kind, at most. */
const MAX_INSTANCES = 512;

/** Lists with commas; each word by itself is one value. */
export function parseSchedulers(words: string): RejectionMode[] {
  return listOf(words, (word) => oneOf("--scheduler", word, schedulerNames));
}

export function parseSelections(words: string): Selection[] {
  return listOf(words, (word) => oneOf("--selection", word, selectionNames));
}

/** Such as "8p8d". */
export function parseInstances(words: string): Instances[] {
  return listOf(words, (word) => {
    const [, prefill = 0, decode = 0] = (/^(\d+)p(\d+)d$/.exec(word) ?? []).map(Number);
    const isGood = [prefill, decode].every((count) => count >= 1 && count <= MAX_INSTANCES);
    if (isGood) return { prefill, decode };
    throw wrong("--instances", word, `such as 8p8d, with 1 to ${MAX_INSTANCES} of each kind`);
  });
}

export function parseSpeeds(words: string): number[] {
  return listOf(words, (word) => positive("--speed", word, "a number above 0"));
}

/** Milliseconds, or inf: not asked for. */
export function parseObjective(flag: string, word: string): number {
  return word.trim() === "inf" ? Infinity : positive(flag, word, "a number of milliseconds above 0, or inf");
}

function listOf<T>(words: string, read: (word: string) => T): T[] {
  return words.split(",").map((word) => read(word.trim()));
}

function oneOf<T extends string>(flag: string, word: string, names: readonly T[]): T {
  const found = names.find((name) => name === word);
  if (found === undefined) throw wrong(flag, word, `one of ${names.join(", ")}`);
  return found;
}

function positive(flag: string, word: string, expected: string): number {
  const value = Number(word);
  if (word.trim() === "" || !(value > 0) || value === Infinity) throw wrong(flag, word, expected);
  return value;
}

function wrong(flag: string, word: string, expected: string): TidepoolError {
  return new TidepoolError("invalid_argument", `${flag} is "${word}", expected ${expected}`);
}
