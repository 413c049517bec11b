/**
 * AltUp's kernels against float64, written as the equations are: the streams at the start, the prediction (with the gate of the
 * layer before, and gathered), what joins behind attention, the correction, and the streams at the end.
 */
import { Random } from "../../src/base.ts";
import {
  correctOp,
  joinOp,
  mergeOp,
  predictOp,
  startOp,
  streamRows,
} from "../../src/model/residual/altup.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const [D, ROWS, EPS] = [68, 5, 1e-6];
const STRIDE = streamRows(ROWS);
const STREAMS = [0, 1, 2, 3] as const;

type Vector = Float64Array;

const norm = (x: Vector) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
const rms = (x: Vector) => Math.sqrt(norm(x) ** 2 / x.length + EPS);
const normed = (x: Vector, weight: Vector) => x.map((value, c) => (value / rms(x)) * (weight[c] as number));
const dot = (a: Vector, b: Vector) => a.reduce((sum, value, c) => sum + value * (b[c] as number), 0);

/** Numbers of `count` rows; a row of streams lies `STRIDE` rows behind that of the stream before. */
class Numbers {
  readonly values: Vector;

  constructor(random: Random, rows: number) {
    this.values = rounded(lumpy(random, rows * D, D), "f32");
  }

  row(index: number): Vector {
    return this.values.slice(index * D, (index + 1) * D);
  }
}

function modes(router: Vector, x: Vector): Vector {
  const input = normed(x, router.subarray(0, D)).map((value) => value / D);
  return Float64Array.from(STREAMS, (s) => Math.tanh(dot(router.slice((1 + s) * D, (2 + s) * D), input)));
}

/** What must be near: sums of D terms and of the streams, of numbers of this size. */
const near = (expected: Vector, type: "f32" | "f16" = "f32") => {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return (i: number) =>
    (D + 64) * roundOff("f32") * largest + roundOff(type) * Math.abs(expected[i] as number) + 2 ** -25;
};

