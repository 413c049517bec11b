/**
 * The gated delta rule and the gate of attention against their definitions in float64: steps and runs, both orders of key
 * heads, both layouts of b and a, states from nothing and from a slot, prefill in pieces, decode with and without company.
 */
import { Random } from "../../src/base.ts";
import {
  deltaOps,
  deltaScratchBytes,
  deltaStateSize,
  type DeltaShape,
} from "../../src/model/mixer/gated-delta.ts";
import { outputGateOp, splitQGateOp } from "../../src/model/mixer/output-gate.ts";
import { NO_STATE, type StateSlots } from "../../src/model/step.ts";
import { inEverySetting, type Case, type Setting } from "../support/cases.ts";
import { expectClose, expectSame, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const EPS = 1e-6;

/** Floats of a slot before the matrices (the convolution's) and behind them: no op may touch them. */
const BEFORE = 7;
const BEHIND = 3;

/** Numbers between the parts of a mixed row. */
const GAP = 3;

interface Spec extends DeltaShape {
  baGrouped: boolean;
  /** What is hard about the inputs. */
  inputs?: "equal keys" | "strong decay" | "zero rows";
}

interface Inputs {
  mixed: Float64Array;
  convolved: Float64Array;
  dtBias: Float64Array;
  a: Float64Array;
  norm: Float64Array;
}

function layout(spec: Spec) {
  const { keyHeads, valueHeads, keyDim, valueDim } = spec;
  const inner = valueHeads * valueDim;
  const zOffset = GAP;
  const bOffset = zOffset + inner + GAP;
  const aOffset = bOffset + (spec.baGrouped ? valueHeads / keyHeads : valueHeads + GAP);
  const mixedStride = bOffset + 2 * valueHeads + 2 * GAP;
  const convWidth = 2 * keyHeads * keyDim + inner;
  return { inner, zOffset, bOffset, aOffset, mixedStride, convWidth };
}

function gateIndex({ keyHeads, valueHeads, baGrouped }: Spec, head: number): number {
  const group = valueHeads / keyHeads;
  return baGrouped ? Math.floor(head / group) * 2 * group + (head % group) : head;
}

function makeInputs(random: Random, spec: Spec, rows: number): Inputs {
  const { valueHeads, valueDim } = spec;
  const { mixedStride, convWidth } = layout(spec);
  const inputs: Inputs = {
    mixed: lumpy(random, rows * mixedStride, mixedStride),
    convolved: lumpy(random, rows * convWidth, convWidth),
    dtBias: Float64Array.from({ length: valueHeads }, () => random.normal()),
    a: Float64Array.from({ length: valueHeads }, () => -Math.exp(2 * random.normal() - 2)),
    norm: lumpy(random, valueDim, valueDim),
  };
  harden(inputs, spec, rows);
  for (const name of ["mixed", "convolved", "dtBias", "a", "norm"] as const)
    inputs[name] = rounded(inputs[name], "f32");
  return inputs;
}

function harden(inputs: Inputs, spec: Spec, rows: number): void {
  const { mixedStride, aOffset, bOffset, convWidth } = layout(spec);
  const keys = 2 * spec.keyHeads * spec.keyDim;
  for (let row = 0; row < rows; row++) {
    const convolved = inputs.convolved.subarray(row * convWidth, (row + 1) * convWidth);
    const mixed = inputs.mixed.subarray(row * mixedStride, (row + 1) * mixedStride);
    for (let head = 0; head < spec.valueHeads; head++) {
      const index = gateIndex(spec, head);
      if (spec.inputs === "equal keys") {
        mixed[bOffset + index] = 10;
        mixed[aOffset + index] = -20;
      }
      if (spec.inputs === "strong decay") mixed[aOffset + index] = row % 9 === 4 ? 3000 : -3;
    }
    if (spec.inputs === "equal keys") convolved.set(inputs.convolved.subarray(0, keys));
    if (spec.inputs === "zero rows" && row % 3 === 1) convolved.fill(0, 0, keys);
  }
}

/** A state [valueHeads][keyDim][valueDim] and a bound of the rounding error of each head's columns. */
interface State {
  values: Float64Array;
  /** [valueHeads][valueDim]: of the column as a vector. */
  error: Float64Array;
}

function emptyState(spec: Spec): State {
  const { valueHeads, valueDim } = spec;
  return {
    values: new Float64Array(deltaStateSize(spec)),
    error: new Float64Array(valueHeads * valueDim),
  };
}

function unitVector(values: Float64Array): Float64Array {
  const length = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) + 1e-6);
  return values.map((x) => x / length);
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const silu = (x: number) => x * sigmoid(x);
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/**
 * One row of the recurrence, in place. With |k| = 1 and 0 <= beta <= 1 the step (I - beta k k^T) lengthens no vector, so
 * that a column's error, as a vector, only shrinks; each step adds round-offs of the column's and the value's size.
 */
