/**
 * conv: the gated short convolution and the convolution with silu, against their definitions in float64: prefill in one
 * piece and in several, decode of sequences in different slots, states from nothing and from a slot.
 */
import { Random } from "../../src/base.ts";
import { convOp } from "../../src/model/mixer/convolution.ts";
import type { StateSlots } from "../../src/model/step.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  channels: number;
  kernel: number;
  gated: boolean;
  bias: boolean;
  /** Rows of each prefill step, or sequences of a decode step. */
  pieces: readonly number[];
  decode?: boolean;
}

const specs: Record<string, Spec> = {
  "gated, one piece": { channels: 64, kernel: 3, gated: true, bias: false, pieces: [33] },
  "gated, pieces shorter than the state": {
    ...{ channels: 37, kernel: 4, gated: true, bias: false, pieces: [1, 2, 1, 7] },
  },
  "silu and bias, pieces": { channels: 131, kernel: 4, gated: false, bias: true, pieces: [3, 1, 40, 5] },
  "silu, kernel 2": { channels: 8, kernel: 2, gated: false, bias: false, pieces: [5, 1] },
  "decode, gated": { channels: 70, kernel: 3, gated: true, bias: false, pieces: [5], decode: true },
  "decode, silu": { channels: 66, kernel: 4, gated: false, bias: true, pieces: [3], decode: true },
};

/** Numbers before the input in a mixed row, and behind the convolution's part of a slot. */
const OFFSET = 3;
const BEHIND = 5;
const SLOTS = 13;

interface Data {
  mixed: Float64Array;
  taps: Float64Array;
  bias: Float64Array;
  state: Float64Array;
}

const strideOf = ({ channels, gated }: Spec) => OFFSET + (gated ? 3 : 1) * channels + 2;

/** Runs one step on the plain definition: the output with its error bound, and the state's slots brought up to date. */
function reference(spec: Spec, data: Data, rows: number, states: readonly StateSlots[]) {
  const { channels, kernel, gated } = spec;
  const stride = strideOf(spec);
  const slotFloats = (kernel - 1) * channels + BEHIND;
  const out = new Float64Array(rows * channels);
  const bound = new Float64Array(rows * channels);
  const before = data.state.slice();
  states.forEach(({ read, write }, sequence) => {
    const mine = spec.decode ? [sequence] : Array.from({ length: rows }, (_, row) => row);
    for (let c = 0; c < channels; c++) {
      const input = (row: number) => {
        const at = row * stride + OFFSET + c;
        const x = data.mixed[at] as number;
        return gated ? x * (data.mixed[at + 2 * channels] as number) : x;
      };
      const past = Array.from({ length: kernel - 1 }, (_, j) =>
        read === undefined ? 0 : (before[read * slotFloats + j * channels + c] as number),
      );
      const all = [...past, ...mine.map(input)];
      mine.forEach((row, index) => {
        let sum = 0;
        let size = 0;
        for (let j = 0; j < kernel; j++) {
          const term = (data.taps[c * kernel + j] as number) * (all[index + j] as number);
          sum += term;
          size += Math.abs(term);
        }
        const bias = spec.bias ? (data.bias[c] as number) : 0;
        const gate = gated ? (data.mixed[row * stride + OFFSET + channels + c] as number) : 1;
        const z = sum + bias;
        out[row * channels + c] = gated ? gate * sum : z / (1 + Math.exp(-z));
        bound[row * channels + c] =
          (kernel + 24) * roundOff("f32") * (size + Math.abs(bias)) * Math.abs(gate);
      });
      all.slice(all.length - kernel + 1).forEach((value, j) => {
        data.state[write * slotFloats + j * channels + c] = value;
      });
    }
  });
  return { out, bound };
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { channels, kernel, gated, bias, decode = false } = spec;
  const { elem } = rig.types;
  const outType = gated ? elem : "f32";
  const slotFloats = (kernel - 1) * channels + BEHIND;
  const data: Data = {
    mixed: new Float64Array(),
    taps: rounded(lumpy(random, channels * kernel, kernel), "f32"),
    bias: rounded(lumpy(random, channels, channels), "f32"),
    state: rounded(lumpy(random, SLOTS * slotFloats, slotFloats), "f32"),
  };
  const [taps, biasBuffer, state] = [rig.upload(data.taps), rig.upload(data.bias), rig.upload(data.state)];
  let slot: number | undefined;
  for (const [step, rows] of spec.pieces.entries()) {
    data.mixed = rounded(lumpy(random, rows * strideOf(spec), strideOf(spec)), "f32");
    const states: StateSlots[] = decode
      ? Array.from({ length: rows }, (_, s) => ({ read: s === 1 ? undefined : s, write: SLOTS - 1 - s }))
      : [{ read: slot, write: step % 2 }];
    const out = rig.unwritten(rows * channels, outType);
    const op = await convOp(
      rig.kernels,
      { ...rig.types, out: outType },
      {
        ...{ channels, kernel, gated, taps, state, out, stride: strideOf(spec), offset: OFFSET },
        ...{ phase: decode ? "decode" : "prefill", mixed: rig.upload(data.mixed), stateStride: slotFloats },
        ...(bias && { bias: biasBuffer }),
      },
    );
    rig.run([op], { rows: Array.from({ length: rows }, (_, r) => ({ sequence: decode ? r : 0 })), states });
    const expected = reference(spec, data, rows, states);
    const limit = outType === "f16" ? 65504 : Infinity;
    const wanted = expected.out.map((value) => Math.max(-limit, Math.min(limit, value)));
    const loose = (i: number) =>
      (expected.bound[i] as number) +
      roundOff(outType) * Math.abs(wanted[i] as number) +
      1e-30 +
      (outType === "f16" ? 2 ** -24 : 0);
    expectClose(`step ${step}`, await rig.read(out, outType, rows * channels), wanted, loose);
    const tiny = (i: number) => 2 * roundOff("f32") * Math.abs(data.state[i] as number);
    expectClose(`state ${step}`, await rig.read(state, "f32", SLOTS * slotFloats), data.state, tiny);
    slot = step % 2;
  }
}

export const cases: Case[] = Object.entries(specs).flatMap(([label, spec]) =>
  inEverySetting(`kernel/conv/${label}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    try {
      await check(rig, spec, new Random(testSeed(`kernel/conv/${label}`)));
    } finally {
      rig.close();
    }
  }),
);
