/**
 * The kernels of a mixture of experts against float64: the choice and its weights for every rule of routing, the products with
 * chosen experts for a few rows and for many (odd sizes, several pieces, an expert that is cut by their borders), and the weighted
 * sum. A row's products are the same bits whatever the other rows chose.
 */
import { assert, Random } from "../../src/base.ts";
import type { KernelTypes } from "../../src/gpu/kernel.ts";
import { expertsSumOp, routeOp, sortExpertsOp } from "../../src/model/ffn/routing.ts";
import { packed, PANEL_ROWS } from "../../src/model/matrix/panels.ts";
import {
  matmulOp,
  matmulTileRows,
  matvecOp,
  NO_SLOT,
  type ExpertChoice,
  type ExpertSlotting,
} from "../../src/model/matrix/products.ts";
import {
  destroyWeight,
  emptyWeight,
  UploadBuffers,
  uploadStacked,
  writePanels,
  type PackedWeight,
} from "../../src/model/matrix/upload.ts";
import type { ExpertRouting } from "../../src/shape/shape.ts";
import { inEverySetting, type Case, type CaseEnv, type Setting } from "../support/cases.ts";
import {
  expectClose,
  lumpyRows,
  runOps,
  Scratch,
  kernelsOf,
  smallBindings,
  type Pretence,
} from "../support/matrix-run.ts";
import { dequantise, quantReference, randomBlocks } from "../support/quants.ts";
import { testSeed } from "../support/seed.ts";

type How = Setting & Pretence;

const F32: KernelTypes = { elem: "f32", kv: "f32", out: "f32" };
/** Round-offs of exp, a division and a sum, relative. */
const ROUTE_ERROR = 2 ** -18;

interface RouteSpec extends ExpertRouting {
  experts: number;
  perRow: number;
  biased?: boolean;
  scaled?: boolean;
}

const ROUTES: Readonly<Record<string, RouteSpec>> = {
  "softmax of all": { gate: "softmax", renormalise: false, scale: 1, experts: 5, perRow: 2 },
  "softmax of the chosen": { gate: "softmax", renormalise: true, scale: 1, experts: 130, perRow: 8 },
  "sigmoid, biased": { gate: "sigmoid", renormalise: true, scale: 2.5, experts: 37, perRow: 3, biased: true },
  "softmax, scaled": { gate: "softmax", renormalise: false, scale: 1, experts: 64, perRow: 6, scaled: true },
  groups: {
    ...{ gate: "sigmoid", renormalise: true, scale: 1.5, experts: 72, perRow: 5, biased: true, scaled: true },
    groups: { count: 6, used: 2 },
  },
};

/** Experts with the largest ranks, the lowest number first among equals. */
function best(ranks: readonly number[], count: number): number[] {
  const order = ranks.map((_, index) => index);
  return order.sort((a, b) => (ranks[b] as number) - (ranks[a] as number) || a - b).slice(0, count);
}

function groupsOut(ranks: readonly number[], { count, used }: { count: number; used: number }): number[] {
  const size = ranks.length / count;
  const groups = Array.from({ length: count }, (_, group) => ranks.slice(group * size, (group + 1) * size));
  const sums = groups.map((group) => [...group].sort((a, b) => b - a)).map(([a = 0, b = 0]) => a + b);
  const kept = best(sums, used);
  return ranks.map((rank, index) => (kept.includes(Math.floor(index / size)) ? rank : -Infinity));
}

function route(
  spec: RouteSpec,
  logits: readonly number[],
  bias: readonly number[],
  factors: readonly number[],
) {
  const { gate, renormalise, scale, perRow, groups } = spec;
  const largest = Math.max(...logits);
  const sum = logits.reduce((total, x) => total + Math.exp(x - largest), 0);
  const scores = logits.map((x) =>
    gate === "sigmoid" ? 1 / (1 + Math.exp(-x)) : Math.exp(x - largest) / sum,
  );
  const ranks = scores.map((score, index) => score + (spec.biased ? (bias[index] as number) : 0));
  const chosen = best(groups ? groupsOut(ranks, groups) : ranks, perRow);
  const total = chosen.reduce((all, expert) => all + (scores[expert] as number), 0);
  const factor = (expert: number) => (spec.scaled ? (factors[expert] as number) : 1);
  const divisor = renormalise ? Math.max(total, 2 ** -14) : 1;
  return { chosen, weights: chosen.map((e) => (scale * factor(e) * (scores[e] as number)) / divisor) };
}

