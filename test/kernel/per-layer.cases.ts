/**
 * Per-layer embeddings: a layer's inputs from table and projection, and its gate; and the gates that a sparse feed-forward
 * keeps. Against float64.
 */
import { Random } from "../../src/base.ts";
import { sparsifyOp } from "../../src/model/ffn/mlp.ts";
import { gateOp, inputsOp } from "../../src/model/residual/per-layer.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { expectClose, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const UNIT = roundOff("f32");
const EPS = 1e-6;

interface Spec {
  rows: number;
  layers: number;
  width: number;
}

const specs: readonly Spec[] = [
  { rows: 1, layers: 3, width: 256 },
  { rows: 7, layers: 2, width: 20 },
];

function shapeOf({ layers, width }: Spec) {
  return { layers: { length: layers }, perLayerWidth: width, normEps: EPS };
}

const steps = (rows: number) => ({ rows: Array.from({ length: rows }, () => ({})) });

async function checkInputs(rig: Rig, spec: Spec, random: Random): Promise<void> {
  const { rows, layers, width } = spec;
  const count = rows * layers * width;
  const projected = rounded(lumpy(random, count, width), "f32");
  const table = rounded(lumpy(random, count, width), "f32");
  const weight = rounded(lumpy(random, width, width), "f32");
  const inputs = rig.upload(table);
  const buffers = { projected: rig.upload(projected), norm: rig.upload(weight), inputs };
  rig.run([await inputsOp(rig.kernels, { shape: shapeOf(spec), ...buffers })], steps(rows));
  const parts = Array.from(projected, (value, i) => {
    const slice = projected.subarray(i - (i % width), i - (i % width) + width);
    const rms = Math.sqrt(slice.reduce((sum, x) => sum + x * x, 0) / width + EPS);
    return (value / rms) * (weight[i % width] as number);
  });
  const expected = parts.map((part, i) => (part + (table[i] as number)) / Math.SQRT2);
  expectClose("inputs", await rig.read(inputs, "f32", count), expected, (i) => {
    return UNIT * ((width + 16) * Math.abs(parts[i] as number) + 4 * Math.abs(table[i] as number));
  });
}

async function checkGate(rig: Rig, spec: Spec, layer: number, random: Random): Promise<void> {
  const { rows, layers, width } = spec;
  const values = rounded(lumpy(random, rows * width, width), "f32");
  const inputs = rounded(lumpy(random, rows * layers * width, width), "f32");
  const gate = rig.upload(values);
  const buffers = { gate, inputs: rig.upload(inputs) };
  rig.run([await gateOp(rig.kernels, { shape: shapeOf(spec), layer, ...buffers })], steps(rows));
  const arguments_ = Array.from(values, (x) => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));
  const expected = Array.from(values, (x, i) => {
    const gelu = 0.5 * x * (1 + Math.tanh(arguments_[i] as number));
    const row = Math.floor(i / width);
    return gelu * (inputs[(row * layers + layer) * width + (i % width)] as number);
  });
  expectClose("gate", await rig.read(gate, "f32", rows * width), expected, (i) => {
    // As for activations: exp's error grows with its argument.
    const exponential = (8 + 8 * Math.min(90, Math.abs(arguments_[i] as number))) * 2 ** -23;
    return exponential * Math.abs(expected[i] as number) + 2 ** -40;
  });
}

async function checkSparse(rig: Rig, rows: number, ff: number, random: Random): Promise<void> {
  const { elem } = rig.types;
  const sparsity = 1.6448533535003662;
  // Far from 0, where squares of the gates themselves would cancel.
  const shifted = lumpy(random, rows * 2 * ff, 2 * ff).map((value, i) =>
    i % (2 * ff) < ff ? value + 40 : value,
  );
  const values = rounded(shifted, elem);
  const gateUp = rig.upload(values, elem);
  rig.run([await sparsifyOp(rig.kernels, rig.types, { gateUp, ff, sparsity })], steps(rows));
  const expected = values.slice();
  const bounds = new Float64Array(values.length);
  for (let row = 0; row < rows; row++) {
    const gates = expected.subarray(row * 2 * ff, row * 2 * ff + ff);
    const largest = gates.reduce((most, gate) => Math.max(most, Math.abs(gate)), 0);
    const mean = gates.reduce((sum, gate) => sum + gate, 0) / ff;
    const deviation = Math.sqrt(gates.reduce((sum, gate) => sum + (gate - mean) ** 2, 0) / (ff - 1));
    const bound = (ff + 16) * UNIT * (largest + sparsity * deviation);
    gates.forEach((gate, c) => {
      gates[c] = Math.max(0, gate - (mean + sparsity * deviation));
      bounds[row * 2 * ff + c] = bound + roundOff(elem) * (gates[c] as number);
    });
  }
  expectClose("gates", await rig.read(gateUp, elem, values.length), expected, (i) => bounds[i] as number);
}

export const cases: Case[] = [
  ...inEverySetting("kernel/per-layer/inputs and gate", async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    for (const spec of specs) {
      const random = new Random(testSeed(`kernel/per-layer ${spec.width}`));
      await checkInputs(rig, spec, random);
      for (const layer of [0, spec.layers - 1]) await checkGate(rig, spec, layer, random);
    }
    rig.close();
  }),
  ...inEverySetting("kernel/activation/sparse gates", async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    await checkSparse(rig, 3, 96, new Random(testSeed("kernel/activation/sparse gates")));
    await checkSparse(rig, 1, 4100, new Random(testSeed("kernel/activation/sparse gates, wide")));
    rig.close();
  }),
];
