/**
 * The plain facts about a model, read from GGUF metadata or from a Hugging Face config.json, with every value checked
 * against a named bound. It decides nothing about architectures: that is arch.ts.
 */
import { TidepoolError } from "../errors.ts";
import type { RopeScaling } from "./rope.ts";

/** GGUF metadata: key -> value. Integers may arrive as bigint. */
export type Metadata = ReadonlyMap<string, unknown>;

export interface Facts {
  name: string;
  layers: number;
  hiddenSize: number;
  vocabSize: number;
  contextTokens: number;
  heads: number;
  /** One entry a layer. */
  kvHeads: number[];
  headDim: number;
  /** One entry a layer. */
  ffnWidth: number[];
  normEps: number;
  ropeTheta: number;
  localRopeTheta: number | undefined;
  ropeDims: number;
  ropeScaling: RopeScaling;
  attentionScale: number | undefined;
  softCap: number;
  /** Sliding window in tokens, 0 for none. */
  window: number;
  /** Per layer, where the file says it: does it rotate, and is it local. */
  ropeLayers: boolean[] | undefined;
  localLayers: boolean[] | undefined;
  /** Whether attention rotates at all, where an architecture leaves it open (Granite hybrids). */
  ropeFinetuned: boolean;
  /** Granite's multipliers; 1 elsewhere. */
  embeddingScale: number;
  residualScale: number;
  /** Logits are divided by it. */
  logitDivisor: number;
  /** Experts a layer; 0 for none. */
  experts: number;
  /** Tokens that the convolutions of recurrent layers see; 0 where there are none. */
  convKernel: number;
  /** Sizes of Mamba-2 and gated-delta layers; zeros where there are none. */
  ssm: { innerSize: number; stateSize: number; heads: number; groups: number };
  /** One attention layer in so many. */
  attentionInterval: number;
}

/** Bounds on what a file may claim, far above real models and far below what would hurt. */
const MAX_LAYERS = 1024;
const MAX_WIDTH = 1 << 20;
const MAX_VOCAB = 1 << 22;
const MAX_CONTEXT = 1 << 27;
const MAX_HEAD_DIM = 512;
const MAX_CONV_KERNEL = 16;
const MAX_EXPERTS = 4096;

/** Qwen3.5 and Qwen3-Next, where the file does not say. */
const ATTENTION_INTERVAL = 4;

/** Reads values by name and complains by name. */
class Reader {
  private readonly get: (key: string) => unknown;
  private readonly where: string;

  constructor(get: (key: string) => unknown, where: string) {
    this.get = get;
    this.where = where;
  }

  optional(key: string): number | undefined {
    const value = this.get(key);
    if (value === undefined || value === null) return undefined;
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number" || !Number.isFinite(number)) throw this.bad(key, value, "a number");
    return number;
  }

  integer(key: string, max: number, fallback?: number, min = 1): number {
    const value = this.optional(key) ?? fallback;
    if (value === undefined)
      throw new TidepoolError("invalid_file", `${this.where}: ${key} is missing`, { key });
    if (!Number.isInteger(value) || value < min || value > max)
      throw this.bad(key, value, `an integer from ${min} to ${max}`);
    return value;
  }

  positive(key: string, fallback?: number): number {
    const value = this.optional(key) ?? fallback;
    if (value === undefined)
      throw new TidepoolError("invalid_file", `${this.where}: ${key} is missing`, { key });
    if (!(value > 0)) throw this.bad(key, value, "a positive number");
    return value;
  }

  /** A number from 0 on for all layers, or a list with one a layer: 0 where a layer has no such part. */
  perLayer(key: string, layers: number, max: number, fallback?: number): number[] {
    const value = listOf(this.get(key));
    if (!value) return Array<number>(layers).fill(this.integer(key, max, fallback, 0));
    if (value.length < layers) throw this.bad(key, `${value.length} entries`, `${layers} entries`);
    return value.slice(0, layers).map((entry: unknown) => {
      const number = Number(entry);
      if (!Number.isInteger(number) || number < 0 || number > max)
        throw this.bad(key, entry, `integers from 0 to ${max}`);
      return number;
    });
  }

