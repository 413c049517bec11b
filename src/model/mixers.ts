/**
 * A layer's mixer -> its ops, by kind: projection in, what mixes over positions, projection out. The kernels are in the
 * files of each kind; where the bytes of KV and states lie is given by the pools.
 */
import type { Elem, KernelTypes } from "../gpu/kernel.ts";
import type { Op } from "../gpu/op.ts";
import { TidepoolError } from "../errors.ts";
import { attentionOps, kvWriteOp } from "./attention.ts";
import { convOp } from "./conv.ts";
import { ropeOp } from "./rope.ts";
import { convChannels, type AttentionMixer, type RecurrentMixer } from "./shape.ts";
import type { AttentionWeights, MixerWeights, Projection } from "./weights.ts";
import {
  innerWidth,
  mixedWidth,
  qkvWidth,
  type Phase,
  type ProgramInput,
  type Workspace,
} from "./workspace.ts";

export type RecurrentWeights = Exclude<MixerWeights, AttentionWeights>;

export interface MixerContext {
  input: ProgramInput;
  space: Workspace;
  phase: Phase;
  /** Whether the output is added to what stands in `delta` (mixers in parallel). */
  accumulate: boolean;
  /** Ops of a matrix product x -> y, with y's stride in elements and its type. */
  project(
    projection: Projection,
    x: GPUBuffer,
    y: GPUBuffer,
    outStride: number,
    out: Elem,
    accumulate?: boolean,
  ): Promise<Op[]>;
}

/** @param kvLayer the mixer's layer in the KV pool */
export async function attentionMixerOps(
  context: MixerContext,
  kvLayer: number,
  mixer: AttentionMixer,
  weights: AttentionWeights,
): Promise<Op[]> {
  const { attended } = context.space;
  return [
    ...(await queryKeyValueOps(context, mixer, weights)),
    ...(await rotateOps(context, mixer, weights)),
    ...(await attendOps(context, kvLayer, mixer)),
    ...(await outputOps(context, weights.output, attended)),
  ];
}

async function queryKeyValueOps(
  context: MixerContext,
  mixer: AttentionMixer,
  weights: AttentionWeights,
): Promise<Op[]> {
  const { space, input } = context;
  const width = qkvWidth(mixer);
  const { queryGate } = weights;
  if (queryGate) throw new TidepoolError("unsupported", "gated attention does not run yet");
  return context.project(weights.qkv, space.normed, space.qkv, width, input.dtype);
}

async function rotateOps(
  { input, space }: MixerContext,
  mixer: AttentionMixer,
  { qNorm, kNorm }: AttentionWeights,
): Promise<Op[]> {
  const { kernels, shape } = input;
  const { heads, kvHeads, headDim, ropeTable } = mixer;
  if (ropeTable === undefined && !qNorm) return [];
  const rope = await ropeOp(kernels, typesOf(input), {
    ...{ qkv: space.qkv, heads, kvHeads, headDim },
    rot: ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0),
    interleaved: shape.ropeLayout === "interleaved",
    table: ropeTable ?? 0,
    ...(qNorm && kNorm && { norm: { qWeight: qNorm, kWeight: kNorm, eps: shape.normEps } }),
  });
  return [rope];
}

async function attendOps(
  { input, space, phase }: MixerContext,
  kvLayer: number,
  mixer: AttentionMixer,
): Promise<Op[]> {
  const { kernels, pool, step } = input;
  const { heads, kvHeads, headDim, scale, softCap, window } = mixer;
  const shared = {
    ...{ heads, kvHeads, headDim, blockTokens: pool.options.blockTokens, qkv: space.qkv },
    keys: pool.keys[kvLayer] as GPUBuffer,
    values: pool.values[kvLayer] as GPUBuffer,
  };
  const attention = await attentionOps(kernels, typesOf(input), {
    ...shared,
    ...{ out: space.attended, scratch: space.scratch, phase, scale, cap: softCap, window },
    maxContext: step.limits.maxContext,
  });
  return [await kvWriteOp(kernels, typesOf(input), shared), ...attention];
}

/** @param stateLayer the mixer's layer in the state pool */
export async function recurrentMixerOps(
  context: MixerContext,
  stateLayer: number,
  mixer: RecurrentMixer,
  weights: RecurrentWeights,
): Promise<Op[]> {
  const { space, input } = context;
  const stride = mixedWidth(mixer, input.shape.hiddenSize);
  return [
    ...(await context.project(weights.input, space.normed, space.mixed, stride, "f32")),
    await convolveOp(context, stateLayer, mixer, weights),
    ...(await outputOps(context, weights.output, space.attended)),
  ];
}

function convolveOp(
  { input, space, phase }: MixerContext,
  stateLayer: number,
  mixer: RecurrentMixer,
  { conv }: RecurrentWeights,
): Promise<Op> {
  const { kernels, dtype, shape } = input;
  const gated = mixer.kind === "short-conv";
  const d = shape.hiddenSize;
  return convOp(kernels, typesOf(input, gated ? dtype : "f32"), {
    ...{ phase, gated, taps: conv.taps, ...(conv.bias && { bias: conv.bias }) },
    channels: convChannels(mixer, d),
    kernel: mixer.kernel,
    mixed: space.mixed,
    stride: mixedWidth(mixer, d),
    offset: mixer.kind === "mamba2" ? innerWidth(mixer, d) : 0,
    ...stateOf(input, stateLayer),
    out: gated ? space.attended : space.convolved,
  });
}

function stateOf({ states }: ProgramInput, stateLayer: number): { state: GPUBuffer; stateStride: number } {
  return {
    state: states.buffers[stateLayer] as GPUBuffer,
    stateStride: states.layers[stateLayer]?.floats ?? 0,
  };
}

function outputOps(context: MixerContext, output: Projection, x: GPUBuffer): Promise<Op[]> {
  const { input, space, accumulate } = context;
  return context.project(output, x, space.delta, input.shape.hiddenSize, "f32", accumulate);
}

function typesOf({ dtype, kvDtype }: ProgramInput, out: Elem = "f32"): KernelTypes {
  return { elem: dtype, kv: kvDtype, out };
}
