/**
 * The causal depthwise convolution of recurrent layers (shaders/conv.wgsl) as an op: LFM2's gated short convolution, or
 * the convolution with silu in front of Mamba-2 and the gated delta rule.
 */
import code from "../../../shaders/conv.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import { largestFinite } from "../kernel-parts.ts";

export interface ConvInput {
  label?: string;
  phase: "prefill" | "decode";
  channels: number;
  /** Tokens that the convolution sees, the current one included; at least 2. */
  kernel: number;
  /** f32 [rows, stride]. Gated: B, C and X from `offset` on, `channels` each. */
  mixed: GPUBuffer;
  stride: number;
  offset: number;
  /** true: C * conv(B * X). false: silu(conv(x) + bias). */
  gated: boolean;
  /** f32 [channels][kernel]. */
  taps: GPUBuffer;
  /** f32 [channels]. */
  bias?: GPUBuffer;
  /** f32 [slots][stateStride]: the last kernel - 1 inputs of each channel come first in a slot. */
  state: GPUBuffer;
  stateStride: number;
  /** out_t [rows, channels]. */
  out: GPUBuffer;
}

const WORKGROUP = 64;

export async function convOp(kernels: Kernels, types: KernelTypes, input: ConvInput): Promise<Op> {
  const { channels, kernel, mixed, taps, bias, state, out, phase } = input;
  assert(kernel >= 2, `a convolution over ${kernel} tokens keeps no state`);
  const pipeline = await kernels.pipeline({ name: "conv", code, libs: [stepLib, bounded] }, types, {
    WG: WORKGROUP,
    CHANNELS: channels,
    KERNEL: kernel,
    STRIDE: input.stride,
    OFFSET: input.offset,
    STATE_STRIDE: input.stateStride,
    GATED: input.gated ? 1 : 0,
    BIAS: bias ? 1 : 0,
    DECODE: phase === "decode" ? 1 : 0,
    LIMIT: largestFinite(types.out),
  });
  const width = Math.ceil(channels / WORKGROUP);
  return {
    label: input.label ?? "conv",
    pipeline,
    group: kernels.bind(pipeline, 0, [mixed, taps, bias ?? taps, state, out]),
    grid: (step) => [width, step.rows, 1],
  };
}
