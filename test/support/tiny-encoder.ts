/**
 * A small encoder with random weights and a WordPiece vocabulary of letters, as the bytes of a GGUF file: what examples and
 * tests embed texts with. Its vectors mean nothing.
 */
import { Random } from "../../src/base.ts";
import { typed, writeGguf, type WriteValue } from "./gguf-writer.ts";

const SIZES = { d: 32, heads: 2, headDim: 16, ff: 64, layers: 2, context: 64 };

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz0123456789"];
const SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/** Tokens that begin a word have a mark, as converters write them; the others go on in one. */
export const WORDPIECE_TOKENS: readonly string[] = [
  ...SPECIAL,
  ...[...LETTERS, ..."漢äß.,!?'[]", "the", "boat", "sea"].map((token) => `\u2581${token}`),
  ...[...LETTERS, "ing", "s2"],
];

/** The metadata of a WordPiece tokenizer. */
export function wordPieceVocab(): Record<string, WriteValue> {
  return {
    "tokenizer.ggml.model": "bert",
    "tokenizer.ggml.tokens": WORDPIECE_TOKENS,
    "tokenizer.ggml.token_type": Int32Array.from(WORDPIECE_TOKENS, (_, id) => (id < SPECIAL.length ? 3 : 1)),
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 1,
    "tokenizer.ggml.seperator_token_id": 3,
  };
}

export function tinyEncoder(seed = 1): Uint8Array<ArrayBuffer> {
  const { d, heads, headDim, ff, layers, context } = SIZES;
  const random = new Random(seed);
  const tensor = (name: string, ...shape: number[]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const scale = shape.length > 1 ? 1 / Math.sqrt(d) : 0.1;
    const data = Float32Array.from(
      { length: count },
      () => random.normal() * scale + (shape.length > 1 ? 0 : 1),
    );
    return { name: `${name}.weight`, type: "F32", shape, data: new Uint8Array(data.buffer) };
  };
  const layer = (index: number) => {
    const at = (name: string, ...shape: number[]) => tensor(`blk.${index}.${name}`, ...shape);
    return [
      ...["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"].map((name) => at(name, d)),
      ...[at("attn_q", d, heads * headDim), at("attn_k", d, headDim), at("attn_v", d, headDim)],
      ...[at("attn_q_norm", headDim), at("attn_k_norm", headDim), at("attn_output", heads * headDim, d)],
      ...[at("ffn_gate", d, ff), at("ffn_up", d, ff), at("ffn_down", ff, d)],
    ];
  };
  const settings: Record<string, WriteValue> = {
    ...{ context_length: context, embedding_length: d, block_count: layers, feed_forward_length: ff },
    ...{ "attention.head_count": heads, "attention.head_count_kv": 1, "attention.key_length": headDim },
    ...{ "attention.value_length": headDim, "attention.layer_norm_rms_epsilon": typed("f32", 1e-6) },
    ...{ "attention.sliding_window": 16, pooling_type: 1 },
  };
  const prefixed = Object.entries(settings).map(([key, value]) => [`gemma-embedding.${key}`, value]);
  return writeGguf({
    metadata: {
      "general.architecture": "gemma-embedding",
      ...(Object.fromEntries(prefixed) as Record<string, WriteValue>),
      ...wordPieceVocab(),
    },
    tensors: [
      tensor("token_embd", d, WORDPIECE_TOKENS.length),
      ...Array.from({ length: layers }, (_, index) => layer(index)).flat(),
      tensor("output_norm", d),
    ],
  });
}
