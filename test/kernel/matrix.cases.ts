/**
 * Matrix-vector and matrix products against float64, for every stored format, in odd sizes: rows that are no multiple of
 * any tile, one to three blocks of columns, a partial last panel, several pieces, stacked matrices, bias and scale.
 * Also: a row's result is the same bits whatever the other rows are.
 */
import { assert, Random } from "../../src/base.ts";
import type { Elem, KernelTypes } from "../../src/gpu/kernel.ts";
import { matmulOp, matvecOp, type MatrixOptions } from "../../src/model/matrix/products.ts";
import {
  destroyWeight,
  UploadBuffers,
  uploadStacked,
  uploadWeight,
  type PackedWeight,
} from "../../src/model/matrix/upload.ts";
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
import { dequantise, QUANT_REFERENCES, quantReference, randomBlocks } from "../support/quants.ts";
import { testSeed } from "../support/seed.ts";

type Maker = typeof matvecOp;
/** A setting, and what the case pretends of the adapter. */
type How = Setting & Pretence;
const MAKERS: readonly (readonly [string, Maker, readonly number[]])[] = [
  ["matvec", matvecOp, [1, 3, 7]],
  ["matmul", matmulOp, [1, 7, 33]],
];

/** Times the bound that rounding errors can reach. */
const SAFETY = 2;
/** Rounding errors in decoding a weight, in units of f32's round-off of the largest weight of the matrix. */
const DECODE_ROUNDINGS = 8;

interface Matrix {
  values: Float64Array;
  weight: PackedWeight;
  columns: number;
  rows: number;
}

async function* inPieces(bytes: Uint8Array, random: Random): AsyncGenerator<Uint8Array> {
  let from = 0;
  while (from < bytes.byteLength) {
    const count = 1 + random.below(Math.ceil(bytes.byteLength / 3));
    yield await Promise.resolve(bytes.subarray(from, from + count));
    from += count;
  }
}

async function makeMatrix(
  env: CaseEnv,
  type: string,
  columns: number,
  rows: number,
  random: Random,
): Promise<Matrix> {
  const reference = quantReference(type);
  const bytes = randomBlocks(reference, (columns / reference.blockLen) * rows, random);
  const info = { name: `test.${type}`, type, columns, rows };
  const weight = await uploadWeight(env.gpu.device, info, inPieces(bytes, random));
  return { values: dequantise(reference, bytes), weight, columns, rows };
}

interface Expected {
  values: Float64Array;
  bounds: Float64Array;
}

function product(
  matrix: { values: Float64Array; columns: number; rows: number },
  x: Float64Array,
  rows: number,
  options: { scale: number; bias?: Float64Array; out: Elem },
): Expected {
  const { values: w, columns } = matrix;
  const largest = w.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const values = new Float64Array(rows * matrix.rows);
  const bounds = new Float64Array(rows * matrix.rows);
  for (let row = 0; row < rows; row++) {
    for (let n = 0; n < matrix.rows; n++) {
      let sum = 0;
      let size = 0;
      for (let k = 0; k < columns; k++) {
        const term = (w[n * columns + k] as number) * (x[row * columns + k] as number);
        sum += term;
        size +=
          columns * Math.abs(term) + DECODE_ROUNDINGS * largest * Math.abs(x[row * columns + k] as number);
      }
      const bias = options.bias?.[n] ?? 0;
      const at = row * matrix.rows + n;
      values[at] = sum * options.scale + bias;
      const rounding = 2 ** -24 * (Math.abs(options.scale) * size + 2 * Math.abs(bias));
      bounds[at] = SAFETY * (rounding + outRounding(values[at] as number, options.out));
    }
  }
  return { values, bounds };
}

function outRounding(value: number, out: Elem): number {
  return out === "f16" ? Math.abs(value) * 2 ** -11 + 2 ** -14 : Math.abs(value) * 2 ** -24;
}

async function runProduct(
  scratch: Scratch,
  how: How,
  make: Maker,
  types: KernelTypes,
  matrix: Matrix,
  x: ArrayLike<number>,
  rows: number,
  more: Partial<MatrixOptions>,
): Promise<number[]> {
  const kernels = kernelsOf(scratch.gpu, how);
  const stride = more.outStride ?? matrix.rows;
  const input = scratch.floats(x, types.elem);
  const y = scratch.empty(rows * stride * (types.out === "f16" ? 2 : 4));
  const ops = await Promise.all(
    matrix.weight.pieces.map((piece) =>
      make(kernels, types, { weight: matrix.weight, piece, x: input, y, ...more }),
    ),
  );
  const data = more.rowsFrom === "logitRows" ? { rows: 1, logitRows: rows } : { rows, logitRows: 1 };
  runOps(scratch, ops, data);
  return scratch.read(y, rows * stride, types.out);
}

