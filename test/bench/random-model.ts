/**
 * Llama-shaped GGUF models with random weights, made on the fly for benchmarks. They have no tokenizer and say nothing;
 * their sums stay finite. Speed does not depend on the values, so one run of random blocks is laid out again and again.
 */
import { Random } from "../../src/base.ts";
import { f32Bytes, typed, writeGguf, type GgufTensorInput } from "../support/gguf-writer.ts";
import { numberToHalf, quantReference, randomBlocks } from "../support/quants.ts";

export type MatrixType = "F32" | "F16" | "Q4_0";

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

/** Blocks that are drawn at random; a prime, so that neighbouring rows differ. */
const DRAWN_BLOCKS = 4093;

/** The bytes of a GGUF file. The same seed gives the same bytes. */
export function randomModel(shape: RandomShape, type: MatrixType, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  return writeGguf({ metadata: metadataOf(shape), tensors: tensorsOf(shape, type, random) });
}

function metadataOf(shape: RandomShape) {
  return {
    "general.architecture": "llama",
    "general.name": `random ${shape.hiddenSize} x ${shape.layers}`,
    "llama.vocab_size": shape.vocabSize,
    "llama.context_length": shape.contextTokens,
    "llama.embedding_length": shape.hiddenSize,
    "llama.block_count": shape.layers,
    "llama.feed_forward_length": shape.ffnWidth,
    "llama.attention.head_count": shape.heads,
    "llama.attention.head_count_kv": shape.kvHeads,
    "llama.attention.key_length": shape.headDim,
    "llama.attention.value_length": shape.headDim,
    "llama.attention.layer_norm_rms_epsilon": typed("f32", 1e-5),
    "llama.rope.dimension_count": shape.headDim,
    "llama.rope.freq_base": typed("f32", 10_000),
  };
}

function tensorsOf(shape: RandomShape, type: MatrixType, random: Random): GgufTensorInput[] {
  const { hiddenSize: d, heads, kvHeads, headDim, ffnWidth, vocabSize } = shape;
  const matrix = (name: string, inputs: number, outputs: number): GgufTensorInput => ({
    name: `${name}.weight`,
    type,
    shape: [inputs, outputs],
    data: weights(type, inputs, outputs, random),
  });
  const norm = (name: string): GgufTensorInput => ({
    name: `${name}.weight`,
    type: "F32",
    shape: [d],
    data: f32Bytes(new Float32Array(d).fill(1)),
  });
  const layer = (prefix: string) => [
    norm(`${prefix}.attn_norm`),
    matrix(`${prefix}.attn_q`, d, heads * headDim),
    matrix(`${prefix}.attn_k`, d, kvHeads * headDim),
    matrix(`${prefix}.attn_v`, d, kvHeads * headDim),
    matrix(`${prefix}.attn_output`, heads * headDim, d),
    norm(`${prefix}.ffn_norm`),
    matrix(`${prefix}.ffn_gate`, d, ffnWidth),
    matrix(`${prefix}.ffn_up`, d, ffnWidth),
    matrix(`${prefix}.ffn_down`, ffnWidth, d),
  ];
  const layers = Array.from({ length: shape.layers }, (_, index) => layer(`blk.${index}`)).flat();
  const head = shape.tied ? [] : [matrix("output", d, vocabSize)];
  return [matrix("token_embd", d, vocabSize), ...layers, norm("output_norm"), ...head];
}

/** Random blocks of a matrix, scaled so that a normal input of size 1 gives outputs of about size 1. */
function weights(type: MatrixType, inputs: number, outputs: number, random: Random): Uint8Array {
  const reference = quantReference(type);
  const drawn = randomBlocks(reference, DRAWN_BLOCKS, random);
  const view = new DataView(drawn.buffer);
  for (let block = 0; block < DRAWN_BLOCKS; block++) {
    const at = block * reference.blockBytes;
    const size = random.normal() / Math.sqrt(inputs);
    if (type === "F32") view.setFloat32(at, size, true);
    else view.setUint16(at, numberToHalf(type === "F16" ? size : size / NIBBLE_SIZE), true);
  }
  const out = new Uint8Array(((inputs * outputs) / reference.blockLen) * reference.blockBytes);
  for (let at = 0; at < out.length; at += drawn.length) out.set(drawn.subarray(0, out.length - at), at);
  return out;
}

/** Root mean square of a Q4_0 quant, -8 to 7. */
const NIBBLE_SIZE = 4.6;
