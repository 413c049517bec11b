/**
 * A mixer and a feed-forward that no model has, each in the form that src asks of a new one: one value, and a row of the
 * architecture table. Beside them a model made of them, and its logits in float64.
 *
 *   mixer "decaying-sum":    s(t) = decay * s(t - 1) + x(t), entry by entry; output W_out s(t). It keeps s.
 *   feed-forward "linear":   W x.
 */
import { Random } from "../../src/base.ts";
import type { Op } from "../../src/gpu/op.ts";
import { ARCHITECTURES, PLAIN } from "../../src/model/arch/rows.ts";
import { MATRIX, VECTOR } from "../../src/model/arch/tensor-lookup.ts";
import type { FeedForwardKind } from "../../src/model/ffn/kind.ts";
import { FEED_FORWARDS } from "../../src/model/ffn/kinds.ts";
import type { MixerContext, MixerKind } from "../../src/model/mixer/kind.ts";
import { MIXERS } from "../../src/model/mixer/kinds.ts";
import type { Projection } from "../../src/model/tensor-loader.ts";
import { recurrent, stateless } from "../../src/shape/cost.ts";
import stepLib from "../../shaders/lib/step.wgsl";
import { writeGguf } from "./gguf-writer.ts";

interface DecayingSum {
  kind: "decaying-sum";
}

interface Linear {
  kind: "linear";
  width: number;
}

declare module "../../src/shape/shape.ts" {
  interface Mixers {
    "decaying-sum": DecayingSum;
  }
  interface FeedForwards {
    linear: Linear;
  }
}

interface SumWeights {
  decay: GPUBuffer;
  output: Projection;
}

const WORKGROUP = 64;

/** One invocation a channel and sequence: it goes through the sequence's rows in order. */
const SUM_CODE = `
override WG: u32 = 64u;
override CHANNELS: u32;
override STATE_STRIDE: u32;
override DECODE: bool;

@group(0) @binding(0) var<storage, read> x: array<elem>;
@group(0) @binding(1) var<storage, read> decay: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> sums: array<elem>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  let sequence = id.y;
  if (c >= CHANNELS) { return; }
  let slot = stateRead(sequence);
  var sum = 0.0;
  if (slot != NO_STATE) { sum = state[slot * STATE_STRIDE + c]; }
  let first = select(0u, sequence, DECODE);
  let rows = select(step.rows, 1u, DECODE);
  for (var row = first; row < first + rows; row++) {
    sum = decay[c] * sum + f32(x[row * CHANNELS + c]);
    sums[row * CHANNELS + c] = elem(sum);
  }
  state[stateWrite(sequence) * STATE_STRIDE + c] = sum;
}`;

const DECAYING_SUM: MixerKind<DecayingSum, SumWeights> = {
  kind: "decaying-sum",
  keeps: (_, hiddenSize) => ({ state: { floats: hiddenSize } }),
  check() {},
  cost: (_, { hiddenSize, stateElementBytes }) =>
    recurrent(2 * hiddenSize + 2 * hiddenSize ** 2, hiddenSize * stateElementBytes),
  tensors: () => [
    ["sum_decay", VECTOR, true],
    ["sum_out", MATRIX, true],
  ],
  async load(_, layer) {
    const d = layer.hiddenSize;
    const decay = await layer.vector("sum_decay", d);
    return { decay, output: await layer.projection(d, [["sum_out", d]]) };
  },
  buffers: (_, { maxRows, hiddenSize, elemBytes }) => ({ sums: maxRows * hiddenSize * elemBytes }),
  async ops(_, { decay, output }, context) {
    const sums = context.buffer("sums");
    return [await sumOp(decay, sums, context), ...(await context.output(output, sums))];
  },
};

async function sumOp(decay: GPUBuffer, sums: GPUBuffer, context: MixerContext): Promise<Op> {
  const { kernels, normed, phase, shape } = context;
  const { state, stateStride } = context.state;
  const source = { name: "decaying-sum", code: SUM_CODE, libs: [stepLib] };
  const pipeline = await kernels.pipeline(source, context.types(), {
    WG: WORKGROUP,
    CHANNELS: shape.hiddenSize,
    STATE_STRIDE: stateStride,
    DECODE: phase === "decode" ? 1 : 0,
  });
  return {
    label: "decaying-sum",
    pipeline,
    group: kernels.bind(pipeline, 0, [normed, decay, state, sums]),
    grid: (step) => [Math.ceil(shape.hiddenSize / WORKGROUP), step.sequences, 1],
  };
}

