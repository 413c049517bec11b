/**
 * The buffers between a program's ops: shared by all layers and both phases, as large as the widest layer needs. The
 * kind of a mixer or feed-forward names the buffers that it needs; parts that name the same buffer share it.
 */
import type { Elem, Kernels } from "../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE } from "../gpu/op.ts";
import { mixersOf, type LayerShape, type ModelShape } from "../shape/shape.ts";
import { embeddingBuffers } from "./embedding.ts";
import type { KeptBuffer, KeptBuffers } from "./experts/checkpoint.ts";
import { expertState } from "./ffn/experts.ts";
import { FEED_FORWARDS } from "./ffn/kinds.ts";
import type { BufferLimits, BufferSizes } from "./layer-part.ts";
import { MIXERS } from "./mixer/kinds.ts";
import { bufferOf, type PartBuffers } from "./op/op-context.ts";
import { altUpBuffers, STREAMS, streamRows } from "./residual/altup.ts";
import { perLayerBuffers } from "./residual/per-layer.ts";

export interface Workspace extends PartBuffers {
  /** f32 [rows, hiddenSize]: the residual stream; with AltUp the first of four. */
  hidden: GPUBuffer;
  headInput: GPUBuffer;
  logits: GPUBuffer;
  /** Which rows of the step are not finite. */
  status: GPUBuffer;
  /** All of them, those of the parts included. */
  all: readonly GPUBuffer[];
}

/** What decides the sizes of a workspace. */
export interface WorkspaceLimits {
  dtype: Elem;
  maxRows: number;
  seats: number;
  maxContext: number;
  logitRows: number;
}

export function makeWorkspace({ gpu }: Kernels, shape: ModelShape, limits: WorkspaceLimits): Workspace {
  const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
  const make = (label: string, size: number) => gpu.device.createBuffer({ label, size, usage });
  const { normed, delta, hidden, headInput, logits, status } = ownSizes(shape, limits);
  const own = {
    hidden: make("hidden", hidden),
    normed: make("normed", normed),
    delta: make("delta", delta),
    headInput: make("headInput", headInput),
    logits: make("logits", logits),
    status: make("status", status),
  };
  const sizes = Object.entries(partSizes(shape, limits));
  const parts = new Map(sizes.map(([name, size]) => [name, make(name, size)]));
  return { ...own, parts, all: [...Object.values(own), ...parts.values()] };
}

/** What is live in front of a layer's experts, by name, with the bytes of a row. Those of the choices come first. */
function liveAtExperts({ layers, hiddenSize }: ModelShape, dtype: Elem): [name: string, rowBytes: number][] {
  const parts: Record<string, number> = {};
  for (const { ffn } of layers)
    if (ffn?.kind === "experts") Object.assign(parts, expertState(ffn, hiddenSize));
  const own = { hidden: 4 * hiddenSize, delta: 4 * hiddenSize, normed: elemBytes(dtype) * hiddenSize };
  return Object.keys(parts).length > 0 ? [...Object.entries(parts), ...Object.entries(own)] : [];
}

/** Bytes of a row of all that `keptAtExperts` names; 0 in models without experts. */
export function keptRowBytes(shape: ModelShape, dtype: Elem): number {
  return liveAtExperts(shape, dtype).reduce((sum, [, rowBytes]) => sum + rowBytes, 0);
}

/** The buffers that are live in front of a layer's experts; undefined in models without some. */
export function keptAtExperts(space: Workspace, shape: ModelShape, dtype: Elem): KeptBuffers | undefined {
  const own: Record<string, GPUBuffer> = { hidden: space.hidden, delta: space.delta, normed: space.normed };
  const all = liveAtExperts(shape, dtype).map(([name, rowBytes]): KeptBuffer & { name: string } => ({
    ...{ name, rowBytes, buffer: own[name] ?? bufferOf(space, name) },
  }));
  const seen = all.find(({ name }) => name === "normed");
  const [choices, weights, unimportant, ...others] = all.filter((each) => each !== seen);
  return choices && weights && unimportant && seen && { choices, weights, unimportant, seen, others };
}

