/** rope: both pairings, partial rotation, per-head norms, layers with the norm alone, and the choice of table. */
import { Random } from "../../src/base.ts";
import { ropeFrequencies, ropeOp, RopeTable } from "../../src/model/op/rope.ts";
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
  table: number;
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
  "norm alone": { ...base, headDim: 32, rot: 0, norm: true },
};

const EPS = 1e-6;
const THETAS = [10_000, 1_000_000];

function positionOf(row: number): number {
  return row * 1_931 + 5;
}

/** The pairs that are rotated, as offsets in a head. */
function pairsOf({ rot, interleaved }: Spec): [number, number][] {
  return Array.from({ length: rot / 2 }, (_, i) => (interleaved ? [2 * i, 2 * i + 1] : [i, i + rot / 2]));
}

/** One head, in place; returns each entry's magnitude before the rotation mixed it, for the error bound. */
function turnHead(spec: Spec, head: Float64Array, weight: Float64Array, position: number): Float64Array {
  if (spec.norm) {
    const scale = 1 / Math.sqrt(head.reduce((sum, x) => sum + x * x, 0) / head.length + EPS);
    head.forEach((x, c) => (head[c] = x * scale * (weight[c] as number)));
  }
  const size = head.map(Math.abs);
  pairsOf(spec).forEach(([a, b], i) => {
    const angle = position * (THETAS[spec.table] as number) ** ((-2 * i) / spec.rot);
    const [u, w] = [head[a] as number, head[b] as number];
    head[a] = u * Math.cos(angle) - w * Math.sin(angle);
    head[b] = u * Math.sin(angle) + w * Math.cos(angle);
    size[a] = size[b] = Math.abs(u) + Math.abs(w);
  });
  return size;
}

function reference(spec: Spec, qkv: Float64Array, qWeight: Float64Array, kWeight: Float64Array) {
  const { rows, heads, kvHeads, headDim } = spec;
  const width = heads + 2 * kvHeads;
  const expected = qkv.slice();
  const sizes = new Float64Array(qkv.length);
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads + kvHeads; head++) {
      const at = (row * width + head) * headDim;
      const weight = head < heads ? qWeight : kWeight;
      sizes.set(turnHead(spec, expected.subarray(at, at + headDim), weight, positionOf(row)), at);
    }
  }
  return { expected, sizes };
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, heads, kvHeads, headDim, rot } = spec;
  const { elem } = rig.types;
  const width = (heads + 2 * kvHeads) * headDim;
  const qkv = rounded(lumpy(random, rows * width, width), elem);
  const qWeight = rounded(lumpy(random, headDim, headDim), "f32");
  const kWeight = rounded(lumpy(random, headDim, headDim), "f32");
  const buffer = rig.upload(qkv, elem);
  const norm = { qWeight: rig.upload(qWeight), kWeight: rig.upload(kWeight), eps: EPS };
  const op = await ropeOp(rig.kernels, rig.types, {
    ...{ heads, kvHeads, headDim, rot, interleaved: spec.interleaved, table: spec.table },
    ...(spec.norm && { norm }),
    qkv: buffer,
  });
  const table = new RopeTable(
    THETAS.map((theta) => ropeFrequencies({ theta, rot, scaling: { type: "none" } })),
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
  const unit = (spec.norm ? headDim + 16 : 4) * roundOff("f32") + roundOff(elem);
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