  bad(key: string, value: unknown, expected: string): TidepoolError {
    return new TidepoolError(
      "invalid_file",
      `${this.where}: ${key} is ${String(value)}, expected ${expected}`,
      { key },
    );
  }
}

/** A list as an array; GGUF's lists of numbers may be typed arrays. */
function listOf(value: unknown): unknown[] | undefined {
  if (Array.isArray(value)) return value;
  return ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : undefined;
}

/** Facts from GGUF metadata of architecture `arch`. @throws TidepoolError `invalid_file` naming the key. */
export function factsFromMetadata(metadata: Metadata, arch: string): Facts {
  const read = new Reader((key) => metadata.get(key), "GGUF metadata");
  const key = (name: string) => `${arch}.${name}`;
  const layers = read.integer(key("block_count"), MAX_LAYERS);
  const hiddenSize = read.integer(key("embedding_length"), MAX_WIDTH);
  const heads = read.integer(key("attention.head_count"), MAX_WIDTH, undefined, 0);
  const headDim =
    heads === 0 ? 0 : read.integer(key("attention.key_length"), MAX_HEAD_DIM, Math.floor(hiddenSize / heads));
  const tokens = metadata.get("tokenizer.ggml.tokens");
  return {
    name: String(metadata.get("general.name") ?? arch),
    layers,
    hiddenSize,
    vocabSize: read.integer(key("vocab_size"), MAX_VOCAB, Array.isArray(tokens) ? tokens.length : undefined),
    contextTokens: read.integer(key("context_length"), MAX_CONTEXT),
    heads,
    kvHeads: read.perLayer(key("attention.head_count_kv"), layers, heads, heads),
    headDim,
    ffnWidth: read.perLayer(key("feed_forward_length"), layers, MAX_WIDTH),
    normEps: read.positive(key("attention.layer_norm_rms_epsilon")),
    ropeTheta: read.positive(key("rope.freq_base"), 10_000),
    localRopeTheta: read.optional(key("rope.freq_base_swa")),
    ropeDims: heads === 0 ? 0 : read.integer(key("rope.dimension_count"), headDim, headDim),
    ropeScaling: ggufRopeScaling(read, metadata, key),
    attentionScale: read.optional(key("attention.scale")) || undefined,
    softCap: read.optional(key("attn_logit_softcapping")) ?? 0,
    window: read.optional(key("attention.sliding_window")) ?? 0,
    ropeLayers: undefined,
    localLayers: undefined,
    ropeFinetuned: metadata.get(key("rope.scaling.finetuned")) !== false,
    embeddingScale: read.positive(key("embedding_scale"), 1),
    residualScale: read.positive(key("residual_scale"), 1),
    logitDivisor: read.positive(key("logit_scale"), 1),
    experts: read.integer(key("expert_count"), MAX_EXPERTS, 0, 0),
    convKernel: read.integer(
      key("shortconv.l_cache"),
      MAX_CONV_KERNEL,
      read.integer(key("ssm.conv_kernel"), MAX_CONV_KERNEL, 0, 0),
      0,
    ),
    ssm: {
      innerSize: read.integer(key("ssm.inner_size"), MAX_WIDTH, 0, 0),
      stateSize: read.integer(key("ssm.state_size"), MAX_WIDTH, 0, 0),
      heads: read.integer(key("ssm.time_step_rank"), MAX_WIDTH, 0, 0),
      groups: read.integer(key("ssm.group_count"), MAX_WIDTH, 0, 0),
    },
    attentionInterval: read.integer(key("full_attention_interval"), MAX_LAYERS, ATTENTION_INTERVAL),
  };
}

function ggufRopeScaling(read: Reader, metadata: Metadata, key: (name: string) => string): RopeScaling {
  const type = metadata.get(key("rope.scaling.type"));
  if (type === undefined || type === "none") return { type: "none" };
  const factor = read.positive(key("rope.scaling.factor"));
  if (type === "linear") return { type: "linear", factor };
  if (type !== "yarn") throw read.bad(key("rope.scaling.type"), type, "none, linear or yarn");
  return {
    type: "yarn",
    factor,
    originalContext: read.positive(key("rope.scaling.original_context_length")),
    betaFast: read.positive(key("rope.scaling.yarn_beta_fast"), 32),
    betaSlow: read.positive(key("rope.scaling.yarn_beta_slow"), 1),
    ...defined("attentionFactor", read.optional(key("rope.scaling.attn_factor"))),
  };
}

