/**
 * What encoders have beside other models: attention over a step's own rows, to both sides, and pooling. Texts of several
 * lengths in one step, and each alone.
 */
import { Random } from "../../src/base.ts";
import { rowAttentionOp } from "../../src/model/mixer/attention-rows.ts";
import { poolOp } from "../../src/model/op/pool.ts";
import type { Pooling } from "../../src/shape/shape.ts";
import { inEverySetting } from "../support/cases.ts";
import { expectClose, expectSame, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { attend, type Attended } from "./attention.cases.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  heads: number;
  kvHeads: number;
  headDim: number;
  window: number;
  cap?: number;
  /** Tokens of each text. */
  texts: readonly number[];
}

const SPECS: Record<string, Spec> = {
  "one token": { heads: 4, kvHeads: 4, headDim: 16, window: 0, texts: [1] },
  "texts around tile borders": { heads: 4, kvHeads: 2, headDim: 32, window: 0, texts: [64, 1, 65, 17, 130] },
  "heads of 20, odd window": { heads: 3, kvHeads: 3, headDim: 20, window: 17, texts: [100, 5, 8, 9] },
  "heads of 64, even window": { heads: 4, kvHeads: 1, headDim: 64, window: 16, texts: [3, 90] },
  "window of one, cap": { heads: 4, kvHeads: 2, headDim: 8, window: 1, cap: 3, texts: [20, 33] },
};

/** Rows of texts one behind the other. */
function rowsOf(texts: readonly number[]): { position: number; sequence: number }[] {
  return texts.flatMap((count, sequence) =>
    Array.from({ length: count }, (_, position) => ({ position, sequence })),
  );
}

function lastRows(texts: readonly number[]): number[] {
  let end = 0;
  return texts.map((count) => (end += count) - 1);
}

const step = (texts: readonly number[]) => ({
  ...{ rows: rowsOf(texts), logitRows: lastRows(texts), tables: texts.map(() => []) },
});

async function attended(rig: Rig, spec: Spec, texts: readonly number[], qkv: Float64Array) {
  const { heads, kvHeads, headDim, window, cap = 0 } = spec;
  const { elem } = rig.types;
  const count = texts.reduce((sum, rows) => sum + rows, 0) * heads * headDim;
  const out = rig.unwritten(count, elem);
  const op = await rowAttentionOp(rig.kernels, rig.types, {
    ...{ heads, kvHeads, headDim, window, cap, out },
    ...{ qkv: rig.upload(qkv, elem), scale: 1 / Math.sqrt(headDim) },
  });
  rig.run([op], step(texts));
  return rig.read(out, elem, count);
}

/** One text in float64: [rows * heads * headDim]. */
function expectedOf(spec: Spec, rows: number, qkv: Float64Array): Attended[] {
  const { heads, kvHeads, headDim, window } = spec;
  const width = (heads + 2 * kvHeads) * headDim;
  const head = (row: number, index: number) =>
    qkv.subarray(row * width + index * headDim).subarray(0, headDim);
  const sees = (row: number, key: number) => window === 0 || Math.abs(row - key) <= Math.floor(window / 2);
  return Array.from({ length: rows }, (_, row) => {
    const keys = [...Array(rows).keys()].filter((key) => sees(row, key));
    return Array.from({ length: heads }, (_, q) => {
      const kv = heads + Math.floor((q * kvHeads) / heads);
      const values = keys.map((key) => head(key, kv + kvHeads));
      return attend(
        spec,
        head(row, q),
        keys.map((key) => head(key, kv)),
        values,
      );
    }).flat();
  }).flat();
}

const attentionCases = Object.entries(SPECS).flatMap(([name, spec]) =>
  inEverySetting(`kernel/encoder/attention/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const { heads, kvHeads, headDim, texts } = spec;
    const { elem } = rig.types;
    const width = (heads + 2 * kvHeads) * headDim;
    const total = texts.reduce((sum, rows) => sum + rows, 0);
    const qkv = rounded(lumpy(new Random(testSeed(name)), total * width, width), elem);
    const together = await attended(rig, spec, texts, qkv);
    let row = 0;
    for (const rows of texts) {
      const own = qkv.subarray(row * width, (row + rows) * width);
      const expected = expectedOf(spec, rows, own);
      const actual = together.subarray(row * heads * headDim, (row + rows) * heads * headDim);
      expectClose(
        `${name}, ${rows} tokens`,
        actual,
        expected.map(({ value }) => value),
        (i) => {
          const { value, bound } = expected[i] as Attended;
          return bound + roundOff(elem) * Math.abs(value) + 2 ** -25;
        },
      );
      expectSame(`${rows} tokens alone`, await attended(rig, spec, [rows], own), actual);
      row += rows;
    }
    rig.close();
  }),
);

const POOLED = [1, 7, 70, 2];
const WIDTH = 72;

const poolCases = (["mean", "cls", "last"] satisfies Pooling[]).flatMap((pooling) =>
  inEverySetting(`kernel/encoder/pool/${pooling}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting, { out: "f32" });
    const { elem } = rig.types;
    const total = POOLED.reduce((sum, rows) => sum + rows, 0);
    const normed = rounded(lumpy(new Random(testSeed(pooling)), total * WIDTH, WIDTH), elem);
    const pooled = rig.unwritten(POOLED.length * WIDTH, "f32");
    const input = { normed: rig.upload(normed, elem), pooled, d: WIDTH, pooling };
    rig.run([await poolOp(rig.kernels, rig.types, input)], step(POOLED));
    const sums = pooledSums(normed, pooling);
    expectClose(
      pooling,
      await rig.read(pooled, "f32", POOLED.length * WIDTH),
      sums.map(({ value }) => value),
      (i) => (sums[i] as Attended).bound,
    );
    rig.close();
  }),
);

function pooledSums(normed: Float64Array, pooling: Pooling): Attended[] {
  let first = 0;
  return POOLED.flatMap((rows) => {
    const all = Array.from({ length: rows }, (_, row) => first + row);
    const taken = pooling === "mean" ? all : all.slice(pooling === "cls" ? 0 : -1).slice(0, 1);
    first += rows;
    return Array.from({ length: WIDTH }, (_, column) => {
      const values = taken.map((row) => normed[row * WIDTH + column] as number);
      const size = values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
      const value = values.reduce((sum, each) => sum + each, 0) / values.length;
      return { value, bound: (values.length + 2) * roundOff("f32") * size };
    });
  });
}

export const cases = [...attentionCases, ...poolCases];