async function check(rig: Rig, random: Random): Promise<void> {
  const { elem } = rig.types;
  const context = {
    kernels: rig.kernels,
    types: rig.types,
    shape: { hiddenSize: D, normEps: EPS },
    stride: STRIDE,
  };
  const streams = new Numbers(random, 4 * STRIDE);
  const predicted = new Numbers(random, 4 * STRIDE);
  const [gated, mixed, laurel, joined] = [0, 1, 2, 3].map(() => new Numbers(random, ROWS)) as [
    Numbers,
    Numbers,
    Numbers,
    Numbers,
  ];
  const weights = new Numbers(random, 3);
  const router = rounded(
    Float64Array.from({ length: 5 * D + 80 }, () => random.normal()),
    "f32",
  );
  const steps = { rows: Array.from({ length: ROWS }, () => ({})), logitRows: [4, 1] };
  const rows = Array.from({ length: ROWS }, (_, row) => row);
  const of = (numbers: Numbers, stream: number, row: number) => numbers.row(stream * STRIDE + row);
  const compare = async (
    what: string,
    buffer: GPUBuffer,
    at: number,
    expected: Vector,
    type = "f32" as "f32" | "f16",
  ) => {
    const got = (await rig.read(buffer, type, at + D)).slice(at);
    expectClose(what, got, expected, near(expected, type));
  };

  const projected = new Numbers(random, 3 * ROWS);
  const started = rig.upload(streams.values);
  rig.run([await startOp(context, { projected: rig.upload(projected.values), streams: started })], steps);
  for (const row of rows)
    for (const s of [1, 2, 3]) {
      const y = projected.row(3 * row + s - 1);
      const factor = norm(of(streams, 0, row)) / norm(y);
      await compare(
        `start ${s}`,
        started,
        (s * STRIDE + row) * D,
        y.map((value) => value * factor),
      );
    }

  const gate = { gated: rig.upload(gated.values), weight: rig.upload(weights.row(0)) };
  const routerBuffer = rig.upload(router);
  const withGate = (row: number) =>
    STREAMS.map((s) => {
      const added = normed(gated.row(row), weights.row(0));
      return of(streams, s, row).map((value, c) => value + (s === 0 ? 0 : (added[c] as number)));
    });
  const out = rig.unwritten(4 * STRIDE * D, "f32");
  const input = { router: routerBuffer, gate, streams: rig.upload(streams.values) };
  rig.run([await predictOp(context, { ...input, predicted: out })], steps);
  for (const row of rows) {
    const x = withGate(row);
    const chosen = modes(router, x[0] as Vector);
    for (const a of STREAMS) {
      const expected = (x[a] as Vector).slice();
      for (const s of STREAMS) {
        const factor = dot(router.slice(5 * D + 4 * (4 * a + s), 5 * D + 4 * (4 * a + s) + 4), chosen);
        expected.forEach((value, c) => (expected[c] = value + factor * ((x[s] as Vector)[c] as number)));
      }
      await compare(`prediction ${a}`, out, (a * STRIDE + row) * D, expected);
    }
  }
  const gathered = rig.unwritten(4 * 64 * D, "f32");
  rig.run([await predictOp(context, { ...input, predicted: gathered, gatherStride: 64 })], steps);
  for (const [index, row] of steps.logitRows.entries())
    for (const s of STREAMS)
      await compare(`gathered ${s}`, gathered, (s * 64 + index) * D, withGate(row)[s] as Vector);

  const x = rounded(lumpy(random, ROWS * D, D), elem);
  const normedBuffer = rig.upload(x, elem);
  const joinedBuffer = rig.unwritten(ROWS * D, "f32");
  const join = {
    predicted: rig.upload(predicted.values),
    mixed: rig.upload(mixed.values),
    laurel: rig.upload(laurel.values),
  };
  const joinInput = {
    weights: rig.upload(weights.values),
    ...join,
    joined: joinedBuffer,
    normed: normedBuffer,
  };
  rig.run([await joinOp(context, joinInput)], steps);
  for (const row of rows) {
    const [a, b] = [normed(mixed.row(row), weights.row(0)), normed(laurel.row(row), weights.row(1))];
    const sum = of(predicted, 0, row).map(
      (value, c) => (value + (a[c] as number) + (x[row * D + c] as number) + (b[c] as number)) / Math.SQRT2,
    );
    await compare("joined", joinedBuffer, row * D, sum);
    await compare("normed", normedBuffer, row * D, normed(sum, weights.row(2)), elem);
  }

  const [corrected, gateInput] = [rig.unwritten(4 * STRIDE * D, "f32"), rig.upload(joined.values)];
  rig.run(
    [
      await correctOp(context, {
        ...{ router: routerBuffer, weights: rig.upload(weights.values), predicted: join.predicted },
        ...{ fed: join.mixed, joined: gateInput, streams: corrected },
      }),
    ],
    steps,
  );
  for (const row of rows) {
    const fed = normed(mixed.row(row), weights.row(0));
    const y = joined.row(row).map((value, c) => value + (fed[c] as number));
    const chosen = modes(router, y);
    for (const s of STREAMS) {
      const factor = 1 + dot(router.slice(5 * D + 64 + 4 * s, 5 * D + 68 + 4 * s), chosen);
      const before = of(predicted, 0, row);
      const expected = of(predicted, s, row).map(
        (value, c) => value + ((y[c] as number) - (before[c] as number)) * factor,
      );
      await compare(`correction ${s}`, corrected, (s * STRIDE + row) * D, expected);
      if (s > 0) continue;
      const scaled = expected.map((value, c) => value * (weights.row(1)[c] as number));
      await compare("input of the gate", gateInput, row * D, scaled);
    }
  }

  const [unembedded, ends] = [new Numbers(random, 3 * 2), rig.unwritten(2 * D, elem)];
  const merge = { weight: gate.weight, unembedded: rig.upload(unembedded.values), normed: ends };
  rig.run([await mergeOp(context, { ...merge, streams: rig.upload(streams.values) })], steps);
  for (const row of [0, 1]) {
    const first = of(streams, 0, row);
    const sum = first.slice();
    for (const s of [0, 1, 2]) {
      const part = unembedded.row(3 * row + s);
      part.forEach((value, c) => (sum[c] = (sum[c] as number) + (value * norm(first)) / norm(part)));
    }
    await compare(
      "merged",
      ends,
      row * D,
      normed(
        sum.map((value) => value / 4),
        weights.row(0),
      ),
      elem,
    );
  }
}

export const cases: Case[] = inEverySetting("kernel/altup/each op", async ({ gpu }, setting) => {
  const rig = new Rig(gpu, setting);
  await check(rig, new Random(testSeed("kernel/altup/each op")));
  rig.close();
});
