/**
 * The config.json dialects of models with recurrent layers: which layers those are, their sizes, and the factors that GGUF's
 * converters multiply into the weights. Plain data and rules, as hyperparameters-config.ts has for all other models.
 */
import type { Dialect } from "./dialect.ts";
import {
  ATTENTION_INTERVAL,
  MAX_CONV_KERNEL,
  MAX_LAYERS,
  MAX_WIDTH,
  type Hyperparameters,
} from "../hyperparameters.ts";
import type { Reader } from "../settings-reader.ts";

/** What attention and feed-forwards are in all of them. */
const COMMON = { hidden_act: "silu", rope_theta: 10_000, rms_norm_eps: 1e-5 } as const;

/** Mamba-2 knows no end of its context; converters write this too. */
const NO_CONTEXT_LIMIT = 2 ** 20;

const LFM2: Dialect = {
  defaults: {
    ...COMMON,
    vocab_size: 65_536,
    hidden_size: 2560,
    intermediate_size: 12_288,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 128_000,
    norm_eps: 1e-5,
    rope_theta: 1_000_000,
    conv_L_cache: 3,
    block_multiple_of: 256,
    block_ffn_dim_multiplier: 1,
    block_auto_adjust_ff_dim: true,
  },
  activation: "hidden_act",
  normEps: "norm_eps",
  adjust: (read, { layers, kvHeads, ffnWidth }) => ({
    kvHeads: withoutRecurrent(kvHeads, lfm2Convolutions(read, layers)),
    ffnWidth: ffnWidth.map((width) => lfm2Width(read, width)),
    convKernel: read.integer("conv_L_cache", MAX_CONV_KERNEL),
  }),
};

/** Older files list the attention layers by number. */
function lfm2Convolutions(read: Reader, layers: number): boolean[] {
  const attention = read.value("full_attn_idxs");
  const listed = read.list("layer_types", layers);
  if (listed) return listed.map((type) => isRecurrent(read, type, ["conv"]));
  if (!Array.isArray(attention)) return Array<boolean>(layers).fill(false);
  return Array.from({ length: layers }, (_, index) => !attention.includes(index));
}

/** The width that the model is made with, of the one that its config names. */
function lfm2Width(read: Reader, stated: number): number {
  const width = read.integer("block_ff_dim", MAX_WIDTH, stated);
  const multiple = read.integer("block_multiple_of", MAX_WIDTH);
  const factor = read.positive("block_ffn_dim_multiplier", 1);
  if (!read.flag("block_auto_adjust_ff_dim", true)) return width;
  return multiple * Math.ceil(Math.floor(factor * Math.floor((2 * width) / 3)) / multiple);
}

const GRANITE_HYBRID: Dialect = {
  defaults: {
    ...COMMON,
    rms_norm_eps: 1e-6,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 2048,
    shared_intermediate_size: 1024,
    mamba_n_heads: 128,
    mamba_n_groups: 1,
    mamba_d_state: 256,
    mamba_d_head: "auto",
    mamba_d_conv: 4,
    mamba_expand: 2,
  },
  activation: "hidden_act",
  multipliers: true,
  adjust(read, { layers, hiddenSize, kvHeads }) {
    const types = read.list("layer_types", layers) ?? read.list("layers_block_type", layers);
    const mamba = (type: unknown) => isRecurrent(read, type, MAMBA_LAYERS);
    return {
      kvHeads: withoutRecurrent(kvHeads, types?.map(mamba) ?? Array<boolean>(layers).fill(true)),
      ffnWidth: Array<number>(layers).fill(read.integer("shared_intermediate_size", MAX_WIDTH)),
      ropeFinetuned: read.text("position_embedding_type") === "rope",
      ...mambaSizes(read, hiddenSize * read.integer("mamba_expand", MAX_WIDTH)),
    };
  },
};

const FALCON_H1: Dialect = {
  defaults: {
    ...COMMON,
    vocab_size: 128_000,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 8192,
    rope_theta: 100_000,
    mamba_d_ssm: 1024,
    mamba_n_heads: 128,
    mamba_d_head: "auto",
    mamba_n_groups: 1,
    mamba_d_state: 256,
    mamba_d_conv: 4,
    mamba_expand: 2,
  },
  activation: "hidden_act",
  adjust(read, { hiddenSize, headDim }) {
    const factor = (name: string) => read.positive(name, 1);
    const inner = read.optional("mamba_d_ssm") ?? hiddenSize * read.integer("mamba_expand", MAX_WIDTH);
    if (read.flag("mamba_rms_norm", false) && read.flag("mamba_norm_before_gate", true))
      throw read.unsupported("mamba_norm_before_gate", true, "false");
    for (const bias of ["attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"])
      if (read.flag(bias, false)) throw read.unsupported(bias, true, "false");
    const attention = factor("attention_in_multiplier");
    return {
      ...mambaSizes(read, inner),
      embeddingScale: factor("embedding_multiplier"),
      logitDivisor: 1 / factor("lm_head_multiplier"),
      attentionScale: (attention ** 2 * factor("key_multiplier")) / Math.sqrt(headDim),
      factors: falconFactors(read, inner, attention * factor("attention_out_multiplier")),
    };
  },
};