function typesOf(how: How, out?: Elem): KernelTypes {
  const elem = how.f16 ? "f16" : "f32";
  return { elem, kv: elem, out: out ?? elem };
}

async function withScratch(env: CaseEnv, run: (scratch: Scratch) => Promise<void>): Promise<void> {
  const scratch = new Scratch(env.gpu);
  try {
    await run(scratch);
  } finally {
    scratch.destroy();
  }
}

/** One format through one kernel: blocks of columns 1 to 3, odd numbers of rows. */
async function checkFormat(env: CaseEnv, how: How, type: string, kernel: number): Promise<void> {
  const [name, make, rowCounts] = MAKERS[kernel] as (typeof MAKERS)[number];
  const random = new Random(testSeed(`kernel/${name}/${type} ${how.label}`));
  const { blockLen } = quantReference(type);
  const types = typesOf(how);
  await withScratch(env, async (scratch) => {
    for (const [index, rows] of rowCounts.entries()) {
      const columns = blockLen === 1 ? ([33, 48, 96][index] as number) : blockLen * (index + 1);
      const matrix = await makeMatrix(env, type, columns, [5, 71, 33][index] as number, random);
      const x = lumpyRows(rows, columns, random, types.elem);
      const scale = 0.25;
      const actual = await runProduct(scratch, how, make, types, matrix, x, rows, { scale });
      const expected = product(matrix, x, rows, { scale, out: types.out });
      expectClose(`${type} ${columns}x${matrix.rows} rows ${rows}`, actual, expected.values, expected.bounds);
      destroyWeight(matrix.weight);
    }
  });
}

/** Bias, scale, stride, offset, f32 out, logit rows, and a piece that does not begin with the first row. */
async function checkOptions(env: CaseEnv, how: How, make: Maker): Promise<void> {
  const random = new Random(testSeed(`options ${how.label}`));
  const types = typesOf(how, "f32");
  await withScratch(env, async (scratch) => {
    const matrix = await makeMatrix(env, "Q4_0", 64, 37, random);
    const rows = 5;
    const x = lumpyRows(rows, 64, random, types.elem);
    const bias = Float64Array.from({ length: 37 }, () => Math.fround(random.normal()));
    const more = { scale: -1.5, bias: scratch.floats(bias, "f32"), outStride: 50, outOffset: 9 };
    const actual = await runProduct(scratch, how, make, types, matrix, x, rows, {
      ...more,
      rowsFrom: "logitRows",
    });
    const expected = product(matrix, x, rows, { scale: -1.5, bias, out: "f32" });
    const inside = actual.filter((_, index) => index % 50 >= 9 && index % 50 < 46);
    expectClose("options", inside, expected.values, expected.bounds);
    const outside = actual.filter((_, index) => index % 50 < 9 || index % 50 >= 46);
    assert(
      outside.every((value) => value === 0),
      "written outside its part of the row",
    );
    destroyWeight(matrix.weight);
  });
}

/** Three matrices stacked by rows, cut by a small binding limit into several pieces, equal the three apart. */
async function checkStacked(env: CaseEnv, how: How, make: Maker): Promise<void> {
  const random = new Random(testSeed(`stacked ${how.label}`));
  const types = typesOf(how);
  const reference = quantReference("Q8_0");
  const columns = 96;
  const counts = [19, 3, 42];
  await withScratch(env, async (scratch) => {
    const parts = counts.map((count) => randomBlocks(reference, 3 * count, random));
    const infos = counts.map((rows, index) => ({ name: `part${index}`, type: "Q8_0", columns, rows }));
    const weight = await uploadStacked(
      smallBindings(env.gpu.device, 2048),
      infos,
      parts.map((bytes) => inPieces(bytes, random)),
      new UploadBuffers(),
    );
    assert(weight.pieces.length === 4, `${weight.pieces.length} pieces, expected 4`);
    const values = Float64Array.from(parts.flatMap((bytes) => [...dequantise(reference, bytes)]));
    const matrix = { weight, values, columns, rows: 64 };
    const x = lumpyRows(6, columns, random, types.elem);
    const actual = await runProduct(scratch, how, make, types, matrix, x, 6, {});
    const expected = product(matrix, x, 6, { scale: 1, out: types.out });
    expectClose("stacked", actual, expected.values, expected.bounds);
    destroyWeight(weight);
  });
}

