/**
 * Mamba-2's recurrence as ops: one row of each sequence in decode, chunks of rows in prefill, and after either the skip
 * connection, the gate and the grouped norm. Projections and the convolution before it are ops of their own.
 * Formulas: Dao and Gu, "Transformers are SSMs" (2024), section 6, with a scalar decay for each head.
 */
import chunkCode from "../../shaders/mamba-chunk.wgsl";
import decayCode from "../../shaders/mamba-decay.wgsl";
import gateCode from "../../shaders/mamba-gate.wgsl";
import scoresCode from "../../shaders/mamba-scores.wgsl";
import statesCode from "../../shaders/mamba-states.wgsl";
import stepCode from "../../shaders/mamba-step.wgsl";
import foursLib from "../../shaders/lib/mamba-fours.wgsl";
import mambaLib from "../../shaders/lib/mamba.wgsl";
import rowsLib from "../../shaders/lib/mamba-rows.wgsl";
import stepLib from "../../shaders/lib/step.wgsl";
import { assert } from "../base.ts";
import type { Kernels, KernelTypes } from "../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../gpu/op.ts";
import { largestFinite, reduceFragment } from "./kernel-parts.ts";

/** inner = heads * headDim; convWidth = inner + 2 * groups * stateSize. */
export interface MambaShape {
  /** A multiple of `groups`. */
  heads: number;
  headDim: number;
  /** Heads of a group share B and C; the norm is over each group. */
  groups: number;
  /** Entries of B and C. */
  stateSize: number;
}

export interface MambaInput extends MambaShape {
  label?: string;
  phase: "prefill" | "decode";
  /** f32 [rows, inner + convWidth + heads]: z, what the convolution reads, dt. */
  mixed: GPUBuffer;
  /** f32 [rows, convWidth]: X, B and C after convolution, bias and silu. */
  convolved: GPUBuffer;
  /** f32 [slots][stateStride]: a slot holds the matrices [heads][stateSize][headDim] from `stateOffset` on. */
  state: GPUBuffer;
  /** Floats. */
  stateStride: number;
  /** Floats. */
  stateOffset: number;
  /** f32 [heads]. */
  dtBias: GPUBuffer;
  /** f32 [heads]: -exp(A_log). */
  a: GPUBuffer;
  /** f32 [heads]. */
  d: GPUBuffer;
  /** f32 [inner]. Absent: gated, not normed. */
  norm?: GPUBuffer;
  eps: number;
  /** f32 [rows, inner], between the ops. */
  y: GPUBuffer;
  /** elem [rows, inner]. */
  out: GPUBuffer;
  /** prefill: at least `mambaScratchBytes(...)`, shared by all layers. */
  scratch?: GPUBuffer;
}

/** Rows of a chunk of the prefill form. */
export const CHUNK_ROWS = 64;

/** Rows of one workgroup of mamba-chunk (SPAN there), and entries of B of one of mamba-states. */
const SPAN = 16;

/** The most invocations of a workgroup that own a p each. */
const MAX_LANES = 64;

const WORKGROUP = 64;

/** Floats of the matrix part of a layer's state. */
export function mambaStateSize(shape: MambaShape): number {
  return shape.heads * shape.stateSize * shape.headDim;
}

/** Bytes of the scratch buffer of prefill steps of at most `maxRows` rows. */
export function mambaScratchBytes(shape: MambaShape, maxRows: number): number {
  return Math.ceil(maxRows / CHUNK_ROWS) * recordFloats(shape) * 4;
}

/** One chunk's part of the scratch, as shaders/lib/mamba.wgsl lays it out. */
function recordFloats(shape: MambaShape): number {
  const floats = shape.heads * CHUNK_ROWS * (CHUNK_ROWS + 3) + mambaStateSize(shape);
  return Math.ceil(floats / 4) * 4;
}

/** The ops from the convolution's output to the input of the output projection: five in prefill, two in decode. */
export async function mambaOps(kernels: Kernels, types: KernelTypes, input: MambaInput): Promise<Op[]> {
  checkInput(input);
  const layer: Layer = { kernels, types, input, op: opBuffer(kernels.gpu.device, input) };
  if (input.phase === "decode") return [await stepOp(layer), await gateOp(layer)];
  const { scratch } = input;
  assert(scratch, "mamba: prefill without a scratch buffer");
  return [
    await decayOp(layer, scratch),
    await scoresOp(layer, scratch),
    await statesOp(layer, scratch),
    await chunkOp(layer, scratch),
    await gateOp(layer),
  ];
}

/** What the ops of one layer share. */
interface Layer {
  kernels: Kernels;
  types: KernelTypes;
  input: MambaInput;
  op: GPUBuffer;
}

function checkInput(input: MambaInput): void {
  const { heads, headDim, groups, stateSize, stateStride, stateOffset } = input;
  for (const [name, value] of Object.entries({ heads, headDim, groups, stateSize }))
    assert(Number.isInteger(value) && value > 0, `mamba: ${name} is ${value}, not a positive integer`);
  assert(heads % groups === 0, `mamba: ${heads} heads do not fall into ${groups} groups`);
  const end = stateOffset + mambaStateSize(input);
  assert(end <= stateStride, `mamba: the state ends at float ${end}, past its slot of ${stateStride}`);
}