const LINEAR: FeedForwardKind<Linear, Projection> = {
  kind: "linear",
  check() {},
  cost: ({ width }, { hiddenSize }) => stateless(2 * width * hiddenSize, 0, 0),
  tensors: () => [["ffn_linear", MATRIX, true]],
  load: ({ width }, layer) => layer.projection(width, [["ffn_linear", layer.hiddenSize]]),
  buffers: () => ({}),
  ops: (_, weights, context) => context.output(weights, context.normed),
};

/** Adds both kinds and the architecture "toy" that is made of them, once. */
export function addToys(): void {
  if (ARCHITECTURES.some(({ gguf }) => gguf === "toy")) return;
  MIXERS.add(DECAYING_SUM);
  FEED_FORWARDS.add(LINEAR);
  ARCHITECTURES.push({
    ...PLAIN,
    gguf: "toy",
    config: ["toy"],
    ropeLayout: "half",
    mixers: () => [{ kind: "decaying-sum" }],
    ffn: (_, { hiddenSize }) => ({ kind: "linear", width: hiddenSize }),
  });
}

export const TOY = { hiddenSize: 36, layers: 2, vocabSize: 50, eps: 1e-5 };

type Tensors = ReadonlyMap<string, Float32Array>;

/** The tensors of a toy model with random numbers. */
export function toyTensors(seed: number): Tensors {
  const random = new Random(seed);
  const { hiddenSize: d, layers, vocabSize } = TOY;
  const numbers = (count: number, from: number, to: number) =>
    Float32Array.from({ length: count }, () => from + (to - from) * random.next());
  const tensors = new Map([
    ["token_embd.weight", numbers(vocabSize * d, -1, 1)],
    ["output_norm.weight", numbers(d, 0.5, 1.5)],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    tensors.set(`blk.${layer}.attn_norm.weight`, numbers(d, 0.5, 1.5));
    tensors.set(`blk.${layer}.sum_decay.weight`, numbers(d, 0.2, 0.95));
    tensors.set(`blk.${layer}.sum_out.weight`, numbers(d * d, -0.3, 0.3));
    tensors.set(`blk.${layer}.ffn_norm.weight`, numbers(d, 0.5, 1.5));
    tensors.set(`blk.${layer}.ffn_linear.weight`, numbers(d * d, -0.3, 0.3));
  }
  return tensors;
}

/** A GGUF file of these tensors. */
export function toyModel(tensors: Tensors): Uint8Array {
  const { hiddenSize: d, layers, eps } = TOY;
  return writeGguf({
    metadata: {
      "general.architecture": "toy",
      "general.name": "a toy",
      "toy.block_count": layers,
      "toy.embedding_length": d,
      "toy.context_length": 256,
      "toy.attention.head_count": 0,
      "toy.feed_forward_length": 0,
      "toy.attention.layer_norm_rms_epsilon": eps,
    },
    tensors: [...tensors].map(([name, data]) => ({
      name,
      type: "F32",
      shape: data.length === d ? [d] : [d, data.length / d],
      data: new Uint8Array(data.buffer),
    })),
  });
}

/** [tokens, vocabulary], in float64. */
export function toyLogits(tensors: Tensors, tokens: readonly number[]): Float32Array {
  const { hiddenSize: d, layers, vocabSize } = TOY;
  const tensor = (name: string) => tensors.get(name) as Float32Array;
  const rows = tokens.map((token) => [...tensor("token_embd.weight").subarray(token * d, (token + 1) * d)]);
  for (let layer = 0; layer < layers; layer++) {
    const of = (name: string) => tensor(`blk.${layer}.${name}.weight`);
    const sums = Array<number>(d).fill(0);
    for (const row of rows) {
      const normed = rmsNorm(row, of("attn_norm"));
      for (let c = 0; c < d; c++) sums[c] = of("sum_decay")[c]! * sums[c]! + normed[c]!;
      add(row, times(of("sum_out"), sums));
      add(row, times(of("ffn_linear"), rmsNorm(row, of("ffn_norm"))));
    }
  }
  const logits = new Float32Array(tokens.length * vocabSize);
  rows.forEach((row, index) =>
    logits.set(
      times(tensor("token_embd.weight"), rmsNorm(row, tensor("output_norm.weight"))),
      index * vocabSize,
    ),
  );
  return logits;
}

function rmsNorm(row: readonly number[], weight: Float32Array): number[] {
  const mean = row.reduce((sum, value) => sum + value * value, 0) / row.length;
  return row.map((value, index) => (value / Math.sqrt(mean + TOY.eps)) * weight[index]!);
}

/** A matrix of rows as long as `x`, times x. */
function times(matrix: Float32Array, x: readonly number[]): number[] {
  return Array.from({ length: matrix.length / x.length }, (_, row) =>
    x.reduce((sum, value, column) => sum + value * matrix[row * x.length + column]!, 0),
  );
}

function add(row: number[], delta: readonly number[]): void {
  delta.forEach((value, index) => (row[index]! += value));
}
