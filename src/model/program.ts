/**
 * The layer table -> programs: for each phase the ops of one step, a segment a layer (gpu/segments.ts), with the buffers between
 * them. The ops of mixers and feed-forwards come from their kinds; nothing here changes with a new one.
 */
import { assert } from "../base.ts";
import type { Kernels, KernelTypes } from "../gpu/kernel.ts";
import type { Op } from "../gpu/op.ts";
import type { KvPoolBuffers } from "../gpu/pool.ts";
import type { StateBuffers } from "../gpu/state-pool.ts";
import { embeddingOps } from "./embedding.ts";
import { altUpHead, altUpLayer, altUpStart, type AltUpLayerWeights } from "./residual/altup-layers.ts";
import { checkOp } from "./op/check.ts";
import type { KeptBuffers } from "./experts/checkpoint.ts";
import type { ExpertPlan } from "./experts/plan.ts";
import { makeGuesses, type GuessBuffers, type Guesses, type GuessOps } from "./experts/predictor.ts";
import { guessOps } from "./ffn/experts.ts";
import { FEED_FORWARDS } from "./ffn/kinds.ts";
import { embedOp, matmulOp, matvecOp, type EmbedOptions } from "./matrix/products.ts";
import type { PackedWeight } from "./matrix/upload.ts";
import { MixerContext } from "./mixer/kind.ts";
import { kvLayerOf, MIXERS } from "./mixer/kinds.ts";
import { normOp, type NormInput } from "./op/norm.ts";
import { bufferOf, OpContext, type OpEnvironment, type Phase } from "./op/op-context.ts";
import { gateOps, perLayerInputOps, type PerLayerContext } from "./residual/per-layer.ts";
import { createSampler, type Sampler } from "./sampler.ts";
import { programOf, type Program, type Segment } from "../gpu/segments.ts";
import { softCapOp } from "./op/softcap.ts";
import type { LayerShape, Mixer } from "../shape/shape.ts";
import type { StepData } from "./step.ts";
import type { LayerWeights, Weights } from "./weights.ts";
import { keptAtExperts, makeWorkspace, type Workspace } from "./workspace.ts";

export interface ProgramInput extends OpEnvironment {
  weights: Weights;
  step: StepData;
  /** Rows whose logits are computed in one step, at most. */
  logitRows: number;
  /** Present if not all experts are on the GPU. */
  experts: ExpertPlan | undefined;
}

/** Embedding to the last layer's output. */
export interface Bodies {
  prefill: Program;
  decode: Program;
}

/** Pools that are in other buffers. */
export interface MovedPools {
  pool?: KvPoolBuffers;
  states?: StateBuffers;
  tails?: KvPoolBuffers;
}

export interface Programs extends Bodies {
  /** The bodies bound to other buffers of a pool, with the same workspace and the pipelines that are there. */
  rebuild(moved: MovedPools): Promise<Bodies>;
  /** Behind a body: which of its rows are not finite. */
  check: readonly Op[];
  /** u32 [rows]: what `check` finds. */
  status: GPUBuffer;
  /** Logits of the step's logit rows, for a few of them (sampling). Encoders have none. */
  head: readonly Op[];
  /** For many (scoring), compiled when they are first asked for; equal but for rounding. */
  manyHead(): Promise<readonly Op[]>;
  /** Absent in encoders. */
  sampler: Sampler | undefined;
  /** The vectors of texts, f32 [texts, dimensions], behind a body; absent in models that make none. */
  embedding: { ops: readonly Op[]; pooled: GPUBuffer } | undefined;
  /** f32 [logitRows, vocabulary]. */
  logits: GPUBuffer;
  /** f32 [rows, hidden size]: the residual stream, and what the layer that has just run has yet to add to it. */
  hidden: GPUBuffer;
  delta: GPUBuffer;
  /** What is kept of a step in front of a layer's experts; absent in models without some. */
  kept: KeptBuffers | undefined;
  /** "normed", or a buffer that parts of the model share. */
  between(name: string): GPUBuffer;
  /** Predictions of what layers will choose; present if not all experts are on the GPU. */
  guesses: Guesses | undefined;
  /** The step's data as bind group 1. */
  stepGroup: GPUBindGroup;
  /** Bytes of the buffers between ops. */
  workspaceBytes: number;
  destroy(): void;
}

/** Makes all programs; their kernels compile side by side. */
export async function buildPrograms(
  input: ProgramInput,
  onPipeline: (done: number, total: number) => void,
): Promise<Programs> {
  const deferred = input.kernels.deferred();
  const programs = await makePrograms({ ...input, kernels: deferred }, input.kernels);
  await deferred.ready(onPipeline);
  return programs;
}