function advance(spec: Spec, state: State, inputs: Inputs, row: number) {
  const { keyHeads, valueHeads, keyDim, valueDim } = spec;
  const { inner, bOffset, aOffset, mixedStride, convWidth } = layout(spec);
  // Sums over a head's entries and over the rows of a run, the lengths of q and k, two gates with their exponentials.
  const unit = (2 * keyDim + 64 + 64) * roundOff("f32");
  const y = new Float64Array(inner);
  const error = new Float64Array(inner);
  const convolved = inputs.convolved.subarray(row * convWidth, (row + 1) * convWidth);
  for (let head = 0; head < valueHeads; head++) {
    const blocked = Math.floor(head / (valueHeads / keyHeads));
    const keyHead = spec.keyHeadOrder === "blocked" ? blocked : head % keyHeads;
    const q = unitVector(convolved.slice(keyHead * keyDim, (keyHead + 1) * keyDim));
    const k = unitVector(convolved.slice((keyHeads + keyHead) * keyDim, (keyHeads + keyHead + 1) * keyDim));
    const gates = row * mixedStride + gateIndex(spec, head);
    const beta = sigmoid(inputs.mixed[gates + bOffset] as number);
    const dt = softplus((inputs.mixed[gates + aOffset] as number) + (inputs.dtBias[head] as number));
    const alpha = Math.exp((inputs.a[head] as number) * dt);
    for (let c = 0; c < valueDim; c++) {
      const column = head * valueDim + c;
      const at = (d: number) => (head * keyDim + d) * valueDim + c;
      const v = convolved[2 * keyHeads * keyDim + column] as number;
      let known = 0;
      let before = 0;
      for (let d = 0; d < keyDim; d++) {
        const s = alpha * (state.values[at(d)] as number);
        known += s * (k[d] as number);
        before += s * s;
      }
      let result = 0;
      let after = 0;
      for (let d = 0; d < keyDim; d++) {
        const s = alpha * (state.values[at(d)] as number) + (k[d] as number) * beta * (v - known);
        state.values[at(d)] = s;
        result += (s * (q[d] as number)) / Math.sqrt(keyDim);
        after += s * s;
      }
      const size = Math.sqrt(before) + Math.sqrt(after) + beta * Math.abs(v);
      state.error[column] = alpha * (state.error[column] as number) + unit * size;
      y[column] = result;
      error[column] = (state.error[column] as number) / Math.sqrt(keyDim);
    }
  }
  return { y, error };
}

/** The rows of one sequence: outputs with their error bounds; `state` is moved on. */
function reference(spec: Spec, state: State, inputs: Inputs, rows: readonly number[]) {
  const done = rows.map((row) => advance(spec, state, inputs, row));
  return { y: done.flatMap(({ y }) => [...y]), error: done.flatMap(({ error }) => [...error]) };
}

/** Norm and gate of the outputs that the GPU made, so that their own rounding is looked at alone. */
function normed(spec: Spec, y: Float32Array, inputs: Inputs): number[] {
  const { valueHeads, valueDim } = spec;
  const { inner, zOffset, mixedStride } = layout(spec);
  return Array.from(y, (value, index) => {
    const row = Math.floor(index / inner);
    const first = index - (index % valueDim);
    const squares = y.subarray(first, first + valueDim).reduce((sum, x) => sum + x * x, 0);
    const z = inputs.mixed[row * mixedStride + zOffset + (index % (valueHeads * valueDim))] as number;
    return (
      (value / Math.sqrt(squares / valueDim + EPS)) * (inputs.norm[index % valueDim] as number) * silu(z)
    );
  });
}

/** One layer on the GPU with `slots` slots of state, filled with numbers of their own. */
class Layer {
  readonly spec: Spec;
  readonly slotFloats: number;
  readonly initial: Float64Array;
  private readonly rig: Rig;
  private readonly state: GPUBuffer;

  constructor(rig: Rig, spec: Spec, slots: number, random: Random) {
    this.rig = rig;
    this.spec = spec;
    this.slotFloats = BEFORE + deltaStateSize(spec) + BEHIND;
    this.initial = rounded(lumpy(random, slots * this.slotFloats, spec.valueDim), "f32");
    this.state = rig.upload(this.initial);
  }

