/** rmsnorm: with and without the residual add, the sandwich norm, the residual scale and the gather of the LM head. */
import { Random } from "../../src/base.ts";
import { normOp } from "../../src/model/op/norm.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  rows: number;
  d: number;
  delta: boolean;
  post: boolean;
  residualScale: number;
  gather?: readonly number[];
}

const EPS = 1e-6;

const specs: Record<string, Spec> = {
  plain: { rows: 7, d: 64, delta: false, post: false, residualScale: 1 },
  "residual add": { rows: 33, d: 260, delta: true, post: false, residualScale: 1 },
  "scaled residual": { rows: 1, d: 1028, delta: true, post: false, residualScale: 0.22 },
  sandwich: { rows: 7, d: 512, delta: true, post: true, residualScale: 1 },
  gather: { rows: 7, d: 64, delta: true, post: true, residualScale: 1, gather: [6, 0, 3] },
  "gather without delta": { rows: 33, d: 8, delta: false, post: false, residualScale: 1, gather: [32] },
};

interface Inputs {
  hidden: Float64Array;
  delta: Float64Array;
  weight: Float64Array;
  post: Float64Array;
}

/** hidden after the add, and the normed rows, each with the bound of its rounding error. */
function reference(spec: Spec, inputs: Inputs) {
  const { rows, d } = spec;
  const unit = (d + 16) * roundOff("f32"); // sums of d squares, root, division and the products
  const added = new Float64Array(rows * d);
  const addedBound = new Float64Array(rows * d);
  const normed = new Float64Array(rows * d);
  const normedBound = new Float64Array(rows * d);
  for (let row = 0; row < rows; row++) {
    const at = row * d;
    const scale = spec.post ? 1 / rms(inputs.delta.subarray(at, at + d)) : 1;
    for (let c = 0; c < d; c++) {
      const change = (inputs.delta[at + c] as number) * scale * (spec.post ? (inputs.post[c] as number) : 1);
      const scaled = spec.delta ? spec.residualScale * change : 0;
      added[at + c] = (inputs.hidden[at + c] as number) + scaled;
      addedBound[at + c] = spec.delta
        ? unit * Math.abs(scaled) + roundOff("f32") * Math.abs(added[at + c] as number)
        : 0;
    }
    const inverse = 1 / rms(added.subarray(at, at + d));
    for (let c = 0; c < d; c++) {
      const factor = inverse * (inputs.weight[c] as number);
      normed[at + c] = (added[at + c] as number) * factor;
      normedBound[at + c] =
        Math.abs(factor) * (addedBound[at + c] as number) + 2 * unit * Math.abs(normed[at + c] as number);
    }
  }
  return { added, addedBound, normed, normedBound };
}

function rms(row: Float64Array): number {
  return Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + EPS);
}

async function check(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, d, gather } = spec;
  const { elem } = rig.types;
  const inputs: Inputs = {
    hidden: rounded(lumpy(random, rows * d, d), "f32"),
    delta: rounded(lumpy(random, rows * d, d), "f32"),
    weight: rounded(lumpy(random, d, d), "f32"),
    post: rounded(lumpy(random, d, d), "f32"),
  };
  const hidden = rig.upload(inputs.hidden);
  const wanted = gather ?? Array.from({ length: rows }, (_, row) => row);
  const out = rig.unwritten(wanted.length * d, elem);
  const op = await normOp(rig.kernels, rig.types, {
    hidden,
    ...(spec.delta && { delta: rig.upload(inputs.delta) }),
    ...(spec.post && { postWeight: rig.upload(inputs.post) }),
    weight: rig.upload(inputs.weight),
    out,
    d,
    eps: EPS,
    residualScale: spec.residualScale,
    gather: gather !== undefined,
  });
  rig.run([op], { rows: Array.from({ length: rows }, () => ({})), ...(gather && { logitRows: gather }) });
  const expected = reference(spec, inputs);
  const pick = (values: Float64Array) => wanted.flatMap((row) => [...values.subarray(row * d, row * d + d)]);
  const normed = pick(expected.normed);
  const bound = pick(expected.normedBound);
  expectClose("normed", await rig.read(out, elem, wanted.length * d), normed, (i) => {
    return (bound[i] as number) + roundOff(elem) * Math.abs(normed[i] as number) + 2 ** -25;
  });
  const left = gather ? inputs.hidden : expected.added;
  expectClose("hidden", await rig.read(hidden, "f32", rows * d), left, (i) => {
    return gather ? 0 : (expected.addedBound[i] as number);
  });
}

export const cases: Case[] = Object.entries(specs).flatMap(([name, spec]) =>
  inEverySetting(`kernel/norm/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    await check(rig, spec, new Random(testSeed(`kernel/norm/${name}`)));
    rig.close();
  }),
);
