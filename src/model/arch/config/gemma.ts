/** The config.json dialects of the Gemma family. Plain data but for what 3n and 4 say layer by layer, as in dialects.ts. */
import type { Dialect } from "./dialect.ts";
import { listedLayers } from "./layers.ts";
import {
  localByPeriod,
  MAX_HEAD_DIM,
  MAX_LAYERS,
  MAX_WIDTH,
  type Hyperparameters,
} from "../hyperparameters.ts";
import type { Reader } from "../settings-reader.ts";

const GEMMA: Dialect = {
  defaults: {
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: 24_576,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    head_dim: 256,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    hidden_act: "gelu_pytorch_tanh",
  },
  activation: "hidden_act",
  activations: { gelu: "gelu_tanh" },
};

const GEMMA2: Dialect = {
  defaults: {
    ...GEMMA.defaults,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    hidden_activation: "gelu_pytorch_tanh",
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  localLayers: (read, layers) => listedLayers(read, layers) ?? localByPeriod(layers, 2),
  activation: "hidden_activation",
};

const GEMMA3: Dialect = {
  defaults: {
    vocab_size: 262_208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    rope_local_base_freq: 10_000,
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    hidden_activation: "gelu_pytorch_tanh",
  },
  localLayers: (read, layers) => {
    const kept = read.integer("_sliding_window_pattern", MAX_LAYERS, GEMMA3_PERIOD);
    const period = read.integer("sliding_window_pattern", MAX_LAYERS, kept);
    return listedLayers(read, layers) ?? localByPeriod(layers, period);
  },
  localRope: "rope_local_base_freq",
  activation: "hidden_activation",
};

/** One global layer after five local ones. */
const GEMMA3_PERIOD = 6;

const GEMMA3N: Dialect = {
  defaults: {
    vocab_size: 262_400,
    hidden_size: 2048,
    intermediate_size: 16_384,
    num_hidden_layers: 35,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    head_dim: 256,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    rope_local_base_freq: 10_000,
    sliding_window: 512,
    hidden_activation: "gelu_pytorch_tanh",
    final_logit_softcapping: 30,
    num_kv_shared_layers: 15,
    hidden_size_per_layer_input: 256,
    laurel_rank: 64,
  },
  localLayers: (read, layers) => listedLayers(read, layers) ?? localByPeriod(layers, 5),
  localRope: "rope_local_base_freq",
  activation: "hidden_activation",
  fixed: { altup_num_inputs: 4, altup_active_idx: 0, altup_correct_scale: true },
  adjust: (read, params) => ({
    ...perLayerOf(read, params.layers),
    laurelRank: read.integer("laurel_rank", MAX_WIDTH),
    sparsity: sparsityOf(read, params),
  }),
};

const GEMMA4: Dialect = {
  defaults: {
    vocab_size: 262_144,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 30,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    global_head_dim: 512,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    "rope_parameters.full_attention.rope_type": "proportional",
    "rope_parameters.full_attention.partial_rotary_factor": 0.25,
    "rope_parameters.sliding_attention.rope_theta": 10_000,
    sliding_window: 512,
    hidden_activation: "gelu_pytorch_tanh",
    num_kv_shared_layers: 0,
    hidden_size_per_layer_input: 256,
  },
  localLayers: (read, layers) => {
    const local = listedLayers(read, layers) ?? localByPeriod(layers, 6);
    return local.map((isLocal, index) => isLocal && index < layers - 1);
  },
  localRope: "rope_theta",
  activation: "hidden_activation",
  experts: {
    count: "num_experts",
    chosen: "top_k_experts",
    width: "moe_intermediate_size",
    unless: "enable_moe_block",
  },
  adjust(read, params) {
    const sees = read.value("use_bidirectional_attention") ?? "vision"; // pictures alone
    if (sees !== "vision") throw read.unsupported("use_bidirectional_attention", sees, "null and vision");
    const { layers, ffnWidth, rope } = params;
    const { headDim, kvHeads } = sizesByLayer(read, params);
    const part = perLayerOf(read, layers);
    const isWide = read.flag("use_double_wide_mlp", false);
    const shares = (index: number) => index >= layers - part.sharedKvLayers;
    return {
      ...part,
      ...{ headDim, kvHeads, ropeDims: headDim },
      rope: { ...rope, divisors: proportionalDivisors(read, headDim) },
      ffnWidth: ffnWidth.map((width, index) => (isWide && shares(index) ? 2 * width : width)),
    };
  },
};

function perLayerOf(read: Reader, layers: number): Pick<Hyperparameters, "sharedKvLayers" | "perLayerWidth"> {
  return {
    sharedKvLayers: read.integer("num_kv_shared_layers", layers - 1, undefined, 0),
    perLayerWidth: read.integer("hidden_size_per_layer_input", MAX_WIDTH, undefined, 0),
  };
}

/** The head size of global layers, and the KV heads of each: under keys of their own, or layer by layer as transformers 5 writes it. */
function sizesByLayer(
  read: Reader,
  { layers, headDim, kvHeads, localLayers }: Hyperparameters,
): Pick<Hyperparameters, "headDim" | "kvHeads"> {
  const name = "per_layer_config";
  const listed = read.value(name);
  const hasOwn = read.flag("attention_k_eq_v", false);
  const globalHeads = read.integer("num_global_key_value_heads", MAX_WIDTH, 0, 0);
  const globalDim = read.integer("global_head_dim", MAX_HEAD_DIM);
  const isGlobal = (index: number) => localLayers[index] === false;
  if (listed === undefined || listed === null) {
    const heads = kvHeads.map((all, index) => (isGlobal(index) && hasOwn && globalHeads ? globalHeads : all));
    return { headDim: globalDim, kvHeads: heads };
  }
  const of = Array.from({ length: layers }, (_, index) => {
    const {
      head_dim: dim = headDim,
      num_key_value_heads: heads = kvHeads[index],
      ...others
    } = (listed as Record<string, Record<string, unknown> | undefined>)[index] ?? {};
    for (const [key, value] of Object.entries(others))
      throw read.unsupported(`${name}.${index}.${key}`, value, "head_dim and num_key_value_heads");
    return { dim, heads, isGlobal: isGlobal(index) };
  });
  const dim = of.find((layer) => layer.isGlobal)?.dim ?? headDim;
  const isOdd = of.some((layer) => layer.dim !== (layer.isGlobal ? dim : headDim));
  if (isOdd || !isSize(dim, MAX_HEAD_DIM) || !of.every(({ heads }) => isSize(heads, MAX_WIDTH)))
    throw read.bad(name, listed, "one head size for all global layers, and none for others");
  return { headDim: dim, kvHeads: of.map(({ heads }) => heads as number) };
}

function isSize(value: unknown, most: number): value is number {
  return Number.isInteger(value) && Number(value) > 0 && Number(value) <= most;
}

/** Pairs behind the first ones are not turned. */
const UNTURNED = 1e30;

/** undefined: all pairs are turned. */
function proportionalDivisors(read: Reader, headDim: number): number[] | undefined {
  const place = "rope_parameters.full_attention.";
  if (read.text(`${place}rope_type`) !== "proportional") return undefined;
  const turned = Math.floor((read.positive(`${place}partial_rotary_factor`, 1) * headDim) / 2);
  return Array.from({ length: headDim / 2 }, (_, pair) => (pair < turned ? 1 : UNTURNED));
}

/**
 * Shares of gates that are spared -> how many standard deviations they reach above the mean. The kernel's deviation is llama.cpp's,
 * which divides by one less than the number of gates; that of transformers divides by their number.
 */
function sparsityOf(read: Reader, { layers, ffnWidth }: Hyperparameters): (number | undefined)[] {
  const name = "activation_sparsity_pattern";
  const usual = Array.from({ length: layers }, (_, index) => (layers > 10 && index < 10 ? 0.95 : 0));
  const shares = read.list(name, layers) ?? usual;
  return shares.map((share, index) => {
    if (typeof share !== "number" || !(share >= 0 && share < 1))
      throw read.bad(name, share, "shares from 0 to 1");
    const width = ffnWidth[index] ?? 0;
    return share === 0 ? undefined : normalQuantile(share) * Math.sqrt((width - 1) / width);
  });
}

/** Where the normal distribution's function has this value, by bisection. */
function normalQuantile(share: number): number {
  let [low, high] = [-9, 9];
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (normalShare(middle) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** The normal distribution's function, by its series. */
function normalShare(x: number): number {
  let [term, sum] = [x, x];
  for (let odd = 3; odd < 400; odd += 2) sum += term *= (x * x) / odd;
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}

export const GEMMA_DIALECTS: Readonly<Record<string, Dialect>> = {
  gemma: GEMMA,
  gemma2: GEMMA2,
  gemma3_text: {
    ...GEMMA3,
    adjust(read) {
      read.flag("use_bidirectional_attention", false); // it has a row of its own
      return {};
    },
  },
  gemma3: GEMMA3,
  gemma3n_text: GEMMA3N,
  gemma3n: GEMMA3N,
  gemma4_text: GEMMA4,
  gemma4: GEMMA4,
};