async function checkRoute(env: CaseEnv, how: How, name: string): Promise<void> {
  const spec = ROUTES[name] as RouteSpec;
  const random = new Random(testSeed(`route ${name}`));
  const { experts, perRow } = spec;
  const kernels = kernelsOf(env.gpu, how);
  const normals = (count: number) => Array.from({ length: count }, () => Math.fround(random.normal()));
  const scratch = new Scratch(env.gpu);
  for (const rows of [1, 7]) {
    const logits = Float32Array.from(normals(rows * experts), (x) => 3 * x);
    const [bias, factors] = [normals(experts).map((x) => Math.fround(x / 4)), normals(experts)];
    const vectors = [...(spec.biased ? bias : []), ...(spec.scaled ? factors : [])];
    const [chosen, weights] = [scratch.empty(rows * perRow * 4), scratch.empty(rows * perRow * 4)];
    const op = await routeOp(kernels, F32, {
      ...{ experts, perRow, routing: spec, logits: scratch.floats(logits, "f32"), chosen, weights },
      ...{ isBiased: spec.biased ?? false, isScaled: spec.scaled ?? false },
      vectors: vectors.length > 0 ? scratch.floats(vectors, "f32") : undefined,
    });
    runOps(scratch, [op], { rows, logitRows: 1 });
    const wanted = Array.from({ length: rows }, (_, row) =>
      route(spec, [...logits.subarray(row * experts, (row + 1) * experts)], bias, factors),
    );
    const found = await readNumbers(scratch, chosen, rows * perRow);
    assert(String(found) === String(wanted.flatMap((row) => row.chosen)), `${name}: chose ${found.join()}`);
    const expected = wanted.flatMap((row) => row.weights);
    const bounds = expected.map((weight) => ROUTE_ERROR * Math.abs(weight) + 2 ** -40);
    expectClose(name, await scratch.read(weights, rows * perRow, "f32"), expected, bounds);
  }
  scratch.destroy();
}

async function readNumbers(scratch: Scratch, buffer: GPUBuffer, count: number): Promise<number[]> {
  return [...new Uint32Array(new Float32Array(await scratch.read(buffer, count, "f32")).buffer)];
}

/** Equal scores: the lowest numbers; one logit that is not finite: NaN for that row alone. */
async function checkOddLogits(env: CaseEnv, how: How): Promise<void> {
  const scratch = new Scratch(env.gpu);
  const logits = new Float32Array(3 * 9).fill(0.5);
  logits[9 + 4] = how.f16 ? NaN : -Infinity;
  const [chosen, weights] = [scratch.empty(24), scratch.empty(24)];
  const routing = { gate: "sigmoid", renormalise: true, scale: 1 } as const;
  const op = await routeOp(kernelsOf(env.gpu, how), F32, {
    ...{ experts: 9, perRow: 2, routing, logits: scratch.floats(logits, "f32"), chosen, weights },
    ...{ isBiased: false, isScaled: false, vectors: undefined },
  });
  runOps(scratch, [op], { rows: 3, logitRows: 1 });
  const found = await readNumbers(scratch, chosen, 6);
  assert(String([found.slice(0, 2), found.slice(4)]) === "0,1,0,1", `among equals: ${found.join()}`);
  const values = await scratch.read(weights, 6, "f32");
  const shown = values.map((value) => value.toFixed(4)).join();
  assert(shown === "0.5000,0.5000,NaN,NaN,0.5000,0.5000", `weights ${shown}`);
  scratch.destroy();
}

interface Matrices {
  /** Slots for some of the experts, and which are there; undefined: `weight` has all of them. */
  slots?: ExpertSlotting;
  present?: readonly number[];
  weight: PackedWeight;
  values: Float64Array;
  experts: number;
  rows: number;
  columns: number;
}

async function makeExperts(
  env: CaseEnv,
  type: string,
  sizes: Pick<Matrices, "experts" | "rows" | "columns">,
  random: Random,
): Promise<Matrices & { bytes: Uint8Array }> {
  const { experts, rows, columns } = sizes;
  const reference = quantReference(type);
  const bytes = randomBlocks(reference, (columns / reference.blockLen) * rows * experts, random);
  const info = { name: `experts.${type}`, type, columns, rows: rows * experts };
  const source = (async function* () {
    yield await Promise.resolve(bytes);
  })();
  const device = smallBindings(env.gpu.device, PIECE_BYTES);
  const weight = await uploadStacked(device, [info], [source], new UploadBuffers());
  return { weight, values: dequantise(reference, bytes), ...sizes, bytes };
}

/** The experts in slots, of which there are fewer: expert 3 lies in the last one, and one slot is empty. */
const IN_SLOTS = [10, 0, 7, -1, 5, 3];

