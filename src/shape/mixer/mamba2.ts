/**
 * Mamba-2 as plain data, its widths and state, and what it costs. Its tensors and ops are in model/mixer/mamba2.ts.
 */
import { recurrent, type Cost, type CostUnits } from "../cost.ts";

/** Mamba-2. inner = heads * headDim channels, stateSize numbers of state for each. */
export interface MambaMixer {
  kind: "mamba2";
  heads: number;
  headDim: number;
  groups: number;
  stateSize: number;
  kernel: number;
}

/** Sizes that follow from a mixer's. */
export interface MambaSizes {
  /** Channels of z, X and the output. */
  inner: number;
  /** Channels of the convolution: X, B and C. */
  channels: number;
  /** Numbers of a row of the input matrix: z, then the channels, then dt. */
  mixed: number;
  /** Numbers of the convolution's state, which come first in a state, and of all of it. */
  convFloats: number;
  stateFloats: number;
}

export function mambaSizes({ heads, headDim, groups, stateSize, kernel }: MambaMixer): MambaSizes {
  const inner = heads * headDim;
  const channels = inner + 2 * groups * stateSize;
  const convFloats = (kernel - 1) * channels;
  const stateFloats = convFloats + inner * stateSize;
  return { inner, channels, mixed: inner + channels + heads, convFloats, stateFloats };
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
