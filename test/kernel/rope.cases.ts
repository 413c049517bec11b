/**
 * rope: both pairings, partial rotation, per-head norms before and after it, layers with the norm alone, the temperature of
 * queries, norms of v, queries alone, and tables of different sizes.
 */
import { Random } from "../../src/base.ts";
import { pairsBefore, ropeFrequencies, ropeOp, RopeTable } from "../../src/model/op/rope.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  rows: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  rot: number;
  interleaved: boolean;
  norm: boolean;
  /** A LayerNorm with weights for each head. */
  layer?: boolean;
  /** The norm is of what has been rotated, and the turn lengthens it. */
  normLast?: boolean;
  temperature?: { scale: number; tokens: number };
  table: number;
  /** Rotated entries of the table before, if the op's is table 1. Default: as many. */
  rotBefore?: number;
  over?: "q" | "qk" | "qkv";
}

const base: Spec = {
  rows: 7,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  rot: 64,
  interleaved: false,
  norm: false,
  table: 0,
};

const specs: Record<string, Spec> = {
  "half-split": { ...base, table: 1 },
  interleaved: { ...base, rows: 33, headDim: 8, rot: 8, interleaved: true },
  "partial with norm": { ...base, headDim: 128, rot: 32, norm: true },
  "interleaved partial": { ...base, rows: 1, headDim: 80, rot: 20, interleaved: true },
  "norm and rotation": { ...base, heads: 3, kvHeads: 1, headDim: 256, rot: 256, norm: true, table: 1 },
  "LayerNorm of heads": { ...base, heads: 3, headDim: 80, rot: 20, norm: true, layer: true },
  "norm alone": { ...base, headDim: 32, rot: 0, norm: true },
  "norm of a rotated part": { ...base, rows: 4, headDim: 64, rot: 32, norm: true, normLast: true, table: 1 },
  temperature: { ...base, rot: 32, temperature: { scale: 0.1, tokens: 1000 } },
  "temperature alone": { ...base, rows: 3, headDim: 32, rot: 0, temperature: { scale: 0.7, tokens: 64 } },
  "norm of v too": { ...base, headDim: 64, norm: true, over: "qkv" },
  "norm of v, no rotation": { ...base, headDim: 20, rot: 0, norm: true, over: "qkv" },
  "queries alone": { ...base, norm: true, over: "q" },
  "behind a longer table": { ...base, headDim: 32, rot: 16, norm: true, table: 1, rotBefore: 64 },
  "behind a shorter table": { ...base, rows: 3, rot: 64, table: 1, rotBefore: 8 },
};

const EPS = 1e-6;
/** The second table's turns lengthen what they turn. */
const MAGNITUDES = [1, 1.5];
const THETAS = [10_000, 1_000_000];

function positionOf(row: number): number {
  return row * 1_931 + 5;
}

/** The pairs that are rotated, as offsets in a head. */
function pairsOf({ rot, interleaved }: Spec): [number, number][] {
  return Array.from({ length: rot / 2 }, (_, i) => (interleaved ? [2 * i, 2 * i + 1] : [i, i + rot / 2]));
}

/** One head in place, and each entry's magnitude before the rotation mixed it, for the error bound. */
class Head {
  readonly size: Float64Array;
  readonly values: Float64Array;

  constructor(values: Float64Array) {
    this.values = values;
    this.size = values.map(Math.abs);
  }

  scale(by: (index: number) => number): void {
    this.values.forEach((x, c) => (this.values[c] = x * by(c)));
    this.size.forEach((x, c) => (this.size[c] = x * Math.abs(by(c))));
  }

  centre(): void {
    const mean = this.values.reduce((sum, x) => sum + x, 0) / this.values.length;
    const size = this.size.reduce((sum, x) => sum + x, 0) / this.values.length;
    this.values.forEach((x, c) => (this.values[c] = x - mean));
    this.size.forEach((x, c) => (this.size[c] = x + size));
  }

  norm(weight: Float64Array): void {
    const squares = this.values.reduce((sum, x) => sum + x * x, 0);
    const scale = 1 / Math.sqrt(squares / this.values.length + EPS);
    this.scale((c) => scale * (weight[c] as number));
  }

  turn(spec: Spec, position: number): void {
    const { values, size } = this;
    const magnitude = MAGNITUDES[spec.table] as number;
    pairsOf(spec).forEach(([a, b], i) => {
      const angle = position * (THETAS[spec.table] as number) ** ((-2 * i) / spec.rot);
      const [u, w] = [values[a] as number, values[b] as number];
      values[a] = magnitude * (u * Math.cos(angle) - w * Math.sin(angle));
      values[b] = magnitude * (u * Math.sin(angle) + w * Math.cos(angle));
      size[a] = size[b] = magnitude * ((size[a] as number) + (size[b] as number));
    });
  }
}

