/**
 * The hyperparameters from a Hugging Face config.json, with the defaults that transformers has for each model type: what a config
 * leaves out is not the same for all of them. Keys that change what is computed and that no code here reads are refused by
 * name (unread-keys.ts).
 */
import {
  ATTENTION_INTERVAL,
  localByPeriod,
  MAX_CONTEXT,
  MAX_EXPERTS,
  MAX_HEAD_DIM,
  MAX_LAYERS,
  MAX_WIDTH,
  type Hyperparameters,
  type RopeBase,
} from "./hyperparameters.ts";
import { Reader, type Settings } from "./settings-reader.ts";
import { refuseUnreadConfig } from "./unread-keys.ts";
import type { Activation, RopeScaling } from "../../shape/shape.ts";

/** What a model type leaves unsaid. */
interface Dialect {
  defaults: Readonly<Record<string, unknown>>;
  /** Which layers are local where no `layer_types` lists them. Absent: the type has no windows. */
  localLayers?(read: Reader, layers: number, ropeLayers: readonly boolean[] | undefined): boolean[];
  /** Layers without rotation. */
  ropeLayers?(read: Reader, layers: number): boolean[];
  /** Local layers rotate by a base of their own, and `rope_parameters` may be listed by layer type. */
  localRope?: boolean;
  /** The key that names the activation. */
  activation: string;
}

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

const QWEN3: Dialect = {
  defaults: {
    ...LLAMA.defaults,
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_key_value_heads: 32,
    head_dim: 128,
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
  localRope: true,
  activation: "hidden_activation",
};

/** One global layer after five local ones. */
const GEMMA3_PERIOD = 6;

const DIALECTS: Readonly<Record<string, Dialect>> = {
  llama: LLAMA,
  mistral: MISTRAL,
  qwen3: QWEN3,
  smollm3: SMOLLM3,
  gemma3_text: GEMMA3,
  gemma3: GEMMA3,
};

/** The model types whose config.json is understood. */
export const CONFIG_MODEL_TYPES: readonly string[] = Object.keys(DIALECTS);

/**
 * Hyperparameters from config.json (`text_config` is used where there is one), and the keys that they were read from.
 * @param modelType one of CONFIG_MODEL_TYPES
 * @throws TidepoolError `invalid_file` or `unsupported`, naming the key.
 */
export function hyperparametersFromConfig(
  config: Record<string, unknown>,
  modelType: string,
): { params: Hyperparameters; keys: ReadonlySet<string> } {
  const dialect = DIALECTS[modelType] as Dialect;
  const settings = flattened(config);
  const read = new Reader(settings, "config.json", "", dialect.defaults);
  const layers = read.integer("num_hidden_layers", MAX_LAYERS);
  const hiddenSize = read.integer("hidden_size", MAX_WIDTH);
  const contextTokens = read.integer("max_position_embeddings", MAX_CONTEXT);
  const heads = read.perLayer("num_attention_heads", layers, MAX_WIDTH);
  const headDim = read.integer("head_dim", MAX_HEAD_DIM, Math.floor(hiddenSize / (heads[0] || 1)));
  const scalar = read.value("query_pre_attn_scalar");
  const params: Hyperparameters = {
    name: String(read.value("_name_or_path") || modelType),
    ...{ layers, unusedLayers: 0, hiddenSize, contextTokens, heads, headDim },
    vocabSize: read.optional("vocab_size"),
    kvHeads: read.perLayer("num_key_value_heads", layers, MAX_WIDTH, heads),
    ffnWidth: read.perLayer("intermediate_size", layers, MAX_WIDTH),
    activation: activationOf(read, dialect.activation),
    normEps: read.positive("rms_norm_eps"),
    ropeDims: Math.floor(headDim * partialRotation(read)),
    ...ropeOf(read, contextTokens, dialect),
    ropeMagnitude: 1,
    ropeFinetuned: true,
    attentionScale: scalar === undefined ? undefined : 1 / Math.sqrt(read.positive("query_pre_attn_scalar")),
    softCap: read.positiveOrZero("attn_logit_softcapping"),
    finalSoftCap: read.positiveOrZero("final_logit_softcapping"),
    ...windowsOf(read, layers, dialect),
    recurrentLayers: undefined,
    embeddingScale: 1,
    residualScale: 1,
    logitDivisor: 1,
    experts: read.integer("num_experts", MAX_EXPERTS, 0, 0),
    convKernel: 0,
    ssm: { innerSize: 0, stateSize: 0, heads: 0, groups: 0 },
    attentionInterval: ATTENTION_INTERVAL,
  };
  refuseUnreadConfig(settings, read.asked, modelType, params);
  return { params, keys: read.asked };
}

/** Objects that are read, as keys with dots; the text model's own settings go before those of the whole. */
function flattened(config: Record<string, unknown>): Settings {
  const settings = new Map<string, unknown>();
  const put = (prefix: string, values: Record<string, unknown>, depth: number) => {
    for (const [name, value] of Object.entries(values)) {
      const key = prefix + name;
      if (depth > 0 && isObject(value) && (prefix !== "" || NESTED.has(name)))
        put(`${key}.`, value, depth - 1);
      else settings.set(key, value);
    }
  };
  const text = config["text_config"];
  put("", { ...config, ...(isObject(text) ? text : {}) }, MAX_NESTING);
  return settings;
}

const NESTED: ReadonlySet<string> = new Set(["rope_scaling", "rope_parameters"]);
const MAX_NESTING = 2;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_new: "gelu_tanh",
};

