/**
 * What each model type of transformers leaves unsaid in config.json: its defaults, which layers have a window, and under which
 * keys it says what others say elsewhere. Plain data but for a few rules; hyperparameters-config.ts reads by it.
 */
import { expertDialects } from "./experts.ts";
import { GEMMA_DIALECTS } from "./gemma.ts";
import { LAYER_NORM_DIALECTS } from "./layer-norm.ts";
import { RECURRENT_DIALECTS } from "./recurrent.ts";
import type { Dialect } from "./dialect.ts";
import { letteredLayers, listedLayers } from "./layers.ts";
import { localByPeriod, MAX_CONTEXT, MAX_LAYERS } from "../hyperparameters.ts";

const LLAMA: Dialect = {
  defaults: {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    hidden_act: "silu",
  },
  activation: "hidden_act",
};

const MISTRAL: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    intermediate_size: 14_336,
    num_key_value_heads: 8,
    max_position_embeddings: 131_072,
    sliding_window: 4096,
  },
  localLayers: (_, layers) => Array<boolean>(layers).fill(true),
  activation: "hidden_act",
};

const QWEN2: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_key_value_heads: 32,
    max_position_embeddings: 32_768,
    use_sliding_window: false,
    sliding_window: 4096,
    max_window_layers: 28,
  },
  localLayers: (read, layers) => {
    const first = read.integer("max_window_layers", MAX_LAYERS, undefined, 0);
    return listedLayers(read, layers) ?? Array.from({ length: layers }, (_, index) => index >= first);
  },
  activation: "hidden_act",
};

const QWEN3: Dialect = {
  ...QWEN2,
  defaults: { ...QWEN2.defaults, head_dim: 128 },
};

const MINISTRAL3: Dialect = {
  ...MISTRAL,
  defaults: {
    ...MISTRAL.defaults,
    vocab_size: 131_072,
    num_hidden_layers: 34,
    head_dim: 128,
    max_position_embeddings: 262_144,
    rms_norm_eps: 1e-5,
    sliding_window: null,
    "rope_parameters.rope_type": "yarn",
    "rope_parameters.rope_theta": 1_000_000,
    "rope_parameters.factor": 16,
    "rope_parameters.original_max_position_embeddings": 16_384,
    "rope_parameters.mscale": 1,
    "rope_parameters.mscale_all_dim": 1,
    "rope_parameters.llama_4_scaling_beta": 0.1,
  },
  temperature: true,
};

const PHI3: Dialect = {
  ...MISTRAL,
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    max_position_embeddings: 4096,
    original_max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
  },
};

const GRANITE: Dialect = { ...LLAMA, multipliers: true };

const ERNIE: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 103_424,
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: 18,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000,
  },
  activation: "hidden_act",
};

const HUNYUAN: Dialect = {
  defaults: { ...LLAMA.defaults, vocab_size: 290_943, rms_norm_eps: 1e-5 },
  activation: "hidden_act",
  ntkAlpha: true,
  fixed: { use_qk_norm: true, use_cla: false },
};

const SEED_OSS: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 155_136,
    intermediate_size: 27_648,
    num_hidden_layers: 64,
    num_attention_heads: 80,
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 524_288,
  },
  activation: "hidden_act",
};

const APERTUS: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 131_072,
    intermediate_size: 14_336,
    max_position_embeddings: 65_536,
    rms_norm_eps: 1e-5,
    rope_theta: 12_000_000,
    hidden_act: "xielu",
  },
  activation: "hidden_act",
};

/** Its code is published with its models, not with transformers; so is MiniCPM's. */
const INTERNLM2: Dialect = {
  defaults: { ...LLAMA.defaults, vocab_size: 103_168 },
  activation: "hidden_act",
};

const MINICPM: Dialect = {
  defaults: { ...LLAMA.defaults, scale_emb: 1, scale_depth: 1, dim_model_base: 1 },
  activation: "hidden_act",
  fixed: { sparse_config: null },
  adjust: (read, { layers, hiddenSize }) => ({
    embeddingScale: read.positive("scale_emb"),
    residualScale: read.positive("scale_depth") / Math.sqrt(layers),
    logitDivisor: hiddenSize / read.positive("dim_model_base"),
  }),
};

const GLM4: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 151_552,
    intermediate_size: 13_696,
    num_hidden_layers: 40,
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131_072,
    rms_norm_eps: 0.000_000_156_25,
    partial_rotary_factor: 0.5,
  },
  activation: "hidden_act",
};

const OLMO2: Dialect = {
  defaults: { ...LLAMA.defaults, vocab_size: 50_304, rms_norm_eps: 1e-5 },
  activation: "hidden_act",
};

const OLMO3: Dialect = {
  defaults: { ...OLMO2.defaults, rope_theta: 500_000, sliding_window: 4096 },
  localLayers: (read, layers) => listedLayers(read, layers) ?? localByPeriod(layers, 4),
  localRope: "rope_theta",
  activation: "hidden_act",
};

