/**
 * A mixer and a feed-forward that no model has, each in the form that src asks of a new one: one value, and a row of the
 * architecture table. Beside them models made of them, one for each way of norming and adding, and their logits in float64.
 *
 *   mixer "decaying-sum":    s(t) = decay * s(t - 1) + x(t), entry by entry; output W_out s(t). It keeps s.
 *   feed-forward "linear":   W x.
 */
import { Random } from "../../src/base.ts";
import type { Op } from "../../src/gpu/op.ts";
import { PLAIN } from "../../src/model/arch/architecture.ts";
import { ARCHITECTURES } from "../../src/model/arch/rows.ts";
import { MATRIX, VECTOR } from "../../src/model/arch/tensor-lookup.ts";
import type { FeedForwardKind } from "../../src/model/ffn/kind.ts";
import { FEED_FORWARDS } from "../../src/model/ffn/kinds.ts";
import type { MixerContext, MixerKind } from "../../src/model/mixer/kind.ts";
import { MIXERS } from "../../src/model/mixer/kinds.ts";
import type { Projection } from "../../src/model/tensor-loader.ts";
import { recurrent, stateless } from "../../src/shape/cost.ts";
import {
  normsOf,
  type LayerNorms,
  type LayerShape,
  type NormKind,
  type NormPlace,
} from "../../src/shape/shape.ts";
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

/** How a toy's layers norm and add. */
interface Skeleton {
  norm: NormKind;
  norms: LayerNorms;
  parallel?: boolean;
  embeddingNorm?: boolean;
  /** A layer has a mixer or a feed-forward, not both. */
  alternates?: boolean;
}

const PRE_NORMS: LayerNorms = { mixer: "attn_norm", ffn: "ffn_norm" };
const POST_NORMS: LayerNorms = { mixerPost: "norm_1", ffnPost: "norm_2" };

export const SKELETONS = {
  toy: { norm: "rms", norms: PRE_NORMS },
  "toy-post": { norm: "rms", norms: POST_NORMS },
  "toy-sandwich": { norm: "layer", norms: { ...PRE_NORMS, ...POST_NORMS } },
  "toy-parallel": { norm: "layer", norms: PRE_NORMS, parallel: true },
  "toy-shared": { norm: "layer", norms: { mixer: "attn_norm" }, parallel: true },
  "toy-encoder": { norm: "layer", norms: { ...POST_NORMS, postOf: "sum" }, embeddingNorm: true },
  "toy-alternating": {
    norm: "rms",
    norms: { mixer: "attn_norm", ffn: "attn_norm", ffnPost: "norm_2" },
    alternates: true,
  },
} as const satisfies Readonly<Record<string, Skeleton>>;

export type ToyName = keyof typeof SKELETONS;

/** Adds both kinds and the architectures that are made of them, once. */
export function addToys(): void {
  if (ARCHITECTURES.some(({ gguf }) => gguf === "toy")) return;
  MIXERS.add(DECAYING_SUM);
  FEED_FORWARDS.add(LINEAR);
  for (const [gguf, skeleton] of Object.entries<Skeleton>(SKELETONS)) {
    ARCHITECTURES.push({
      ...{ ...PLAIN, ...skeleton, gguf, config: [gguf], ropeLayout: "half" },
      mixers: (index) => layerOf(skeleton, index).mixers.slice(),
      ffn: (index) => layerOf(skeleton, index).ffn,
      skeleton: () => ({ norms: skeleton.norms, parallel: skeleton.parallel ?? false }),
    });
  }
}

export const TOY = { hiddenSize: 36, layers: 2, vocabSize: 50, eps: 1e-5 };

function layerOf({ norms, parallel = false, alternates }: Skeleton, index: number): LayerShape {
  return {
    mixers: alternates && index % 2 === 1 ? [] : [{ kind: "decaying-sum" }],
    ffn: alternates && index % 2 === 0 ? undefined : { kind: "linear", width: TOY.hiddenSize },
    ...{ norms, parallel },
  };
}

type Tensors = ReadonlyMap<string, Float32Array>;

/** The tensors of a toy model with random numbers. */
export function toyTensors(seed: number, name: ToyName = "toy"): Tensors {
  const random = new Random(seed);
  const skeleton: Skeleton = SKELETONS[name];
  const { hiddenSize: d, layers, vocabSize } = TOY;
  const numbers = (count: number, from: number, to: number) =>
    Float32Array.from({ length: count }, () => from + (to - from) * random.next());
  const tensors = new Map([["token_embd.weight", numbers(vocabSize * d, -1, 1)]]);
  const addNorm = (norm: string) => {
    tensors.set(`${norm}.weight`, numbers(d, 0.5, 1.5));
    if (skeleton.norm === "layer") tensors.set(`${norm}.bias`, numbers(d, -0.3, 0.3));
  };
  if (skeleton.embeddingNorm) addNorm("token_embd_norm");
  addNorm("output_norm");
  for (let index = 0; index < layers; index++) {
    const layer = layerOf(skeleton, index);
    for (const [, norm] of normsOf(layer)) addNorm(`blk.${index}.${norm}`);
    if (layer.mixers.length > 0) {
      tensors.set(`blk.${index}.sum_decay.weight`, numbers(d, 0.2, 0.95));
      tensors.set(`blk.${index}.sum_out.weight`, numbers(d * d, -0.3, 0.3));
    }
    if (layer.ffn) tensors.set(`blk.${index}.ffn_linear.weight`, numbers(d * d, -0.3, 0.3));
  }
  return tensors;
}

