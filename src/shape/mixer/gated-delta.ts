/**
 * The gated delta rule as plain data, its widths and state, and what it costs. Its tensors and ops are in
 * model/mixer/gated-delta.ts.
 */
import { recurrent, type Cost, type CostUnits } from "../cost.ts";

/** Gated delta rule: a keyDim x valueDim state for each value head. */
export interface DeltaMixer {
  kind: "gated-delta";
  keyHeads: number;
  /** A multiple of `keyHeads`. */
  valueHeads: number;
  /** At most 256. */
  keyDim: number;
  valueDim: number;
  kernel: number;
  /**
   * Key head of value head h: floor(h / (valueHeads / keyHeads)) ("blocked"), or h mod keyHeads ("interleaved", GGUF's
   * qwen35).
   */
  keyHeadOrder: "blocked" | "interleaved";
  /** b and a come from one matrix, key head by key head: [b of its value heads; a of them] (Qwen3-Next). */
  baGrouped: boolean;
}

/** Sizes that follow from a mixer's. */
export interface DeltaSizes {
  /** Channels of v, z and the output. */
  values: number;
  /** Channels of the convolution: q, k and v. */
  channels: number;
  /** Numbers of a row of the input matrices: the channels, then z, then b and a. */
  mixed: number;
  /** Numbers of the convolution's state, which come first in a state, of the matrices behind it, and of all. */
  convFloats: number;
  matrixFloats: number;
  stateFloats: number;
}

type DeltaDims = Pick<DeltaMixer, "keyHeads" | "valueHeads" | "keyDim" | "valueDim" | "kernel">;

export function deltaSizes({ keyHeads, valueHeads, keyDim, valueDim, kernel }: DeltaDims): DeltaSizes {
  const values = valueHeads * valueDim;
  const channels = 2 * keyHeads * keyDim + values;
  const convFloats = (kernel - 1) * channels;
  const matrixFloats = values * keyDim;
  const mixed = channels + values + 2 * valueHeads;
  return { values, channels, mixed, convFloats, matrixFloats, stateFloats: convFloats + matrixFloats };
}

export function deltaCost({ hiddenSize: d, stateElementBytes }: CostUnits, mixer: DeltaDims): Cost {
  const { values, channels, matrixFloats, stateFloats } = deltaSizes(mixer);
  const projections = 2 * d * (channels + values) + 2 * values * d;
  const flops = projections + 8 * matrixFloats + 2 * channels * mixer.kernel;
  return recurrent(flops, stateFloats * stateElementBytes);
}
