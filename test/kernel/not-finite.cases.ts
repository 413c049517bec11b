/**
 * What is not finite stays so: NaN and infinities in the inputs of the kernels that saturate arrive in their outputs, in
 * the row that they belong to and in no other, while finite numbers beyond the element type saturate. The check at the end
 * of a step finds them.
 */
import { attentionOps, kvWriteOp, scratchBytes } from "../../src/model/mixer/paged-attention.ts";
import { checkOp, firstBroken } from "../../src/model/op/check.ts";
import { convOp } from "../../src/model/mixer/convolution.ts";
import { activationOp } from "../../src/model/ffn/mlp.ts";
import { matmulOp, matvecOp } from "../../src/model/matrix/products.ts";
import { destroyWeight, uploadWeight } from "../../src/model/matrix/upload.ts";
import { normOp } from "../../src/model/op/norm.ts";
import { ropeOp } from "../../src/model/op/rope.ts";
import { vectorNormOp } from "../../src/model/op/vector-norm.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import type { Op } from "../../src/gpu/op.ts";
import type { NormKind } from "../../src/shape/shape.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { f32Bytes } from "../support/gguf-writer.ts";
import { Rig, type StepInput } from "../support/rig.ts";

const BAD = [NaN, Infinity, -Infinity];

/** Rows of every step; the one in the middle is broken. */
const ROWS = 3;
const BROKEN = 1;

/** Finite, and more than f16 holds where it is squared. */
const LARGE = 60_000;

/** Ordinary numbers in [rows, width], but for those given of the broken row. */
function numbers(width: number, broken: Readonly<Record<number, number>> = {}): Float64Array {
  const values = Float64Array.from({ length: ROWS * width }, (_, i) => ((i * 7) % 13) / 8 - 0.7);
  for (const [at, value] of Object.entries(broken)) values[BROKEN * width + Number(at)] = value;
  return values;
}

const EACH_ROW: StepInput = { rows: Array.from({ length: ROWS }, (_, row) => ({ write: row })) };

/** Throws unless the given columns of the broken row, and nothing else, are not finite. */
function expectBroken(what: string, actual: Float32Array, width: number, columns: readonly number[]): void {
  actual.forEach((value, i) => {
    const shouldBe = Math.floor(i / width) === BROKEN && columns.includes(i % width);
    if (Number.isFinite(value) !== shouldBe) return;
    throw new Error(`${what}: row ${Math.floor(i / width)}, column ${i % width} is ${value}`);
  });
}

const all = (width: number) => Array.from({ length: width }, (_, column) => column);

async function checkNorm(rig: Rig, bad: number, kind: NormKind): Promise<void> {
  const d = 64;
  const out = rig.unwritten(ROWS * d, rig.types.elem);
  const hidden = rig.upload(numbers(d, { 5: bad }));
  const weight = rig.upload(new Float64Array(2 * d).fill(1));
  rig.run([await normOp(rig.kernels, rig.types, { kind, hidden, weight, out, d, eps: 1e-6 })], EACH_ROW);
  const got = await rig.read(out, rig.types.elem, ROWS * d);
  if (Number.isFinite(got[BROKEN * d + 5])) throw new Error(`norm of ${bad} gives ${got[BROKEN * d + 5]}`);
  for (const row of [0, 2]) {
    if (!got.subarray(row * d, row * d + d).every(Number.isFinite)) throw new Error(`norm: row ${row}`);
  }
}

async function checkNormWeight(rig: Rig, bad: number, kind: NormKind): Promise<void> {
  const d = 64;
  const out = rig.unwritten(ROWS * d, rig.types.elem);
  const weight = new Float64Array(2 * d).fill(1);
  weight[kind === "layer" ? d + 7 : 7] = bad;
  const input = { kind, hidden: rig.upload(numbers(d)), weight: rig.upload(weight), out, d, eps: 1e-6 };
  rig.run([await normOp(rig.kernels, rig.types, input)], EACH_ROW);
  const got = await rig.read(out, rig.types.elem, ROWS * d);
  got.forEach((value, i) => {
    if (Number.isFinite(value) === (i % d === 7)) throw new Error(`norm: element ${i} is ${value}`);
  });
}

const HEADS = { heads: 2, kvHeads: 1, headDim: 16 };
const QKV = 4 * HEADS.headDim;

