/** activation: every function, with and without a gate, also far outside where exp overflows, and saturation in f16. */
import { Random } from "../../src/base.ts";
import { activationOp } from "../../src/model/ffn/mlp.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";
import type { Activation, Xielu } from "../../src/shape/shape.ts";

const XIELU: Xielu = { positive: 1.1, negative: 1.4, slope: 0.5, limit: -1e-6 };

/** f(x) and the absolute error that f32 leaves in it. */
const references: Record<Activation, (x: number) => { value: number; error: number }> = {
  silu: (x) => sigmoidal(x, x),
  gelu_tanh: (x) => sigmoidal(x, 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)),
  gelu: (x) => {
    const value = (x * erfc(-x / Math.SQRT2)) / 2;
    const exponent = x < 0 ? Math.min(FLAT, x * x) : 0;
    return { value, error: (24 + 4 * exponent) * 2 ** -23 * Math.abs(value) };
  },
  relu2: (x) => ({ value: Math.max(0, x) ** 2, error: 2 ** -23 * x ** 2 }),
  xielu: (x) => {
    const { positive, negative, slope, limit } = XIELU;
    const below = Math.min(x, limit);
    const bent = x > 0 ? positive * x ** 2 : negative * (Math.expm1(below) - x);
    return { value: bent + slope * x, error: 16 * 2 ** -23 * (Math.abs(bent) + Math.abs(slope * x)) };
  },
  clamped_swiglu: (x) => sigmoidal(Math.min(x, 7), 1.702 * Math.min(x, 7)),
};

/** In float64: the series of erf near 0, a continued fraction of erfc beyond. */
function erfc(z: number): number {
  if (z < 0) return 2 - erfc(-z);
  if (z > 2) {
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
    return Math.exp(-z * z) / (Math.sqrt(Math.PI) * (z + fraction));
  }
  let [term, sum] = [z, z];
  for (let n = 1; n < 60; n++) {
    term *= (-z * z) / n;
    sum += term / (2 * n + 1);
  }
  return 1 - (2 / Math.sqrt(Math.PI)) * sum;
}

/** x * sigmoid(y). exp's relative error grows with its argument (WGSL: 3 + 2|x| units in the last place), rounding included. */
function sigmoidal(x: number, y: number): { value: number; error: number } {
  const value = x / (1 + Math.exp(-y));
  return { value, error: (8 + 4 * Math.min(FLAT, Math.abs(y))) * 2 ** -23 * Math.abs(value) };
}

/** Where the sigmoid has long reached 0 or 1 in f32. */
const FLAT = 90;

interface Spec {
  activation: Activation;
  gated: boolean;
  rows: number;
  ff: number;
  /** A gate and its up side by side. */
  alternating?: boolean;
}

async function check(rig: Rig, { activation, gated, rows, ff, alternating = false }: Spec, random: Random) {
  const { elem } = rig.types;
  const width = (gated ? 2 : 1) * ff;
  const inputs = lumpy(random, rows * width, width);
  if (gated) inputs.set([60_000, 60_000, 60_000, 1], ff);
  inputs.set([-300, -88.5, 300, 0], 0); // arguments at the ends
  inputs.set(
    Array.from({ length: rows * width - 4 }, (_, i) => (i % 3 === 0 ? 1e-3 : 1) * inputs[4 + i]!),
    4,
  );
  const gateUp = rounded(inputs, elem);
  const act = rig.unwritten(rows * ff, elem);
  const buffer = rig.upload(alternating ? alternated(gateUp, ff) : gateUp, elem);
  const constants = activation === "xielu" && { xielu: XIELU };
  const input = { gateUp: buffer, act, ff, activation, gated, alternating, ...constants };
  const op = await activationOp(rig.kernels, rig.types, input);
  rig.run([op], { rows: Array.from({ length: rows }, () => ({})) });
  const limit = elem === "f16" ? 65504 : Infinity;
  const expected = new Float64Array(rows * ff);
  const bounds = new Float64Array(rows * ff);
  for (let i = 0; i < rows * ff; i++) {
    const at = Math.floor(i / ff) * width + (i % ff);
    const { value, error } = references[activation](gateUp[at] as number);
    const factor = gated ? factorOf(activation, gateUp[at + ff] as number) : 1;
    const product = value * factor;
    expected[i] = Math.max(-limit, Math.min(limit, product));
    bounds[i] = error * Math.abs(factor) + roundOff(elem) * Math.abs(product) + 2 ** -25;
  }
  expectClose(
    `${activation} ${rows}x${ff}${gated ? " gated" : ""}`,
    await rig.read(act, elem, rows * ff),
    expected,
    (i) => {
      return bounds[i] as number;
    },
  );
}

/** Rows of gates, then ups, as rows in which they alternate. */
function alternated(gateUp: Float64Array, ff: number): Float64Array {
  return gateUp.map((_, i) => {
    const [row, place] = [Math.floor(i / (2 * ff)), i % (2 * ff)];
    return gateUp[row * 2 * ff + (place % 2) * ff + Math.floor(place / 2)] as number;
  });
}

/** What multiplies the function of the gate. */
function factorOf(activation: Activation, up: number): number {
  return activation === "clamped_swiglu" ? Math.max(-7, Math.min(7, up)) + 1 : up;
}

export const cases: Case[] = (Object.keys(references) as Activation[]).flatMap((activation) =>
  inEverySetting(`kernel/activation/${activation}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const random = new Random(testSeed(`kernel/activation/${activation}`));
    for (const gated of activation === "clamped_swiglu" ? [true] : [false, true]) {
      await check(rig, { activation, gated, rows: 1, ff: 1408 }, random);
      await check(rig, { activation, gated, rows: 7, ff: 4 }, random);
      await check(rig, { activation, gated, rows: 33, ff: 260 }, random);
      if (activation === "clamped_swiglu")
        await check(rig, { activation, gated, rows: 5, ff: 260, alternating: true }, random);
    }
    rig.close();
  }),
);
