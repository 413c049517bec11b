/**
 * The layer table -> programs: for each phase the list of ops of one step, with the buffers between them. New mixers and
 * feed-forwards add their ops in mixers.ts and in `ffnOps` by kind; nothing else here changes with them.
 */
import type { Elem, KernelTypes } from "../gpu/kernel.ts";
import type { Op } from "../gpu/op.ts";
import type { KvPoolBuffers } from "../gpu/pool.ts";
import type { StateBuffers } from "../gpu/state-pool.ts";
import { checkOp } from "./check.ts";
import { activationOp } from "./ffn/mlp.ts";
import { embedOp, matmulOp, matvecOp } from "./matrix/products.ts";
import {
  attentionMixerOps,
  recurrentMixerOps,
  type MixerContext,
  type RecurrentWeights,
} from "./mixer/mixers.ts";
import { normOp } from "./norm.ts";
import { createSampler, type Sampler } from "./sampler.ts";
import { softCapOp } from "./softcap.ts";
import type { LayerShape, MlpFeedForward, Mixer } from "../shape/shape.ts";
import type { AttentionWeights, FfnWeights, LayerWeights, MixerWeights, Projection } from "./weights.ts";
import { makeWorkspace, type Phase, type ProgramInput, type Workspace } from "./workspace.ts";

/** Embedding to the last layer's output. */
export interface Bodies {
  prefill: readonly Op[];
  decode: readonly Op[];
}

export interface Programs extends Bodies {
  /** The bodies bound to other buffers of a pool, with the same workspace and the pipelines that are there. */
  rebuild(moved: { pool: KvPoolBuffers } | { states: StateBuffers }): Promise<Bodies>;
  /** Behind a body: which of its rows are not finite. */
  check: readonly Op[];
  /** u32 [rows]: what `check` finds. */
  status: GPUBuffer;
  /** Logits of the step's logit rows, for a few rows (sampling) and for many (scoring); equal but for rounding. */
  head: readonly Op[];
  manyHead: readonly Op[];
  sampler: Sampler;
  /** f32 [logitRows, vocabulary]. */
  logits: GPUBuffer;
  /** The step's data as bind group 1. */
  stepGroup: GPUBindGroup;
  /** Bytes of the buffers between ops. */
  workspaceBytes: number;
  destroy(): void;
}

export async function buildPrograms(
  input: ProgramInput,
  onPipeline: (done: number, total: number) => void,
): Promise<Programs> {
  const space = makeWorkspace(input);
  const builder = new Builder(input, space, onPipeline);
  const { prefill, decode } = await builder.bodies();
  const head = await builder.head(matvecOp);
  const manyHead = await builder.head(matmulOp);
  const { hidden, delta, status } = space;
  const check = await checkOp(input.kernels, { hidden, delta, status, d: input.shape.hiddenSize });
  const sampler = await createSampler(input.kernels, {
    vocab: input.shape.vocabSize,
    seats: input.step.limits.seats,
    maxRows: input.step.limits.seats,
    logits: space.logits,
    tokens: input.step.tokens,
  });
  const withStep = prefill.find((op) => op.pipeline.layouts.length > 1) as Op;
  const buffers = Object.values(space) as GPUBuffer[];
  return {
    prefill,
    decode,
    check: [check],
    status,
    head,
    manyHead,
    sampler,
    logits: space.logits,
    rebuild: (moved) => new Builder({ ...input, ...moved }, space, () => {}).bodies(),
    stepGroup: input.step.bind(input.kernels, withStep.pipeline),
    workspaceBytes: buffers.reduce((sum, buffer) => sum + buffer.size, 0),
    destroy() {
      for (const buffer of buffers) buffer.destroy();
      sampler.destroy();
    },
  };
}

type MatrixMaker = typeof matvecOp;

class Builder {
  private readonly input: ProgramInput;
  private readonly space: Workspace;
  private readonly onPipeline: (done: number, total: number) => void;
  private made = 0;
  private phase: Phase = "prefill";
  /** The next attention mixer's layer in the KV pool, and the next recurrent one's in the state pool. */
  private kvLayer = 0;
  private stateLayer = 0;

  constructor(input: ProgramInput, space: Workspace, onPipeline: (done: number, total: number) => void) {
    this.input = input;
    this.space = space;
    this.onPipeline = onPipeline;
  }

  async bodies(): Promise<Bodies> {
    const prefill = await this.body("prefill");
    return { prefill, decode: await this.body("decode") };
  }