/** What is left of the factors behind those of the scores: of each projection's output, or of runs of its rows. */
function falconFactors(read: Reader, inner: number, attention: number): Hyperparameters["factors"] {
  const state = read.integer("mamba_n_groups", MAX_WIDTH) * read.integer("mamba_d_state", MAX_WIDTH);
  const runs = [inner, inner, state, state, read.integer("mamba_n_heads", MAX_WIDTH)];
  const input = read.positive("ssm_in_multiplier", 1);
  const each = listOf(read, "ssm_multipliers", runs.length);
  const [gate, down] = listOf(read, "mlp_multipliers", 2) as [number, number];
  return {
    attn_output: [[attention]],
    ffn_gate: [[gate]],
    ffn_down: [[down]],
    ssm_in: each.map((factor, index) => [input * factor, runs[index] as number]),
    ssm_out: [[read.positive("ssm_out_multiplier", 1)]],
  };
}

const MAMBA2: Dialect = {
  defaults: {
    ...COMMON,
    vocab_size: 32_768,
    hidden_size: 4096,
    intermediate_size: 0,
    num_hidden_layers: 64,
    num_attention_heads: 0,
    max_position_embeddings: NO_CONTEXT_LIMIT,
    layer_norm_epsilon: 1e-5,
    num_heads: 128,
    head_dim: 64,
    state_size: 128,
    n_groups: 8,
    conv_kernel: 4,
    expand: 2,
  },
  activation: "hidden_act",
  normEps: "layer_norm_epsilon",
  adjust(read, { hiddenSize }) {
    checkTimeSteps(read);
    const size = (name: string) => read.integer(name, MAX_WIDTH);
    return {
      headDim: 0,
      ropeDims: 0,
      convKernel: read.integer("conv_kernel", MAX_CONV_KERNEL),
      ssm: {
        innerSize: hiddenSize * size("expand"),
        stateSize: size("state_size"),
        heads: size("num_heads"),
        groups: size("n_groups"),
      },
    };
  },
};

const NEMOTRON_H: Dialect = {
  defaults: {
    ...COMMON,
    vocab_size: 131_072,
    hidden_size: 4096,
    intermediate_size: 21_504,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 4096,
    layer_norm_epsilon: 1e-5,
    mlp_hidden_act: "relu2",
    ssm_state_size: 128,
    mamba_num_heads: 128,
    mamba_head_dim: 64,
    n_groups: 8,
    conv_kernel: 4,
    moe_intermediate_size: 7688,
  },
  activation: "mlp_hidden_act",
  normEps: "layer_norm_epsilon",
  layersOf: ["layers_block_type", "hybrid_override_pattern"],
  fixed: { mamba_hidden_act: "silu", moe_latent_size: null },
  adjust(read, { layers, kvHeads, ffnWidth }) {
    checkTimeSteps(read);
    const size = (name: string) => read.integer(name, MAX_WIDTH);
    const kinds = nemotronKinds(read, layers);
    const expertWidth = size("moe_intermediate_size");
    const widths = { mlp: ffnWidth[0] ?? 0, moe: expertWidth, mamba: 0, attention: 0 };
    return {
      kvHeads: kvHeads.map((heads, index) => (kinds[index] === "attention" ? heads : 0)),
      ffnWidth: kinds.map((kind) => widths[kind]),
      convKernel: read.integer("conv_kernel", MAX_CONV_KERNEL),
      ssm: {
        innerSize: size("mamba_num_heads") * size("mamba_head_dim"),
        stateSize: size("ssm_state_size"),
        heads: size("mamba_num_heads"),
        groups: size("n_groups"),
      },
    };
  },
};

type NemotronKind = "mamba" | "attention" | "mlp" | "moe";

/** In the files of the models, each layer is a letter. */
const NEMOTRON_LAYERS: Readonly<Record<string, NemotronKind>> = {
  ...{ M: "mamba", mamba: "mamba", linear_attention: "mamba" },
  ...{ "*": "attention", attention: "attention", full_attention: "attention" },
  ...{ "-": "mlp", mlp: "mlp", E: "moe", moe: "moe" },
};

