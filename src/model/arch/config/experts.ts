/**
 * The config.json dialects of mixtures of experts: under which keys they say how many experts there are, how wide, and how they are
 * chosen. Most are a dense dialect with experts. Which layers have experts is seen by their tensors (rows.ts). Plain data, as in
 * dialects.ts.
 */
import type { Dialect, ExpertKeys } from "./dialect.ts";
import { listedLayers } from "./layers.ts";
import {
  localByPeriod,
  MAX_EXPERTS,
  MAX_LAYERS,
  MAX_WIDTH,
  yarnMagnitude,
  type ExpertSettings,
} from "../hyperparameters.ts";
import type { Reader } from "../settings-reader.ts";

/** What the settings say of experts; undefined if there are none. */
export function expertSettings(read: Reader, keys: ExpertKeys | undefined): ExpertSettings | undefined {
  if (!keys || expertCount(read, keys) === 0) return undefined;
  const size = (name: string | undefined) => (name === undefined ? 0 : read.integer(name, MAX_WIDTH, 0, 0));
  for (const name of SEEN_BY_TENSORS) read.value(name);
  const width = size(keys.width);
  const sharedCount = size(keys.sharedCount);
  const [count, used] = [size(keys.groups?.count), size(keys.groups?.used)];
  return {
    chosen: read.integer(keys.chosen, MAX_EXPERTS),
    width,
    sharedWidth: size(keys.sharedWidth) || sharedCount * width,
    gate: keys.gate,
    renormalise: keys.renormalise === undefined ? undefined : read.flag(keys.renormalise, false),
    scale: keys.scale === undefined ? 1 : read.positive(keys.scale, 1),
    groups: count > 1 ? { count, used: used || count } : undefined,
  };
}

export function expertCount(read: Reader, keys: ExpertKeys | undefined): number {
  if (!keys) return read.integer("num_experts", MAX_EXPERTS, 0, 0);
  const isOff = keys.unless !== undefined && !read.flag(keys.unless, false);
  return isOff ? 0 : read.integer(keys.count, MAX_EXPERTS, undefined, 0);
}