async function checkRope(rig: Rig, bad: number): Promise<void> {
  const { elem } = rig.types;
  const qkv = rig.upload(numbers(QKV, { 3: bad }), elem);
  const ropeTable = Float32Array.from({ length: ROWS * HEADS.headDim }, (_, i) => (i % 2 === 0 ? 0.8 : 0.6));
  const op = await ropeOp(rig.kernels, rig.types, { ...HEADS, rot: 16, interleaved: false, qkv });
  rig.run([op], { ...EACH_ROW, ropeTable });
  expectBroken("rope", await rig.read(qkv, elem, ROWS * QKV), QKV, [3, 11]);
}

async function checkVectorNorm(rig: Rig, bad: number): Promise<void> {
  const { elem } = rig.types;
  const qkv = rig.upload(numbers(QKV, { 3: bad }), elem);
  const weight = rig.upload(new Float64Array(2 * HEADS.headDim).fill(1));
  const input = { ...HEADS, qkv, qWeight: weight, kWeight: weight, eps: 1e-6 };
  rig.run([await vectorNormOp(rig.kernels, rig.types, input)], EACH_ROW);
  const got = await rig.read(qkv, elem, ROWS * QKV);
  if (Number.isFinite(got[BROKEN * QKV + 3]))
    throw new Error(`vector norm of ${bad} gives ${got[BROKEN * QKV + 3]}`);
  got.forEach((value, i) => {
    const isQueryOfBroken = Math.floor(i / QKV) === BROKEN && i % QKV < 2 * HEADS.headDim;
    if (!isQueryOfBroken && !Number.isFinite(value)) throw new Error(`vector norm: element ${i} is ${value}`);
  });
}

async function checkKvWrite(rig: Rig, bad: number): Promise<void> {
  const { elem, kv } = rig.types;
  const { headDim } = HEADS;
  const qkv = rig.upload(numbers(QKV, { [2 * headDim + 4]: bad, [3 * headDim + 9]: bad }), elem);
  const [keys, values] = [rig.unwritten(16 * headDim, kv), rig.unwritten(16 * headDim, kv)];
  const input = { ...HEADS, blockTokens: 16, qkv, keys, values };
  rig.run([await kvWriteOp(rig.kernels, rig.types, input)], EACH_ROW);
  expectBroken("keys", await rig.read(keys, kv, ROWS * headDim), headDim, [4]);
  expectBroken("values", await rig.read(values, kv, ROWS * headDim), headDim, [9]);
}

async function checkActivation(rig: Rig, bad: number): Promise<void> {
  const { elem } = rig.types;
  const ff = 8;
  const xielu = { positive: 1, negative: 1, slope: 0.5, limit: -1e-6 };
  const of300 = { silu: 300, gelu_tanh: 300, gelu: 300, relu2: 90_000, xielu: 90_150 };
  for (const activation of ["silu", "gelu_tanh", "gelu", "relu2", "xielu"] as const) {
    const act = rig.unwritten(ROWS * ff, elem);
    const inputs = numbers(2 * ff, {
      2: bad === -Infinity ? NaN : bad,
      6: 300,
      [ff + 3]: bad,
      [ff + 6]: LARGE,
    });
    const op = await activationOp(rig.kernels, rig.types, {
      ...{ gateUp: rig.upload(inputs, elem), act, ff, activation, gated: true, xielu },
    });
    rig.run([op], EACH_ROW);
    const got = await rig.read(act, elem, ROWS * ff);
    expectBroken(activation, got, ff, [2, 3]);
    const expected = elem === "f16" ? 65504 : Math.fround(of300[activation] * LARGE);
    if (got[BROKEN * ff + 6] !== expected) throw new Error(`${activation}: ${got[BROKEN * ff + 6]}`);
  }
}

async function checkConv(rig: Rig, bad: number): Promise<void> {
  const [channels, kernel] = [8, 3];
  for (const gated of [false, true]) {
    const stride = (gated ? 3 : 1) * channels;
    const out = rig.unwritten(ROWS * channels, rig.types.out);
    const op = await convOp(rig.kernels, rig.types, {
      ...{ channels, kernel, gated, out, stride, offset: 0, phase: "decode", stateStride: 2 * channels },
      ...{ mixed: rig.upload(numbers(stride, { 4: bad })), taps: rig.upload(new Float64Array(24).fill(0.5)) },
      state: rig.upload(new Float64Array(6 * 2 * channels)),
    });
    const states = [0, 1, 2].map((read) => ({ read, write: read + 3 }));
    rig.run([op], { rows: states.map((_, sequence) => ({ sequence })), states });
    expectBroken("conv", await rig.read(out, rig.types.out, ROWS * channels), channels, [4]);
  }
}