/** @param compiled the kernels of what is built later, when the programs run */
async function makePrograms(input: ProgramInput, compiled: Kernels): Promise<Programs> {
  const { limits, dtype, logitRows } = input;
  const space = makeWorkspace(input.kernels, input.shape, { ...limits, dtype, logitRows });
  const builder = new Builder(input, space);
  const { prefill, decode } = await builder.bodies();
  const isEncoder = input.shape.embedding?.isEncoder ?? false;
  const head = isEncoder ? [] : await builder.head(matvecOp);
  const running = new Builder({ ...input, kernels: compiled }, space);
  const { hidden, delta, status } = space;
  const check = await checkOp(input.kernels, { hidden, delta, status, d: input.shape.hiddenSize });
  const sampler = isEncoder ? undefined : await makeSampler(input, space, compiled);
  const withStep = prefill.ops.find((op) => op.pipeline.layouts.length > 1) as Op;
  const programs: Programs = {
    prefill,
    decode,
    check: [check],
    status,
    head,
    manyHead: keepResult(() => running.head(matmulOp)),
    sampler,
    embedding: await builder.embeddingHead(),
    ...{ logits: space.logits, hidden, delta, kept: keptAtExperts(space, input.shape, input.dtype) },
    between: (name) => (name === "normed" ? space.normed : bufferOf(space, name)),
    guesses: input.experts && (await builder.guesses(input.experts)),
    rebuild: (moved) => new Builder({ ...input, kernels: compiled, ...moved }, space).bodies(),
    stepGroup: input.step.bind(input.kernels, withStep.pipeline),
    get workspaceBytes() {
      const own = space.all.reduce((sum, buffer) => sum + buffer.size, 0);
      return own + (programs.guesses?.bytes ?? 0);
    },
    destroy() {
      for (const buffer of space.all) buffer.destroy();
      programs.guesses?.destroy();
      sampler?.destroy();
    },
  };
  return programs;
}

/** Makes something when it is first asked for, and again if that failed. */
function keepResult<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    if (made) return made;
    const making = make();
    making.catch(() => (made = undefined));
    return (made = making);
  };
}

function makeSampler(
  { kernels, shape, limits, step }: ProgramInput,
  { logits }: Workspace,
  compiled: Kernels,
): Promise<Sampler> {
  const { seats } = limits;
  const options = { vocab: shape.vocabSize, seats, maxRows: seats, logits, tokens: step.tokens };
  return createSampler(kernels, options, compiled);
}

function altUpWeights({ altUp, norms }: LayerWeights): AltUpLayerWeights {
  assert(altUp && norms.mixer && norms.gatePost, "a layer of AltUp without its weights");
  return { own: altUp, mixerNorm: norms.mixer, gateNorm: norms.gatePost };
}

type MatrixMaker = typeof matvecOp;

class Builder {
  private readonly input: ProgramInput;
  private readonly space: Workspace;
  private phase: Phase = "prefill";
  /** The next mixer's layer in the KV pool, and in the state pool, if it keeps something there. */
  private pools = { kv: 0, state: 0 };

  constructor(input: ProgramInput, space: Workspace) {
    this.input = input;
    this.space = space;
  }

  private get isEncoder(): boolean {
    return this.input.shape.embedding?.isEncoder ?? false;
  }

  async bodies(): Promise<Bodies> {
    const prefill = await this.body("prefill");
    return { prefill, decode: this.isEncoder ? programOf([]) : await this.body("decode") };
  }

  /** Embedding and all layers; the last layer's output stays in `delta`, added by the head's norm. */
  private async body(phase: Phase): Promise<Program> {
    this.phase = phase;
    this.pools = { kv: 0, state: 0 };
    const { layers } = this.input.shape;
    const segments: Segment[] = [{ layer: -1, ops: await this.embedding() }];
    for (const [index, layer] of layers.entries()) {
      segments.push({ layer: index, ops: await this.layerOps(index, layer) });
    }
    return programOf(segments);
  }

  private async embedding(): Promise<Op[]> {
    const { weights, step } = this.input;
    const { embedding, positions, tokenTypes, embeddingNorm } = weights;
    const ops = await this.lookUp(embedding, { scale: this.input.shape.embeddingScale });
    if (positions) ops.push(...(await this.lookUp(positions, { scale: 1, adds: "positions" })));
    if (tokenTypes) ops.push(...(await this.lookUp(tokenTypes, { scale: 1, adds: "first" })));
    if (embeddingNorm) ops.push(await this.norm({ post: { weight: embeddingNorm, of: "sum" } }));
    if (weights.perLayer)
      ops.push(...(await perLayerInputOps(this.perLayerContext, weights.perLayer, step.tokens)));
    if (weights.altUp) ops.push(...(await altUpStart(this.context, this.space, weights.altUp)));
    return ops;
  }

