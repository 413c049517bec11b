/**
 * The config.json dialects of models with LayerNorm, and of Llama's relatives without a gate. Plain data, as in dialects.ts.
 */
import type { Dialect } from "./dialect.ts";
import { MAX_WIDTH } from "../hyperparameters.ts";

const STARCODER2: Dialect = {
  defaults: {
    vocab_size: 49_152,
    hidden_size: 3072,
    intermediate_size: 12_288,
    num_hidden_layers: 30,
    num_attention_heads: 24,
    num_key_value_heads: 2,
    max_position_embeddings: 4096,
    norm_epsilon: 1e-5,
    rope_theta: 10_000,
    hidden_act: "gelu_pytorch_tanh",
  },
  activation: "hidden_act",
  normEps: "norm_epsilon",
  localLayers: (_, layers) => Array<boolean>(layers).fill(true),
};

const GPT2: Dialect = {
  defaults: {
    vocab_size: 50_257,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 1024,
    layer_norm_epsilon: 1e-5,
    rope_theta: 10_000,
    activation_function: "gelu_new",
  },
  keys: {
    n_embd: "hidden_size",
    n_inner: "intermediate_size",
    n_layer: "num_hidden_layers",
    n_head: "num_attention_heads",
    n_positions: "max_position_embeddings",
  },
  activation: "activation_function",
  normEps: "layer_norm_epsilon",
  fixed: { scale_attn_weights: true, scale_attn_by_inverse_layer_idx: false, add_cross_attention: false },
};

const GPT_NEOX: Dialect = {
  defaults: {
    vocab_size: 50_432,
    hidden_size: 6144,
    intermediate_size: 24_576,
    num_hidden_layers: 44,
    num_attention_heads: 64,
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-5,
    rope_theta: 10_000,
    partial_rotary_factor: 0.25,
    hidden_act: "gelu",
  },
  keys: { rotary_pct: "partial_rotary_factor", rotary_emb_base: "rope_theta" },
  activation: "hidden_act",
  normEps: "layer_norm_eps",
  adjust: (read) => ({ parallelResidual: read.flag("use_parallel_residual", true) }),
};

const FALCON: Dialect = {
  defaults: {
    vocab_size: 65_024,
    hidden_size: 4544,
    num_hidden_layers: 32,
    num_attention_heads: 71,
    max_position_embeddings: 2048,
    layer_norm_epsilon: 1e-5,
    rope_theta: 10_000,
    activation: "gelu",
  },
  keys: { ffn_hidden_size: "intermediate_size" },
  activation: "activation",
  normEps: "layer_norm_epsilon",
  fixed: { alibi: false, parallel_attn: true },
  adjust(read, { layers, heads }) {
    read.value("num_ln_in_parallel_attn"); // the tensors that are there say it
    const all = heads[0] ?? 0;
    const isShared = read.flag("multi_query", true);
    const stated = read.integer("num_kv_heads", MAX_WIDTH, all);
    const isNew = read.flag("new_decoder_architecture", false);
    return { kvHeads: Array<number>(layers).fill(isNew ? stated : isShared ? 1 : all) };
  },
};

const PHI: Dialect = {
  defaults: {
    vocab_size: 51_200,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-5,
    rope_theta: 10_000,
    partial_rotary_factor: 0.5,
    hidden_act: "gelu_new",
  },
  activation: "hidden_act",
  normEps: "layer_norm_eps",
  fixed: { qk_layernorm: false },
};

const STABLELM: Dialect = {
  defaults: {
    vocab_size: 50_304,
    hidden_size: 2560,
    intermediate_size: 6912,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    max_position_embeddings: 4096,
    layer_norm_eps: 1e-5,
    rope_theta: 10_000,
    partial_rotary_factor: 0.25,
    hidden_act: "silu",
  },
  activation: "hidden_act",
  normEps: "layer_norm_eps",
  adjust(read) {
    for (const name of ["qk_layernorm", "use_parallel_residual"]) read.value(name); // the tensors that are there say it
    return {};
  },
};

const ARCEE: Dialect = {
  defaults: {
    vocab_size: 32_000,
    hidden_size: 2560,
    intermediate_size: 18_432,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: "relu2",
  },
  activation: "hidden_act",
};

export const LAYER_NORM_DIALECTS: Readonly<Record<string, Dialect>> = {
  starcoder2: STARCODER2,
  gpt2: GPT2,
  gpt_neox: GPT_NEOX,
  falcon: FALCON,
  phi: PHI,
  stablelm: STABLELM,
  arcee: ARCEE,
};
