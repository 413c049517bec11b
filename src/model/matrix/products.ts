/**
 * The ops that read weight matrices: embedding lookup, matrix-vector product, matrix product. An op handles one buffer of
 * a matrix. It does not know which tensor plays which part in a model.
 */
import type { Kernels, KernelSource, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op, type StepShape } from "../../gpu/op.ts";
import { largestFinite } from "../op/kernel-parts.ts";
import { UNIT_COLUMNS } from "./formats.ts";
import { PANEL_ROWS, tilesPerRow } from "./panels.ts";
import type { PackedWeight, WeightPiece } from "./upload.ts";
import bounded from "../../../shaders/lib/bounded.wgsl";
import embed from "../../../shaders/embed.wgsl";
import inputDirect from "../../../shaders/lib/input-direct.wgsl";
import inputScalar from "../../../shaders/lib/input-scalar.wgsl";
import inputShared from "../../../shaders/lib/input-shared.wgsl";
import inputVec4 from "../../../shaders/lib/input-vec4.wgsl";
import matmul from "../../../shaders/matmul.wgsl";
import matmulLanes from "../../../shaders/matmul-lanes.wgsl";
import matvec from "../../../shaders/matvec.wgsl";
import experts from "../../../shaders/lib/experts.wgsl";
import rowsChosen from "../../../shaders/lib/rows-chosen.wgsl";
import rowsSorted from "../../../shaders/lib/rows-sorted.wgsl";
import rowsStep from "../../../shaders/lib/rows-step.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import unitLib from "../../../shaders/lib/format-unit.wgsl";

/** What the embedding lookup reads and writes. */
export interface EmbedOptions {
  /** [vocabulary, columns]. */
  weight: PackedWeight;
  piece: WeightPiece;
  /** u32 token ids, indexed by the `token` of the step's rows. */
  tokens: GPUBuffer;
  /**
   * What of `weight` is added to what is there: rows by the step's positions, or the first row to all. Default: rows by tokens are
   * written.
   */
  adds?: "positions" | "first";
  /** f32 [rows, columns]. */
  hidden: GPUBuffer;
  scale: number;
}

/** hidden[row, :] = scale * E[tokens[rows[row].token], :] for the ids (or, added, the positions) that lie in `piece`. */
export async function embedOp(kernels: Kernels, types: KernelTypes, options: EmbedOptions): Promise<Op> {
  const { weight, piece, tokens, hidden, scale, adds } = options;
  const source: KernelSource = {
    name: `embed ${weight.format.name}`,
    code: embed,
    libs: [stepLib, unitLib, weight.format.fragment],
  };
  const pipeline = await kernels.pipeline(source, types, {
    POSITIONS: adds === "positions" ? 1 : 0,
    FIRST: adds === "first" ? 1 : 0,
  });
  const units = Math.ceil(weight.columns / UNIT_COLUMNS);
  const words = new Uint32Array([
    weight.columns,
    tilesPerRow(weight.format, weight.columns),
    units,
    piece.firstRow,
    piece.rows,
    floatBits(scale),
  ]);
  const uniform = uniformBuffer(kernels.gpu.device, words, source.name);
  return {
    label: `embed ${weight.name}`,
    pipeline,
    group: kernels.bind(pipeline, 0, [uniform, piece.buffer, tokens, hidden]),
    grid: (step) => [Math.ceil(units / 64), step.rows, 1],
  };
}

/** What a matrix product reads and writes. */
export interface MatrixOptions {
  weight: PackedWeight;
  piece: WeightPiece;
  /** elem [rows, weight.columns]. */
  x: GPUBuffer | GPUBufferBinding;
  /** out [rows, outStride]; the product lands at outOffset of each row. */
  y: GPUBuffer;
  /** Elements between two rows of y. Default: weight.rows. */
  outStride?: number;
  /** Elements before the product in a row of y. Default: 0. */
  outOffset?: number;
  /** Factor of the product. Default: 1. */
  scale?: number;
  /** f32 [weight.rows], added after scaling. Default: none. */
  bias?: GPUBuffer;
  /** Adds to what stands in y. Default: false. */
  accumulate?: boolean;
  /** Which count of the step says how many rows x has. Default: "rows". */
  rowsFrom?: "rows" | "logitRows";
  /** W is the matrices of a layer's experts, of which each row of x has some. Default: one matrix for all. */
  experts?: ExpertChoice;
}

