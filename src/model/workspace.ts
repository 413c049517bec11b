/**
 * What a program is built from, and the buffers between its ops: shared by all layers and both phases, as large as the
 * widest layer needs.
 */
import type { Elem, Kernels } from "../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE } from "../gpu/op.ts";
import type { KvPoolBuffers } from "../gpu/pool.ts";
import type { StateBuffers } from "../gpu/state-pool.ts";
import { scratchBytes, SPLIT_TOKENS } from "./mixer/attention.ts";
import { deltaScratchBytes } from "./mixer/gated-delta.ts";
import { mambaScratchBytes } from "./mixer/mamba2.ts";
import { convChannels, mixersOf, type Mixer, type ModelShape, type RecurrentMixer } from "../shape/shape.ts";
import type { StepData } from "./step.ts";
import type { Weights } from "./weights.ts";

/** Prefill: many rows of one sequence. Decode: one row of each of several sequences. */
export type Phase = "prefill" | "decode";

export interface ProgramInput {
  kernels: Kernels;
  shape: ModelShape;
  weights: Weights;
  pool: Pick<KvPoolBuffers, "keys" | "values">;
  /** The state pool; without layers in models that have no recurrent ones. */
  states: StateBuffers;
  step: StepData;
  dtype: Elem;
  kvDtype: Elem;
  /** Rows whose logits are computed in one step, at most. */
  logitRows: number;
}

export interface Workspace {
  hidden: GPUBuffer;
  normed: GPUBuffer;
  /** Attention: q, k and v; and, where it is gated, queries with their gates. */
  qkv: GPUBuffer;
  queryGate: GPUBuffer;
  /** What a mixer gives to its output matrix. */
  attended: GPUBuffer;
  /** Recurrent mixers, f32: the input matrix's rows, the convolution's, the recurrence's. */
  mixed: GPUBuffer;
  convolved: GPUBuffer;
  recurred: GPUBuffer;
  delta: GPUBuffer;
  gateUp: GPUBuffer;
  activated: GPUBuffer;
  headInput: GPUBuffer;
  logits: GPUBuffer;
  scratch: GPUBuffer;
  /** Which rows of the step are not finite. */
  status: GPUBuffer;
}

/** What decides the sizes of a workspace. */
export interface WorkspaceLimits {
  dtype: Elem;
  maxRows: number;
  seats: number;
  maxContext: number;
  logitRows: number;
}

export function makeWorkspace({ kernels, shape, dtype, step, logitRows }: ProgramInput): Workspace {
  const { device } = kernels.gpu;
  const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
  const sizes = Object.entries(workspaceSizes(shape, { ...step.limits, dtype, logitRows }));
  const buffers = sizes.map(([label, size]) => [label, device.createBuffer({ label, size, usage })]);
  return Object.fromEntries(buffers) as Workspace;
}

/** Bytes of a workspace and of what lies beside it: the sampler's counts and the block tables. */
export function workspaceBytes(shape: ModelShape, limits: WorkspaceLimits & { blockTokens: number }): number {
  const { seats, maxContext, blockTokens } = limits;
  const sizes = Object.values(workspaceSizes(shape, limits)).reduce((sum, size) => sum + size, 0);
  return sizes + 4 * seats * (shape.vocabSize + Math.ceil(maxContext / blockTokens));
}

/** Positions of a sequence for which the scratch of decode attention is one binding of `bytes` at most. */
export function scratchContext(shape: ModelShape, seats: number, bytes: number): number {
  const perSplit = mixersOf(shape).map((mixer) =>
    mixer.kind === "attention" ? scratchBytes(mixer, seats, SPLIT_TOKENS) : 1,
  );
  return SPLIT_TOKENS * Math.floor(bytes / Math.max(1, ...perSplit));
}

/** Bytes of each buffer. */
function workspaceSizes(shape: ModelShape, limits: WorkspaceLimits): Record<keyof Workspace, number> {
  const { dtype, maxRows, logitRows } = limits;
  const elem = dtype === "f16" ? 2 : 4;
  const d = shape.hiddenSize;
  const mixers = mixersOf(shape);
  const widest = (width: (mixer: Mixer) => number) => Math.max(0, ...mixers.map(width));
  const ffn = Math.max(0, ...shape.layers.map((layer) => layer.ffn?.width ?? 0));
  const round = (bytes: number) => Math.max(16, Math.ceil(bytes / 16) * 16);
  const rows = (width: number, bytes = elem) => round(maxRows * width * bytes);
  return {
    hidden: rows(d, 4),
    normed: rows(d),
    qkv: rows(widest(qkvWidth)),
    queryGate: rows(widest(queryGateWidth)),
    attended: rows(widest((mixer) => innerWidth(mixer, d))),
    mixed: rows(
      widest((mixer) => mixedWidth(mixer, d)),
      4,
    ),
    convolved: rows(
      widest((mixer) => convolvedWidth(mixer, d)),
      4,
    ),
    recurred: rows(
      widest((mixer) => (isMatrixState(mixer) ? innerWidth(mixer, d) : 0)),
      4,
    ),
    delta: rows(d, 4),
    gateUp: rows(2 * ffn),
    activated: rows(ffn),
    headInput: round(logitRows * d * elem),
    logits: round(logitRows * shape.vocabSize * 4),
    scratch: round(widest((mixer) => scratchOf(mixer, limits))),
    status: round(4 * maxRows),
  };
}

/** Numbers in a row of a recurrent mixer's input matrix: everything that it reads of a token. */
export function mixedWidth(mixer: Mixer, hiddenSize: number): number {
  switch (mixer.kind) {
    case "attention":
      return 0;
    case "short-conv":
      return 3 * hiddenSize;
    case "mamba2":
      return innerWidth(mixer, hiddenSize) + convChannels(mixer, hiddenSize) + mixer.heads;
    case "gated-delta":
      return convChannels(mixer, hiddenSize) + innerWidth(mixer, hiddenSize) + 2 * mixer.valueHeads;
  }
}

/** Numbers in a row of what a mixer gives to its output matrix. */
export function innerWidth(mixer: Mixer, hiddenSize: number): number {
  switch (mixer.kind) {
    case "attention":
    case "mamba2":
      return mixer.heads * mixer.headDim;
    case "short-conv":
      return hiddenSize;
    case "gated-delta":
      return mixer.valueHeads * mixer.valueDim;
  }
}

export function qkvWidth(mixer: Mixer): number {
  return mixer.kind === "attention" ? (mixer.heads + 2 * mixer.kvHeads) * mixer.headDim : 0;
}

function queryGateWidth(mixer: Mixer): number {
  return mixer.kind === "attention" && mixer.gated ? 2 * mixer.heads * mixer.headDim : 0;
}

/** The short convolution writes straight to `attended`. */
function convolvedWidth(mixer: Mixer, hiddenSize: number): number {
  return isMatrixState(mixer) ? convChannels(mixer as RecurrentMixer, hiddenSize) : 0;
}

function isMatrixState(mixer: Mixer): boolean {
  return mixer.kind === "mamba2" || mixer.kind === "gated-delta";
}

function scratchOf(mixer: Mixer, limits: { maxRows: number; seats: number; maxContext: number }): number {
  switch (mixer.kind) {
    case "attention":
      return scratchBytes(mixer, limits.seats, limits.maxContext);
    case "short-conv":
      return 0;
    case "mamba2":
      return mambaScratchBytes(mixer, limits.maxRows);
    case "gated-delta":
      return deltaScratchBytes(mixer, limits.maxRows);
  }
}