function activationOf(read: Reader, name: string): Activation {
  const value = read.text(name) ?? "";
  const activation = ACTIVATIONS[value];
  if (activation === undefined) throw read.unsupported(name, value, Object.keys(ACTIVATIONS).join(", "));
  return activation;
}

function partialRotation(read: Reader): number {
  const nested = read.optional("rope_parameters.partial_rotary_factor");
  return read.positive("partial_rotary_factor", nested ?? 1);
}

type RopePart = Pick<Hyperparameters, "rope" | "localRope">;

/**
 * Until version 5 of transformers the base stands at the top and the scaling in `rope_scaling`; since then both stand in
 * `rope_parameters`, which Gemma 3 lists by layer type. A file may hold both forms.
 */
function ropeOf(read: Reader, contextTokens: number, { localRope }: Dialect): RopePart {
  const older = ropeScaling(read, "rope_scaling.", contextTokens);
  const at = (place: string, olderTheta: string, olderScaling?: RopeScaling): RopeBase => {
    const theta = read.positive(olderTheta);
    const scaling = ropeScaling(read, place, contextTokens);
    return {
      theta: read.positive(`${place}rope_theta`, theta),
      scaling: olderScaling ?? scaling ?? { type: "none" },
    };
  };
  if (!localRope) return { rope: at("rope_parameters.", "rope_theta", older), localRope: undefined };
  return {
    rope: at("rope_parameters.full_attention.", "rope_theta", older),
    localRope: at("rope_parameters.sliding_attention.", "rope_local_base_freq"),
  };
}

/** undefined: nothing is said at this place. */
function ropeScaling(read: Reader, place: string, contextTokens: number): RopeScaling | undefined {
  const older = read.text(`${place}type`);
  const type = read.text(`${place}rope_type`) ?? older;
  if (type === undefined) return undefined;
  switch (type) {
    case "default":
      return { type: "none" };
    case "linear":
      return { type, factor: read.positive(`${place}factor`) };
    case "llama3":
      return {
        type,
        factor: read.positive(`${place}factor`),
        lowFreqFactor: read.positive(`${place}low_freq_factor`),
        highFreqFactor: read.positive(`${place}high_freq_factor`),
        originalContext: read.positive(`${place}original_max_position_embeddings`, contextTokens),
      };
    case "yarn":
      return yarnScaling(read, place, contextTokens);
    default:
      throw read.unsupported(`${place}rope_type`, type, "default, linear, llama3 and yarn");
  }
}

function yarnScaling(read: Reader, place: string, contextTokens: number): RopeScaling {
  const factor = read.positive(`${place}factor`);
  const multiplier = read.optional(`${place}mscale`);
  const divisor = read.optional(`${place}mscale_all_dim`);
  const ofMultipliers =
    multiplier && divisor ? yarnMagnitude(factor, multiplier) / yarnMagnitude(factor, divisor) : undefined;
  const attentionFactor = read.optional(`${place}attention_factor`) ?? ofMultipliers;
  const truncate = read.flag(`${place}truncate`, true);
  return {
    type: "yarn",
    factor,
    originalContext: read.positive(`${place}original_max_position_embeddings`, contextTokens),
    betaFast: read.positive(`${place}beta_fast`, 32),
    betaSlow: read.positive(`${place}beta_slow`, 1),
    ...(attentionFactor !== undefined && { attentionFactor }),
    ...(!truncate && { truncate }),
  };
}

/** How much YaRN lengthens queries and keys when positions are stretched by `factor`. */
function yarnMagnitude(factor: number, multiplier: number): number {
  return factor > 1 ? 0.1 * multiplier * Math.log(factor) + 1 : 1;
}

function windowsOf(
  read: Reader,
  layers: number,
  dialect: Dialect,
): Pick<Hyperparameters, "window" | "localLayers" | "ropeLayers"> {
  const ropeLayers = dialect.ropeLayers?.(read, layers);
  const none = Array<boolean>(layers).fill(false);
  if (!dialect.localLayers) return { window: 0, localLayers: none, ropeLayers };
  const isUsed = read.flag("use_sliding_window", true);
  const stated = read.optional("sliding_window") ?? 0;
  const localLayers = dialect.localLayers(read, layers, ropeLayers);
  const window = isUsed && stated > 0 ? read.integer("sliding_window", MAX_CONTEXT) : 0;
  return { window, localLayers, ropeLayers };
}

const LAYER_TYPES: readonly string[] = ["full_attention", "sliding_attention"];

function listedLayers(read: Reader, layers: number): boolean[] | undefined {
  return read.list("layer_types", layers)?.map((type) => {
    if (!LAYER_TYPES.includes(String(type)))
      throw read.unsupported("layer_types", type, LAYER_TYPES.join(" and "));
    return type === "sliding_attention";
  });
}
