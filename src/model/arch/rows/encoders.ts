/**
 * Architectures that make vectors of texts and generate nothing: each token sees the whole text. What a row does not say is as in
 * PLAIN (architecture.ts), or as in the causal model that it comes from.
 */
import { PLAIN, PRE_NORMS, type Architecture } from "../architecture.ts";
import type { LayerNorms } from "../../../shape/shape.ts";
import { DENSE } from "./dense.ts";

/** What EmbeddingGemma was trained to read before a text. */
const GEMMA_TASKS = {
  query: "task: search result | query: ",
  document: "title: none | text: ",
  clustering: "task: clustering | query: ",
  classification: "task: classification | query: ",
  similarity: "task: sentence similarity | query: ",
};

/** Nomic's, likewise. */
const NOMIC_TASKS = {
  query: "search_query: ",
  document: "search_document: ",
  clustering: "clustering: ",
  classification: "classification: ",
};

/** BERT's layers norm what they have added to the residual stream. */
const BERT = {
  ...PLAIN,
  norm: "layer",
  norms: { mixerPost: "attn_output_norm", ffnPost: "layer_output_norm", postOf: "sum" },
  embeddingNorm: true,
  outputNorm: false,
  ropeLayout: "half",
  isEncoder: true,
} as const;

const BERT_NAMES = {
  layers: "encoder.layer",
  token_embd: "embeddings.word_embeddings",
  position_embd: "embeddings.position_embeddings",
  token_types: "embeddings.token_type_embeddings",
  token_embd_norm: "embeddings.LayerNorm",
  attn_q: "attention.self.query",
  attn_k: "attention.self.key",
  attn_v: "attention.self.value",
  attn_output: "attention.output.dense",
  attn_output_norm: "attention.output.LayerNorm",
  ffn_up: "intermediate.dense",
  ffn_down: "output.dense",
  layer_output_norm: "output.LayerNorm",
};

const NOMIC_NAMES = {
  layers: "encoder.layers",
  token_embd: "embeddings.word_embeddings",
  token_types: "embeddings.token_type_embeddings",
  token_embd_norm: "emb_ln",
  attn_qkv: "attn.Wqkv",
  attn_output: "attn.out_proj",
  attn_output_norm: "norm1",
  ffn_up: "mlp.fc11",
  ffn_gate: "mlp.fc12",
  ffn_down: "mlp.fc2",
  layer_output_norm: "norm2",
};

const MODERN_NAMES = {
  token_embd: "embeddings.tok_embeddings",
  token_embd_norm: "embeddings.norm",
  output_norm: "final_norm",
  attn_norm: "attn_norm",
  attn_qkv: "attn.Wqkv",
  attn_output: "attn.Wo",
  ffn_norm: "mlp_norm",
  ffn_up: "mlp.Wi",
  ffn_down: "mlp.Wo",
};

/** ModernBERT: every third layer is global, from the first on, which norms nothing before its attention. */
const MODERN_WINDOW = { period: 3, isFirstGlobal: true, localTheta: 10_000 };

const MODERN_FIRST_NORMS: LayerNorms = { ffn: "ffn_norm" };

const GEMMA3 = DENSE.find(({ gguf }) => gguf === "gemma3") as Architecture;

export const ENCODERS: readonly Architecture[] = [
  {
    ...BERT,
    gguf: "bert",
    config: ["bert", "roberta", "xlm-roberta"],
    learnedPositions: true,
    ropeTable: () => undefined,
    activation: "gelu_tanh",
    gated: false,
    safetensorsNames: BERT_NAMES,
  },
  {
    ...BERT,
    gguf: "nomic-bert",
    config: ["nomic_bert"],
    safetensorsNames: NOMIC_NAMES,
    tasks: NOMIC_TASKS,
  },
  {
    ...PLAIN,
    gguf: "modern-bert",
    config: ["modernbert"],
    safetensorsNames: MODERN_NAMES,
    norm: "layer",
    embeddingNorm: true,
    ropeLayout: "half",
    window: MODERN_WINDOW,
    activation: "gelu_tanh",
    fusedGateUp: true,
    isEncoder: true,
    skeleton: (index) => ({ norms: index === 0 ? MODERN_FIRST_NORMS : PRE_NORMS, parallel: false }),
  },
  {
    ...{ ...GEMMA3, gguf: "gemma-embedding", isEncoder: true, tasks: GEMMA_TASKS },
    ...{ config: ["gemma3_text"], configFlag: "use_bidirectional_attention" },
  },
];