function opBuffer(device: GPUDevice, input: MambaInput): GPUBuffer {
  const { heads, headDim, groups, stateSize, stateStride, stateOffset, eps } = input;
  const inner = heads * headDim;
  const convWidth = inner + 2 * groups * stateSize;
  const mixedStride = inner + convWidth + heads;
  const sizes = [heads, headDim, groups, stateSize, mixedStride, convWidth, stateStride, stateOffset];
  const words = new Uint32Array([...sizes, recordFloats(input), 0]);
  new Float32Array(words.buffer)[words.length - 1] = eps;
  return uniformBuffer(device, words, "mamba op");
}

/** Invocations that own a p each: a power of two from 8 on. */
function lanes(headDim: number): number {
  return Math.min(MAX_LANES, 2 ** Math.max(3, Math.ceil(Math.log2(headDim))));
}

/** Workgroups for all heads, `lanes` entries p in each. */
function headTiles({ heads, headDim }: MambaShape): number {
  return heads * Math.ceil(headDim / lanes(headDim));
}

/** Whether B and C can be read in fours. */
function aligned({ heads, headDim, stateSize }: MambaShape): number {
  return (heads * headDim) % 4 === 0 && stateSize % 4 === 0 ? 1 : 0;
}

function chunks(rows: number): number {
  return Math.ceil(rows / CHUNK_ROWS);
}

async function decayOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-decay", code: decayCode, libs: [stepLib, mambaLib] };
  const pipeline = await kernels.pipeline(source, types, { WG: WORKGROUP, CHUNK: CHUNK_ROWS });
  const width = Math.ceil(input.heads / WORKGROUP);
  return {
    label: `${input.label ?? "mamba"} decay`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, input.mixed, input.dtBias, input.a, scratch]),
    grid: (step) => [width, chunks(step.rows), 1],
  };
}

const ROWS_LIBS = [stepLib, mambaLib, rowsLib, foursLib];

async function scoresOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-scores", code: scoresCode, libs: ROWS_LIBS };
  const pipeline = await kernels.pipeline(source, types, { CHUNK: CHUNK_ROWS, ALIGNED: aligned(input) });
  const { convolved, groups } = input;
  return {
    label: `${input.label ?? "mamba"} scores`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, scratch]),
    grid: (step) => [CHUNK_ROWS / 4, chunks(step.rows), groups],
  };
}

async function statesOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-states", code: statesCode, libs: ROWS_LIBS };
  const pipeline = await kernels.pipeline(source, types, {
    WG: lanes(input.headDim),
    CHUNK: CHUNK_ROWS,
    ALIGNED: aligned(input),
  });
  const { convolved, state } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} states`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, scratch, state]),
    grid: () => [tiles, Math.ceil(input.stateSize / SPAN), 1],
  };
}

async function chunkOp({ kernels, types, input, op }: Layer, scratch: GPUBuffer): Promise<Op> {
  const source = { name: "mamba-chunk", code: chunkCode, libs: ROWS_LIBS };
  const pipeline = await kernels.pipeline(source, types, {
    WG: lanes(input.headDim),
    CHUNK: CHUNK_ROWS,
    ALIGNED: aligned(input),
  });
  const { convolved, y } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} chunk`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, convolved, scratch, scratch, y]),
    grid: (step) => [tiles, Math.ceil(step.rows / SPAN), 1],
  };
}

async function stepOp({ kernels, types, input, op }: Layer): Promise<Op> {
  const source = { name: "mamba-step", code: stepCode, libs: [stepLib, mambaLib, rowsLib] };
  const LANES = lanes(input.headDim);
  const WG = LANES * stepParts(kernels, input);
  const pipeline = await kernels.pipeline(source, types, { WG, LANES });
  const { mixed, convolved, state, dtBias, a, y } = input;
  const tiles = headTiles(input);
  return {
    label: `${input.label ?? "mamba"} step`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, convolved, mixed, state, dtBias, a, y]),
    grid: (step) => [tiles, step.rows, 1],
  };
}

/**
 * Invocations that share a p: a GPU needs many loads under way at once, a software adapter reads B and C cheaper where
 * all invocations of a workgroup want the same.
 */
function stepParts(kernels: Kernels, { headDim, stateSize }: MambaShape): number {
  if (kernels.gpu.adapter.software) return 1;
  let parts = 1;
  while (2 * parts * lanes(headDim) <= 256 && 8 * parts < stateSize) parts *= 2;
  return parts;
}

async function gateOp({ kernels, types, input, op }: Layer): Promise<Op> {
  const { mixed, convolved, d, norm, y, out, groups } = input;
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "mamba-gate", code: gateCode, libs: [stepLib, mambaLib, lib], subgroups };
  const pipeline = await kernels.pipeline(source, types, {
    WG: gateInvocations((input.heads * input.headDim) / groups),
    NORM: norm ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const absent = d; // stands at the binding that NORM leaves unread
  return {
    label: `${input.label ?? "mamba"} gate`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, mixed, convolved, d, norm ?? absent, y, out]),
    grid: (step) => [groups, step.rows, 1],
  };
}

/** A function of the width alone, so that a row's sums never depend on its batch. */
function gateInvocations(width: number): number {
  return width <= 256 ? 64 : width <= 1024 ? 128 : 256;
}