/** A GGUF file of these tensors. */
export function toyModel(tensors: Tensors, name: ToyName = "toy"): Uint8Array {
  const { hiddenSize: d, layers, eps } = TOY;
  return writeGguf({
    metadata: {
      "general.architecture": name,
      "general.name": "a toy",
      [`${name}.block_count`]: layers,
      [`${name}.embedding_length`]: d,
      [`${name}.context_length`]: 256,
      [`${name}.attention.head_count`]: 0,
      [`${name}.feed_forward_length`]: 0,
      [`${name}.attention.${SKELETONS[name].norm === "layer" ? "layer_norm" : "layer_norm_rms"}_epsilon`]:
        eps,
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
export function toyLogits(tensors: Tensors, tokens: readonly number[], name: ToyName = "toy"): Float32Array {
  const { hiddenSize: d, layers, vocabSize } = TOY;
  const toy = new Toy(tensors, SKELETONS[name]);
  const embedding = tensors.get("token_embd.weight") as Float32Array;
  let rows: Row[] = tokens.map((token) => [...embedding.subarray(token * d, (token + 1) * d)]);
  if (toy.skeleton.embeddingNorm) rows = rows.map((row) => toy.norm("token_embd_norm", row));
  for (let index = 0; index < layers; index++) rows = toy.layer(index, rows);
  const logits = rows.map((row) => times(embedding, toy.norm("output_norm", row)));
  return Float32Array.from(
    { length: rows.length * vocabSize },
    (_, i) => logits[Math.floor(i / vocabSize)]![i % vocabSize]!,
  );
}

type Row = readonly number[];

/** The layers in float64, written as the equations are. */
class Toy {
  readonly skeleton: Skeleton;
  private readonly tensors: Tensors;

  constructor(tensors: Tensors, skeleton: Skeleton) {
    this.tensors = tensors;
    this.skeleton = skeleton;
  }

  layer(index: number, rows: Row[]): Row[] {
    const layer = layerOf(this.skeleton, index);
    const norm = (place: NormPlace, row: Row) => {
      const name = layer.norms[place];
      return name === undefined ? row : this.norm(`blk.${index}.${name}`, row);
    };
    const added = (row: Row, output: Row, post: NormPlace) =>
      layer.norms.postOf === "sum" ? norm(post, sum(row, output)) : sum(row, norm(post, output));
    const weight = (name: string) => this.tensors.get(`blk.${index}.${name}.weight`) as Float32Array;
    const mixed =
      layer.mixers.length === 0
        ? rows
        : this.mixed(
            weight,
            rows.map((row) => norm("mixer", row)),
          );
    const afterMixer =
      layer.mixers.length === 0 ? rows : rows.map((row, i) => added(row, mixed[i]!, "mixerPost"));
    if (!layer.ffn) return afterMixer;
    return afterMixer.map((row, i) => {
      const input = layer.parallel ? norm(layer.norms.ffn ? "ffn" : "mixer", rows[i]!) : norm("ffn", row);
      return added(row, times(weight("ffn_linear"), input), "ffnPost");
    });
  }

  private mixed(weight: (name: string) => Float32Array, rows: Row[]): Row[] {
    let sums = Array<number>(TOY.hiddenSize).fill(0);
    return rows.map((row) => {
      sums = sums.map((value, c) => weight("sum_decay")[c]! * value + row[c]!);
      return times(weight("sum_out"), sums);
    });
  }

  norm(name: string, row: Row): number[] {
    const weight = this.tensors.get(`${name}.weight`) as Float32Array;
    const bias = this.tensors.get(`${name}.bias`);
    const mean = this.skeleton.norm === "layer" ? average(row) : 0;
    const scale = 1 / Math.sqrt(average(row.map((value) => (value - mean) ** 2)) + TOY.eps);
    return row.map((value, i) => (value - mean) * scale * weight[i]! + (bias?.[i] ?? 0));
  }
}

function average(row: Row): number {
  return row.reduce((total, value) => total + value, 0) / row.length;
}

/** A matrix of rows as long as `x`, times x. */
function times(matrix: Float32Array, x: Row): number[] {
  return Array.from({ length: matrix.length / x.length }, (_, row) =>
    x.reduce((sum, value, column) => sum + value * matrix[row * x.length + column]!, 0),
  );
}

function sum(row: Row, other: Row): Row {
  return row.map((value, i) => value + other[i]!);
}
