/**
 * What a program is built from, and the buffers between its ops: shared by all layers and both phases, as large as the
 * widest layer needs.
 */
import type { Elem, Kernels } from "../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE } from "../gpu/op.ts";
import type { KvPool } from "../gpu/pool.ts";
import type { StatePool } from "../gpu/state-pool.ts";
import { scratchBytes } from "./attention.ts";
import { deltaScratchBytes } from "./delta.ts";
import { mambaScratchBytes } from "./mamba.ts";
import { convChannels, mixersOf, type Mixer, type ModelShape, type RecurrentMixer } from "./shape.ts";
import type { StepData } from "./step.ts";
import type { Weights } from "./weights.ts";

/** Prefill: many rows of one sequence. Decode: one row of each of several sequences. */
export type Phase = "prefill" | "decode";

export interface ProgramInput {
  kernels: Kernels;
  shape: ModelShape;
  weights: Weights;
  pool: KvPool;
  /** The state pool; without layers in models that have no recurrent ones. */
  states: StatePool;
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
}

export function makeWorkspace({ kernels, shape, dtype, step, logitRows }: ProgramInput): Workspace {
  const { device } = kernels.gpu;
  const { maxRows, seats, maxContext } = step.limits;
  const elem = dtype === "f16" ? 2 : 4;
  const d = shape.hiddenSize;
  const mixers = mixersOf(shape);
  const widest = (width: (mixer: Mixer) => number) => Math.max(0, ...mixers.map(width));
  const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
  const make = (label: string, bytes: number) =>
    device.createBuffer({ label, size: Math.max(16, Math.ceil(bytes / 16) * 16), usage });
  const rows = (label: string, width: number, bytes = elem) => make(label, maxRows * width * bytes);
  const ffn = Math.max(0, ...shape.layers.map((layer) => layer.ffn?.width ?? 0));
  return {
    hidden: rows("hidden", d, 4),
    normed: rows("normed", d),
    qkv: rows("qkv", widest(qkvWidth)),
    queryGate: rows("queries and gates", widest(queryGateWidth)),
    attended: rows(
      "attended",
      widest((mixer) => innerWidth(mixer, d)),
    ),
    mixed: rows(
      "mixed",
      widest((mixer) => mixedWidth(mixer, d)),
      4,
    ),
    convolved: rows(
      "convolved",
      widest((mixer) => convolvedWidth(mixer, d)),
      4,
    ),
    recurred: rows(
      "recurred",
      widest((mixer) => (isMatrixState(mixer) ? innerWidth(mixer, d) : 0)),
      4,
    ),
    delta: rows("delta", d, 4),
    gateUp: rows("gate and up", 2 * ffn),
    activated: rows("activated", ffn),
    headInput: make("head input", logitRows * d * elem),
    logits: make("logits", logitRows * shape.vocabSize * 4),
    scratch: make(
      "scratch",
      widest((mixer) => scratchOf(mixer, { maxRows, seats, maxContext })),
    ),
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
