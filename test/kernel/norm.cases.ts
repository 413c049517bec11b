/**
 * norm: RMS norm and LayerNorm, with and without the residual add, norms of what is added and of the sum, no norm at all, the
 * residual scale and the gather of the LM head.
 */
import { Random } from "../../src/base.ts";
import { normOp } from "../../src/model/op/norm.ts";
import type { NormKind, PostNormOf } from "../../src/shape/shape.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  rows: number;
  d: number;
  kind: NormKind;
  delta: boolean;
  post?: PostNormOf;
  /** false: `out` is the stream as it stands. */
  pre: boolean;
  residualScale: number;
  streamScale?: number;
  gather?: readonly number[];
}

const EPS = 1e-6;

const RMS = { kind: "rms", delta: true, pre: true, residualScale: 1 } as const;
const LAYER = { ...RMS, kind: "layer" } as const;

const specs: Record<string, Spec> = {
  plain: { ...RMS, rows: 7, d: 64, delta: false },
  "residual add": { ...RMS, rows: 33, d: 260 },
  "scaled residual": { ...RMS, rows: 1, d: 1028, residualScale: 0.22 },
  sandwich: { ...RMS, rows: 7, d: 512, post: "output" },
  gather: { ...RMS, rows: 7, d: 64, post: "output", gather: [6, 0, 3] },
  "gather without delta": { ...RMS, rows: 33, d: 8, delta: false, gather: [32] },
  "scaled stream": { ...RMS, rows: 7, d: 64, post: "output", streamScale: 0.37 },
  "scaled stream, gathered": { ...RMS, rows: 7, d: 64, streamScale: -1.3, gather: [6, 1] },
  "stream as it stands": { ...RMS, rows: 3, d: 64, delta: false, pre: false },
  "post-norm alone": { ...RMS, rows: 7, d: 260, post: "output", pre: false },
  "LayerNorm of one row": { ...LAYER, rows: 1, d: 1028, delta: false },
  LayerNorm: { ...LAYER, rows: 33, d: 260, residualScale: 0.22 },
  "LayerNorm sandwich": { ...LAYER, rows: 7, d: 64, post: "output" },
  "LayerNorm gather": { ...LAYER, rows: 7, d: 64, gather: [6, 0, 3] },
  "LayerNorm of the sum": { ...LAYER, rows: 7, d: 260, post: "sum", pre: false },
  "LayerNorm of the sum, then another": { ...LAYER, rows: 7, d: 64, post: "sum" },
  "LayerNorm of the sum, gathered": { ...LAYER, rows: 7, d: 64, post: "sum", gather: [5, 1] },
  "LayerNorm of the embedding": { ...LAYER, rows: 7, d: 64, delta: false, post: "sum", pre: false },
};

/** Numbers, each with the bound of its rounding error. */
interface Bounded {
  values: Float64Array;
  bounds: Float64Array;
}

interface Inputs {
  hidden: Float64Array;
  delta: Float64Array;
  /** [weights, biases]; an RMS norm has no use for the biases. */
  weight: Float64Array;
  post: Float64Array;
}

/** One row of hidden after the add and the post-norm, and of the output. */
function reference(spec: Spec, row: number, inputs: Inputs): { stream: Bounded; out: Bounded } {
  const { d, kind, post } = spec;
  const of = (values: Float64Array) => exact(values.slice(row * d, row * d + d));
  const change = post === "output" ? normed(of(inputs.delta), inputs.post, kind) : of(inputs.delta);
  const sum = spec.delta ? added(of(inputs.hidden), change, spec.residualScale) : of(inputs.hidden);
  const whole = post === "sum" ? normed(sum, inputs.post, kind) : sum;
  const stream = spec.streamScale === undefined ? whole : scaled(whole, Math.fround(spec.streamScale));
  return { stream, out: spec.pre ? normed(stream, inputs.weight, kind) : stream };
}

function scaled({ values, bounds }: Bounded, factor: number): Bounded {
  const products = values.map((value) => value * factor);
  const errors = bounds.map(
    (bound, i) => Math.abs(factor) * bound + roundOff("f32") * Math.abs(products[i] as number),
  );
  return { values: products, bounds: errors };
}

