/**
 * The ops of a model with AltUp (Gemma 3n) in order: before its layers, around the mixers and the feed-forward of each, and
 * before the head. The ops are altup.ts's, and those of the parts their own.
 */
import type { Op } from "../../gpu/op.ts";
import {
  correctOp,
  joinOp,
  mergeOp,
  predictOp,
  startOp,
  streamRows,
  type AltUpContext,
  type AltUpLayer,
  type AltUpWeights,
} from "./altup.ts";
import { matmulOp, matvecOp } from "../matrix/products.ts";
import { normOp } from "../op/norm.ts";
import type { OpContext } from "../op/op-context.ts";

/** A layer's weights beside those of its parts. */
export interface AltUpLayerWeights {
  own: AltUpLayer;
  /** The norm before its mixers, and that behind its gate. */
  mixerNorm: GPUBuffer;
  gateNorm: GPUBuffer;
}

export interface AltUpBuffers {
  /** The streams: f32 [4][rows][hidden size]. */
  hidden: GPUBuffer;
  /** f32 [rows, hidden size]: what a part gives. */
  delta: GPUBuffer;
}

/** The ops of a layer's parts, which read `normed`, or the buffer that they are given, and write `delta`. */
export interface LayerParts {
  mixers(): Promise<Op[]>;
  ffn(): Promise<Op[]>;
  gate(input: GPUBuffer): Promise<Op[]>;
}

const F32 = { elem: "f32", kv: "f32", out: "f32" } as const;

/** Behind the embedding: the other streams. */
export async function altUpStart(
  context: OpContext,
  { hidden }: Pick<AltUpBuffers, "hidden">,
  { embed }: AltUpWeights,
): Promise<Op[]> {
  const projected = context.buffer("altUpEmbedded");
  const maker = context.phase === "prefill" ? matmulOp : matvecOp;
  const outStride = embed.length * context.shape.hiddenSize;
  const ops: Op[] = [];
  for (const [index, weight] of embed.entries()) {
    const into = { y: projected, outStride, outOffset: index * context.shape.hiddenSize };
    for (const piece of weight.pieces)
      ops.push(await maker(context.kernels, F32, { weight, piece, x: hidden, ...into }));
  }
  return [...ops, await startOp(ownContext(context, context.limits.maxRows), { projected, streams: hidden })];
}

/** A layer. @param before the layer before it, whose gate's output stands in `delta` */
export async function altUpLayer(
  context: OpContext,
  { hidden, delta }: AltUpBuffers,
  weights: AltUpLayerWeights,
  before: AltUpLayerWeights | undefined,
  parts: LayerParts,
): Promise<Op[]> {
  const { kernels, shape, dtype, normed } = context;
  const own = ownContext(context, context.limits.maxRows);
  const { router, laurelIn, laurelOut, join, correct } = weights.own;
  const [predicted, joined] = [context.buffer("altUpPredicted"), context.buffer("altUpJoined")];
  const [rank, laurel] = [context.buffer("laurelRank"), context.buffer("laurel")];
  const { hiddenSize: d, norm: kind, normEps: eps } = shape;
  const norm = { kind, hidden: predicted, weight: weights.mixerNorm, out: normed, d, eps };
  return [
    await predictOp(own, { router, gate: gateOf(before, delta), streams: hidden, predicted }),
    await normOp(kernels, context.types(), norm),
    ...(await context.project(laurelIn, normed, rank, shape.altUp?.laurelRank ?? 0, dtype)),
    ...(await context.project(laurelOut, rank, laurel, d, "f32")),
    ...(await parts.mixers()),
    await joinOp(own, { weights: join, predicted, mixed: delta, laurel, joined, normed }),
    ...(await parts.ffn()),
    await correctOp(own, { router, weights: correct, predicted, fed: delta, joined, streams: hidden }),
    ...(await parts.gate(joined)),
  ];
}

/** From the streams behind the last layer to the head's input. */
export async function altUpHead(
  context: OpContext,
  { hidden, delta, headInput, logitRows }: AltUpBuffers & { headInput: GPUBuffer; logitRows: number },
  { unembed, outputNorm }: Pick<AltUpWeights, "unembed"> & { outputNorm: GPUBuffer },
  last: AltUpLayerWeights,
  maker: typeof matvecOp,
): Promise<Op[]> {
  const d = context.shape.hiddenSize;
  const [streams, unembedded] = [context.buffer("altUpLast"), context.buffer("altUpUnembedded")];
  const own = ownContext(context, context.limits.maxRows);
  const gatherStride = streamRows(logitRows);
  const { router } = last.own;
  const ops = [
    await predictOp(own, {
      ...{ router, gate: gateOf(last, delta), streams: hidden, predicted: streams, gatherStride },
    }),
  ];
  for (const [index, weight] of unembed.entries()) {
    const size = 4 * gatherStride * d;
    const x = { buffer: streams, offset: (index + 1) * size, size };
    const into = { y: unembedded, outStride: unembed.length * d, outOffset: index * d };
    for (const piece of weight.pieces)
      ops.push(await maker(context.kernels, F32, { weight, piece, x, ...into, rowsFrom: "logitRows" }));
  }
  const behind = ownContext(context, logitRows);
  return [...ops, await mergeOp(behind, { weight: outputNorm, unembedded, streams, normed: headInput })];
}

function gateOf(layer: AltUpLayerWeights | undefined, gated: GPUBuffer) {
  return layer && { gated, weight: layer.gateNorm };
}

function ownContext(context: OpContext, rows: number): AltUpContext {
  const { kernels, shape } = context;
  return { kernels, types: context.types(), shape, stride: streamRows(rows) };
}