  /** Runs the given rows of `inputs` as one step and checks norm and gate; the recurrence's outputs. */
  async run(phase: "prefill" | "decode", inputs: Inputs, from: number, to: number, states: StateSlots[]) {
    const { rig, spec } = this;
    const { inner, convWidth, ...mixedLayout } = layout(spec);
    const rows = to - from;
    const part = (values: Float64Array, width: number) => values.slice(from * width, to * width);
    const given = {
      ...inputs,
      mixed: part(inputs.mixed, mixedLayout.mixedStride),
      convolved: part(inputs.convolved, convWidth),
    };
    const y = rig.unwritten(rows * inner, "f32");
    const out = rig.unwritten(rows * inner, rig.types.elem);
    const scratch = rig.unwritten(deltaScratchBytes(spec, rows) / 4, "f32");
    const ops = await deltaOps(rig.kernels, rig.types, {
      ...spec,
      ...mixedLayout,
      phase,
      mixed: rig.upload(given.mixed),
      convolved: rig.upload(given.convolved),
      state: this.state,
      stateStride: this.slotFloats,
      stateOffset: BEFORE,
      dtBias: rig.upload(inputs.dtBias),
      a: rig.upload(inputs.a),
      norm: rig.upload(inputs.norm),
      eps: EPS,
      y,
      out,
      ...(phase === "prefill" && { scratch }),
    });
    const sequenceOf = (row: number) => (phase === "decode" ? row : 0);
    rig.run(ops, { rows: Array.from({ length: rows }, (_, row) => ({ sequence: sequenceOf(row) })), states });
    const made = await rig.read(y, "f32", rows * inner);
    const expected = normed(spec, made, given);
    const unit = (spec.valueDim + 64) * roundOff("f32") + roundOff(rig.types.elem);
    const tiny = rig.types.elem === "f16" ? 2 ** -25 : 2 ** -126;
    const limit = rig.types.elem === "f16" ? 65504 : Infinity;
    const clamped = expected.map((value) => Math.max(-limit, Math.min(limit, value)));
    expectClose("out", await rig.read(out, rig.types.elem, rows * inner), clamped, (i) => {
      return unit * Math.abs(clamped[i] as number) + tiny;
    });
    return made;
  }

  /** The state that a sequence starts from in slot `slot`, as it was at first. */
  stateOf(slot: number): State {
    const state = emptyState(this.spec);
    if (slot !== NO_STATE) state.values.set(this.matrices(this.initial, slot));
    return state;
  }

  /** Checks the written slots against `written` (by slot), and that nothing else was touched. */
  async checkStates(written: ReadonlyMap<number, State>): Promise<void> {
    const { spec, initial, slotFloats } = this;
    const actual = await this.rig.read(this.state, "f32", initial.length);
    const untouched = Float64Array.from(actual);
    for (const [slot, { values, error }] of written) {
      const { keyDim, valueDim } = spec;
      expectClose(`state of slot ${slot}`, this.matrices(untouched, slot), values, (i) => {
        const head = Math.floor(i / (keyDim * valueDim));
        return (error[head * valueDim + (i % valueDim)] as number) + 2 ** -126;
      });
      const start = slot * slotFloats + BEFORE;
      untouched.set(this.matrices(initial, slot), start);
    }
    expectSame("the rest of the state", untouched, initial);
  }

