/**
 * AltUp and LAuReL (Gemma 3n): the residual as four streams, of which a layer reads one and corrects all, and a low-rank way
 * past attention. Here are the tensors and each op; altup-layers.ts puts them in order. What mixers and feed-forwards compute
 * is theirs. AltUp: arXiv 2301.13310; LAuReL: arXiv 2411.07501.
 */
import correctCode from "../../../shaders/altup-correct.wgsl";
import joinCode from "../../../shaders/altup-join.wgsl";
import mergeCode from "../../../shaders/altup-merge.wgsl";
import predictCode from "../../../shaders/altup-predict.wgsl";
import startCode from "../../../shaders/altup-start.wgsl";
import altUpLib from "../../../shaders/lib/altup.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { TidepoolError } from "../../errors.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import type { ModelShape } from "../../shape/shape.ts";
import { VECTOR, type TensorNames, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { PackedWeight } from "../matrix/upload.ts";
import { largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import type { LayerLoader, Projection, TensorLoader } from "../tensor-loader.ts";

/** Streams; the kernels hold a number for each in a vector. */
export const STREAMS = 4;

/** Rows between two streams of a buffer for so many rows: the start of each is then aligned as bindings must be. */
export function streamRows(rows: number): number {
  return Math.ceil(rows / 64) * 64;
}

const EMBED = "altup_proj";
const UNEMBED = "altup_unembd_proj";

/** The tensors of the whole model: stacked in GGUF, one for each stream in safetensors. */
export function altUpTensors(names: TensorNames): string[] {
  return [EMBED, UNEMBED].flatMap((name) =>
    names.model(`${name}.0`) ? Array.from({ length: STREAMS - 1 }, (_, index) => `${name}.${index}`) : [name],
  );
}

/** The norms that the ops of AltUp hold; the others are the layer's. */
const MIXER_POST = "post_attention_norm";
const FFN_NORM = "ffn_norm";
const FFN_POST = "post_ffw_norm";

export const ALTUP_LAYER: readonly TensorSpec[] = [
  ...["altup_router_norm", "altup_router", "altup_predict_coef", "altup_correct_coef"],
  ...["altup_correct_scale", "laurel_l", "laurel_r", "laurel_post_norm"],
  ...[MIXER_POST, FFN_NORM, FFN_POST],
].map((name) => [name, VECTOR, true] as const);

export interface AltUpWeights {
  /** Of streams 1 to 3, each [hidden size, hidden size]. */
  embed: readonly PackedWeight[];
  unembed: readonly PackedWeight[];
}

export interface AltUpLayer {
  /** The router, as shaders/lib/altup.wgsl has it. */
  router: GPUBuffer;
  laurelIn: Projection;
  laurelOut: Projection;
  /** The weights of `joinOp` and of `correctOp`. */
  join: GPUBuffer;
  correct: GPUBuffer;
}

export async function loadAltUp(loader: TensorLoader): Promise<AltUpWeights> {
  const { names, hiddenSize: d } = loader;
  const parts = (name: string) => {
    if (names.model(`${name}.0`))
      return Array.from({ length: STREAMS - 1 }, (_, index) =>
        names.require(names.model(`${name}.${index}`), `${name}.${index}.weight`),
      );
    const { shape, ...whole } = names.require(names.model(name), `${name}.weight`);
    const count = STREAMS - 1;
    if (shape.length !== 3 || shape[2] !== count)
      throw new TidepoolError(
        "invalid_file",
        `${whole.name} is ${shape.join(" x ")}, expected ${d} x ${d} x ${count}`,
      );
    const sizeBytes = whole.sizeBytes / count;
    return Array.from({ length: count }, (_, index) => ({
      ...{ ...whole, shape: shape.slice(0, 2), sizeBytes, offset: whole.offset + index * sizeBytes },
    }));
  };
  const load = async (name: string) => {
    const weights: PackedWeight[] = [];
    for (const part of parts(name)) weights.push(await loader.matrix(part, d, d));
    return weights;
  };
  return { embed: await load(EMBED), unembed: await load(UNEMBED) };
}

export async function loadAltUpLayer(loader: LayerLoader, rank: number): Promise<AltUpLayer> {
  const d = loader.hiddenSize;
  return {
    router: await loader.joined([
      ["altup_router_norm", d],
      ["altup_router", STREAMS * d],
      ["altup_predict_coef", STREAMS ** 3],
      ["altup_correct_coef", STREAMS ** 2],
    ]),
    laurelIn: await loader.projection(d, [["laurel_l", rank]]),
    laurelOut: await loader.projection(rank, [["laurel_r", d]]),
    join: await loader.joined([MIXER_POST, "laurel_post_norm", FFN_NORM].map((name) => [name, d])),
    correct: await loader.joined([FFN_POST, "altup_correct_scale"].map((name) => [name, d])),
  };
}

/** The buffers of these ops, and their bytes. */
export function altUpBuffers(
  { hiddenSize: d, altUp }: ModelShape,
  { maxRows, logitRows, elemBytes }: { maxRows: number; logitRows: number; elemBytes: number },
): Record<string, number> {
  if (!altUp) return {};
  const streams = (count: number, rows: number) => 4 * count * streamRows(rows) * d;
  return {
    altUpPredicted: streams(STREAMS, maxRows),
    altUpEmbedded: 4 * (STREAMS - 1) * maxRows * d,
    altUpJoined: 4 * maxRows * d,
    laurelRank: maxRows * altUp.laurelRank * elemBytes,
    laurel: 4 * maxRows * d,
    altUpLast: streams(STREAMS, logitRows),
    altUpUnembedded: 4 * (STREAMS - 1) * logitRows * d,
  };
}

/** What the ops are made from. */
export interface AltUpContext {
  kernels: Kernels;
  types: KernelTypes;
  shape: Pick<ModelShape, "hiddenSize" | "normEps">;
  /** Rows between two streams. */
  stride: number;
}

interface KernelParts {
  name: string;
  code: string;
  overrides?: Record<string, number>;
  /** Bindings behind the epsilon's. */
  bindings: readonly GPUBuffer[];
  rows?: "rows" | "logitRows";
}

/** An op of one workgroup a row. */
async function rowOp(
  { kernels, types, shape, stride }: AltUpContext,
  { name, code, overrides, bindings, rows = "rows" }: KernelParts,
): Promise<Op> {
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name, code, libs: [stepLib, bounded, lib, altUpLib], subgroups };
  const d = shape.hiddenSize;
  const sizes = { WG: d <= 1024 ? 64 : 128, D4: d / 4, STRIDE: stride };
  const pipeline = await kernels.pipeline(source, types, { ...sizes, ...overrides });
  const eps = uniformBuffer(kernels.gpu.device, new Float32Array([shape.normEps]), name);
  return {
    label: name,
    pipeline,
    group: kernels.bind(pipeline, 0, [eps, ...bindings]),
    grid: (step) => [step[rows], 1, 1],
  };
}

/** Streams 1 to 3 from what the embedding was projected to. */
export function startOp(
  context: AltUpContext,
  buffers: { projected: GPUBuffer; streams: GPUBuffer },
): Promise<Op> {
  const { projected, streams } = buffers;
  return rowOp(context, { name: "altup-start", code: startCode, bindings: [projected, streams] });
}

export interface PredictInput {
  router: GPUBuffer;
  /** What the gate of the layer before gives, and the weight of its norm. */
  gate?: { gated: GPUBuffer; weight: GPUBuffer } | undefined;
  streams: GPUBuffer;
  predicted: GPUBuffer;
  /** No prediction: the streams of the logit rows, with so many rows between them. */
  gatherStride?: number;
}

export function predictOp(context: AltUpContext, input: PredictInput): Promise<Op> {
  const { router, gate, streams, predicted, gatherStride } = input;
  const absent = router; // stands at bindings that the overrides leave unread
  return rowOp(context, {
    ...{ name: "altup-predict", code: predictCode },
    overrides: {
      HAS_GATE: gate ? 1 : 0,
      GATHER: gatherStride === undefined ? 0 : 1,
      OUT_STRIDE: gatherStride ?? context.stride,
    },
    bindings: [router, gate?.weight ?? absent, gate?.gated ?? absent, streams, predicted],
    rows: gatherStride === undefined ? "rows" : "logitRows",
  });
}

export interface JoinInput {
  weights: GPUBuffer;
  predicted: GPUBuffer;
  mixed: GPUBuffer;
  laurel: GPUBuffer;
  joined: GPUBuffer;
  normed: GPUBuffer;
}

export function joinOp(context: AltUpContext, input: JoinInput): Promise<Op> {
  const { weights, predicted, mixed, laurel, joined, normed } = input;
  return rowOp(context, {
    ...{ name: "altup-join", code: joinCode, overrides: { LIMIT: largestFinite(context.types.elem) } },
    bindings: [weights, predicted, mixed, laurel, joined, normed],
  });
}

export interface CorrectInput {
  router: GPUBuffer;
  weights: GPUBuffer;
  predicted: GPUBuffer;
  fed: GPUBuffer;
  joined: GPUBuffer;
  streams: GPUBuffer;
}

export function correctOp(context: AltUpContext, input: CorrectInput): Promise<Op> {
  const { router, weights, predicted, fed, joined, streams } = input;
  return rowOp(context, {
    ...{ name: "altup-correct", code: correctCode },
    bindings: [router, weights, predicted, fed, joined, streams],
  });
}

export interface MergeInput {
  weight: GPUBuffer;
  unembedded: GPUBuffer;
  streams: GPUBuffer;
  normed: GPUBuffer;
}

/** The streams of the logit rows become the head's input. */
export function mergeOp(context: AltUpContext, input: MergeInput): Promise<Op> {
  const { weight, unembedded, streams, normed } = input;
  return rowOp(context, {
    ...{ name: "altup-merge", code: mergeCode, overrides: { LIMIT: largestFinite(context.types.elem) } },
    bindings: [weight, unembedded, streams, normed],
    rows: "logitRows",
  });
}
