/**
 * Keys and values in 8, 4 or 2 bits, as they lie in the KV pool (KIVI, 2402.02750, section 3): how many words a packed block of a head
 * has, and what its words mean. It packs nothing: shaders/kv-pack.wgsl does.
 */
import type { KvLayer } from "../shape/shape.ts";
import type { Elem } from "./kernel.ts";

/** The type of stored keys and values: exact, or packed in as many bits. */
export type KvDtype = Elem | "q8" | "q4" | "q2";

/** Bits of a code. */
export type PackedBits = 8 | 4 | 2;

const BITS: Readonly<Record<KvDtype, PackedBits | undefined>> = {
  ...{ f32: undefined, f16: undefined },
  ...{ q8: 8, q4: 4, q2: 2 },
};

const WORD_BITS = 32;

/** Channels of a token's value that share a base and a step. */
const VALUE_GROUP_CHANNELS = 32;

/** Bits of a code; undefined if keys and values are exact. */
export function packedBits(dtype: KvDtype): PackedBits | undefined {
  return BITS[dtype];
}

/** Words of a packed block of one head. */
export interface PackedWords {
  /** Of its keys: codes, then a group a channel. */
  keyWords: number;
  /** Of each token's value: codes, and behind those of all tokens its groups. */
  codeWords: number;
  groups: number;
}

export function packedWords(headDim: number, blockTokens: number, bits: PackedBits): PackedWords {
  return {
    keyWords: headDim * ((blockTokens * bits) / WORD_BITS + 1),
    codeWords: Math.ceil((headDim * bits) / WORD_BITS),
    groups: Math.ceil(headDim / VALUE_GROUP_CHANNELS),
  };
}

/** Bytes of a layer's part of a block. */
export interface PartBytes {
  keys: number;
  /** 0 if values are parts of keys. */
  values: number;
}

/** Bytes of one block in one layer. */
export function partBytes(
  { kvHeads, headDim, keysOnly }: KvLayer,
  blockTokens: number,
  dtype: KvDtype,
): PartBytes {
  const parts = keysOnly ? 1 : 2;
  const bits = packedBits(dtype);
  if (!bits) {
    const bytes = kvHeads * headDim * blockTokens * (dtype === "f16" ? 2 : 4);
    return { keys: bytes, values: (parts - 1) * bytes };
  }
  const { keyWords, codeWords, groups } = packedWords(headDim, blockTokens, bits);
  const values = (parts - 1) * blockTokens * (codeWords + groups);
  return { keys: 4 * kvHeads * keyWords, values: 4 * kvHeads * values };
}

/** What a group's word says: its numbers are base + step * code. */
function groupOf(word: number): { base: number; step: number } {
  const [base = 0, step = 0] = new Float32Array(
    Uint32Array.of(word & 0xffffc000, (word & 0x3fff) << 17).buffer,
  );
  return { base, step };
}

/** A layer's packed block as numbers: keys, then values, each [kvHeads][blockTokens][headDim]. */
export function unpacked(
  words: Uint32Array,
  { kvHeads, headDim, keysOnly }: KvLayer,
  blockTokens: number,
  bits: PackedBits,
): Float32Array[] {
  const size = kvHeads * blockTokens * headDim;
  const [keys, values] = [new Float32Array(size), new Float32Array(keysOnly ? 0 : size)];
  const inWord = WORD_BITS / bits;
  const number = (group: number, word: number, place: number): number => {
    const { base, step } = groupOf(words[group] as number);
    return base + step * (((words[word] as number) >>> (place * bits)) & (2 ** bits - 1));
  };
  const { keyWords: perHead, codeWords: perToken, groups } = packedWords(headDim, blockTokens, bits);
  for (let at = 0; at < size; at++) {
    const [channel, row] = [at % headDim, Math.floor(at / headDim)];
    const [token, head] = [row % blockTokens, Math.floor(row / blockTokens)];
    const key = head * perHead + channel;
    const word = key + Math.floor(token / inWord) * headDim;
    keys[at] = number(key + (perHead - headDim), word, token % inWord);
    if (keysOnly) continue;
    const value = kvHeads * perHead + head * blockTokens * (perToken + groups);
    const group =
      value + blockTokens * perToken + token * groups + Math.floor(channel / VALUE_GROUP_CHANNELS);
    values[at] = number(group, value + token * perToken + Math.floor(channel / inWord), channel % inWord);
  }
  return keysOnly ? [keys] : [keys, values];
}