const EXAONE4: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 102_400,
    intermediate_size: 16_384,
    num_key_value_heads: 32,
    rms_norm_eps: 1e-5,
    sliding_window: 4096,
    sliding_window_pattern: 4,
  },
  localLayers: (read, layers) => {
    const lettered = letteredLayers(read, layers);
    return listedLayers(read, layers) ?? lettered;
  },
  activation: "hidden_act",
};

const SMOLLM3: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 128_256,
    hidden_size: 2048,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    max_position_embeddings: 32_768,
    rope_theta: 2_000_000,
    use_sliding_window: false,
    no_rope_layer_interval: 4,
  },
  ropeLayers: (read, layers) => {
    const interval = read.integer("no_rope_layer_interval", MAX_LAYERS);
    const listed = read.flags("no_rope_layers", layers);
    return listed ?? Array.from({ length: layers }, (_, index) => (index + 1) % interval !== 0);
  },
  localLayers: (read, layers, ropeLayers) =>
    listedLayers(read, layers) ?? (ropeLayers ?? []).map((rotates) => !rotates),
  activation: "hidden_act",
};

const BERT: Dialect = {
  defaults: {
    vocab_size: 30_522,
    hidden_size: 768,
    intermediate_size: 3072,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 512,
    layer_norm_eps: 1e-12,
    rope_theta: 10_000, // read for all, and used by none of this type
    hidden_act: "gelu",
  },
  activation: "hidden_act",
  normEps: "layer_norm_eps",
  fixed: { position_embedding_type: "absolute", is_decoder: false, add_cross_attention: false },
};

/** Positions count from behind the padding's, whose number is that of its token. */
const ROBERTA: Dialect = {
  ...BERT,
  defaults: { ...BERT.defaults, vocab_size: 50_265, pad_token_id: 1 },
  adjust(read, { contextTokens }) {
    const positionOffset = read.integer("pad_token_id", contextTokens - 2, undefined, 0) + 1;
    return { positionOffset, contextTokens: contextTokens - positionOffset };
  },
};

/** Its own files have the keys of GPT-2, transformers writes BERT's. */
const NOMIC_BERT: Dialect = {
  defaults: {
    vocab_size: 30_528,
    hidden_size: 768,
    intermediate_size: 3072,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 2048,
    layer_norm_eps: 1e-12,
    rope_theta: 1000,
    hidden_act: "silu",
  },
  keys: {
    n_embd: "hidden_size",
    n_inner: "intermediate_size",
    n_layer: "num_hidden_layers",
    n_head: "num_attention_heads",
    n_positions: "max_position_embeddings",
    layer_norm_epsilon: "layer_norm_eps",
    rotary_emb_base: "rope_theta",
    rotary_emb_fraction: "partial_rotary_factor",
  },
  activation: "hidden_act",
  normEps: "layer_norm_eps",
  fixed: {
    activation_function: "swiglu",
    prenorm: false,
    causal: false,
    parallel_block: false,
    scale_attn_weights: true,
    rotary_emb_interleaved: false,
    rotary_emb_scale_base: null,
    rotary_scaling_factor: null,
  },
};

const MODERN_BERT: Dialect = {
  defaults: {
    vocab_size: 50_368,
    hidden_size: 768,
    intermediate_size: 1152,
    num_hidden_layers: 22,
    num_attention_heads: 12,
    max_position_embeddings: 8192,
    norm_eps: 1e-5,
    rope_theta: 160_000,
    local_rope_theta: 10_000,
    global_attn_every_n_layers: 3,
    local_attention: 128,
    hidden_activation: "gelu",
  },
  activation: "hidden_activation",
  normEps: "norm_eps",
  localRope: "local_rope_theta",
  localLayers: (read, layers) => {
    const period = read.integer("global_attn_every_n_layers", MAX_LAYERS);
    return listedLayers(read, layers) ?? localByPeriod(layers, period, true);
  },
  adjust(read, { rope }) {
    read.value("sliding_window"); // half of local_attention, under the name that others have
    const theta = read.positive("global_rope_theta", rope.theta);
    return { window: read.integer("local_attention", MAX_CONTEXT), rope: { ...rope, theta } };
  },
};

const DENSE: Readonly<Record<string, Dialect>> = {
  llama: LLAMA,
  mistral: MISTRAL,
  ministral3: MINISTRAL3,
  qwen2: QWEN2,
  qwen3: QWEN3,
  phi3: PHI3,
  granite: GRANITE,
  ernie4_5: ERNIE,
  hunyuan_v1_dense: HUNYUAN,
  seed_oss: SEED_OSS,
  apertus: APERTUS,
  internlm2: INTERNLM2,
  minicpm: MINICPM,
  glm4: GLM4,
  olmo2: OLMO2,
  olmo3: OLMO3,
  exaone4: EXAONE4,
  smollm3: SMOLLM3,
  bert: BERT,
  roberta: ROBERTA,
  "xlm-roberta": ROBERTA,
  modernbert: MODERN_BERT,
  nomic_bert: NOMIC_BERT,
  ...GEMMA_DIALECTS,
  ...RECURRENT_DIALECTS,
  ...LAYER_NORM_DIALECTS,
};

export const DIALECTS: Readonly<Record<string, Dialect>> = { ...DENSE, ...expertDialects(DENSE) };