async function checkProducts(rig: Rig, { device }: Gpu, bad: number): Promise<void> {
  const [columns, width] = [64, 16];
  const { elem, out } = rig.types;
  async function* bytes(): AsyncGenerator<Uint8Array> {
    yield await Promise.resolve(f32Bytes(new Float32Array(columns * width).fill(1)));
  }
  const weight = await uploadWeight(device, { name: "ones", type: "F32", columns, rows: width }, bytes());
  const [piece] = weight.pieces;
  for (const maker of [matvecOp, matmulOp]) {
    for (const value of [bad, LARGE]) {
      const x = rig.upload(numbers(columns, { 9: value, 10: value }), elem);
      const y = rig.unwritten(ROWS * width, out);
      rig.run([await maker(rig.kernels, rig.types, { weight, piece: piece!, x, y })], EACH_ROW);
      const got = await rig.read(y, out, ROWS * width);
      expectBroken(maker.name, got, width, value === LARGE ? [] : all(width));
      const isSaturated = out === "f16" ? got[BROKEN * width] === 65504 : got[BROKEN * width]! > 65504;
      if (value === LARGE && !isSaturated) throw new Error(`${maker.name}: ${got[BROKEN * width]}`);
    }
  }
  destroyWeight(weight);
}

async function checkAttention(rig: Rig, bad: number): Promise<void> {
  const { elem, kv } = rig.types;
  const { heads, headDim } = HEADS;
  const width = heads * headDim;
  const cache = Float64Array.from({ length: 16 * headDim }, (_, i) => ((i * 5) % 11) / 8 - 0.6);
  for (const phase of ["prefill", "decode"] as const) {
    for (const cap of [0, 3]) {
      const out = rig.unwritten(ROWS * width, elem);
      const scratch = rig.unwritten(scratchBytes(HEADS, ROWS, 16) / 4, "f32");
      const ops = await attentionOps(rig.kernels, rig.types, {
        ...{ ...HEADS, blockTokens: 16, scale: 0.25, cap, phase, maxContext: 16, scratch, out },
        ...{ qkv: rig.upload(numbers(QKV, { 3: bad }), elem) },
        ...{ keys: rig.upload(cache, kv), values: rig.upload(cache, kv) },
      });
      const rows = Array.from({ length: ROWS }, (_, row) => ({
        ...{ position: 5 + row, sequence: phase === "decode" ? row : 0 },
      }));
      rig.run(ops, { rows, tables: phase === "decode" ? [[0], [0], [0]] : [[0]] });
      expectBroken(`${phase}, cap ${cap}`, await rig.read(out, elem, ROWS * width), width, all(headDim));
    }
  }
}

async function checkCheck(rig: Rig, bad: number): Promise<void> {
  const d = 260;
  for (const [hidden, delta] of [
    [bad, 1],
    [1, bad],
    [1, 1],
  ]) {
    const status = rig.upload([7, 7, 7, 7], "u32");
    const op: Op = await checkOp(rig.kernels, {
      ...{ hidden: rig.upload(numbers(d, { 259: hidden! })), delta: rig.upload(numbers(d, { 3: delta! })) },
      ...{ status, d },
    });
    rig.run([op], EACH_ROW);
    const words = new Uint32Array((await rig.read(status, "f32", ROWS)).buffer, 0, ROWS);
    const found = firstBroken(words.slice().buffer);
    const expected = hidden === 1 && delta === 1 ? undefined : BROKEN;
    if (found !== expected) throw new Error(`check of ${hidden} and ${delta}: row ${found}, not ${expected}`);
  }
}

export const cases: Case[] = inEverySetting("kernel/not-finite", async ({ gpu }, setting) => {
  const rig = new Rig(gpu, setting);
  try {
    for (const bad of BAD) {
      for (const kind of ["rms", "layer"] as const) {
        await checkNorm(rig, bad, kind);
        await checkNormWeight(rig, bad, kind);
      }
      await checkRope(rig, bad);
      await checkVectorNorm(rig, bad);
      await checkKvWrite(rig, bad);
      await checkActivation(rig, bad);
      await checkConv(rig, bad);
      await checkProducts(rig, gpu, bad);
      await checkAttention(rig, bad);
      await checkCheck(rig, bad);
    }
  } finally {
    rig.close();
  }
});
