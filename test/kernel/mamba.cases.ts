/**
 * Mamba-2's recurrence: chunks of rows, single rows and any mixture of both, against the plain recurrence in float64.
 * The convolution before it has its own cases.
 */
import { Random } from "../../src/base.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { mambaOps, mambaScratchBytes } from "../../src/model/mixer/mamba2.ts";
import { mambaWidths, type MambaDims } from "../../src/shape/mixer/mamba2.ts";
import { NO_STATE } from "../../src/model/step.ts";
import { inEverySetting, type Case, type Setting } from "../support/cases.ts";
import { expectClose, expectSame, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const EPS = 1e-5;

/** Floats of a slot before and behind the matrices, which the ops must leave alone: multiples of 4, and not. */
const MARGINS = { even: { before: 12, behind: 4 }, odd: { before: 7, behind: 3 } };

const shapes = {
  tiny: { heads: 4, headDim: 5, groups: 2, stateSize: 6 },
  golden: { heads: 8, headDim: 16, groups: 2, stateSize: 16 },
  granite: { heads: 3, headDim: 64, groups: 1, stateSize: 128 },
  falcon: { heads: 2, headDim: 80, groups: 2, stateSize: 256 },
} satisfies Record<string, MambaDims>;

/** A sequence, step by step: rows of a prefill, or "decode" for one row. */
type Piece = number | "decode";

interface Spec {
  shape: MambaDims;
  pieces: readonly Piece[];
  /** The sequence starts from a state that is not zero. */
  given?: boolean;
  norm?: boolean;
  margins?: keyof typeof MARGINS;
  /** In the form for real GPUs, also on a software adapter. */
  real?: boolean;
}

const sequences: Record<string, Spec> = {
  "one row": { shape: shapes.granite, pieces: [1] },
  "one row, odd sizes": { shape: shapes.tiny, pieces: [1], given: true, margins: "odd" },
  "7 rows, odd heads": { shape: { ...shapes.golden, heads: 6 }, pieces: [7, "decode"], given: true },
  "130 rows, as on a GPU": { shape: shapes.granite, pieces: [130], given: true, real: true },
  "pieces, as on a GPU": { shape: shapes.tiny, pieces: [33, "decode", 67], margins: "odd", real: true },
  "7 rows, state at an odd place": {
    shape: shapes.granite,
    pieces: [7, "decode"],
    given: true,
    margins: "odd",
  },
  "33 rows": { shape: shapes.golden, pieces: [33] },
  "130 rows": { shape: shapes.granite, pieces: [130], given: true },
  "130 rows, odd sizes": { shape: shapes.tiny, pieces: [130], given: true, margins: "odd" },
  "130 rows, wide": { shape: shapes.falcon, pieces: [130] },
  "no norm": { shape: shapes.golden, pieces: [64, "decode"], given: true, norm: false },
  "pieces, odd sizes": { shape: shapes.tiny, pieces: [33, "decode", 1, "decode", 64, 31, "decode"] },
  pieces: { shape: shapes.granite, pieces: [7, "decode", 58, "decode", 1, 62], given: true },
};

interface Decode {
  shape: MambaDims;
  /** For each sequence, whether it has a state. */
  given: readonly boolean[];
  real?: boolean;
}

const batches: Record<string, Decode> = {
  "odd sizes": { shape: shapes.tiny, given: [true, false, true] },
  golden: { shape: shapes.golden, given: [false, true, true, false, true] },
  granite: { shape: shapes.granite, given: [true, true] },
  wide: { shape: shapes.falcon, given: [true, false] },
  "odd sizes, as on a GPU": { shape: shapes.tiny, given: [true, false], real: true },
  "granite, as on a GPU": { shape: shapes.granite, given: [true, false, true], real: true },
};

interface Weights {
  dtBias: Float64Array;
  a: Float64Array;
  d: Float64Array;
  norm: Float64Array;
}

/** Numbers with the error that an f32 kernel may make. */
interface Bounded {
  value: Float64Array;
  error: Float64Array;
}

function bounded(length: number): Bounded {
  return { value: new Float64Array(length), error: new Float64Array(length) };
}

function sizes(shape: MambaDims) {
  const inner = shape.heads * shape.headDim;
  const convWidth = inner + 2 * shape.groups * shape.stateSize;
  return { inner, convWidth, mixedStride: inner + convWidth + shape.heads };
}

function makeWeights(shape: MambaDims, random: Random): Weights {
  const perHead = (make: () => number) =>
    rounded(
      Float64Array.from({ length: shape.heads }, () => make()),
      "f32",
    );
  const { inner } = sizes(shape);
  return {
    dtBias: perHead(() => -3 + 2 * random.normal()),
    a: perHead(() => -(16 ** random.next())),
    d: perHead(() => random.normal()),
    norm: rounded(lumpy(random, inner, inner), "f32"),
  };
}

/** The rows of one sequence: z, unread columns and dt; X, B and C. */
function makeRows(shape: MambaDims, rows: number, random: Random) {
  const { convWidth, mixedStride } = sizes(shape);
  return {
    mixed: rounded(lumpy(random, rows * mixedStride, mixedStride), "f32"),
    convolved: rounded(lumpy(random, rows * convWidth, convWidth), "f32"),
  };
}

type Rows = ReturnType<typeof makeRows>;

const UNIT = roundOff("f32");

/** WGSL allows exp(x) an error of 3 + 2 |x| units in the last place. */
function expError(x: number): number {
  return (3 + 2 * Math.abs(x)) * 2 * UNIT;
}

/** Below the smallest normal number anything may become zero. */
const FLUSH = 2 ** -120;

/** dt and its relative error: rounding of the sum, exp, and the polynomial. */
function stepWidth(raw: number, bias: number): { width: number; error: number } {
  const x = raw + bias;
  const width = Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  return { width, error: UNIT * (Math.abs(raw) + Math.abs(bias) + 16) + expError(x) };
}

/** One head of one row: changes the state (value, error, and sums of magnitudes) and gives the head's outputs. */
class Head {
  /** Sum of the log decays since the chunk's start, whose rounding decays between rows share. */
  private chunkDecay = 0;
  readonly magnitude: Float64Array;
  readonly shape: MambaDims;
  readonly state: Bounded;

  constructor(shape: MambaDims, state: Bounded) {
    this.shape = shape;
    this.state = state;
    this.magnitude = state.value.map(Math.abs);
  }

  /** y without the skip connection: [headDim]. */
  row(x: Float64Array, b: Float64Array, c: Float64Array, dt: { width: number; error: number }, a: number) {
    const { headDim, stateSize } = this.shape;
    const { value, error } = this.state;
    const log = Math.max(dt.width * a, -104);
    this.chunkDecay += Math.abs(log);
    const decay = Math.exp(log);
    const decayError = expError(log) + Math.abs(log) * (dt.error + UNIT) + 4 * UNIT * (1 + this.chunkDecay);
    const y = bounded(headDim);
    for (let n = 0; n < stateSize; n++)
      for (let p = 0; p < headDim; p++) {
        const at = n * headDim + p;
        const added = dt.width * (x[p] as number) * (b[n] as number);
        const kept = decay * (this.magnitude[at] as number);
        error[at] =
          decay * (error[at] as number) +
          kept * decayError +
          Math.abs(added) * (dt.error + 6 * UNIT) +
          4 * UNIT * (kept + Math.abs(added)) +
          FLUSH;
        value[at] = decay * (value[at] as number) + added;
        this.magnitude[at] = kept + Math.abs(added);
        const part = Math.abs(c[n] as number);
        y.value[p] = (y.value[p] as number) + (c[n] as number) * (value[at] as number);
        y.error[p] =
          (y.error[p] as number) +
          part * ((error[at] as number) + (stateSize + 80) * UNIT * (this.magnitude[at] as number));
      }
    return y;
  }
}

/** The recurrence of one sequence in float64: its state is advanced row by row. */
class Sequence {
  private readonly shape: MambaDims;
  private readonly weights: Weights;
  private readonly heads: Head[];

  /** @param state [heads][stateSize][headDim] */
  constructor(shape: MambaDims, weights: Weights, state: Float64Array) {
    this.shape = shape;
    this.weights = weights;
    const size = shape.stateSize * shape.headDim;
    this.heads = Array.from({ length: shape.heads }, (_, head) => {
      const value = state.slice(head * size, (head + 1) * size);
      return new Head(shape, { value, error: new Float64Array(size) });
    });
  }

  get state(): Bounded {
    return {
      value: Float64Array.from(this.heads.flatMap((head) => [...head.state.value])),
      error: Float64Array.from(this.heads.flatMap((head) => [...head.state.error])),
    };
  }

  /** The gated outputs of one row of `rows`, normed or not: [inner]. */
  row(rows: Rows, row: number, norm: boolean): Bounded {
    const { shape, weights } = this;
    const { heads, headDim, groups, stateSize } = shape;
    const { inner, convWidth, mixedStride } = sizes(shape);
    const mixed = rows.mixed.subarray(row * mixedStride, (row + 1) * mixedStride);
    const convolved = rows.convolved.subarray(row * convWidth, (row + 1) * convWidth);
    const gated = bounded(inner);
    this.heads.forEach((head, h) => {
      const group = Math.floor(h / (heads / groups));
      const slice = (at: number) => convolved.subarray(at + group * stateSize, at + (group + 1) * stateSize);
      const x = convolved.subarray(h * headDim, (h + 1) * headDim);
      const dt = stepWidth(mixed[mixedStride - heads + h] as number, weights.dtBias[h] as number);
      const y = head.row(x, slice(inner), slice(inner + groups * stateSize), dt, weights.a[h] as number);
      for (let p = 0; p < headDim; p++) {
        const skip = (weights.d[h] as number) * (x[p] as number);
        const total = (y.value[p] as number) + skip;
        const error = (y.error[p] as number) + 3 * UNIT * (Math.abs(skip) + Math.abs(y.value[p] as number));
        gate(gated, h * headDim + p, total, error, mixed[h * headDim + p] as number);
      }
    });
    return norm ? groupNorm(gated, weights.norm, groups) : gated;
  }
}

function gate(gated: Bounded, at: number, total: number, error: number, z: number): void {
  const silu = z / (1 + Math.exp(-z));
  gated.value[at] = total * silu;
  gated.error[at] = Math.abs(silu) * error + Math.abs(total * silu) * (expError(z) + 8 * UNIT) + FLUSH;
}

function groupNorm(gated: Bounded, weight: Float64Array, groups: number): Bounded {
  const width = gated.value.length / groups;
  const length = (values: Float64Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const out = bounded(gated.value.length);
  for (let group = 0; group < groups; group++) {
    const value = gated.value.subarray(group * width, (group + 1) * width);
    const error = gated.error.subarray(group * width, (group + 1) * width);
    const rms = Math.sqrt(length(value) ** 2 / width + EPS);
    const relative = length(error) / Math.sqrt(width) / rms + (width + 16) * UNIT;
    for (let c = 0; c < width; c++) {
      const at = group * width + c;
      const factor = (weight[at] as number) / rms;
      out.value[at] = (value[c] as number) * factor;
      out.error[at] = Math.abs(factor) * ((error[c] as number) + Math.abs(value[c] as number) * relative);
    }
  }
  return out;
}

/** A pool of state slots as a test fills it, and the buffers and weights of one layer. */
class Layer {
  readonly rig: Rig;
  readonly shape: MambaDims;
  readonly norm: boolean;
  /** Floats of a slot before the matrices. */
  readonly before: number;
  readonly weights: Weights;
  readonly slots: number;
  readonly stride: number;
  /** What the state buffer held at first: lumps everywhere. */
  readonly pool: Float64Array;
  readonly state: GPUBuffer;

  constructor(rig: Rig, spec: Pick<Spec, "shape" | "norm" | "margins">, slots: number, random: Random) {
    const { shape, norm = true, margins = "even" } = spec;
    const { before, behind } = MARGINS[margins];
    this.rig = rig;
    this.shape = shape;
    this.norm = norm;
    this.before = before;
    this.slots = slots;
    this.weights = makeWeights(shape, random);
    this.stride = before + mambaWidths(shape).matrixFloats + behind;
    this.pool = rounded(lumpy(random, slots * this.stride, shape.headDim), "f32");
    this.state = rig.upload(this.pool);
  }

  /** The matrices of a slot, as the pool held them at first. */
  matrices(slot: number): Float64Array {
    const start = slot * this.stride + this.before;
    return this.pool.slice(start, start + mambaWidths(this.shape).matrixFloats);
  }

  /** Runs one step over these rows; `states` of each sequence. Gives `out`. */
  async run(phase: "prefill" | "decode", rows: Rows, states: readonly { read: number; write: number }[]) {
    const { rig, shape, weights } = this;
    const { inner, mixedStride } = sizes(shape);
    const count = rows.mixed.length / mixedStride;
    const { elem } = rig.types;
    const out = rig.unwritten(count * inner, elem);
    const ops = await mambaOps(rig.kernels, rig.types, {
      ...shape,
      phase,
      mixed: rig.upload(rows.mixed),
      convolved: rig.upload(rows.convolved),
      state: this.state,
      stateStride: this.stride,
      stateOffset: this.before,
      dtBias: rig.upload(weights.dtBias),
      a: rig.upload(weights.a),
      d: rig.upload(weights.d),
      ...(this.norm && { norm: rig.upload(weights.norm) }),
      eps: EPS,
      y: rig.unwritten(count * inner, "f32"),
      out,
      ...(phase === "prefill" && {
        scratch: rig.unwritten(mambaScratchBytes(shape, count) / 4, "f32"),
      }),
    });
    const sequence = (row: number) => (phase === "decode" ? row : 0);
    rig.run(ops, {
      rows: Array.from({ length: count }, (_, row) => ({ sequence: sequence(row) })),
      states,
    });
    return rig.read(out, elem, count * inner);
  }

  readPool(): Promise<Float32Array> {
    return this.rig.read(this.state, "f32", this.slots * this.stride);
  }

  expectOut(what: string, actual: Float32Array, expected: readonly Bounded[]): void {
    const { elem } = this.rig.types;
    const limit = elem === "f16" ? 65504 : Infinity;
    const value = expected.flatMap((row) => [...row.value]);
    const error = expected.flatMap((row) => [...row.error]);
    const clamped = value.map((v) => Math.max(-limit, Math.min(limit, v)));
    expectClose(what, actual, clamped, (i) => {
      return (error[i] as number) + roundOff(elem) * Math.abs(clamped[i] as number) + 2 ** -25;
    });
  }

  /** Every float of the pool: the matrices of `written` slots, and all else as it was in `before`. */
  expectPool(
    what: string,
    pool: Float32Array,
    before: ArrayLike<number>,
    written: Map<number, Bounded>,
  ): void {
    const size = mambaWidths(this.shape).matrixFloats;
    for (let slot = 0; slot < this.slots; slot++) {
      const start = slot * this.stride;
      const now = pool.subarray(start, start + this.stride);
      const was = Array.from(before).slice(start, start + this.stride);
      const expected = written.get(slot);
      const matrices = now.subarray(this.before, this.before + size);
      if (expected)
        expectClose(`${what}, slot ${slot}`, matrices, expected.value, (i) => expected.error[i] as number);
      const rest = (values: ArrayLike<number>) =>
        Array.from(values).filter((_, i) => !expected || i < this.before || i >= this.before + size);
      expectSame(`${what}, rest of slot ${slot}`, rest(now), rest(was));
    }
  }
}

/** One sequence in pieces, between slots 1 and 2 of 4 in turn. */
async function checkSequence(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { shape, pieces, given = false, norm = true } = spec;
  const layer = new Layer(rig, spec, 4, random);
  const start = given ? layer.matrices(1) : new Float64Array(mambaWidths(shape).matrixFloats);
  const sequence = new Sequence(shape, layer.weights, start);
  let read = given ? 1 : NO_STATE;
  let before: ArrayLike<number> = layer.pool;
  for (const [index, piece] of pieces.entries()) {
    const what = `piece ${index} (${piece})`;
    const count = piece === "decode" ? 1 : piece;
    const rows = makeRows(shape, count, random);
    const write = read === 1 ? 2 : 1;
    const out = await layer.run(piece === "decode" ? "decode" : "prefill", rows, [{ read, write }]);
    const expected = Array.from({ length: count }, (_, row) => sequence.row(rows, row, norm));
    layer.expectOut(`${what}: out`, out, expected);
    const pool = await layer.readPool();
    layer.expectPool(`${what}: state`, pool, before, new Map([[write, sequence.state]]));
    before = pool;
    read = write;
  }
}

/** A batch of sequences, and each of its rows alone, which must come to the same bits. */
async function checkBatch(rig: Rig, { shape, given }: Decode, random: Random): Promise<void> {
  const count = given.length;
  const layer = new Layer(rig, { shape }, 2 * count + 1, random);
  const { inner, convWidth, mixedStride } = sizes(shape);
  const states = given.map((has, s) => ({ read: has ? 2 * s : NO_STATE, write: 2 * ((s + 1) % count) + 1 }));
  const rows = makeRows(shape, count, random);
  const out = await layer.run("decode", rows, states);
  const sequences = states.map(({ read }) => {
    const start =
      read === NO_STATE ? new Float64Array(mambaWidths(shape).matrixFloats) : layer.matrices(read);
    return new Sequence(shape, layer.weights, start);
  });
  const expected = sequences.map((sequence, row) => sequence.row(rows, row, true));
  layer.expectOut("out", out, expected);
  const pool = await layer.readPool();
  const written = new Map(states.map(({ write }, s) => [write, (sequences[s] as Sequence).state]));
  layer.expectPool("state", pool, layer.pool, written);

  for (const [row, state] of states.entries()) {
    const single = {
      mixed: rows.mixed.slice(row * mixedStride, (row + 1) * mixedStride),
      convolved: rows.convolved.slice(row * convWidth, (row + 1) * convWidth),
    };
    const alone = await layer.run("decode", single, [state]);
    expectSame(`row ${row} alone`, alone, out.subarray(row * inner, (row + 1) * inner));
  }
  expectSame("states of rows alone", await layer.readPool(), pool);
}

function makeRig(gpu: Gpu, setting: Setting, real = false): Rig {
  return new Rig(real ? { ...gpu, adapter: { ...gpu.adapter, software: false } } : gpu, setting);
}

export const cases: Case[] = [
  ...Object.entries(sequences).flatMap(([name, spec]) =>
    inEverySetting(`kernel/mamba/${name}`, async ({ gpu }, setting) => {
      const rig = makeRig(gpu, setting, spec.real);
      await checkSequence(rig, spec, new Random(testSeed(`kernel/mamba/${name}`)));
      rig.close();
    }),
  ),
  ...Object.entries(batches).flatMap(([name, batch]) =>
    inEverySetting(`kernel/mamba/batch, ${name}`, async ({ gpu }, setting) => {
      const rig = makeRig(gpu, setting, batch.real);
      await checkBatch(rig, batch, new Random(testSeed(`kernel/mamba/batch, ${name}`)));
      rig.close();
    }),
  ),
];