/** Which layers have experts, whether their choice is biased, and whether q and k are normed. */
const SEEN_BY_TENSORS = [
  ...[
    "decoder_sparse_step",
    "mlp_only_layers",
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_freq",
  ],
  ...["moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "mlp_layer_types"],
  ...["use_expert_bias", "moe_use_aux_free", "use_qk_norm", "moe_shared_expert_overlap"],
  ...[
    "router_aux_loss_coef",
    "router_jitter_noise",
    "moe_capacity",
    "moe_gate",
    "moe_norm_min",
    "moe_aux_loss_lambda",
  ],
];

const QWEN: ExpertKeys = {
  count: "num_experts",
  chosen: "num_experts_per_tok",
  width: "moe_intermediate_size",
  sharedWidth: "shared_expert_intermediate_size",
  renormalise: "norm_topk_prob",
};

const MIXTRAL: ExpertKeys = {
  count: "num_local_experts",
  chosen: "num_experts_per_tok",
  width: "intermediate_size",
};

const DEEPSEEK: ExpertKeys = {
  count: "n_routed_experts",
  chosen: "num_experts_per_tok",
  width: "moe_intermediate_size",
  sharedCount: "n_shared_experts",
  renormalise: "norm_topk_prob",
  scale: "routed_scaling_factor",
  groups: { count: "n_group", used: "topk_group" },
};

const LATENT = {
  kv_lora_rank: 512,
  q_lora_rank: 1536,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
};

const DEEPSEEK_V2 = {
  ...{
    ...LATENT,
    vocab_size: 102_400,
    n_routed_experts: 64,
    n_shared_experts: 2,
    moe_intermediate_size: 1407,
  },
  num_experts_per_tok: undefined,
};

const DEEPSEEK_V3 = {
  ...{ ...LATENT, vocab_size: 129_280, hidden_size: 7168, intermediate_size: 18_432, num_hidden_layers: 61 },
  ...{ num_attention_heads: 128, max_position_embeddings: 4096, n_routed_experts: 256, n_shared_experts: 1 },
  ...{ moe_intermediate_size: 2048, num_experts_per_tok: 8, n_group: 8, topk_group: 4, norm_topk_prob: true },
  routed_scaling_factor: 2.5,
};

/** Of latent attention. With YaRN, `mscale_all_dim` lengthens queries and keys, whatever is said of cos and sin. */
const latentSizes: NonNullable<Dialect["adjust"]> = (read, { rope: { scaling } }) => {
  const size = (name: string) => read.integer(name, MAX_WIDTH);
  const [plainDim, ropeDim] = [size("qk_nope_head_dim"), size("qk_rope_head_dim")];
  const older = read.positiveOrZero("rope_scaling.mscale_all_dim");
  const multiplier = read.positiveOrZero("rope_parameters.mscale_all_dim") || older;
  return {
    headDim: plainDim + ropeDim,
    ropeDims: ropeDim,
    latent: {
      queryRank: read.optional("q_lora_rank") === undefined ? undefined : size("q_lora_rank"),
      ...{ rank: size("kv_lora_rank"), plainDim, ropeDim, valueDim: size("v_head_dim") },
      stretch: scaling.type === "yarn" ? yarnMagnitude(scaling.factor, multiplier) : 1,
    },
  };
};

/** Layers behind the last one, which predict further tokens. */
const nextLayers: NonNullable<Dialect["adjust"]> = (read) => ({
  unusedLayers: read.integer("num_nextn_predict_layers", MAX_LAYERS, 0, 0),
});

/** @param dense those that these are made from, by model type */
export function expertDialects(dense: Readonly<Record<string, Dialect>>): Record<string, Dialect> {
  const of = (type: string, defaults: Dialect["defaults"], more: Partial<Dialect>): Dialect => {
    const base = dense[type] as Dialect;
    return { ...base, ...more, defaults: { ...base.defaults, ...defaults } };
  };
  const qwen3 = { hidden_size: 2048, intermediate_size: 6144, num_hidden_layers: 24, num_key_value_heads: 4 };
  const qwen35 = of(
    "qwen3_5",
    {
      num_hidden_layers: 40,
      num_key_value_heads: 2,
      hidden_size: 2048,
      ...widths(512, 512),
      ...counts(256, 8),
    },
    { experts: { ...QWEN, renormalise: undefined } },
  );
  return {
    mixtral: of(
      "mistral",
      {
        rms_norm_eps: 1e-5,
        rope_theta: 1_000_000,
        sliding_window: null,
        num_local_experts: 8,
        num_experts_per_tok: 2,
      },
      { experts: MIXTRAL },
    ),
    qwen2_moe: of(
      "qwen2",
      {
        ...{ hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 24, num_attention_heads: 16 },
        ...{ num_key_value_heads: 16, ...widths(1408, 5632), ...counts(60, 4) },
      },
      { experts: QWEN },
    ),
    qwen3_moe: of(
      "qwen3",
      { ...qwen3, head_dim: undefined, ...widths(768), ...counts(128, 8) },
      { experts: QWEN, keys: { num_local_experts: "num_experts" } },
    ),
    olmoe: of(
      "llama",
      {
        ...{ vocab_size: 50_304, hidden_size: 2048, intermediate_size: 2048, num_hidden_layers: 16 },
        ...{ num_attention_heads: 16, max_position_embeddings: 4096, rms_norm_eps: 1e-5, ...counts(64, 8) },
      },
      { experts: { ...QWEN, width: "intermediate_size" }, fixed: { clip_qkv: null } },
    ),
    lfm2_moe: of(
      "lfm2",
      {
        ...{ hidden_size: 2048, intermediate_size: 7168, block_auto_adjust_ff_dim: false },
        ...{ ...widths(1792), ...counts(32, 4), norm_topk_prob: true },
      },
      { experts: { ...QWEN, sharedWidth: undefined, scale: "routed_scaling_factor" } },
    ),
    gpt_oss: of(
      "llama",
      {
        ...{ vocab_size: 201_088, hidden_size: 2880, intermediate_size: 2880, num_hidden_layers: 36 },
        ...{ num_attention_heads: 64, num_key_value_heads: 8, head_dim: 64, rms_norm_eps: 1e-5 },
        ...{ max_position_embeddings: 131_072, sliding_window: 128, rope_theta: 150_000 },
        ...counts(128, 4, "num_local_experts"),
      },
      {
        experts: MIXTRAL,
        localLayers: (read, layers) => listedLayers(read, layers) ?? localByPeriod(layers, 2),
        fixed: { swiglu_alpha: 1.702, swiglu_limit: 7, hidden_act: "silu" },
        adjust(read) {
          read.value("experts_per_token"); // num_experts_per_tok under an older name
          return {};
        },
      },
    ),
    granitemoe: of("granite", counts(8, 2, "num_local_experts"), { experts: MIXTRAL }),
    granitemoeshared: of("granite", counts(8, 2, "num_local_experts"), {
      experts: { ...MIXTRAL, sharedWidth: "shared_intermediate_size" },
    }),
    granitemoehybrid: of("granitemoehybrid", counts(8, 2, "num_local_experts"), {
      experts: { ...MIXTRAL, sharedWidth: "shared_intermediate_size" },
    }),
    nemotron_h: of(
      "nemotron_h",
      { ...counts(8, 2, "n_routed_experts"), n_shared_experts: 1, norm_topk_prob: true },
      { experts: { ...DEEPSEEK, gate: "sigmoid", sharedWidth: "moe_shared_expert_intermediate_size" } },
    ),
    qwen3_next: of(
      "qwen3_5",
      {
        ...{ vocab_size: 151_936, hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 48 },
        ...{ num_key_value_heads: 2, ...widths(512, 512), ...counts(512, 10), norm_topk_prob: true },
      },
      { experts: QWEN },
    ),
    qwen3_5_moe: qwen35,
    qwen3_5_moe_text: qwen35,
    ernie4_5_moe: of(
      "ernie4_5",
      {
        ...{ hidden_size: 2560, intermediate_size: 12_288, num_hidden_layers: 28, num_attention_heads: 20 },
        ...{ num_key_value_heads: 4, head_dim: undefined, ...widths(1536), moe_k: 6, moe_num_experts: 64 },
        moe_num_shared_experts: 2,
      },
      {
        experts: {
          ...{ count: "moe_num_experts", chosen: "moe_k", width: "moe_intermediate_size" },
          sharedCount: "moe_num_shared_experts",
        },
        adjust: nextLayers,
      },
    ),
    deepseek_v2: of("llama", DEEPSEEK_V2, {
      experts: { ...DEEPSEEK, renormalise: undefined },
      fixed: { norm_topk_prob: false, topk_method: "greedy", scoring_func: "softmax" },
      adjust: latentSizes,
    }),
    deepseek_v3: of("llama", DEEPSEEK_V3, {
      experts: { ...DEEPSEEK, gate: "sigmoid" },
      fixed: { topk_method: "noaux_tc", scoring_func: "sigmoid", rope_interleave: true },
      adjust: (read, params) => ({ ...nextLayers(read, params), ...latentSizes(read, params) }),
    }),
    glm4_moe: of(
      "glm4",
      {
        ...{ hidden_size: 4096, intermediate_size: 10_944, num_hidden_layers: 46, num_attention_heads: 96 },
        ...{ num_key_value_heads: 8, head_dim: undefined, rms_norm_eps: 1e-5, ...widths(1408) },
        ...{ n_routed_experts: 128, num_experts_per_tok: 8, n_shared_experts: 1, norm_topk_prob: true },
      },
      { experts: DEEPSEEK, adjust: nextLayers },
    ),
  };
}

function widths(moe: number, shared?: number): Dialect["defaults"] {
  return { moe_intermediate_size: moe, ...(shared && { shared_expert_intermediate_size: shared }) };
}

function counts(experts: number, chosen: number, name = "num_experts"): Dialect["defaults"] {
  return { [name]: experts, num_experts_per_tok: chosen };
}