/** Facts from config.json (`text_config` is used where there is one). @throws TidepoolError `invalid_file` naming the key. */
export function factsFromConfig(whole: Record<string, unknown>): Facts {
  const config = { ...whole, ...(whole["text_config"] as Record<string, unknown> | undefined) };
  const rope = (config["rope_parameters"] ?? {}) as Record<string, unknown>;
  const read = new Reader((key) => config[key] ?? rope[key], "config.json");
  const layers = read.integer("num_hidden_layers", MAX_LAYERS);
  const hiddenSize = read.integer("hidden_size", MAX_WIDTH);
  const heads = read.integer("num_attention_heads", MAX_WIDTH);
  const headDim = read.integer("head_dim", MAX_HEAD_DIM, Math.floor(hiddenSize / heads));
  const queryScalar = read.optional("query_pre_attn_scalar");
  const types = config["layer_types"];
  const nope = config["no_rope_layers"];
  return {
    name: String(config["_name_or_path"] || config["model_type"]),
    layers,
    hiddenSize,
    vocabSize: read.integer("vocab_size", MAX_VOCAB),
    contextTokens: read.integer("max_position_embeddings", MAX_CONTEXT),
    heads,
    kvHeads: read.perLayer("num_key_value_heads", layers, heads, heads),
    headDim,
    ffnWidth: read.perLayer("intermediate_size", layers, MAX_WIDTH),
    normEps: read.positive("rms_norm_eps"),
    ropeTheta: read.positive("rope_theta", 10_000),
    localRopeTheta: read.optional("rope_local_base_freq"),
    ropeDims: Math.floor(headDim * read.positive("partial_rotary_factor", 1)),
    ropeScaling: configRopeScaling((config["rope_scaling"] ?? rope) as Record<string, unknown>),
    attentionScale: queryScalar === undefined ? undefined : 1 / Math.sqrt(queryScalar),
    softCap: read.optional("attn_logit_softcapping") ?? 0,
    window: config["use_sliding_window"] === false ? 0 : (read.optional("sliding_window") ?? 0),
    ropeLayers: Array.isArray(nope) ? nope.map((flag: unknown) => Number(flag) === 1) : undefined,
    localLayers: Array.isArray(types)
      ? types.map((type: unknown) => type === "sliding_attention")
      : undefined,
    ropeFinetuned: true,
    embeddingScale: 1,
    residualScale: 1,
    logitDivisor: 1,
    experts: read.integer("num_experts", MAX_EXPERTS, 0, 0),
    convKernel: 0,
    ssm: { innerSize: 0, stateSize: 0, heads: 0, groups: 0 },
    attentionInterval: ATTENTION_INTERVAL,
  };
}

/** A property that is left out where there is no value. */
function defined<K extends string>(name: K, value: number | undefined): { [key in K]?: number } {
  return value === undefined ? {} : ({ [name]: value } as { [key in K]?: number });
}

function configRopeScaling(scaling: Record<string, unknown>): RopeScaling {
  const type = scaling["rope_type"] ?? scaling["type"];
  if (type === undefined || type === "default") return { type: "none" };
  const read = new Reader((key) => scaling[key], "config.json rope_scaling");
  const factor = read.positive("factor");
  if (type === "linear") return { type: "linear", factor };
  const originalContext = read.positive("original_max_position_embeddings");
  if (type === "llama3") {
    const lowFreqFactor = read.positive("low_freq_factor");
    return {
      type: "llama3",
      factor,
      lowFreqFactor,
      highFreqFactor: read.positive("high_freq_factor"),
      originalContext,
    };
  }
  if (type !== "yarn") throw read.bad("rope_type", type, "default, linear, llama3 or yarn");
  return {
    type: "yarn",
    factor,
    originalContext,
    betaFast: read.positive("beta_fast", 32),
    betaSlow: read.positive("beta_slow", 1),
    ...defined("attentionFactor", read.optional("attention_factor")),
  };
}