/** Which experts the rows of a step have: choice row * perRow + i is the i-th of a row. y has a row for each choice. */
export interface ExpertChoice {
  experts: number;
  /** Rows of one expert's matrix. */
  rows: number;
  perRow: number;
  /** Choices that read the same row of x: `perRow`, or 1 where each has a row of its own. */
  perInput: number;
  /** u32: the expert of each choice. */
  chosen: GPUBuffer;
  /** The matrix has slots for some of the experts. Default: it has all of them, in order. */
  slots?: ExpertSlotting;
  /** Needed by `matmulOp`. */
  sorted?: SortedChoice;
}

/** A matrix with slots for experts. Experts without one are left out: their rows of y stay as they are. */
export interface ExpertSlotting {
  /** Rows of a slot. */
  rows: number;
  /** u32 [experts]: the slot of each, or NO_SLOT. */
  residency: GPUBufferBinding;
}

/** Stands for the slot of an expert that has none (shaders/lib/experts.wgsl). */
export const NO_SLOT = 0xffffffff;

/** Choices by expert (model/ffn/routing.ts). */
export interface SortedChoice {
  order: GPUBuffer;
  tiles: GPUBuffer;
}

/** A matrix product for few rows (decode): y = scale * W x + bias, dequantised on the way. */
export function matvecOp(kernels: Kernels, types: KernelTypes, options: MatrixOptions): Promise<Op> {
  const way = chooseWay(kernels, options.weight.columns);
  const split = way === "real" ? MATVEC_SPLIT : 1;
  const isTiled = way === "real" || (way === "shared" && shareOf(kernels) === 8);
  const tileRows = isTiled && !options.experts ? MATVEC_TILE_ROWS : 1;
  const overrides = { SPLIT: split, TILE_ROWS: tileRows };
  return matrixOp(kernels, types, options, way, {
    name: "matvec",
    code: matvec,
    tileN: PANEL_ROWS,
    tileRows,
    overrides,
  });
}

/** A matrix product for many rows (prefill): y = scale * W x + bias, dequantised on the way. */
export function matmulOp(kernels: Kernels, types: KernelTypes, options: MatrixOptions): Promise<Op> {
  const way = chooseWay(kernels, options.weight.columns);
  return matrixOp(kernels, types, options, way, matmulKernel(way));
}

/** Invocations that share the columns of a row of weights in matvec.wgsl on a real GPU. */
const MATVEC_SPLIT = 8;
/** Rows of x that matvec.wgsl computes with one decoding of the weights; 1 where the code for 4 slows 1 down. */
const MATVEC_TILE_ROWS = 4;

/** A kernel with the tile of y that one of its workgroups computes. */
interface MatrixKernel {
  name: string;
  code: string;
  tileN: number;
  tileRows: number;
  overrides: Record<string, number>;
}

const MATMUL: MatrixKernel = { name: "matmul", code: matmul, tileN: 64, tileRows: 32, overrides: {} };
const MATMUL_LANES: MatrixKernel = {
  name: "matmul-lanes",
  code: matmulLanes,
  tileN: 32,
  tileRows: 4,
  overrides: {},
};

function matmulKernel(way: Way): MatrixKernel {
  return way === "shared" ? MATMUL_LANES : MATMUL;
}

/**
 * How activations are read. "real": as a GPU likes it. On software adapters, where a load costs far more than a
 * multiplication: "shared" among the invocations of a subgroup where there are subgroups, else "direct".
 */
type Way = "real" | "shared" | "direct";

function chooseWay(kernels: Kernels, columns: number): Way {
  const { adapter, features } = kernels.gpu;
  if (!adapter.software) return "real";
  return features.subgroups && columns % 4 === 0 ? "shared" : "direct";
}

/** Invocations that load activations together: 8 where every subgroup has as many, else 4, the least there is. */
function shareOf(kernels: Kernels): 8 | 4 {
  return kernels.gpu.device.adapterInfo.subgroupMinSize >= 8 ? 8 : 4;
}

