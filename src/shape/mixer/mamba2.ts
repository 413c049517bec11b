/**
 * Mamba-2 as plain data, its widths and state, and what it costs. Its tensors and ops are in model/mixer/mamba2.ts.
 */
import { recurrent, type Cost, type CostUnits } from "../cost.ts";

/** Mamba-2. inner = heads * headDim channels, stateSize numbers of state for each. */
export interface MambaMixer {
  kind: "mamba2";
  /** A multiple of `groups`. */
  heads: number;
  headDim: number;
  /** Heads of a group share B and C; the norm is over each group. */
  groups: number;
  /** Entries of B and C. */
  stateSize: number;
  kernel: number;
}

/** What the widths depend on: heads and groups, and not the convolution. */
export type MambaDims = Pick<MambaMixer, "heads" | "headDim" | "groups" | "stateSize">;

/** Widths that follow from a mixer's sizes. */
export interface MambaWidths {
  /** Channels of z, X and the output. */
  inner: number;
  /** Channels of the convolution: X, B and C. */
  channels: number;
  /** Numbers of a row of the input matrix: z, then the channels, then dt. */
  mixed: number;
  /** Numbers of the matrices [heads][stateSize][headDim] of a state. */
  matrixFloats: number;
}

export function mambaWidths({ heads, headDim, groups, stateSize }: MambaDims): MambaWidths {
  const inner = heads * headDim;
  const channels = inner + 2 * groups * stateSize;
  return { inner, channels, mixed: inner + channels + heads, matrixFloats: inner * stateSize };
}

/** Numbers of the convolution's state, which come first in a state, and of all of it. */
export interface MambaState {
  convFloats: number;
  stateFloats: number;
}

export function mambaState(mixer: MambaMixer): MambaState {
  const { channels, matrixFloats } = mambaWidths(mixer);
  const convFloats = (mixer.kernel - 1) * channels;
  return { convFloats, stateFloats: convFloats + matrixFloats };
}

/** What the cost depends on. `stateElements` defaults to inner * stateSize. */
export interface MambaCostSizes extends Pick<MambaMixer, "groups" | "stateSize" | "kernel"> {
  inner: number;
  stateElements?: number;
}

export function mambaCost(
  { hiddenSize, stateElementBytes }: CostUnits,
  { inner, groups, stateSize, kernel, stateElements = inner * stateSize }: MambaCostSizes,
): Cost {
  const flops = 6 * hiddenSize * inner + 8 * inner * stateSize + 5 * inner;
  const conv = (inner + 2 * groups * stateSize) * kernel;
  return recurrent(flops, (stateElements + conv) * stateElementBytes);
}
