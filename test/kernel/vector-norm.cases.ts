/** vector-norm: all query heads as one vector and all key heads as another; the values stay. */
import { Random } from "../../src/base.ts";
import { vectorNormOp } from "../../src/model/op/vector-norm.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  rows: number;
  heads: number;
  kvHeads: number;
  headDim: number;
}

const specs: Record<string, Spec> = {
  "grouped heads": { rows: 7, heads: 4, kvHeads: 2, headDim: 16 },
  "wider than a workgroup": { rows: 3, heads: 9, kvHeads: 9, headDim: 132 },
};

const EPS = 1e-6;

function reference({ rows, heads, kvHeads, headDim }: Spec, qkv: Float64Array, weights: Float64Array[]) {
  const expected = qkv.slice();
  const parts = [heads * headDim, kvHeads * headDim];
  for (let row = 0; row < rows; row++) {
    let at = row * (heads + 2 * kvHeads) * headDim;
    parts.forEach((width, part) => {
      const values = expected.subarray(at, at + width);
      const mean = values.reduce((sum, x) => sum + x * x, 0) / width;
      const scale = 1 / Math.sqrt(mean + EPS);
      values.forEach((x, c) => (values[c] = x * scale * (weights[part]?.[c] as number)));
      at += width;
    });
  }
  return expected;
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, heads, kvHeads, headDim } = spec;
  const { elem } = rig.types;
  const width = (heads + 2 * kvHeads) * headDim;
  const qkv = rounded(lumpy(random, rows * width, width), elem);
  const weights = [heads, kvHeads].map((count) => rounded(lumpy(random, count * headDim, headDim), "f32"));
  const buffer = rig.upload(qkv, elem);
  const [qWeight, kWeight] = weights.map((weight) => rig.upload(weight)) as [GPUBuffer, GPUBuffer];
  const input = { qkv: buffer, heads, kvHeads, headDim, qWeight, kWeight, eps: EPS };
  rig.run([await vectorNormOp(rig.kernels, rig.types, input)], {
    rows: Array.from({ length: rows }, () => ({})),
  });
  const expected = reference(spec, qkv, weights);
  const unit = (heads * headDim + 16) * roundOff("f32") + roundOff(elem);
  expectClose("qkv", await rig.read(buffer, elem, qkv.length), expected, (i) => {
    const isValue = i % width >= (heads + kvHeads) * headDim;
    return isValue ? 0 : unit * Math.abs(expected[i] as number) + 2 ** -25;
  });
}

export const cases: Case[] = Object.entries(specs).flatMap(([name, spec]) =>
  inEverySetting(`kernel/vector-norm/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    await check(rig, spec, new Random(testSeed(`kernel/vector-norm/${name}`)));
    rig.close();
  }),
);