  private async lookUp(weight: PackedWeight, options: Pick<EmbedOptions, "scale" | "adds">): Promise<Op[]> {
    const { kernels, step } = this.input;
    const { hidden } = this.space;
    const ops: Op[] = [];
    for (const piece of weight.pieces) {
      const input = { weight, piece, tokens: step.tokens, hidden, ...options };
      ops.push(await embedOp(kernels, this.types("f32"), input));
    }
    return ops;
  }

  private get context(): OpContext {
    return new OpContext(this.input, this.space, this.phase);
  }

  private altUpLayer(index: number): Promise<Op[]> {
    const [layer, weights] = [this.input.shape.layers[index] as LayerShape, this.layerWeights(index)];
    const { perLayerGate } = weights;
    const before = index > 0 ? altUpWeights(this.layerWeights(index - 1)) : undefined;
    return altUpLayer(this.context, this.space, altUpWeights(weights), before, {
      mixers: () => this.mixerOps(layer, weights),
      ffn: () => this.ffnOps(layer, weights),
      gate: (x) =>
        perLayerGate
          ? gateOps(this.perLayerContext, perLayerGate, index, x, this.space.delta)
          : Promise.resolve([]),
    });
  }

  private layerWeights(index: number): LayerWeights {
    return this.input.weights.layers[index] as LayerWeights;
  }

  private async layerOps(index: number, layer: LayerShape): Promise<Op[]> {
    if (this.input.shape.altUp) return this.altUpLayer(index);
    const weights = this.layerWeights(index);
    const { norms } = weights;
    const before = index > 0 ? this.deltaOf(index - 1) : {};
    if (layer.mixers.length === 0)
      return [await this.norm({ ...before, weight: norms.ffn }), ...(await this.ffnOps(layer, weights))];
    const ops = [
      await this.norm({ ...before, weight: norms.mixer }),
      ...(await this.mixerOps(layer, weights)),
    ];
    if (!layer.ffn) return ops;
    // What the mixers gave stays in `delta` if the feed-forward adds to it.
    if (!layer.parallel)
      ops.push(await this.norm({ ...this.added(layer, norms.mixerPost), weight: norms.ffn }));
    else if (norms.ffn) ops.push(await this.norm({ weight: norms.ffn }));
    return [...ops, ...(await this.ffnOps(layer, weights)), ...(await this.gateOps(index, layer))];
  }

  /** The gate of the layer's own embedding, which reads the stream itself. */
  private async gateOps(index: number, layer: LayerShape): Promise<Op[]> {
    const { norms, perLayerGate } = this.input.weights.layers[index] as LayerWeights;
    if (!perLayerGate) return [];
    const { hidden, delta } = this.space;
    return [
      await this.norm(this.added(layer, norms.ffnPost)),
      ...(await gateOps(this.perLayerContext, perLayerGate, index, hidden, delta)),
    ];
  }

  /** The norms and routers of layers with experts, for predictions in decode. */
  async guesses(plan: ExpertPlan): Promise<Guesses> {
    const { kernels, limits, shape } = this.input;
    this.phase = "decode";
    const sizes = { shape, experts: plan.experts, chosen: plan.chosen, seats: limits.seats };
    return makeGuesses(kernels.gpu.device, sizes, async (buffers) => {
      const layers: GuessOps[] = [];
      for (const { index } of plan.layers) layers.push(await this.guessOps(index, buffers));
      return layers;
    });
  }

  private async guessOps(index: number, buffers: GuessBuffers): Promise<GuessOps> {
    const { ffn } = this.input.shape.layers[index] as LayerShape;
    const { norms, ffn: weights } = this.layerWeights(index);
    assert(ffn?.kind === "experts", `layer ${index} has no experts`);
    const ops = await guessOps(ffn, weights, this.context, buffers);
    return ops && [await this.norm({ weight: norms.ffn, out: buffers.input }), ...ops];
  }

  private get perLayerContext(): PerLayerContext {
    const { kernels, shape } = this.input;
    const { phase, space } = this;
    return { kernels, shape, phase, hidden: space.hidden, buffer: (name) => bufferOf(space, name) };
  }

  /** What a layer leaves in `delta`, to be added by the norm behind it. */
  private deltaOf(index: number): Pick<NormInput, "delta" | "post" | "streamScale"> {
    const layer = this.input.shape.layers[index] as LayerShape;
    const { norms, outputScale } = this.input.weights.layers[index] as LayerWeights;
    const post = layer.perLayerGate ? norms.gatePost : layer.ffn ? norms.ffnPost : norms.mixerPost;
    return { ...this.added(layer, post), streamScale: outputScale };
  }