/** Each row alone and among others gives the same bits, also where another row is NaN. */
async function checkIndependence(env: CaseEnv, how: How, make: Maker): Promise<void> {
  const random = new Random(testSeed(`independence ${how.label}`));
  const types = typesOf(how, "f32");
  await withScratch(env, async (scratch) => {
    for (const [type, columns] of [
      ["F16", 45],
      ["F32", 172],
      ["Q4_K", 512],
    ] as const) {
      const matrix = await makeMatrix(env, type, columns, 21, random);
      const rows = 11;
      const x = lumpyRows(rows, columns, random, types.elem);
      const together = await runProduct(scratch, how, make, types, matrix, x, rows, {});
      for (const row of [0, 1, 6, 10]) {
        const alone = x.subarray(row * columns, (row + 1) * columns);
        const others = new Float64Array(x.length).fill(NaN);
        others.set(alone, row * columns);
        const first = await runProduct(scratch, how, make, types, matrix, alone, 1, {});
        const among = await runProduct(scratch, how, make, types, matrix, others, rows, {});
        const wanted = together.slice(row * 21, (row + 1) * 21);
        const none = new Float64Array(21);
        expectClose(`${type} row ${row} alone`, first, wanted, none);
        expectClose(`${type} row ${row} among NaN`, among.slice(row * 21, (row + 1) * 21), wanted, none);
      }
      destroyWeight(matrix.weight);
    }
  });
}

async function refusesWrongLengths(env: CaseEnv): Promise<void> {
  const info = { name: "blk.0.short", type: "Q4_0", columns: 64, rows: 3 };
  for (const length of [0, 35, 107, 109]) {
    const random = new Random(1);
    const message = await uploadWeight(env.gpu.device, info, inPieces(new Uint8Array(length), random)).then(
      () => "taken",
      (error: unknown) => String(error),
    );
    assert(message.includes("blk.0.short") && message.includes("108"), `${length} bytes of 108: ${message}`);
  }
}

const AS_REAL = "as real GPU";

/** As the adapter wants it, and with the kernels for real GPUs on whatever adapter there is. */
function inBothForms(name: string, run: (env: CaseEnv, how: How) => Promise<void>): Case[] {
  const asReal = (env: CaseEnv, setting: Setting) => run(env, { ...setting, software: false });
  return [...inEverySetting(name, run), ...inEverySetting(name, asReal, AS_REAL)];
}

/** The formats that the normal run tries in the form for real GPUs too, whose kernels take a driver's compiler longest. */
const KEY_FORMATS: ReadonlySet<string> = new Set(["F16", "Q4_0", "Q6_K"]);

function formatCases(label: string, format: string, run: (env: CaseEnv, how: How) => Promise<void>): Case[] {
  const onlyFull = ({ varied }: Case): boolean =>
    !KEY_FORMATS.has(format) && varied?.settings.includes(AS_REAL) === true;
  return inBothForms(label, run).map((one) => (onlyFull(one) ? { ...one, full: true } : one));
}

function casesOf(name: string, make: Maker, kernel: number): Case[] {
  const checks = {
    options: (env: CaseEnv, how: How) => checkOptions(env, how, make),
    stacked: (env: CaseEnv, how: How) => checkStacked(env, how, make),
    independence: (env: CaseEnv, how: How) => checkIndependence(env, how, make),
  };
  return [
    ...QUANT_REFERENCES.flatMap((reference) =>
      formatCases(`kernel/${name}/${reference.name}`, reference.name, (env, how) =>
        checkFormat(env, how, reference.name, kernel),
      ),
    ),
    ...Object.entries(checks).flatMap(([check, run]) => inBothForms(`kernel/${name}/${check}`, run)),
  ];
}

export const cases: Case[] = [
  ...MAKERS.flatMap(([name, make], kernel) => casesOf(name, make, kernel)),
  { name: "kernel/upload/wrong lengths", run: refusesWrongLengths },
];