  private matrices(values: Float64Array, slot: number): Float64Array {
    const start = slot * this.slotFloats + BEFORE;
    return values.subarray(start, start + deltaStateSize(this.spec));
  }
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** Prefill in pieces that end at `ends`, the state going from slot to slot: the first from slot 0 or from nothing. */
async function checkPrefill(rig: Rig, spec: Spec, ends: readonly number[], fresh: boolean, random: Random) {
  const inputs = makeInputs(random, spec, ends.at(-1) as number);
  const layer = new Layer(rig, spec, ends.length + 2, random);
  const written = new Map<number, State>();
  const state = layer.stateOf(fresh ? NO_STATE : 0);
  for (const [piece, end] of ends.entries()) {
    const from = ends[piece - 1] ?? 0;
    const read = piece === 0 ? (fresh ? NO_STATE : 0) : piece;
    const y = await layer.run("prefill", inputs, from, end, [{ read, write: piece + 1 }]);
    const expected = reference(spec, state, inputs, range(from, end));
    expectClose(`y of rows ${from} to ${end}`, y, expected.y, (i) => expected.error[i] as number);
    written.set(piece + 1, { values: state.values.slice(), error: state.error.slice() });
  }
  await layer.checkStates(written);
}

/** Decode of several sequences from slots out of order, one from nothing; then each alone, which must give the same. */
async function checkDecode(rig: Rig, spec: Spec, sequences: number, random: Random) {
  const inputs = makeInputs(random, spec, sequences);
  const { inner } = layout(spec);
  const seed = random.uint32();
  const layer = new Layer(rig, spec, 2 * sequences + 1, new Random(seed));
  const states = range(0, sequences).map((s) => ({
    read: s === 1 ? NO_STATE : 2 * (sequences - s),
    write: 2 * s + 1,
  }));
  const y = await layer.run("decode", inputs, 0, sequences, states);
  const written = new Map<number, State>();
  for (const [s, slots] of states.entries()) {
    const state = layer.stateOf(slots.read);
    const expected = reference(spec, state, inputs, [s]);
    const own = y.subarray(s * inner, (s + 1) * inner);
    expectClose(`y of sequence ${s}`, own, expected.y, (i) => expected.error[i] as number);
    written.set(slots.write, state);
    const alone = new Layer(rig, spec, 2 * sequences + 1, new Random(seed));
    expectSame(`sequence ${s} alone`, await alone.run("decode", inputs, s, s + 1, [slots]), own);
  }
  await layer.checkStates(written);
}

/** One sequence token by token, its state going to and fro between two slots. */
async function checkSteps(rig: Rig, spec: Spec, rows: number, random: Random) {
  const inputs = makeInputs(random, spec, rows);
  const layer = new Layer(rig, spec, 3, random);
  const state = layer.stateOf(NO_STATE);
  const before = emptyState(spec);
  for (let row = 0; row < rows; row++) {
    const read = row === 0 ? NO_STATE : 1 + ((row - 1) % 2);
    const y = await layer.run("decode", inputs, row, row + 1, [{ read, write: 1 + (row % 2) }]);
    before.values.set(state.values);
    before.error.set(state.error);
    const expected = reference(spec, state, inputs, [row]);
    expectClose(`y of row ${row}`, y, expected.y, (i) => expected.error[i] as number);
  }
  const written = new Map<number, State>([[1 + ((rows - 1) % 2), state]]);
  if (rows > 1) written.set(1 + (rows % 2), before);
  await layer.checkStates(written);
}

const tiny: Spec = {
  keyHeads: 2,
  valueHeads: 4,
  keyDim: 6,
  valueDim: 5,
  keyHeadOrder: "blocked",
  baGrouped: true,
};
const other: Spec = { ...tiny, keyHeadOrder: "interleaved", baGrouped: false };
const odd: Spec = { ...other, keyHeads: 3, valueHeads: 3, keyDim: 17, valueDim: 34 };
const real: Spec = { ...other, keyHeads: 2, valueHeads: 2, keyDim: 128, valueDim: 128 };
const shared: Spec = { ...real, valueHeads: 4, keyHeadOrder: "blocked", baGrouped: true };
const wide: Spec = { ...other, keyHeads: 1, valueHeads: 2, keyDim: 250, valueDim: 19 };

type Check = (rig: Rig, random: Random) => Promise<void>;

const prefills: Record<string, Check> = {
  "tiny, one row": (rig, random) => checkPrefill(rig, tiny, [1], true, random),
  "tiny, 7 rows on a state": (rig, random) => checkPrefill(rig, tiny, [7], false, random),
  "tiny, 130 rows": (rig, random) => checkPrefill(rig, other, [130], true, random),
  "tiny, 130 rows in pieces": (rig, random) => checkPrefill(rig, other, [33, 34, 98, 130], false, random),
  "odd, 33 rows": (rig, random) => checkPrefill(rig, odd, [33], false, random),
  "real, one row on a state": (rig, random) => checkPrefill(rig, real, [1], false, random),
  "real, 33 rows": (rig, random) => checkPrefill(rig, real, [33], true, random),
  "shared keys, 130 rows in pieces": (rig, random) => checkPrefill(rig, shared, [7, 130], false, random),
  "keys of 250, 40 rows": (rig, random) => checkPrefill(rig, wide, [40], false, random),
  "equal keys": (rig, random) => checkPrefill(rig, { ...real, inputs: "equal keys" }, [70], false, random),
  "strong decay": (rig, random) =>
    checkPrefill(rig, { ...shared, inputs: "strong decay" }, [70], false, random),
  "rows of zeros": (rig, random) => checkPrefill(rig, { ...odd, inputs: "zero rows" }, [40], false, random),
};

const decodes: Record<string, Check> = {
  "tiny, one": (rig, random) => checkDecode(rig, tiny, 1, random),
  "tiny, 7": (rig, random) => checkDecode(rig, other, 7, random),
  "odd, 3": (rig, random) => checkDecode(rig, odd, 3, random),
  "real, 3": (rig, random) => checkDecode(rig, real, 3, random),
  "shared keys, 2": (rig, random) => checkDecode(rig, shared, 2, random),
  "keys of 250, 2": (rig, random) => checkDecode(rig, wide, 2, random),
  "rows of zeros, 4": (rig, random) => checkDecode(rig, { ...odd, inputs: "zero rows" }, 4, random),
  "tiny, 7 steps": (rig, random) => checkSteps(rig, tiny, 7, random),
  "real, strong decay, 7 steps": (rig, random) =>
    checkSteps(rig, { ...real, inputs: "strong decay" }, 7, random),
};

/** Rows of [q; gate] heads: the queries moved into qkv rows, and attention's output gated by what stays. */
async function checkGate(
  rig: Rig,
  rows: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  random: Random,
) {
  const { elem } = rig.types;
  const inner = heads * headDim;
  const width = inner + 2 * kvHeads * headDim;
  const qg = rounded(lumpy(random, rows * 2 * inner, 2 * inner), elem);
  const qkv = rounded(lumpy(random, rows * width, width), elem);
  const attended = rounded(lumpy(random, rows * inner, inner), elem);
  const buffers = {
    qg: rig.upload(qg, elem),
    qkv: rig.upload(qkv, elem),
    attended: rig.upload(attended, elem),
  };
  const heading = { heads, headDim };
  const split = await splitQGateOp(rig.kernels, rig.types, {
    ...heading,
    kvHeads,
    qg: buffers.qg,
    qkv: buffers.qkv,
  });
  const gate = await outputGateOp(rig.kernels, rig.types, {
    ...heading,
    attended: buffers.attended,
    gate: buffers.qg,
    gateStride: 2 * inner,
    gateOffset: headDim,
    gatePerHead: 2 * headDim,
  });
  rig.run([split, gate], { rows: Array.from({ length: rows }, () => ({})) });
  const place = (i: number) => {
    const row = Math.floor(i / inner);
    return row * 2 * inner + Math.floor((i % inner) / headDim) * 2 * headDim + (i % headDim);
  };
  const moved = qkv.slice();
  for (let i = 0; i < rows * inner; i++)
    moved[Math.floor(i / inner) * width + (i % inner)] = qg[place(i)] as number;
  expectSame("qkv", await rig.read(buffers.qkv, elem, rows * width), moved);
  expectSame("[q; gate]", await rig.read(buffers.qg, elem, rows * 2 * inner), qg);
  const gates = Float64Array.from(attended, (_, i) => qg[place(i) + headDim] as number);
  const expected = attended.map((value, i) => value * sigmoid(gates[i] as number));
  expectClose("gated", await rig.read(buffers.attended, elem, rows * inner), expected, (i) => {
    const unit = roundOff(elem) + (8 + 2 * Math.abs(gates[i] as number)) * roundOff("f32");
    return unit * Math.abs(expected[i] as number) + (elem === "f16" ? 2 ** -25 : 2 ** -126);
  });
}

const gates: Record<string, Check> = {
  "one row": (rig, random) => checkGate(rig, 1, 8, 2, 256, random),
  "33 rows, odd heads": (rig, random) => checkGate(rig, 33, 3, 1, 12, random),
};

/**
 * A case in every setting. There is a form for software adapters: of a step always, of runs where there are subgroups.
 * Each is tested on every adapter, by pretending.
 */
function casesOf(
  group: string,
  checks: Record<string, Check>,
  ways: (setting: Setting) => boolean[],
): Case[] {
  return Object.entries(checks).flatMap(([name, check]) =>
    inEverySetting(`kernel/delta/${group}: ${name}`, async ({ gpu }, setting) => {
      const seed = testSeed(`kernel/delta/${group}: ${name}`);
      for (const software of ways(setting)) {
        const rig = new Rig({ ...gpu, adapter: { ...gpu.adapter, software } }, setting);
        await check(rig, new Random(seed));
        rig.close();
      }
    }),
  );
}

export const cases: Case[] = [
  ...casesOf("prefill", prefills, ({ subgroups }) => [subgroups]),
  ...casesOf("decode", decodes, ({ subgroups }) => (subgroups ? [true] : [false, true])),
  ...casesOf("gate", gates, () => [false]),
];
