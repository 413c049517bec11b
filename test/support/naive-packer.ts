/**
 * Packs keys and values as shaders/kv-pack.wgsl defines it, one group after the other in plain code: the reference for its bits, and
 * for what they stand for.
 */
import type { PackedBits } from "../../src/gpu/packed.ts";

/** A block of one head: its words, the numbers that they stand for and what is between two of these, [blockTokens][headDim]. */
export interface PackedHead {
  words: number[];
  back: Float64Array;
  steps: Float64Array;
}

interface Group {
  word: number;
  codes: number[];
  back: number[];
  step: number;
}

const floats = new Float32Array(1);
const bits = new Uint32Array(floats.buffer);

function bitsOf(value: number): number {
  floats[0] = value;
  return bits[0] as number;
}

/** The nearest number of `fraction` bits of fraction on one side. */
function cut(value: number, fraction: number, up: boolean): number {
  if (Math.abs(value) < 2 ** -126) return 0;
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(value))) - fraction);
  return (up ? Math.ceil(value / unit) : Math.floor(value / unit)) * unit;
}

function packGroup(values: readonly number[], width: PackedBits): Group {
  const levels = 2 ** width - 1;
  if (!values.every(Number.isFinite))
    return { word: 0x7fc00000, codes: values.map(() => 0), back: values.map(() => NaN), step: 0 };
  const base = cut(Math.min(...values), 9, false);
  const share = Math.fround(1 / levels);
  const step = cut(Math.fround(Math.fround(Math.max(...values) - base) * share), 6, true);
  const codes = values.map((value) => {
    const away = Math.fround(value - base);
    const reached = Array.from({ length: levels }, (_, code) => (code + 0.5) * step <= away);
    return step === 0 ? 0 : reached.filter(Boolean).length;
  });
  const word = (bitsOf(base) | (bitsOf(step) >>> 17)) >>> 0;
  return { word, codes, back: codes.map((code) => base + step * code), step };
}

/** Puts codes of `width` bits into words, the first in the lowest bits. */
function joined(codes: readonly number[], width: PackedBits): number[] {
  const inWord = 32 / width;
  return Array.from({ length: Math.ceil(codes.length / inWord) }, (_, word) =>
    codes
      .slice(word * inWord, (word + 1) * inWord)
      .reduce((sum, code, place) => sum + code * 2 ** (place * width), 0),
  );
}

/** @param block [blockTokens][headDim] */
export function packKeys(block: Float64Array, headDim: number, width: PackedBits): PackedHead {
  const tokens = block.length / headDim;
  const [back, steps] = [new Float64Array(block.length), new Float64Array(block.length)];
  const groups = Array.from({ length: headDim }, (_, channel) => {
    const values = Array.from({ length: tokens }, (_, token) => block[token * headDim + channel] as number);
    const group = packGroup(values, width);
    group.back.forEach((value, token) => {
      back[token * headDim + channel] = value;
      steps[token * headDim + channel] = group.step;
    });
    return { word: group.word, words: joined(group.codes, width) };
  });
  const rows = (tokens * width) / 32;
  const codes = Array.from({ length: rows }, (_, row) => groups.map(({ words }) => words[row] as number));
  return { words: [...codes.flat(), ...groups.map(({ word }) => word)], back, steps };
}

/** @param block [blockTokens][headDim] */
export function packValues(block: Float64Array, headDim: number, width: PackedBits): PackedHead {
  const tokens = block.length / headDim;
  const [back, steps] = [new Float64Array(block.length), new Float64Array(block.length)];
  const codes: number[] = [];
  const groups: number[] = [];
  for (let token = 0; token < tokens; token++) {
    const row = [...block.subarray(token * headDim, (token + 1) * headDim)];
    const found: number[] = [];
    for (let first = 0; first < headDim; first += 32) {
      const group = packGroup(row.slice(first, first + 32), width);
      groups.push(group.word);
      found.push(...group.codes);
      back.set(group.back, token * headDim + first);
      steps.fill(group.step, token * headDim + first, token * headDim + first + group.back.length);
    }
    codes.push(...joined(found, width));
  }
  return { words: [...codes, ...groups], back, steps };
}

/** The bits of words as the floats that have them: a test's buffers hold floats. */
export const asFloats = (words: readonly number[]): Float32Array =>
  new Float32Array(Uint32Array.from(words).buffer);
