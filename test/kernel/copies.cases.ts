/**
 * Low-bit copies of experts: how far they are from the weights, over several pieces and formats, with rows that do not fill a
 * tile; and which choices are marked as unimportant.
 */
import { assert, Random } from "../../src/base.ts";
import { CommandRecorder } from "../../src/gpu/recorder.ts";
import type { TensorInfo } from "../../src/load/model-file.ts";
import { ExpertCopies } from "../../src/model/experts/copies.ts";
import { COPY_FORMAT, slotRows, type ExpertPlan } from "../../src/model/experts/plan.ts";
import { unimportantOp } from "../../src/model/ffn/routing.ts";
import { formatOf } from "../../src/model/matrix/formats.ts";
import { PANEL_ROWS, panelBytes, tilesPerRow } from "../../src/model/matrix/panels.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { Scratch, lumpyRows, runOps, kernelsOf, smallBindings } from "../support/matrix-run.ts";
import { dequantise, quantReference, randomBlocks } from "../support/quants.ts";
import { testSeed } from "../support/seed.ts";

const EXPERTS = 3;
const F32 = { elem: "f32", kv: "f32", out: "f32" } as const;

/** Rows of a matrix as they would stand in a file of Q2_K, from panels. */
function unpacked(panels: Uint8Array, rows: number, columns: number): Uint8Array {
  const { blockBytes, wordOffsets } = COPY_FORMAT;
  const tiles = tilesPerRow(COPY_FORMAT, columns);
  const [from, to] = [new DataView(panels.buffer), new DataView(new ArrayBuffer(rows * tiles * blockBytes))];
  for (let row = 0; row < rows; row++)
    for (let tile = 0; tile < tiles; tile++)
      for (const [index, offset] of wordOffsets.entries()) {
        const lane = row % PANEL_ROWS;
        const isOdd = index >= (wordOffsets.length & ~3);
        const place = isOdd
          ? index * PANEL_ROWS + lane
          : ((index >> 2) * PANEL_ROWS + lane) * 4 + (index & 3);
        const at = (Math.floor(row / PANEL_ROWS) * tiles + tile) * PANEL_ROWS * blockBytes + 4 * place;
        to.setUint32((row * tiles + tile) * blockBytes + offset, from.getUint32(at, true), true);
      }
  return new Uint8Array(to.buffer);
}

/** Bytes of a matrix's experts in pieces of odd sizes. */
async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 4099) yield await Promise.resolve(bytes.subarray(at, at + 4099));
}

function weightsOf(type: string, count: number, columns: number, random: Random): Uint8Array {
  if (type === "F32")
    return new Uint8Array(Float32Array.from(lumpyRows(count, columns, random, "f32")).buffer);
  const reference = quantReference(type);
  return randomBlocks(reference, (columns / reference.blockLen) * count, random);
}

/** The mean error of a group of 16 is at most that of its range in four levels, plus what 4 bits of scale and minimum lose. */
function checkRow(name: string, values: Float64Array, copies: Float64Array): void {
  for (let tile = 0; tile < values.length; tile += 256) {
    const groups = Array.from({ length: Math.min(256, values.length - tile) / 16 }, (_, g) => tile + 16 * g);
    const ranges = groups.map((at) => {
      const group = values.subarray(at, at + 16);
      const low = Math.min(0, ...group);
      return { low, scale: (Math.max(low, ...group) - low) / 3 };
    });
    const largest = Math.max(...ranges.map(({ scale }) => scale));
    const lowest = Math.max(...ranges.map(({ low }) => -low));
    for (const [g, at] of groups.entries()) {
      const squares = values
        .subarray(at, at + 16)
        .reduce((sum, x, i) => sum + (x - (copies[at + i] as number)) ** 2, 0);
      const bound = 0.5 * (ranges[g] as { scale: number }).scale + 0.12 * largest + lowest / 28 + 2 ** -20;
      const error = Math.sqrt(squares / 16);
      assert(error <= bound, `${name}, group at ${at}: error ${error}, bound ${bound}`);
    }
  }
}