/** Bytes of a workspace and of what lies beside it: the sampler's counts and the block tables. */
export function workspaceBytes(shape: ModelShape, limits: WorkspaceLimits & { blockTokens: number }): number {
  const { seats, maxContext, blockTokens } = limits;
  const sizes = [...Object.values(ownSizes(shape, limits)), ...Object.values(partSizes(shape, limits))];
  const sum = sizes.reduce((total, size) => total + size, 0);
  return sum + 4 * seats * (shape.vocabSize + Math.ceil(maxContext / blockTokens));
}

/** Positions of a sequence for which no part's buffer has more than `bytes`. */
export function contextWithin(shape: ModelShape, seats: number, bytes: number): number {
  const most = mixersOf(shape).map((mixer) => MIXERS.of(mixer).maxContext?.(mixer, seats, bytes) ?? Infinity);
  return Math.min(Infinity, ...most);
}

/** Rows of a step for which no buffer has more than `bytes`. */
export function rowsWithin(shape: ModelShape, dtype: Elem, bytes: number): number {
  const limits = { dtype, maxRows: SAMPLE_ROWS, seats: 1, maxContext: SAMPLE_ROWS, logitRows: 0 };
  const sizes = [...Object.values(ownSizes(shape, limits)), ...Object.values(partSizes(shape, limits))];
  return Math.floor((bytes * SAMPLE_ROWS) / Math.max(...sizes));
}

/** Enough rows for a buffer's size to be a multiple of theirs. */
const SAMPLE_ROWS = 64;

/** Bytes of the buffers that every model has. */
function ownSizes(shape: ModelShape, { dtype, maxRows, logitRows }: WorkspaceLimits) {
  const { hiddenSize, vocabSize, altUp } = shape;
  return {
    hidden: bufferBytes(4 * (altUp ? STREAMS * streamRows(maxRows) : maxRows) * hiddenSize),
    normed: bufferBytes(elemBytes(dtype) * maxRows * hiddenSize),
    delta: bufferBytes(4 * maxRows * hiddenSize),
    headInput: bufferBytes(elemBytes(dtype) * logitRows * hiddenSize),
    logits: bufferBytes(4 * logitRows * vocabSize),
    status: bufferBytes(4 * maxRows),
  };
}

/** Bytes of the buffers that its parts ask for: of each name the largest. */
function partSizes(
  shape: ModelShape,
  { dtype, maxRows, seats, maxContext, logitRows }: WorkspaceLimits,
): BufferSizes {
  const { hiddenSize } = shape;
  const limits: BufferLimits = { hiddenSize, elemBytes: elemBytes(dtype), maxRows, seats, maxContext };
  const sizes: Record<string, number> = {};
  const wantedByLayers = shape.layers.flatMap((layer) => wantedBy(layer, limits));
  const own = [
    embeddingBuffers(shape, limits.elemBytes),
    perLayerBuffers(shape, maxRows),
    altUpBuffers(shape, { maxRows, logitRows, elemBytes: limits.elemBytes }),
  ];
  for (const wanted of [...wantedByLayers, ...own]) {
    for (const [name, bytes] of Object.entries(wanted))
      sizes[name] = Math.max(sizes[name] ?? 0, bufferBytes(bytes));
  }
  return sizes;
}

function wantedBy({ mixers, ffn }: LayerShape, limits: BufferLimits): BufferSizes[] {
  return [
    ...mixers.map((mixer) => MIXERS.of(mixer).buffers(mixer, limits)),
    ...(ffn ? [FEED_FORWARDS.of(ffn).buffers(ffn, limits)] : []),
  ];
}

function elemBytes(dtype: Elem): number {
  return dtype === "f16" ? 2 : 4;
}

/** Whole vec4s, and at least one. */
function bufferBytes(bytes: number): number {
  return Math.max(16, Math.ceil(bytes / 16) * 16);
}