function turnHead(spec: Spec, values: Float64Array, weight: Float64Array, position: number): Head {
  const head = new Head(values);
  if (spec.layer) head.centre();
  if (spec.norm && !spec.normLast) head.norm(weight);
  head.turn(spec, position);
  if (spec.norm && spec.normLast) head.norm(weight);
  return head;
}

function stretchAt({ temperature }: Spec, position: number): number {
  if (!temperature) return 1;
  return 1 + temperature.scale * Math.log(1 + Math.floor(position / temperature.tokens));
}

function reference(spec: Spec, qkv: Float64Array, qWeight: Float64Array, kWeight: Float64Array) {
  const { rows, heads, kvHeads, headDim, over = "qk" } = spec;
  const reached = { q: heads, qk: heads + kvHeads, qkv: heads + 2 * kvHeads }[over];
  const ones = new Float64Array(headDim).fill(1);
  const width = heads + 2 * kvHeads;
  const expected = qkv.slice();
  const sizes = new Float64Array(qkv.length);
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < reached; head++) {
      const at = (row * width + head) * headDim;
      const isValue = head >= heads + kvHeads;
      const [weights, ofKind] = head < heads ? [qWeight, head] : [kWeight, head - heads];
      const ofHead = spec.layer ? weights.subarray(ofKind * headDim, (ofKind + 1) * headDim) : weights;
      const own = isValue ? { ...spec, rot: 0 } : spec;
      const weight = isValue ? ones : ofHead;
      const turned = turnHead(own, expected.subarray(at, at + headDim), weight, positionOf(row));
      if (head < heads) turned.scale(() => stretchAt(spec, positionOf(row)));
      sizes.set(turned.size, at);
    }
  }
  return { expected, sizes };
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, heads, kvHeads, headDim, rot, table: index, rotBefore = rot, over } = spec;
  const { elem } = rig.types;
  const width = (heads + 2 * kvHeads) * headDim;
  const qkv = rounded(lumpy(random, rows * width, width), elem);
  const weights = (count: number) =>
    rounded(lumpy(random, (spec.layer ? count : 1) * headDim, headDim), "f32");
  const [qWeight, kWeight] = [weights(heads), weights(kvHeads)];
  const buffer = rig.upload(qkv, elem);
  const isLast = spec.normLast ?? false;
  const keyWeight = over === "q" ? undefined : rig.upload(kWeight);
  const norm = {
    qWeight: rig.upload(qWeight),
    kWeight: keyWeight,
    eps: EPS,
    isLast,
    isLayer: spec.layer ?? false,
  };
  const tables = THETAS.map((theta, each) => ({ theta, rot: index === 1 && each === 0 ? rotBefore : rot }));
  const op = await ropeOp(rig.kernels, rig.types, {
    ...{ heads, kvHeads, headDim, rot, interleaved: spec.interleaved },
    before: pairsBefore(tables, index),
    ...(over && { over }),
    ...(spec.norm && { norm }),
    ...(spec.temperature && { temperature: spec.temperature }),
    qkv: buffer,
  });
  const table = new RopeTable(
    tables.map((each, table) =>
      ropeFrequencies({ ...each, scaling: { type: "none" }, magnitude: MAGNITUDES[table] ?? 1 }),
    ),
  );
  const ropeTable = new Float32Array(table.size(rows));
  table.fill(
    Array.from({ length: rows }, (_, row) => positionOf(row)),
    ropeTable,
  );
  rig.run([op], {
    rows: Array.from({ length: rows }, (_, row) => ({ position: positionOf(row) })),
    ropeTable,
  });
  const { expected, sizes } = reference(spec, qkv, qWeight, kWeight);
  // The logarithm of the temperature may be off by 3 ULP.
  const unit = (spec.norm ? headDim + 16 : spec.temperature ? 16 : 4) * roundOff("f32") + roundOff(elem);
  expectClose("qkv", await rig.read(buffer, elem, qkv.length), expected, (i) => {
    return (sizes[i] as number) === 0 ? 0 : unit * (sizes[i] as number) + (elem === "f16" ? 2 ** -25 : 0);
  });
}

export const cases: Case[] = Object.entries(specs).flatMap(([name, spec]) =>
  inEverySetting(`kernel/rope/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    await check(rig, spec, new Random(testSeed(`kernel/rope/${name}`)));
    rig.close();
  }),
);