/** Some of the experts of `all` in slots. */
function inSlots(scratch: Scratch, all: Matrices, bytes: Uint8Array): Matrices {
  const { experts, rows, columns, weight } = all;
  const { format } = weight;
  const device = smallBindings(scratch.gpu.device, PIECE_BYTES);
  const slotRows = Math.ceil(rows / PANEL_ROWS) * PANEL_ROWS;
  const info = { name: "slots", type: format.name, columns, rows: slotRows * IN_SLOTS.length };
  const slots = emptyWeight(device, info, slotRows);
  const residency = new Uint32Array(experts).fill(NO_SLOT);
  const each = bytes.length / experts;
  for (const [slot, expert] of IN_SLOTS.entries()) {
    if (expert < 0) continue;
    residency[expert] = slot;
    const part = bytes.subarray(expert * each, (expert + 1) * each);
    writePanels(scratch.gpu.device, slots, slot * slotRows, packed(format, columns, rows, part));
  }
  // As a layer's row in the table of a model: not at its start.
  const table = scratch.words(Uint32Array.from([...new Uint32Array(64).fill(1), ...residency]));
  const binding = { buffer: table, offset: 256, size: 4 * experts };
  return { ...all, weight: slots, slots: { rows: slotRows, residency: binding }, present: IN_SLOTS };
}

/** Small enough for several pieces. */
const PIECE_BYTES = 8 * 1024;

interface ProductSpec {
  matrices: Matrices;
  rows: number;
  perRow: number;
  perInput: number;
  chosen: readonly number[];
  x: Float64Array;
  bias: Float64Array;
}

/** @param isMany sorted by expert, as in prefill */
async function runProduct(scratch: Scratch, how: How, isMany: boolean, spec: ProductSpec): Promise<number[]> {
  const { matrices, rows, perRow, perInput, chosen } = spec;
  const { weight, experts } = matrices;
  const kernels = kernelsOf(scratch.gpu, how);
  const types: KernelTypes = { ...F32, elem: how.f16 ? "f16" : "f32" };
  const y = scratch.empty(rows * perRow * matrices.rows * 4);
  const height = matmulTileRows(kernels, matrices.columns);
  const sorted = { order: scratch.empty(rows * perRow * 4), tiles: scratch.empty((1 + rows * perRow) * 16) };
  const choices = scratch.words(Uint32Array.from(chosen));
  const choice: ExpertChoice = {
    ...{ experts, rows: matrices.rows, perRow, perInput, chosen: choices },
    ...(isMany && { sorted }),
    ...(matrices.slots && { slots: matrices.slots }),
  };
  const input = { x: scratch.floats(spec.x, types.elem), y, bias: scratch.floats(spec.bias, "f32") };
  const make = isMany ? matmulOp : matvecOp;
  const products = weight.pieces.map((piece) =>
    make(kernels, types, { weight, piece, ...input, outStride: matrices.rows, experts: choice }),
  );
  const sort = sortExpertsOp(kernels, types, { experts, perRow, height, chosen: choices, sorted });
  runOps(scratch, await Promise.all([sort, ...products]), { rows, logitRows: 1 });
  return scratch.read(y, rows * perRow * matrices.rows, "f32");
}

function product({ matrices, rows, perRow, perInput, chosen, x, bias }: ProductSpec) {
  const { values: w, columns, rows: height } = matrices;
  const values: number[] = [];
  const bounds: number[] = [];
  const largest = w.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (let choice = 0; choice < rows * perRow; choice++) {
    const from = Math.floor(choice / perInput) * columns;
    for (let n = 0; n < height; n++) {
      const row = (chosen[choice] as number) * height + n;
      let [sum, size] = [bias[row] as number, 0];
      for (let k = 0; k < columns; k++) {
        const input = x[from + k] as number;
        sum += (w[row * columns + k] as number) * input;
        size += columns * Math.abs((w[row * columns + k] as number) * input) + 8 * largest * Math.abs(input);
      }
      // What is not there leaves what stood there: nothing, in a buffer just made.
      values.push(matrices.present?.includes(chosen[choice] as number) === false ? 0 : sum);
      bounds.push(2 * 2 ** -24 * (size + 2 * Math.abs(sum) + 2));
    }
  }
  return { values, bounds };
}

