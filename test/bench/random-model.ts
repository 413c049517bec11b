/**
 * GGUF models with random weights, made on the fly for benchmarks: llama's shape, or qwen3moe's where they have experts. They have no tokenizer and say nothing;
 * their sums stay finite. Speed does not depend on the values, so one run of random blocks is laid out again and again.
 */
import { Random } from "../../src/base.ts";
import { f32Bytes, typed, writeGguf, type GgufTensorInput } from "../support/gguf-writer.ts";
import { numberToHalf, quantReference, randomBlocks } from "../support/quants.ts";

export type MatrixType = "F32" | "F16" | "Q4_0" | "Q8_0";

export interface RandomShape {
  hiddenSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  ffnWidth: number;
  vocabSize: number;
  contextTokens: number;
  /** The output matrix is the embedding. */
  tied: boolean;
  /** In place of a feed-forward: so many experts of `ffnWidth`, of which each token has some. */
  experts?: { count: number; chosen: number };
}

/** The shape of the public stories260K model. */
export const STORIES_260K: RandomShape = {
  hiddenSize: 64,
  layers: 5,
  heads: 8,
  kvHeads: 4,
  headDim: 8,
  ffnWidth: 172,
  vocabSize: 512,
  contextTokens: 512,
  tied: true,
};

/** About 28 million parameters, with an output matrix of its own. */
export const RANDOM_28M: RandomShape = {
  hiddenSize: 512,
  layers: 8,
  heads: 8,
  kvHeads: 4,
  headDim: 64,
  ffnWidth: 1408,
  vocabSize: 4096,
  contextTokens: 1024,
  tied: false,
};

/** About 158 million parameters: more than 300 MB in F16. */
export const RANDOM_158M: RandomShape = {
  hiddenSize: 1024,
  layers: 12,
  heads: 16,
  kvHeads: 8,
  headDim: 64,
  ffnWidth: 2816,
  vocabSize: 8192,
  contextTokens: 1024,
  tied: false,
};

/** 64 experts in each of 8 layers: about 105 MB in Q8_0, nearly all of it experts. */
export const RANDOM_EXPERTS: RandomShape = {
  hiddenSize: 256,
  layers: 8,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  ffnWidth: 256,
  vocabSize: 1024,
  contextTokens: 1024,
  tied: false,
  experts: { count: 64, chosen: 4 },
};

/**
 * How much larger the outputs that a layer adds to the residual stream are than others, beside embeddings of size 1: neighbouring
 * layers' states are then about as alike as in trained models with experts (a cosine of 0.9), and on that all prediction rests.
 */
const ADDED_SIZE = 1.5;

/** Blocks that are drawn at random; a prime, so that neighbouring rows differ. */
const DRAWN_BLOCKS = 4093;

/** The bytes of a GGUF file. The same seed gives the same bytes. */
export function randomModel(shape: RandomShape, type: MatrixType, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  return writeGguf({ metadata: metadataOf(shape), tensors: tensorsOf(shape, type, random) });
}

function metadataOf(shape: RandomShape) {
  const { experts } = shape;
  const architecture = experts ? "qwen3moe" : "llama";
  const own = {
    vocab_size: shape.vocabSize,
    context_length: shape.contextTokens,
    embedding_length: shape.hiddenSize,
    block_count: shape.layers,
    feed_forward_length: shape.ffnWidth,
    "attention.head_count": shape.heads,
    "attention.head_count_kv": shape.kvHeads,
    "attention.key_length": shape.headDim,
    "attention.value_length": shape.headDim,
    "attention.layer_norm_rms_epsilon": typed("f32", 1e-5),
    "rope.dimension_count": shape.headDim,
    "rope.freq_base": typed("f32", 10_000),
    ...(experts && {
      expert_count: experts.count,
      expert_used_count: experts.chosen,
      expert_feed_forward_length: shape.ffnWidth,
    }),
  };
  return {
    "general.architecture": architecture,
    "general.name": `random ${shape.hiddenSize} x ${shape.layers}`,
    ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value])),
  };
}

