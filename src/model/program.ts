/**
 * The layer table -> programs: for each phase the list of ops of one step, with the buffers between them. New mixers and
 * feed-forwards add their ops in `mixerOps` and `ffnOps` by kind; nothing else here changes with them.
 */
import type { Elem, Kernels, KernelTypes } from "../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE, type Op } from "../gpu/op.ts";
import type { KvPool } from "../gpu/pool.ts";
import type { ModelShape } from "./arch.ts";
import { attentionOps, kvWriteOp, scratchBytes } from "./attention.ts";
import { activationOp } from "./ffn.ts";
import { embedOp, matmulOp, matvecOp } from "./matrix.ts";
import { normOp } from "./norm.ts";
import { ropeOp } from "./rope.ts";
import { createSampler, type Sampler } from "./sampler.ts";
import type { StepData } from "./step.ts";
import type { LayerWeights, Projection, Weights } from "./weights.ts";

/** Prefill: many rows of one sequence. Decode: one row of each of several sequences. */
export type Phase = "prefill" | "decode";

export interface ProgramInput {
  kernels: Kernels;
  shape: ModelShape;
  weights: Weights;
  pool: KvPool;
  step: StepData;
  dtype: Elem;
  kvDtype: Elem;
  /** Rows whose logits are computed in one step, at most. */
  logitRows: number;
}

export interface Programs {
  /** Embedding to the last layer's output. */
  prefill: readonly Op[];
  decode: readonly Op[];
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

/** Buffers between ops; shared by all layers and both phases. */
interface Workspace {
  hidden: GPUBuffer;
  normed: GPUBuffer;
  qkv: GPUBuffer;
  attended: GPUBuffer;
  delta: GPUBuffer;
  gateUp: GPUBuffer;
  activated: GPUBuffer;
  headInput: GPUBuffer;
  logits: GPUBuffer;
  scratch: GPUBuffer;
}

export async function buildPrograms(
  input: ProgramInput,
  onPipeline: (done: number, total: number) => void,
): Promise<Programs> {
  const space = makeWorkspace(input);
  const builder = new Builder(input, space, onPipeline);
  const prefill = await builder.body("prefill");
  const decode = await builder.body("decode");
  const head = await builder.head(matvecOp);
  const manyHead = await builder.head(matmulOp);
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
    head,
    manyHead,
    sampler,
    logits: space.logits,
    stepGroup: input.step.bind(input.kernels, withStep.pipeline),
    workspaceBytes: buffers.reduce((sum, buffer) => sum + buffer.size, 0),
    destroy() {
      for (const buffer of buffers) buffer.destroy();
      sampler.destroy();
    },
  };
}

function makeWorkspace({ kernels, shape, dtype, step, logitRows }: ProgramInput): Workspace {
  const { device } = kernels.gpu;
  const { maxRows, seats, maxContext } = step.limits;
  const elem = dtype === "f16" ? 2 : 4;
  const widest = (width: (layer: ModelShape["layers"][number]) => number) =>
    Math.max(...shape.layers.map(width));
  const make = (label: string, bytes: number) =>
    device.createBuffer({
      label,
      size: Math.max(16, Math.ceil(bytes / 16) * 16),
      usage: USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST,
    });
  const d = shape.hiddenSize;
  const heads = widest(({ mixer }) => mixer.heads * mixer.headDim);
  const qkv = widest(({ mixer }) => (mixer.heads + 2 * mixer.kvHeads) * mixer.headDim);
  const ffn = widest((layer) => layer.ffn.width);
  return {
    hidden: make("hidden", maxRows * d * 4),
    normed: make("normed", maxRows * d * elem),
    qkv: make("qkv", maxRows * qkv * elem),
    attended: make("attended", maxRows * heads * elem),
    delta: make("delta", maxRows * d * 4),
    gateUp: make("gate and up", maxRows * 2 * ffn * elem),
    activated: make("activated", maxRows * ffn * elem),
    headInput: make("head input", logitRows * d * elem),
    logits: make("logits", logitRows * shape.vocabSize * 4),
    scratch: make(
      "attention splits",
      widest(({ mixer }) => scratchBytes(mixer, seats, maxContext)),
    ),
  };
}

type MatrixMaker = typeof matvecOp;

class Builder {
  private readonly input: ProgramInput;
  private readonly space: Workspace;
  private readonly onPipeline: (done: number, total: number) => void;
  private made = 0;
  private phase: Phase = "prefill";

  constructor(input: ProgramInput, space: Workspace, onPipeline: (done: number, total: number) => void) {
    this.input = input;
    this.space = space;
    this.onPipeline = onPipeline;
  }