async function checkCopies({ gpu }: CaseEnv, type: string): Promise<void> {
  const random = new Random(testSeed(`copies ${type}`));
  const [rows, columns] = type === "F32" ? [24, 320] : [32, 512];
  const bytes = weightsOf(type, EXPERTS * rows, columns, random);
  const values = dequantise(quantReference(type), bytes);
  const tensor: TensorInfo = {
    ...{
      name: "experts",
      type,
      shape: [columns, rows, EXPERTS],
      offset: 0,
      sizeBytes: bytes.length,
      shard: 0,
    },
  };
  const matrix = { name: "ffn_up", rows, columns, format: formatOf(type, "experts"), tensors: [tensor] };
  const plan: ExpertPlan = {
    ...{
      experts: EXPERTS,
      chosen: 1,
      layers: [{ index: 0, matrices: [matrix] }],
      classes: [],
      bytes: 0,
      copyBytes: 0,
    },
  };
  const panels = (slotRows(matrix) / PANEL_ROWS) * panelBytes(COPY_FORMAT, columns);
  const device = smallBindings(gpu.device, 2 * panels);
  const copies = new ExpertCopies(kernelsOf({ ...gpu, device }, {}), plan);
  await copies.make(0, 0, [inPieces(bytes)]);
  await copies.finish();
  const { weight } = copies.of(0, 0);
  assert(weight.pieces.length === 2, `${weight.pieces.length} pieces`);
  const recorder = new CommandRecorder(gpu);
  const read = await recorder.read(weight.pieces.map(({ buffer }) => ({ buffer, bytes: buffer.size })));
  const all = new Uint8Array(read.flatMap((part) => [...new Uint8Array(part)]));
  let [error, size] = [0, 0];
  const padded = 256 * tilesPerRow(COPY_FORMAT, columns);
  for (let expert = 0; expert < EXPERTS; expert++) {
    const own = all.slice(expert * panels, (expert + 1) * panels);
    const found = dequantise(quantReference("Q2_K"), unpacked(own, rows, columns));
    for (let row = 0; row < rows; row++) {
      const wanted = values.subarray((expert * rows + row) * columns, (expert * rows + row + 1) * columns);
      const copied = found.subarray(row * padded, row * padded + columns);
      checkRow(`${type}, expert ${expert}, row ${row}`, wanted, copied);
      wanted.forEach((x, i) => {
        error += (x - (copied[i] as number)) ** 2;
        size += x * x;
      });
    }
  }
  const share = error / size;
  assert(share > 0.01 && share < 0.14, `squared error ${share} of the squared weights`);
  assert(Math.abs(copies.error - share) < 1e-5 * share, `said to be ${copies.error}, is ${share}`);
  copies.destroy();
  recorder.destroy();
}

async function checkUnimportant({ gpu }: CaseEnv): Promise<void> {
  const random = new Random(testSeed("unimportant"));
  const [rows, perRow, experts, above] = [33, 6, 40, 0.6];
  const scratch = new Scratch(gpu);
  const weights = Float32Array.from({ length: rows * perRow }, () => Math.abs(random.normal()));
  weights.set([0.3, 0.3, 0.3, 0.3, 0.3, 0.3]); // equals: the earlier ones come first
  weights[perRow + 2] = NaN;
  const chosen = Uint32Array.from(weights, () => random.below(experts));
  const unimportant = scratch.empty(4 * chosen.length);
  const op = await unimportantOp(kernelsOf(gpu, {}), F32, {
    ...{ experts, perRow, above, unimportant },
    ...{ chosen: scratch.words(chosen), weights: scratch.floats(weights, "f32") },
  });
  runOps(scratch, [op], { rows, logitRows: 1 });
  const read = await scratch.read(unimportant, chosen.length, "f32");
  const found = new Uint32Array(new Float32Array(read).buffer);
  for (let row = 0; row < rows; row++) {
    const own = [...weights.subarray(row * perRow, (row + 1) * perRow)];
    const all = own.reduce((sum, weight) => sum + weight, 0);
    const order = own.map((_, i) => i).sort((a, b) => (own[b] as number) - (own[a] as number) || a - b);
    let before = 0;
    for (const i of order) {
      const expected = before > above * all ? chosen[row * perRow + i] : experts;
      const isClose = Math.abs(before - above * all) < 1e-5;
      const actual = found[row * perRow + i];
      assert(isClose || actual === expected, `row ${row}, choice ${i}: ${actual}, expected ${expected}`);
      before += own[i] as number;
    }
  }
  scratch.destroy();
}

export const cases: Case[] = [
  ...["F32", "Q6_K"].map((type) => ({
    name: `kernel/copies/low-bit copies of ${type}`,
    run: (env: CaseEnv) => checkCopies(env, type),
  })),
  { name: "kernel/copies/unimportant choices", run: checkUnimportant },
];