  private added({ norms }: LayerShape, post: GPUBuffer | undefined): Pick<NormInput, "delta" | "post"> {
    return { delta: this.space.delta, post: post && { weight: post, of: norms.postOf ?? "output" } };
  }

  /** Norm over all rows, pooling, and what stands behind it. */
  async embeddingHead(): Promise<Programs["embedding"]> {
    const { shape, weights } = this.input;
    if (!shape.embedding) return undefined;
    const last = { ...this.deltaOf(shape.layers.length - 1), weight: weights.outputNorm };
    const norm = await this.norm({ label: "embedding norm", ...last });
    const context = new OpContext(this.input, this.space, "prefill");
    const ops = [norm, ...(await embeddingOps(context, weights.dense))];
    return { ops, pooled: context.buffer("vectors") };
  }

  /** The norm before the head, of the step's logit rows. */
  private async headInput(maker: MatrixMaker): Promise<Op[]> {
    const { shape, weights, logitRows } = this.input;
    const last = shape.layers.length - 1;
    const { headInput } = this.space;
    const { altUp, outputNorm } = weights;
    if (altUp && outputNorm) {
      const buffers = { ...this.space, logitRows };
      const layer = altUpWeights(this.layerWeights(last));
      return altUpHead(this.context, buffers, { ...altUp, outputNorm }, layer, maker);
    }
    const norm = { ...this.deltaOf(last), weight: outputNorm };
    return [await this.norm({ label: "head norm", ...norm, out: headInput, gather: true })];
  }

  /** Norm, output matrix and cap over the step's logit rows. */
  async head(maker: MatrixMaker): Promise<Op[]> {
    const { kernels, shape, weights } = this.input;
    const { headInput, logits } = this.space;
    const ops = await this.headInput(maker);
    for (const piece of weights.head.pieces) {
      ops.push(
        await maker(kernels, this.types("f32"), {
          ...{ weight: weights.head, piece, x: headInput, y: logits, outStride: shape.vocabSize },
          ...(weights.headBias && { bias: weights.headBias }),
          scale: shape.logitScale,
          rowsFrom: "logitRows",
        }),
      );
    }
    const { logitSoftCap: cap, vocabSize: vocab } = shape;
    if (cap > 0) ops.push(await softCapOp(kernels, this.types("f32"), { logits, vocab, cap }));
    return ops;
  }

  /** A norm of the residual stream; by default nothing is added to it, and the next part reads it as it stands. */
  private norm(input: Partial<NormInput>): Promise<Op> {
    const { kernels, shape } = this.input;
    const { hidden, normed } = this.space;
    return normOp(kernels, this.types("f32"), {
      ...{ kind: shape.norm, hidden, weight: undefined, out: normed, d: shape.hiddenSize },
      ...{ eps: shape.normEps, residualScale: shape.residualScale },
      ...input,
    });
  }

  /** The layer's mixers, each adding its output to `delta` behind the first. */
  private async mixerOps(layer: LayerShape, weights: LayerWeights): Promise<Op[]> {
    const ops: Op[] = [];
    for (const [place, mixer] of layer.mixers.entries()) {
      ops.push(...(await this.mixer(mixer, weights.mixers[place], place > 0)));
    }
    return ops;
  }

  private mixer(mixer: Mixer, weights: unknown, accumulate: boolean): Promise<Op[]> {
    const kind = MIXERS.of(mixer);
    const { shape } = this.input;
    const { kv, state } = kind.keeps(mixer, shape.hiddenSize);
    const owner = kind.readsKvOf?.(mixer);
    const layers = owner === undefined ? this.pools : { ...this.pools, kv: kvLayerOf(shape, owner) };
    const context = new MixerContext(this.input, this.space, this.phase, accumulate, layers);
    this.pools = { kv: this.pools.kv + (kv ? 1 : 0), state: this.pools.state + (state ? 1 : 0) };
    return kind.ops(mixer, weights, context);
  }

  private async ffnOps({ ffn, parallel }: LayerShape, weights: LayerWeights): Promise<Op[]> {
    if (!ffn) return [];
    const context = new OpContext(this.input, this.space, this.phase, parallel);
    return FEED_FORWARDS.of(ffn).ops(ffn, weights.ffn, context);
  }

  private types(out: KernelTypes["out"]): KernelTypes {
    return { elem: this.input.dtype, kv: this.input.kvDtype, out };
  }
}