  /** Embedding and all layers; the last layer's output stays in `delta`, added by the head's norm. */
  async body(phase: Phase): Promise<Op[]> {
    this.phase = phase;
    const { kernels, shape, weights, step } = this.input;
    const ops: Op[] = [];
    for (const piece of weights.embedding.pieces) {
      const { hidden } = this.space;
      const options = {
        weight: weights.embedding,
        piece,
        tokens: step.tokens,
        hidden,
        scale: shape.embeddingScale,
      };
      ops.push(await embedOp(kernels, this.types("f32"), options));
    }
    this.kvLayer = 0;
    this.stateLayer = 0;
    for (const [index, layer] of weights.layers.entries()) {
      const previous = weights.layers[index - 1];
      const postNorm = previous?.ffn ? previous.ffn.postNorm : previous?.mixerPostNorm;
      ops.push(await this.norm(layer.mixerNorm, index > 0, postNorm));
      ops.push(...(await this.mixerOps(index, layer)));
      if (layer.ffn) {
        ops.push(await this.norm(layer.ffn.norm, true, layer.mixerPostNorm));
        ops.push(...(await this.ffnOps(shape.layers[index] as LayerShape, layer.ffn)));
      }
      this.onPipeline(++this.made, 2 * weights.layers.length);
    }
    return ops;
  }

  /** Norm, output matrix and cap over the step's logit rows. */
  async head(maker: MatrixMaker): Promise<Op[]> {
    const { kernels, shape, weights } = this.input;
    const { hidden, delta, headInput, logits } = this.space;
    const last = weights.layers.at(-1);
    const postWeight = last?.ffn ? last.ffn.postNorm : last?.mixerPostNorm;
    const norm = await normOp(kernels, this.types("f32"), {
      label: "head norm",
      ...{
        hidden,
        delta,
        weight: weights.outputNorm,
        out: headInput,
        d: shape.hiddenSize,
        eps: shape.normEps,
      },
      ...(postWeight && { postWeight }),
      residualScale: shape.residualScale,
      gather: true,
    });
    const ops = [norm];
    for (const piece of weights.head.pieces) {
      ops.push(
        await maker(kernels, this.types("f32"), {
          ...{ weight: weights.head, piece, x: headInput, y: logits, outStride: shape.vocabSize },
          scale: shape.logitScale,
          rowsFrom: "logitRows",
        }),
      );
    }
    const { logitSoftCap: cap, vocabSize: vocab } = shape;
    if (cap > 0) ops.push(await softCapOp(kernels, this.types("f32"), { logits, vocab, cap }));
    return ops;
  }

  private norm(weight: GPUBuffer, hasDelta: boolean, postWeight: GPUBuffer | undefined): Promise<Op> {
    const { kernels, shape } = this.input;
    const { hidden, delta, normed } = this.space;
    return normOp(kernels, this.types("f32"), {
      ...{ hidden, weight, out: normed, d: shape.hiddenSize, eps: shape.normEps },
      ...(hasDelta && { delta }),
      ...(hasDelta && postWeight && { postWeight }),
      residualScale: shape.residualScale,
    });
  }

  /** The layer's mixers, each adding its output to `delta` behind the first. */
  private async mixerOps(index: number, layer: LayerWeights): Promise<Op[]> {
    const ops: Op[] = [];
    for (const [place, mixer] of (this.input.shape.layers[index]?.mixers ?? []).entries()) {
      const weights = layer.mixers[place] as MixerWeights;
      ops.push(...(await this.mixer(mixer, weights, place > 0)));
    }
    return ops;
  }

  private mixer(mixer: Mixer, weights: MixerWeights, accumulate: boolean): Promise<Op[]> {
    const context: MixerContext = {
      ...{ input: this.input, space: this.space, phase: this.phase, accumulate },
      project: (...call) => this.project(...call),
    };
    if (mixer.kind === "attention") {
      return attentionMixerOps(context, this.kvLayer++, mixer, weights as AttentionWeights);
    }
    return recurrentMixerOps(context, this.stateLayer++, mixer, weights as RecurrentWeights);
  }

  private async ffnOps(layer: LayerShape, weights: FfnWeights): Promise<Op[]> {
    const { width, activation } = layer.ffn as MlpFeedForward;
    const { normed, gateUp, activated, delta } = this.space;
    const { kernels, dtype, shape } = this.input;
    return [
      ...(await this.project(weights.gateUp, normed, gateUp, 2 * width, dtype)),
      await activationOp(kernels, this.types("f32"), {
        ...{ gateUp, act: activated, ff: width, activation },
      }),
      ...(await this.project(weights.down, activated, delta, shape.hiddenSize, "f32")),
    ];
  }

  private async project(
    projection: Projection,
    x: GPUBuffer,
    y: GPUBuffer,
    outStride: number,
    out: Elem,
    accumulate = false,
  ): Promise<Op[]> {
    const maker: MatrixMaker = this.phase === "prefill" ? matmulOp : matvecOp;
    const ops: Op[] = [];
    for (const { weight, outOffset, bias } of projection) {
      for (const piece of weight.pieces) {
        const options = { weight, piece, x, y, outStride, outOffset, accumulate, ...(bias && { bias }) };
        ops.push(await maker(this.input.kernels, this.types(out), options));
      }
    }
    return ops;
  }

  private types(out: Elem): KernelTypes {
    return { elem: this.input.dtype, kv: this.input.kvDtype, out };
  }
}
