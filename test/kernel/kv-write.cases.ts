/** kv-write: every k and v lands at its place, in either type, and nothing else of the pool changes; keys alone, too. */
import { Random } from "../../src/base.ts";
import type { Elem } from "../../src/gpu/kernel.ts";
import { kvWriteOp } from "../../src/model/mixer/paged-attention.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectSame, lumpy, Rig, rounded } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  rows: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  blockTokens: number;
  /** Keys behind as many other entries of a row, and no values (latent attention). */
  keysFrom?: number;
}

const specs: Spec[] = [
  { rows: 1, heads: 4, kvHeads: 2, headDim: 16, blockTokens: 16 },
  { rows: 7, heads: 3, kvHeads: 3, headDim: 8, blockTokens: 64 },
  { rows: 33, heads: 8, kvHeads: 4, headDim: 64, blockTokens: 32 },
  { rows: 7, heads: 5, kvHeads: 1, headDim: 20, blockTokens: 16, keysFrom: 8 },
];

const SLOTS = 5;

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, heads, kvHeads, headDim, blockTokens, keysFrom } = spec;
  const { elem, kv } = rig.types;
  const firstKey = keysFrom ?? heads * headDim;
  const width = firstKey + (keysFrom === undefined ? 2 : 1) * kvHeads * headDim;
  const qkv = rounded(lumpy(random, rows * width, width), elem);
  if (elem === "f32") qkv[firstKey] = 1e6; // the first k: saturates in f16
  const places = shuffled(SLOTS * blockTokens, random).slice(0, rows);
  const size = SLOTS * kvHeads * blockTokens * headDim;
  const expected = { keys: new Float32Array(size).fill(NaN), values: new Float32Array(size).fill(NaN) };
  places.forEach((place, row) => {
    for (let i = 0; i < kvHeads * headDim; i++) {
      const head = Math.floor(i / headDim);
      const block = Math.floor(place / blockTokens) * kvHeads + head;
      const to = (block * blockTokens + (place % blockTokens)) * headDim + (i % headDim);
      const k = row * width + firstKey + i;
      expected.keys[to] = saturated(qkv[k] as number, kv);
      if (keysFrom === undefined) expected.values[to] = saturated(qkv[k + kvHeads * headDim] as number, kv);
    }
  });
  const keys = rig.unwritten(size, kv);
  const values = keysFrom === undefined ? rig.unwritten(size, kv) : keys;
  const input = { ...spec, firstKey, rowWidth: width, qkv: rig.upload(qkv, elem), keys, values };
  const op = await kvWriteOp(rig.kernels, rig.types, input);
  rig.run([op], { rows: places.map((write) => ({ write })) });
  expectSame("keys", await rig.read(keys, kv, size), expected.keys);
  if (keysFrom === undefined) expectSame("values", await rig.read(values, kv, size), expected.values);
}

function saturated(value: number, type: Elem): number {
  const limit = type === "f16" ? 65504 : Infinity;
  return rounded([Math.max(-limit, Math.min(limit, value))], type)[0] as number;
}

function shuffled(count: number, random: Random): number[] {
  const list = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [list[i], list[other]] = [list[other] as number, list[i] as number];
  }
  return list;
}

/** KV of the activations' type, and of the other one where there are two. */
export const cases: Case[] = inEverySetting("kernel/kv-write", async ({ gpu }, setting) => {
  const random = new Random(testSeed("kernel/kv-write"));
  const pairs: { elem: Elem; kv: Elem }[] = setting.f16
    ? [
        { elem: "f16", kv: "f16" },
        { elem: "f32", kv: "f16" },
        { elem: "f16", kv: "f32" },
      ]
    : [{ elem: "f32", kv: "f32" }];
  for (const types of pairs) {
    const rig = new Rig(gpu, setting, types);
    for (const spec of specs) await check(rig, spec, random);
    rig.close();
  }
});
