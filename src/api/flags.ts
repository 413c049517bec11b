/**
 * What the words behind a flag mean: integers, numbers, lists of tokens. It knows no command.
 */
import { InvalidArgumentError } from "commander"; // small, kept, and prints its own help

export function integer(text: string): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new InvalidArgumentError("expected an integer");
  return value;
}

export function decimal(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number");
  return value;
}

export function tokenList(text: string): number[] {
  return text === "" ? [] : text.split(",").map((part) => integer(part.trim()));
}

/** Without the flags that were not given. */
export function withoutUndefined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
}
