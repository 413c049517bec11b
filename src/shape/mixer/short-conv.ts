/**
 * The gated short convolution as plain data, its state and what it costs. Its tensors and ops are in
 * model/mixer/short-conv.ts.
 */
import { recurrent, type Cost, type CostUnits } from "../cost.ts";

/** Gated short convolution (LFM2): W_out(C * conv(B * X)), over hiddenSize channels. */
export interface ShortConvMixer {
  kind: "short-conv";
  /** Tokens that the convolution sees, the current one included. */
  kernel: number;
}

/** Numbers of its state: the last kernel - 1 inputs of each channel. */
export function shortConvStateFloats({ kernel }: ShortConvMixer, hiddenSize: number): number {
  return (kernel - 1) * hiddenSize;
}

export function shortConvCost(
  { hiddenSize: d, stateElementBytes }: CostUnits,
  { kernel }: Pick<ShortConvMixer, "kernel">,
): Cost {
  const flops = 2 * d * 3 * d + 2 * d * d + 2 * d * kernel + 2 * d;
  return recurrent(flops, d * (kernel - 1) * stateElementBytes);
}