function tensorsOf(shape: RandomShape, type: MatrixType, random: Random): GgufTensorInput[] {
  const { hiddenSize: d, heads, kvHeads, headDim, vocabSize } = shape;
  const matrix = (
    name: string,
    inputs: number,
    outputs: number,
    more: MoreOfMatrix = {},
  ): GgufTensorInput => ({
    name: `${name}.weight`,
    type: more.type ?? type,
    shape: [inputs, outputs, ...(more.count !== undefined ? [more.count] : [])],
    data: weights(more.type ?? type, inputs, outputs * (more.count ?? 1), random, more.size),
  });
  const norm = (name: string, length: number): GgufTensorInput => ({
    name: `${name}.weight`,
    type: "F32",
    shape: [length],
    data: f32Bytes(new Float32Array(length).fill(1)),
  });
  const added = shape.experts ? { size: ADDED_SIZE } : {};
  const layer = (prefix: string) => [
    norm(`${prefix}.attn_norm`, d),
    matrix(`${prefix}.attn_q`, d, heads * headDim),
    matrix(`${prefix}.attn_k`, d, kvHeads * headDim),
    matrix(`${prefix}.attn_v`, d, kvHeads * headDim),
    matrix(`${prefix}.attn_output`, heads * headDim, d, added),
    norm(`${prefix}.ffn_norm`, d),
    ...feedForward(prefix, shape, matrix),
    ...(shape.experts
      ? [norm(`${prefix}.attn_q_norm`, headDim), norm(`${prefix}.attn_k_norm`, headDim)]
      : []),
  ];
  const layers = Array.from({ length: shape.layers }, (_, index) => layer(`blk.${index}`)).flat();
  const head = shape.tied ? [] : [matrix("output", d, vocabSize)];
  const embedding = shape.experts ? { size: Math.sqrt(d) } : {};
  return [matrix("token_embd", d, vocabSize, embedding), ...layers, norm("output_norm", d), ...head];
}

/** Of a matrix: another type, so many of it in one tensor, and its outputs' size. */
interface MoreOfMatrix {
  type?: MatrixType;
  count?: number;
  size?: number;
}

type MakeMatrix = (name: string, inputs: number, outputs: number, more?: MoreOfMatrix) => GgufTensorInput;

function feedForward(prefix: string, shape: RandomShape, matrix: MakeMatrix): GgufTensorInput[] {
  const { hiddenSize: d, ffnWidth, experts } = shape;
  const suffix = experts ? "_exps" : "";
  const of = experts ? { count: experts.count } : {};
  return [
    ...(experts ? [matrix(`${prefix}.ffn_gate_inp`, d, experts.count, { type: "F32" })] : []),
    matrix(`${prefix}.ffn_gate${suffix}`, d, ffnWidth, of),
    matrix(`${prefix}.ffn_up${suffix}`, d, ffnWidth, of),
    matrix(`${prefix}.ffn_down${suffix}`, ffnWidth, d, { ...of, size: experts ? ADDED_SIZE : 1 }),
  ];
}

/** Random blocks of a matrix, scaled so that a normal input of size 1 gives outputs of about this size. */
function weights(
  type: MatrixType,
  inputs: number,
  outputs: number,
  random: Random,
  outputSize = 1,
): Uint8Array {
  const reference = quantReference(type);
  const drawn = randomBlocks(reference, DRAWN_BLOCKS, random);
  const view = new DataView(drawn.buffer);
  for (let block = 0; block < DRAWN_BLOCKS; block++) {
    const at = block * reference.blockBytes;
    const size = (outputSize * random.normal()) / Math.sqrt(inputs);
    if (type === "F32") view.setFloat32(at, size, true);
    else view.setUint16(at, numberToHalf(size / QUANT_SIZE[type]), true);
  }
  const out = new Uint8Array(((inputs * outputs) / reference.blockLen) * reference.blockBytes);
  for (let at = 0; at < out.length; at += drawn.length) out.set(drawn.subarray(0, out.length - at), at);
  return out;
}

/** Root mean square of a quant: -8 to 7 in Q4_0, -128 to 127 in Q8_0. */
const QUANT_SIZE = { F16: 1, Q4_0: 4.6, Q8_0: 73.9 };