function nemotronKinds(read: Reader, layers: number): NemotronKind[] {
  const [name, other] = ["layers_block_type", "hybrid_override_pattern"] as const;
  const pattern = read.value(other);
  const listed = read.list(name, layers) ?? (typeof pattern === "string" ? [...pattern] : []);
  if (listed.length < layers) throw read.bad(name, listed, `an entry for each of ${layers} layers`);
  return listed.slice(0, layers).map((entry) => {
    const kind = NEMOTRON_LAYERS[String(entry)];
    if (!kind) throw read.unsupported(name, entry, Object.keys(NEMOTRON_LAYERS).join(", "));
    return kind;
  });
}

const QWEN35: Dialect = {
  defaults: {
    ...COMMON,
    rms_norm_eps: 1e-6,
    vocab_size: 248_320,
    hidden_size: 4096,
    intermediate_size: 12_288,
    num_hidden_layers: 32,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 32_768,
    partial_rotary_factor: 0.25,
    linear_conv_kernel_dim: 4,
    linear_key_head_dim: 128,
    linear_value_head_dim: 128,
    linear_num_key_heads: 16,
    linear_num_value_heads: 32,
    full_attention_interval: ATTENTION_INTERVAL,
  },
  activation: "hidden_act",
  adjust(read, { layers }) {
    const size = (name: string) => read.integer(name, MAX_WIDTH);
    const listed = read.list("layer_types", layers);
    if (!read.flag("attn_output_gate", true)) throw read.unsupported("attn_output_gate", false, "true");
    return {
      recurrentLayers: listed?.map((type) => isRecurrent(read, type, ["linear_attention"])),
      attentionInterval: read.integer("full_attention_interval", MAX_LAYERS),
      convKernel: read.integer("linear_conv_kernel_dim", MAX_CONV_KERNEL),
      ssm: {
        innerSize: size("linear_num_value_heads") * size("linear_value_head_dim"),
        stateSize: size("linear_key_head_dim"),
        heads: size("linear_num_value_heads"),
        groups: size("linear_num_key_heads"),
      },
    };
  },
};

export const RECURRENT_DIALECTS: Readonly<Record<string, Dialect>> = {
  lfm2: LFM2,
  granitemoehybrid: GRANITE_HYBRID,
  falcon_h1: FALCON_H1,
  mamba2: MAMBA2,
  nemotron_h: NEMOTRON_H,
  qwen3_5: QWEN35,
  qwen3_5_text: QWEN35,
};

/** Until and since a late version 5 of transformers. */
const MAMBA_LAYERS = ["mamba", "linear_attention"];
const ATTENTION_LAYERS = ["attention", "full_attention"];

/** Whether an entry of `layer_types` names a recurrent layer, and not an attention layer. */
function isRecurrent(read: Reader, type: unknown, recurrent: readonly string[]): boolean {
  const known = [...recurrent, ...ATTENTION_LAYERS];
  if (!known.includes(String(type))) throw read.unsupported("layer_types", type, known.join(", "));
  return recurrent.includes(String(type));
}

/** KV heads of each layer: none where it is recurrent. */
function withoutRecurrent(kvHeads: readonly number[], recurrent: readonly boolean[]): number[] {
  return kvHeads.map((heads, index) => (recurrent[index] ? 0 : heads));
}

function mambaSizes(read: Reader, innerSize: number): Pick<Hyperparameters, "ssm" | "convKernel"> {
  checkTimeSteps(read);
  const size = (name: string) => read.integer(name, MAX_WIDTH);
  const heads = size("mamba_n_heads");
  const headDim = read.value("mamba_d_head");
  if (headDim !== "auto" && headDim !== innerSize / heads)
    throw read.bad(
      "mamba_d_head",
      headDim,
      `${innerSize / heads}, the inner size ${innerSize} over ${heads}`,
    );
  return {
    convKernel: read.integer("mamba_d_conv", MAX_CONV_KERNEL),
    ssm: { innerSize, stateSize: size("mamba_d_state"), heads, groups: size("mamba_n_groups") },
  };
}

/** No kernel clamps the time steps. */
function checkTimeSteps(read: Reader): void {
  const limit = read.value("time_step_limit");
  if (limit === undefined || limit === null) return;
  const [low, high] = Array.isArray(limit) ? (limit as unknown[]) : [];
  if (low !== 0 || high !== Infinity) throw read.unsupported("time_step_limit", limit, "[0, Infinity]");
}

/** Positive numbers, each 1 by default. */
function listOf(read: Reader, name: string, count: number): number[] {
  const list = read.value(name) ?? Array<number>(count).fill(1);
  const isGood = Array.isArray(list) && list.length === count && list.every((entry) => Number(entry) > 0);
  if (!isGood) throw read.bad(name, list, `a list of ${count} positive numbers`);
  return list.map(Number);
}
