/** activation: silu and tanh-GELU gates, also far outside where exp overflows, and saturation in f16. */
import { Random } from "../../src/base.ts";
import { activationOp } from "../../src/model/ffn/mlp.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";
import type { Activation } from "../../src/shape/shape.ts";

/** f(x) and the argument of the sigmoid in it. */
const references: Record<Activation, (x: number) => { value: number; argument: number }> = {
  silu: (x) => ({ value: x / (1 + Math.exp(-x)), argument: x }),
  gelu_tanh: (x) => {
    const inner = Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
    return { value: 0.5 * x * (1 + Math.tanh(inner)), argument: 2 * inner };
  },
};

/** Where the sigmoid has long reached 0 or 1 in f32. */
const FLAT = 90;

async function check(rig: Rig, activation: Activation, rows: number, ff: number, random: Random) {
  const { elem } = rig.types;
  const inputs = lumpy(random, rows * 2 * ff, 2 * ff);
  inputs.set([-300, -88.5, 300, 0], 0); // gates at the ends
  inputs.set([60_000, 60_000, 60_000, 1], ff);
  const gateUp = rounded(inputs, elem);
  const act = rig.unwritten(rows * ff, elem);
  const buffer = rig.upload(gateUp, elem);
  const op = await activationOp(rig.kernels, rig.types, { gateUp: buffer, act, ff, activation });
  rig.run([op], { rows: Array.from({ length: rows }, () => ({})) });
  const limit = elem === "f16" ? 65504 : Infinity;
  const expected = new Float64Array(rows * ff);
  const bounds = new Float64Array(rows * ff);
  for (let i = 0; i < rows * ff; i++) {
    const at = Math.floor(i / ff) * 2 * ff + (i % ff);
    const { value, argument } = references[activation](gateUp[at] as number);
    const product = value * (gateUp[at + ff] as number);
    expected[i] = Math.max(-limit, Math.min(limit, product));
    // exp's relative error grows with its argument (WGSL: 3 + 2|x| units in the last place), rounded argument included
    const exponential = (8 + 4 * Math.min(FLAT, Math.abs(argument))) * 2 ** -23;
    bounds[i] = (exponential + roundOff(elem)) * Math.abs(product) + 2 ** -25;
  }
  expectClose(`${activation} ${rows}x${ff}`, await rig.read(act, elem, rows * ff), expected, (i) => {
    return bounds[i] as number;
  });
}

export const cases: Case[] = (Object.keys(references) as Activation[]).flatMap((activation) =>
  inEverySetting(`kernel/activation/${activation}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const random = new Random(testSeed(`kernel/activation/${activation}`));
    await check(rig, activation, 1, 1408, random);
    await check(rig, activation, 7, 4, random);
    await check(rig, activation, 33, 260, random);
    rig.close();
  }),
);
