/**
 * Embedding lookup against float64 for every stored format: ids in several pieces, repeated, first and last. And the rows of
 * positions, or the first of them, added to what is there.
 */
import { Random } from "../../src/base.ts";
import { embedOp, type EmbedOptions } from "../../src/model/matrix/products.ts";
import { destroyWeight, uploadWeight, type PackedWeight } from "../../src/model/matrix/upload.ts";
import { inEverySetting, type Case, type CaseEnv, type Setting } from "../support/cases.ts";
import { expectClose, runOps, Scratch, kernelsOf } from "../support/matrix-run.ts";
import { dequantise, QUANT_REFERENCES, quantReference, randomBlocks } from "../support/quants.ts";
import { testSeed } from "../support/seed.ts";

const ROWS = 41;

interface Table {
  weight: PackedWeight;
  /** In two pieces. */
  pieces: PackedWeight;
  values: Float64Array;
}

async function tableOf(env: CaseEnv, type: string, random: Random): Promise<Table> {
  const reference = quantReference(type);
  const columns = reference.blockLen === 1 ? 45 : reference.blockLen * 2;
  const bytes = randomBlocks(reference, (columns / reference.blockLen) * ROWS, random);
  const source = (async function* () {
    yield await Promise.resolve(bytes);
  })();
  const { device } = env.gpu;
  const weight = await uploadWeight(device, { name: "embedding", type, columns, rows: ROWS }, source);
  return { weight, pieces: inTwoPieces(device, weight), values: dequantise(reference, bytes) };
}

async function checkEmbedding(env: CaseEnv, setting: Setting, type: string): Promise<void> {
  const random = new Random(testSeed(`kernel/embed/${type} ${setting.label}`));
  const { weight, pieces, values } = await tableOf(env, type, random);
  const tokens = [0, 40, 17, 17, 31, 32, random.below(ROWS)];
  const actual = await lookUp(env, setting, pieces, tokens);
  const scale = Math.fround(1.7);
  const expected = tokens.flatMap((token) =>
    [...values.subarray(token * weight.columns, (token + 1) * weight.columns)].map((value) => value * scale),
  );
  expectClose(type, actual, expected, boundsOf(values, expected.length));
  destroyWeight(weight);
}

/** Row r of a step has position r here, so that all rows of both pieces are added; or the first one to all. */
async function checkAdded(
  env: CaseEnv,
  setting: Setting,
  type: string,
  adds: "positions" | "first",
): Promise<void> {
  const random = new Random(testSeed(`kernel/embed/${adds} ${type} ${setting.label}`));
  const { weight, pieces, values } = await tableOf(env, type, random);
  const tokens = Array.from({ length: ROWS }, () => random.below(ROWS));
  const before = Array.from({ length: ROWS * weight.columns }, () => Math.fround(random.normal()));
  const actual = await lookUp(env, setting, pieces, tokens, adds, before);
  const scale = Math.fround(1.7);
  const period = adds === "first" ? weight.columns : before.length;
  const expected = before.map((value, i) => value + scale * (values[i % period] as number));
  expectClose(`${adds} ${type}`, actual, expected, boundsOf(values, expected.length));
  destroyWeight(weight);
}

function boundsOf(values: Float64Array, length: number): number[] {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 4);
  return Array<number>(length).fill(16 * largest * 2 ** -24);
}

/** The same matrix as two pieces: rows 0 to 31, and the rest, in copies of its panels. */
function inTwoPieces(device: GPUDevice, weight: PackedWeight): PackedWeight {
  const [whole] = weight.pieces;
  if (!whole) throw new Error("no piece");
  const cut = (whole.buffer.size / 3) * 2;
  const encoder = device.createCommandEncoder();
  const piece = (from: number, to: number, firstRow: number, rows: number) => {
    const buffer = device.createBuffer({ size: to - from, usage: whole.buffer.usage });
    encoder.copyBufferToBuffer(whole.buffer, from, buffer, 0, to - from);
    return { buffer, firstRow, rows };
  };
  const pieces = [piece(0, cut, 0, 32), piece(cut, whole.buffer.size, 32, weight.rows - 32)];
  device.queue.submit([encoder.finish()]);
  return { ...weight, pieces };
}

async function lookUp(
  env: CaseEnv,
  setting: Setting,
  weight: PackedWeight,
  tokens: number[],
  adds?: EmbedOptions["adds"],
  before?: readonly number[],
): Promise<number[]> {
  const scratch = new Scratch(env.gpu);
  const elem = setting.f16 ? "f16" : "f32";
  const hidden = before ? scratch.floats(before, "f32") : scratch.empty(tokens.length * weight.columns * 4);
  const ids = scratch.words(new Uint32Array([999, ...tokens]));
  const types = { elem, kv: elem, out: elem } as const;
  const ops = await Promise.all(
    weight.pieces.map((piece) =>
      embedOp(kernelsOf(env.gpu, {}), types, {
        ...{ weight, piece, tokens: ids, hidden, scale: 1.7, ...(adds && { adds }) },
      }),
    ),
  );
  const data = { rows: tokens.length, logitRows: 1, tokens: tokens.map((_, index) => index + 1) };
  runOps(scratch, ops, data);
  const values = await scratch.read(hidden, tokens.length * weight.columns, "f32");
  scratch.destroy();
  return values;
}

export const cases: Case[] = [
  ...QUANT_REFERENCES.flatMap((reference) =>
    inEverySetting(`kernel/embed/${reference.name}`, (env, setting) =>
      checkEmbedding(env, setting, reference.name),
    ),
  ),
  ...["F32", "Q8_0"].flatMap((type) =>
    (["positions", "first"] as const).flatMap((adds) =>
      inEverySetting(`kernel/embed/${adds} ${type}`, (env, setting) => checkAdded(env, setting, type, adds)),
    ),
  ),
];
