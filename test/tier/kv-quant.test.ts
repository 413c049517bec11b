/** Quantised KV: the error bound of every group, the sizes, and what is refused. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import {
  dequantiseKv,
  floatToHalf,
  halfToFloat,
  kvBytes,
  quantisedKvBytes,
  quantiseKv,
  VALUE_GROUP_CHANNELS,
  type KvBits,
  type KvDtype,
  type KvLayout,
} from "../../src/tier/record/kv-quant.ts";
import { testSeed } from "../support/seed.ts";

/** KV as models make it: keys with a few outlier channels, values without. */
function lumpyKv(random: Random, layout: KvLayout): Float32Array {
  const { layers, kvHeads, headDim, blockTokens } = layout;
  const values: number[] = [];
  for (let head = 0; head < 2 * layers * kvHeads; head++) {
    const keys = Math.floor(head / kvHeads) % 2 === 0;
    const gains = Array.from({ length: headDim }, () => (keys && random.below(8) === 0 ? 20 : 1));
    for (let i = 0; i < blockTokens * headDim; i++) {
      values.push(random.normal() * (gains[i % headDim] as number));
    }
  }
  return Float32Array.from(values);
}

function payloadFrom(values: Float32Array, dtype: KvDtype): Uint8Array {
  return dtype === "f32"
    ? new Uint8Array(values.slice().buffer)
    : new Uint8Array(Uint16Array.from(values, floatToHalf).buffer);
}

function floatsOf(payload: Uint8Array, dtype: KvDtype): number[] {
  return dtype === "f32"
    ? [...new Float32Array(payload.slice().buffer)]
    : [...new Uint16Array(payload.slice().buffer)].map(halfToFloat);
}

/** The values that share a scale with value `index`, found independently of the code under test. */
function groupOf(values: number[], index: number, layout: KvLayout): number[] {
  const { kvHeads, headDim, blockTokens } = layout;
  const headValues = headDim * blockTokens;
  const head = Math.floor(index / headValues);
  const token = Math.floor((index % headValues) / headDim);
  const channel = index % headDim;
  return values.filter((_, other) => {
    if (Math.floor(other / headValues) !== head) return false;
    const otherToken = Math.floor((other % headValues) / headDim);
    const otherChannel = other % headDim;
    if (Math.floor(head / kvHeads) % 2 === 0) return otherChannel === channel;
    const sameGroup =
      Math.floor(otherChannel / VALUE_GROUP_CHANNELS) === Math.floor(channel / VALUE_GROUP_CHANNELS);
    return otherToken === token && sameGroup;
  });
}

describe("kv-quant", () => {
  const random = new Random(testSeed("kv-quant"));
  const cases: [KvBits, KvDtype, number, number][] = [
    [8, "f32", 64, 8],
    [4, "f32", 64, 8],
    [8, "f16", 48, 16],
    [4, "f16", 20, 3],
  ];
  for (const [bits, dtype, headDim, blockTokens] of cases) {
    test(`${bits} bits, ${dtype}, head ${headDim}, ${blockTokens} tokens: error within half a step`, () => {
      const layout: KvLayout = { layers: 2, kvHeads: 2, headDim, blockTokens, dtype };
      const payload = payloadFrom(lumpyKv(random, layout), dtype);
      const before = floatsOf(payload, dtype);
      const quantised = quantiseKv(payload, layout, bits)!;
      expect(quantised.length).toBe(quantisedKvBytes(layout, bits));
      const after = floatsOf(dequantiseKv(quantised)!, dtype);
      for (let i = 0; i < before.length; i += 7) {
        const group = groupOf(before, i, layout);
        const [low, high] = [Math.min(...group), Math.max(...group)];
        const largest = Math.max(Math.abs(low), Math.abs(high));
        // Half a step of the exact scale; float16 of minimum and scale; float16 of the result.
        const bound = ((high - low) / (2 ** bits - 1)) * 0.501 + largest * 2 ** -9;
        expect(Math.abs(before[i]! - after[i]!)).toBeLessThanOrEqual(bound);
      }
    });
  }

  test("keys keep their quiet channels beside an outlier channel", () => {
    const layout: KvLayout = { layers: 1, kvHeads: 1, headDim: 32, blockTokens: 32, dtype: "f32" };
    const values = Float32Array.from({ length: 2048 }, (_, i) => (i % 32 === 0 ? 1000 : 1) * random.normal());
    const after = floatsOf(dequantiseKv(quantiseKv(payloadFrom(values, "f32"), layout, 4)!)!, "f32");
    for (let i = 1; i < 1024; i++) {
      if (i % 32 !== 0) expect(Math.abs(after[i]! - values[i]!)).toBeLessThan(0.4);
    }
  });

  test("a 4-bit block is about a third of float16, an 8-bit one not much more than half", () => {
    const layout: KvLayout = { layers: 4, kvHeads: 2, headDim: 64, blockTokens: 32, dtype: "f16" };
    expect(quantisedKvBytes(layout, 4) / kvBytes(layout)).toBeLessThan(0.33);
    expect(quantisedKvBytes(layout, 8) / kvBytes(layout)).toBeLessThan(0.57);
  });

  test("constant, zero and single-token groups come back exactly", () => {
    const layout: KvLayout = { layers: 1, kvHeads: 1, headDim: 4, blockTokens: 1, dtype: "f32" };
    const payload = payloadFrom(Float32Array.of(0, 0, -3, 7, 0.5, 0.5, 0.5, 0.5), "f32");
    expect(dequantiseKv(quantiseKv(payload, layout, 4)!)).toEqual(payload);
  });

  test("values that float16 cannot hold are refused, and so is what is no quantised payload", () => {
    const layout: KvLayout = { layers: 1, kvHeads: 1, headDim: 2, blockTokens: 1, dtype: "f32" };
    for (const bad of [Number.NaN, Infinity, 1e6]) {
      expect(quantiseKv(payloadFrom(Float32Array.of(1, bad, 1, 1), "f32"), layout, 8)).toBeUndefined();
    }
    expect(dequantiseKv(new Uint8Array(64))).toBeUndefined();
    expect(dequantiseKv(new Uint8Array(3))).toBeUndefined();
  });

  test("float16 conversion: all 65,536 values survive, and halves round to even", () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = halfToFloat(bits);
      if (!Number.isNaN(value)) expect(floatToHalf(value)).toBe(bits);
    }
    expect(floatToHalf(1 + 2 ** -11)).toBe(floatToHalf(1));
    expect(floatToHalf(1 + 3 * 2 ** -11)).toBe(floatToHalf(1 + 2 ** -9));
    expect(floatToHalf(65520)).toBe(0x7c00);
  });
});