function exact(values: Float64Array): Bounded {
  return { values, bounds: new Float64Array(values.length) };
}

function added(hidden: Bounded, change: Bounded, scale: number): Bounded {
  const values = hidden.values.map((value, i) => value + scale * (change.values[i] as number));
  const bounds = change.bounds.map(
    (bound, i) =>
      scale * bound +
      roundOff("f32") * (3 * Math.abs(scale * (change.values[i] as number)) + Math.abs(values[i] as number)),
  );
  return { values, bounds };
}

function normed({ values, bounds }: Bounded, weights: Float64Array, kind: NormKind): Bounded {
  const d = values.length;
  const unit = (d + 16) * roundOff("f32"); // sums of d terms, root, division and the products
  const isLayer = kind === "layer";
  const mean = isLayer ? average(values) : 0;
  const meanBound = isLayer ? average(bounds) + unit * average(values.map(Math.abs)) : 0;
  const centred = values.map((value) => value - mean);
  const errors = bounds.map(
    (bound, i) => bound + meanBound + roundOff("f32") * Math.abs(centred[i] as number),
  );
  const scale = 1 / Math.sqrt(average(centred.map((value) => value ** 2)) + EPS);
  const relative = 2 * unit + scale * Math.sqrt(average(errors.map((error) => error ** 2)));
  const scaled = centred.map((value, i) => value * scale * (weights[i] as number));
  const out = scaled.map((value, i) => value + (isLayer ? (weights[d + i] as number) : 0));
  return {
    values: out,
    bounds: errors.map(
      (error, i) =>
        error * scale * Math.abs(weights[i] as number) +
        relative * Math.abs(scaled[i] as number) +
        roundOff("f32") * Math.abs(out[i] as number),
    ),
  };
}

function average(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, d, kind, gather, post } = spec;
  const { elem } = rig.types;
  const inputs: Inputs = {
    hidden: rounded(lumpy(random, rows * d, d), "f32"),
    delta: rounded(lumpy(random, rows * d, d), "f32"),
    weight: rounded(lumpy(random, 2 * d, d), "f32"),
    post: rounded(lumpy(random, 2 * d, d), "f32"),
  };
  const hidden = rig.upload(inputs.hidden);
  const wanted = gather ?? Array.from({ length: rows }, (_, row) => row);
  const out = rig.unwritten(wanted.length * d, elem);
  const op = await normOp(rig.kernels, rig.types, {
    ...{ kind, hidden, out, d, eps: EPS, residualScale: spec.residualScale },
    streamScale: spec.streamScale,
    ...(spec.delta && { delta: rig.upload(inputs.delta) }),
    ...(post && { post: { weight: rig.upload(inputs.post), of: post } }),
    weight: spec.pre ? rig.upload(inputs.weight) : undefined,
    gather: gather !== undefined,
  });
  rig.run([op], { rows: Array.from({ length: rows }, () => ({})), ...(gather && { logitRows: gather }) });
  const expected = Array.from({ length: rows }, (_, row) => reference(spec, row, inputs));
  const normedRows = joined(wanted.map((row) => (expected[row] as (typeof expected)[number]).out));
  expectClose("normed", await rig.read(out, elem, wanted.length * d), normedRows.values, (i) => {
    const rounding = roundOff(elem) * Math.abs(normedRows.values[i] as number);
    return (normedRows.bounds[i] as number) + rounding + 2 ** -25;
  });
  const left = gather ? exact(inputs.hidden) : joined(expected.map(({ stream }) => stream));
  expectClose(
    "hidden",
    await rig.read(hidden, "f32", rows * d),
    left.values,
    (i) => left.bounds[i] as number,
  );
}

function joined(rows: readonly Bounded[]): Bounded {
  const all = (of: keyof Bounded) => Float64Array.from(rows.flatMap((row) => [...row[of]]));
  return { values: all("values"), bounds: all("bounds") };
}

export const cases: Case[] = Object.entries(specs).flatMap(([name, spec]) =>
  inEverySetting(`kernel/norm/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    await check(rig, spec, new Random(testSeed(`kernel/norm/${name}`)));
    rig.close();
  }),
);
