/** Keys of those who may ask: made here, and compared in a time that does not depend on where they differ. */
import { sha256 } from "@noble/hashes/sha2.js";

const KEY_BYTES = 24;

/**
 * A key that nobody guesses, in letters that a URL and a shell leave alone.
 *
 * @example
 * ```ts
 * console.log(newKey().length); // 32
 * ```
 */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(KEY_BYTES));
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_");
}

/** Whether a request carries the key. */
export function hasKey(request: Request, key: string): boolean {
  const given = /^Bearer (.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
  return isSame(given, key);
}

/** Compares digests, so that neither content nor length shows in the time. */
function isSame(a: string, b: string): boolean {
  const encoder = new TextEncoder();
  const [first, second] = [a, b].map((text) => sha256(encoder.encode(text))) as [Uint8Array, Uint8Array];
  let difference = 0;
  for (let i = 0; i < first.length; i++) difference |= (first[i] as number) ^ (second[i] as number);
  return difference === 0;
}
