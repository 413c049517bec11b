/**
 * A layer's mixer -> its ops, by kind: projection in, what mixes over positions, projection out. The kernels are in the
 * files of each kind; where the bytes of KV and states lie is given by the pools.
 */
import type { Elem, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import { attentionOps, kvWriteOp } from "./attention.ts";
import { convOp } from "./short-conv.ts";
import { deltaOps } from "./gated-delta.ts";
import { gateOp, splitQGateOp } from "./output-gate.ts";
import { mambaOps } from "./mamba2.ts";
import { ropeOp } from "../rope.ts";
import {
  convChannels,
  convStateFloats,
  type AttentionMixer,
  type DeltaMixer,
  type MambaMixer,
  type RecurrentMixer,
} from "../../shape/shape.ts";
import type { AttentionWeights, DeltaWeights, MambaWeights, MixerWeights, Projection } from "../weights.ts";
import {
  innerWidth,
  mixedWidth,
  qkvWidth,
  type Phase,
  type ProgramInput,
  type Workspace,
} from "../workspace.ts";

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
    ...(weights.queryGate ? [await outputGateOp(context, mixer)] : []),
    ...(await outputOps(context, weights.output, attended)),
  ];
}

async function queryKeyValueOps(
  context: MixerContext,
  mixer: AttentionMixer,
  weights: AttentionWeights,
): Promise<Op[]> {
  const { space, input } = context;
  const { heads, kvHeads, headDim } = mixer;
  const width = qkvWidth(mixer);
  const { queryGate } = weights;
  if (!queryGate) return context.project(weights.qkv, space.normed, space.qkv, width, input.dtype);
  const keysAndValues = weights.qkv.map((part) => ({ ...part, outOffset: part.outOffset + heads * headDim }));
  const split = { heads, kvHeads, headDim, qg: space.queryGate, qkv: space.qkv };
  return [
    ...(await context.project(queryGate, space.normed, space.queryGate, 2 * heads * headDim, input.dtype)),
    ...(await context.project(keysAndValues, space.normed, space.qkv, width, input.dtype)),
    await splitQGateOp(input.kernels, typesOf(input), split),
  ];
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
    ...{ heads, kvHeads, headDim, blockTokens: step.limits.blockTokens, qkv: space.qkv },
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

function outputGateOp({ input, space }: MixerContext, { heads, headDim }: AttentionMixer): Promise<Op> {
  // A row is [q; gate] head by head (queryKeyValueOps).
  return gateOp(input.kernels, typesOf(input), {
    ...{ heads, headDim, attended: space.attended, gate: space.queryGate },
    ...{ gateStride: 2 * heads * headDim, gateOffset: headDim, gatePerHead: 2 * headDim },
  });
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
    ...(await recurOps(context, stateLayer, mixer, weights)),
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

async function recurOps(
  context: MixerContext,
  stateLayer: number,
  mixer: RecurrentMixer,
  weights: RecurrentWeights,
): Promise<Op[]> {
  if (mixer.kind === "mamba2") return mambaMixerOps(context, stateLayer, mixer, weights as MambaWeights);
  if (mixer.kind === "gated-delta") return deltaMixerOps(context, stateLayer, mixer, weights as DeltaWeights);
  return [];
}

function mambaMixerOps(
  context: MixerContext,
  stateLayer: number,
  mixer: MambaMixer,
  { dtBias, a, d, norm }: MambaWeights,
): Promise<Op[]> {
  const { input } = context;
  return mambaOps(input.kernels, typesOf(input), {
    ...{ ...mixer, dtBias, a, d, ...(norm && { norm }), eps: input.shape.normEps },
    ...between(context, stateLayer, mixer),
  });
}

function deltaMixerOps(
  context: MixerContext,
  stateLayer: number,
  mixer: DeltaMixer,
  { dtBias, a, norm }: DeltaWeights,
): Promise<Op[]> {
  const { input } = context;
  const d = input.shape.hiddenSize;
  const zOffset = convChannels(mixer, d);
  const bOffset = zOffset + innerWidth(mixer, d);
  return deltaOps(input.kernels, typesOf(input), {
    ...{ ...mixer, dtBias, a, norm, eps: input.shape.normEps, zOffset, bOffset },
    aOffset: mixer.baGrouped ? bOffset : bOffset + mixer.valueHeads,
    mixedStride: mixedWidth(mixer, d),
    ...between(context, stateLayer, mixer),
  });
}

/** The buffers that a recurrence reads and writes. */
function between({ input, space, phase }: MixerContext, stateLayer: number, mixer: RecurrentMixer) {
  return {
    ...{ phase, mixed: space.mixed, convolved: space.convolved, y: space.recurred, out: space.attended },
    ...{ scratch: space.scratch, stateOffset: convStateFloats(mixer, input.shape.hiddenSize) },
    ...stateOf(input, stateLayer),
  };
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
