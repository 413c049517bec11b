/**
 * The names of records: 128-bit hashes, chained so that a key stands for a block and everything before it (Mooncake,
 * section 2). A namespace salts the root of the chain, so that two users of one app cannot find each other's prefixes.
 * It does not compute a model's fingerprint from its weights; it only folds the named parts of one together.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { assert } from "../../base.ts";

/** A 128-bit hash as 32 lower-case hexadecimal digits. */
export type Key = string;

export const KEY_BYTES = 16;

export type RecordKind = "block" | "snapshot";

const encoder = new TextEncoder();

/** Hashes byte strings, each preceded by its length so that no two lists run together. */
function hash(label: string, parts: readonly Uint8Array[]): Key {
  const state = sha256.create();
  for (const part of [encoder.encode(label), ...parts]) {
    state.update(new Uint8Array(Uint32Array.of(part.length).buffer));
    state.update(part);
  }
  return bytesToHex(state.digest().subarray(0, KEY_BYTES));
}

/**
 * The fingerprint of everything that decides a block's bytes: weights, architecture, compute and KV dtype, RoPE
 * settings, block size, adapters, version of the kernels' numerics. The order of the parts does not matter.
 */
export function fingerprintOf(parts: Readonly<Record<string, string | number>>): Key {
  const names = Object.keys(parts).sort();
  return hash(
    "fingerprint",
    names.flatMap((name) => [encoder.encode(name), encoder.encode(String(parts[name]))]),
  );
}

/** The hash by which a namespace's records are found for deletion. "" is the namespace of those who name none. */
export function namespaceHashOf(namespace: string): Key {
  return hash("namespace", [encoder.encode(namespace)]);
}

/** The parent key of a chain's first block. */
export function rootKey(fingerprint: Key, namespace: string): Key {
  return hash("root", [hexToBytes(fingerprint), encoder.encode(namespace)]);
}

/** The key of one record: its kind, its parent and its token ids (of a snapshot: the tail after the last full block). */
export function recordKey(kind: RecordKind, parentKey: Key, tokens: ArrayLike<number>): Key {
  return hash(kind, [hexToBytes(parentKey), new Uint8Array(Uint32Array.from(tokens).buffer)]);
}

/** The keys of all full blocks of `tokens`, in order; a trailing partial block has none. */
export function chainKeys(
  fingerprint: Key,
  namespace: string,
  tokens: ArrayLike<number>,
  blockTokens: number,
): Key[] {
  assert(blockTokens > 0, `chainKeys needs a positive block size, got ${blockTokens}`);
  const all = Uint32Array.from(tokens);
  const keys: Key[] = [];
  let parent = rootKey(fingerprint, namespace);
  for (let start = 0; start + blockTokens <= all.length; start += blockTokens) {
    parent = recordKey("block", parent, all.subarray(start, start + blockTokens));
    keys.push(parent);
  }
  return keys;
}

/** The key of the snapshot at the end of `tokens`: its parent is the last full block's key, or the root. */
export function snapshotKey(
  fingerprint: Key,
  namespace: string,
  tokens: ArrayLike<number>,
  blockTokens: number,
): Key {
  const chain = chainKeys(fingerprint, namespace, tokens, blockTokens);
  const parent = chain.at(-1) ?? rootKey(fingerprint, namespace);
  return recordKey("snapshot", parent, Uint32Array.from(tokens).subarray(chain.length * blockTokens));
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function bytesToHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += HEX[byte] as string;
  return text;
}

/** 256 for what is no lower-case hexadecimal digit. */
function digitOf(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  return code >= 97 && code <= 102 ? code - 87 : 256;
}

export function hexToBytes(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2);
  let bad = hex.length % 2;
  for (let i = 0; i < bytes.length; i++) {
    const value = (digitOf(hex.charCodeAt(2 * i)) << 4) | digitOf(hex.charCodeAt(2 * i + 1));
    bad |= value >>> 8;
    bytes[i] = value;
  }
  assert(bad === 0, `not lower-case hexadecimal: "${hex}"`);
  return bytes;
}