  /** Embedding and all layers; the last feed-forward's output stays in `delta`, added by the head's norm. */
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
    for (const [index, layer] of weights.layers.entries()) {
      const previous = weights.layers[index - 1];
      ops.push(await this.norm(layer.mixerNorm, index > 0, previous?.ffnPostNorm));
      ops.push(...(await this.mixerOps(index, layer)));
      ops.push(await this.norm(layer.ffnNorm, true, layer.mixerPostNorm));
      ops.push(...(await this.ffnOps(index, layer)));
      this.onPipeline(++this.made, 2 * weights.layers.length);
    }
    return ops;
  }

  /** Norm and output matrix over the step's logit rows. */
  async head(maker: MatrixMaker): Promise<Op[]> {
    const { kernels, shape, weights } = this.input;
    const { hidden, delta, headInput, logits } = this.space;
    const postWeight = weights.layers.at(-1)?.ffnPostNorm;
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

  private async mixerOps(index: number, layer: LayerWeights): Promise<Op[]> {
    const { mixer } = this.layer(index);
    const { heads, kvHeads, headDim } = mixer;
    const { qkv, attended, delta } = this.space;
    const width = (heads + 2 * kvHeads) * headDim;
    const ops = await this.project(layer.attention.qkv, this.space.normed, qkv, width, this.input.dtype);
    ops.push(...(await this.rotate(index, layer)));
    ops.push(...(await this.attend(index)));
    ops.push(
      ...(await this.project(layer.attention.output, attended, delta, this.input.shape.hiddenSize, "f32")),
    );
    return ops;
  }

  private async rotate(index: number, { attention }: LayerWeights): Promise<Op[]> {
    const { kernels, shape } = this.input;
    const { heads, kvHeads, headDim, ropeTable } = this.layer(index).mixer;
    const { qNorm, kNorm } = attention;
    if (ropeTable === undefined && !qNorm) return [];
    const rope = await ropeOp(kernels, this.types("f32"), {
      ...{ qkv: this.space.qkv, heads, kvHeads, headDim },
      rot: ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0),
      interleaved: shape.ropeLayout === "interleaved",
      table: ropeTable ?? 0,
      ...(qNorm && kNorm && { norm: { qWeight: qNorm, kWeight: kNorm, eps: shape.normEps } }),
    });
    return [rope];
  }

  private async attend(index: number): Promise<Op[]> {
    const { kernels, pool, step } = this.input;
    const { heads, kvHeads, headDim, scale, softCap, window } = this.layer(index).mixer;
    const shared = {
      ...{ heads, kvHeads, headDim, blockTokens: pool.options.blockTokens, qkv: this.space.qkv },
      keys: pool.keys[index] as GPUBuffer,
      values: pool.values[index] as GPUBuffer,
    };
    const attention = await attentionOps(kernels, this.types("f32"), {
      ...shared,
      ...{
        out: this.space.attended,
        scratch: this.space.scratch,
        phase: this.phase,
        scale,
        cap: softCap,
        window,
      },
      maxContext: step.limits.maxContext,
    });
    return [await kvWriteOp(kernels, this.types("f32"), shared), ...attention];
  }

  private async ffnOps(index: number, layer: LayerWeights): Promise<Op[]> {
    const { ffn } = this.layer(index);
    const { normed, gateUp, activated, delta } = this.space;
    const { kernels, dtype, shape } = this.input;
    return [
      ...(await this.project(layer.gateUp, normed, gateUp, 2 * ffn.width, dtype)),
      await activationOp(kernels, this.types("f32"), {
        ...{ gateUp, act: activated, ff: ffn.width, activation: ffn.activation },
      }),
      ...(await this.project(layer.down, activated, delta, shape.hiddenSize, "f32")),
    ];
  }

  private async project(
    projection: Projection,
    x: GPUBuffer,
    y: GPUBuffer,
    outStride: number,
    out: Elem,
  ): Promise<Op[]> {
    const maker: MatrixMaker = this.phase === "prefill" ? matmulOp : matvecOp;
    const ops: Op[] = [];
    for (const { weight, outOffset, bias } of projection) {
      for (const piece of weight.pieces) {
        const options = { weight, piece, x, y, outStride, outOffset, ...(bias && { bias }) };
        ops.push(await maker(this.input.kernels, this.types(out), options));
      }
    }
    return ops;
  }

  private layer(index: number): ModelShape["layers"][number] {
    return this.input.shape.layers[index] as ModelShape["layers"][number];
  }

  private types(out: Elem): KernelTypes {
    return { elem: this.input.dtype, kv: this.input.kvDtype, out };
  }
}
