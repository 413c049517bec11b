/**
 * The causal depthwise convolution of recurrent mixers (shaders/conv.wgsl), which is not a mixer itself: LFM2's gated
 * short convolution, or the convolution with silu in front of Mamba-2 and the gated delta rule.
 */
import code from "../../../shaders/conv.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import { need } from "../arch/need.ts";
import { largestFinite } from "../op/kernel-parts.ts";
import type { LayerLoader } from "../tensor-loader.ts";
import type { MixerContext } from "./kind.ts";

/** f32 [channels][kernel], and a bias for each channel. */
export interface ConvWeights {
  taps: GPUBuffer;
  bias: GPUBuffer | undefined;
}

export function checkConv(kernel: number, where: string): void {
  need(kernel >= 2, `${where}: a convolution over ${kernel} tokens is none`);
}

export async function loadConv(
  layer: LayerLoader,
  name: string,
  channels: number,
  kernel: number,
): Promise<ConvWeights> {
  return {
    taps: await layer.vector(name, channels * kernel),
    bias: layer.has(name, "bias") ? await layer.vector(name, channels, "bias") : undefined,
  };
}

/** The convolution with silu over some columns of the buffer `mixed`, into `convolved`. */
export function convolveOp(
  context: MixerContext,
  { taps, bias }: ConvWeights,
  sizes: Pick<ConvInput, "channels" | "kernel" | "stride" | "offset">,
): Promise<Op> {
  return convOp(context.kernels, context.types("f32"), {
    ...{ ...sizes, phase: context.phase, gated: false, taps, ...(bias && { bias }) },
    ...{ mixed: context.buffer("mixed"), ...context.state, out: context.buffer("convolved") },
  });
}

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