async function checkProducts(
  env: CaseEnv,
  how: How,
  type: string,
  isMany: boolean,
  isSlotted = false,
): Promise<void> {
  const random = new Random(testSeed(`experts ${type} ${how.label}`));
  const scratch = new Scratch(env.gpu);
  const columns = Math.max(64, quantReference(type).blockLen);
  const sizes = { experts: 11, rows: type === "F32" ? 37 : 48, columns };
  const all = await makeExperts(env, type, sizes, random);
  const matrices = isSlotted ? inSlots(scratch, all, all.bytes) : all;
  assert(matrices.weight.pieces.length > 1, "several pieces");
  const bias = Float64Array.from({ length: sizes.experts * sizes.rows }, () => Math.fround(random.normal()));
  for (const [rows, perRow, perInput] of [
    [1, 2, 2],
    [isMany ? 41 : 3, 3, 1],
  ] as const) {
    const choices = rows * perRow;
    // Expert 3 has most rows, and some have none.
    const chosen = Array.from({ length: choices }, () => (random.below(2) === 0 ? 3 : random.below(11)));
    const x = lumpyRows(choices / perInput, columns, random, how.f16 ? "f16" : "f32");
    const spec = { matrices, rows, perRow, perInput, chosen, x, bias };
    const actual = await runProduct(scratch, how, isMany, spec);
    const { values, bounds } = product(spec);
    expectClose(`${type} rows ${rows}`, actual, values, bounds);
    const last = (rows - 1) * perRow;
    const alone = await runProduct(scratch, how, isMany, {
      ...{ ...spec, rows: 1, chosen: chosen.slice(last), x: x.subarray((last / perInput) * columns) },
    });
    expectClose(`${type} alone`, alone, actual.slice(last * sizes.rows), new Float64Array(alone.length));
  }
  destroyWeight(all.weight);
  if (isSlotted) destroyWeight(matrices.weight);
  scratch.destroy();
}

async function checkSum(env: CaseEnv, how: How): Promise<void> {
  const random = new Random(testSeed("experts sum"));
  const scratch = new Scratch(env.gpu);
  const [rows, perRow, d] = [3, 3, 260];
  const normals = (count: number) => Float64Array.from({ length: count }, () => Math.fround(random.normal()));
  const [outputs, weights, shared] = [normals(rows * perRow * d), normals(rows * perRow), normals(rows * d)];
  const [gate, before] = [normals(rows), normals(rows * d)];
  for (const [hasShared, hasGate, accumulate] of [
    [false, false, false],
    [true, false, true],
    [true, true, false],
  ] as const) {
    const delta = scratch.floats(before, "f32");
    const op = await expertsSumOp(kernelsOf(env.gpu, how), F32, {
      ...{ d, perRow, outputs: scratch.floats(outputs, "f32"), weights: scratch.floats(weights, "f32") },
      shared: hasShared ? scratch.floats(shared, "f32") : undefined,
      sharedGate: hasGate ? scratch.floats(gate, "f32") : undefined,
      ...{ delta, accumulate },
    });
    runOps(scratch, [op], { rows, logitRows: 1 });
    const expected = before.map((value, at) => {
      const [row, column] = [Math.floor(at / d), at % d];
      const factor = hasGate ? 1 / (1 + Math.exp(-(gate[row] as number))) : hasShared ? 1 : 0;
      let sum = (accumulate ? value : 0) + factor * (shared[at] as number);
      for (let i = row * perRow; i < (row + 1) * perRow; i++)
        sum += (weights[i] as number) * (outputs[i * d + column] as number);
      return sum;
    });
    const bounds = new Float64Array(rows * d).fill(2 ** -18);
    expectClose("sum", await scratch.read(delta, rows * d, "f32"), expected, bounds);
  }
  scratch.destroy();
}

const asReal = (run: (env: CaseEnv, how: How) => Promise<void>) => (env: CaseEnv, setting: Setting) =>
  run(env, { ...setting, software: false });

/** With the kernels that the adapter wants, and with those for real GPUs on whatever adapter there is. */
function inBothForms(name: string, run: (env: CaseEnv, how: How) => Promise<void>): Case[] {
  return [...inEverySetting(name, run), ...inEverySetting(name, asReal(run), "as real GPU")];
}

export const cases: Case[] = [
  ...["F32", "Q4_0"].flatMap((type) =>
    [false, true].flatMap((isMany) => {
      const name = `kernel/expert-slots/${isMany ? "many" : "few"} rows, ${type}`;
      const made = inBothForms(name, (env, how) => checkProducts(env, how, type, isMany, true));
      return type === "F32" ? made : made.map((one) => ({ ...one, full: true }));
    }),
  ),
  ...Object.keys(ROUTES).flatMap((name) =>
    inEverySetting(`kernel/experts/route, ${name}`, (env, how) => checkRoute(env, how, name)),
  ),
  ...inEverySetting("kernel/experts/odd logits", checkOddLogits),
  ...inEverySetting("kernel/experts/sum", checkSum),
  ...["F32", "Q4_0", "Q6_K", "MXFP4"].flatMap((type) =>
    [false, true].flatMap((isMany) => {
      const made = inBothForms(`kernel/experts/${isMany ? "many" : "few"} rows, ${type}`, (env, how) =>
        checkProducts(env, how, type, isMany),
      );
      return type === "F32" || type === "MXFP4" ? made : made.map((one) => ({ ...one, full: true }));
    }),
  ),
];