async function matrixOp(
  kernels: Kernels,
  types: KernelTypes,
  options: MatrixOptions,
  way: Way,
  kernel: MatrixKernel,
): Promise<Op> {
  const { weight, piece, x, y, bias } = options;
  const rows = rowsOf(options);
  const { format, columns } = weight;
  const { device } = kernels.gpu;
  const source: KernelSource = {
    name: `${kernel.name} ${format.name}`,
    code: kernel.code + (rows.bindings ?? ""),
    libs: [
      stepLib,
      bounded,
      unitLib,
      format.fragment,
      columns % 4 === 0 ? inputVec4 : inputScalar,
      way === "shared" ? inputShared : inputDirect,
      rows.lib,
    ],
    subgroups: way === "shared",
  };
  const pipeline = await kernels.pipeline(source, types, {
    ...kernel.overrides,
    ...(way === "shared" ? { SHARE: shareOf(kernels) } : {}),
    HAS_BIAS: bias ? 1 : 0,
    ACCUMULATE: options.accumulate ? 1 : 0,
    ...rows.overrides,
    LIMIT: largestFinite(types.out),
  });
  const uniform = uniformBuffer(device, matrixWords(options), source.name);
  return {
    label: `${kernel.name} ${weight.name}`,
    pipeline,
    group: kernels.bind(pipeline, 0, [uniform, piece.buffer, x, y, bias ?? x, ...rows.buffers]),
    grid: (step) => [Math.ceil(rows.weights / kernel.tileN), rows.tiles(step, kernel.tileRows), 1],
  };
}

/** Which rows a product takes: the fragment, what stands behind the kernel, and how many there are. */
interface Rows {
  lib: string;
  bindings?: string;
  overrides: Record<string, number>;
  buffers: readonly (GPUBuffer | GPUBufferBinding)[];
  /** Rows of weights. */
  weights: number;
  /** Tiles of `height` rows of x, at most. */
  tiles(step: StepShape, height: number): number;
}

function rowsOf({ piece, rowsFrom, experts: choice }: MatrixOptions): Rows {
  if (choice) return choice.sorted ? sortedRows(choice, choice.sorted) : chosenRows(choice);
  const isLogits = rowsFrom === "logitRows";
  return {
    ...{ lib: rowsStep, buffers: [], weights: piece.rows },
    overrides: { LOGIT_ROWS: isLogits ? 1 : 0 },
    tiles: (step, height) => Math.ceil((isLogits ? step.logitRows : step.rows) / height),
  };
}

function chosenRows(choice: ExpertChoice): Rows {
  return {
    ...{ lib: experts, bindings: rowsChosen, buffers: [residencyOf(choice), choice.chosen] },
    ...{ weights: choice.rows, overrides: expertOverrides(choice) },
    tiles: (step) => step.rows * choice.perRow,
  };
}

function sortedRows(choice: ExpertChoice, { order, tiles }: SortedChoice): Rows {
  return {
    ...{ lib: experts, bindings: rowsSorted, buffers: [residencyOf(choice), order, tiles] },
    ...{ weights: choice.rows, overrides: expertOverrides(choice) },
    tiles: (step, height) => tilesOfChoices(step.rows * choice.perRow, choice.experts, height),
  };
}

/** Something must be bound where all experts are there. */
function residencyOf({ slots, chosen }: ExpertChoice): GPUBufferBinding {
  return slots?.residency ?? { buffer: chosen };
}

function expertOverrides({ rows, perInput, slots }: ExpertChoice): Record<string, number> {
  return {
    ...{ EXPERT_ROWS: rows, PER_INPUT: perInput },
    ...(slots && { SLOTTED: 1, SLOT_ROWS: slots.rows }),
  };
}

/** Tiles of at most `height` choices of one expert, when no expert has fewer tiles than its choices need. */
function tilesOfChoices(choices: number, experts: number, height: number): number {
  const inUse = Math.min(choices, experts);
  return inUse + Math.floor((choices - inUse) / height);
}

/** Rows of x in a tile of `matmulOp`, for a matrix of so many columns. */
export function matmulTileRows(kernels: Kernels, columns: number): number {
  return matmulKernel(chooseWay(kernels, columns)).tileRows;
}

function matrixWords(options: MatrixOptions): Uint32Array<ArrayBuffer> {
  const { weight, piece } = options;
  return new Uint32Array([
    weight.columns,
    tilesPerRow(weight.format, weight.columns),
    Math.ceil(weight.columns / UNIT_COLUMNS),
    piece.firstRow,
    piece.rows,
    options.outStride ?? weight.rows,
    (options.outOffset ?? 0) + (options.experts ? 0 : piece.firstRow),
    floatBits(options.scale ?? 1),
    UNIT_COLUMNS / 4,
  ]);
}

function floatBits(value: number): number {
  return new Uint32Array(new Float32Array([value]).buffer)[0] as number;
}
