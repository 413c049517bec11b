/**
 * The hyperparameters from a Hugging Face config.json, with the defaults that transformers has for each model type: what a config
 * leaves out is not the same for all of them. Keys that change what is computed and that no code here reads are refused by
 * name (unread-keys.ts).
 */
import { DIALECTS } from "./config/dialects.ts";
import type { Dialect } from "./config/dialect.ts";
import { expertCount, expertSettings } from "./config/experts.ts";
import {
  ATTENTION_INTERVAL,
  MAX_CONTEXT,
  MAX_HEAD_DIM,
  MAX_LAYERS,
  MAX_WIDTH,
  yarnMagnitude,
  type Hyperparameters,
  type RopeBase,
} from "./hyperparameters.ts";
import { Reader, type Settings } from "./settings-reader.ts";
import { TidepoolError } from "../../errors.ts";
import { refuseUnreadConfig } from "./unread-keys.ts";
import type { Activation, RopeScaling } from "../../shape/shape.ts";

/**
 * Hyperparameters from config.json (`text_config` is used where there is one), and the keys that they were read from.
 * @param modelType one of DIALECTS
 * @throws TidepoolError `invalid_file` or `unsupported`, naming the key.
 */
export function hyperparametersFromConfig(
  config: Record<string, unknown>,
  modelType: string,
): { params: Hyperparameters; keys: ReadonlySet<string> } {
  const dialect = DIALECTS[modelType] as Dialect;
  const settings = flattened(config, dialect.keys);
  const read = new Reader(settings, "config.json", "", dialect.defaults);
  refusePacked(read);
  const layers = read.integer("num_hidden_layers", MAX_LAYERS, listedCount(read, dialect));
  const hiddenSize = read.integer("hidden_size", MAX_WIDTH);
  const contextTokens = read.integer("max_position_embeddings", MAX_CONTEXT);
  const heads = read.perLayer("num_attention_heads", layers, MAX_WIDTH);
  const headDim = read.integer("head_dim", MAX_HEAD_DIM, Math.floor(hiddenSize / (heads[0] || 1)));
  const ropeDims = Math.floor(headDim * partialRotation(read));
  const fixed = Object.entries(dialect.fixed ?? {});
  for (const [key, value] of fixed)
    if ((read.value(key) ?? value) !== value) throw read.unsupported(key, read.value(key), String(value));
  const common: Hyperparameters = {
    name: String(read.value("_name_or_path") || modelType),
    ...{ layers, unusedLayers: 0, hiddenSize, contextTokens, heads, headDim, localHeadDim: headDim },
    sharedKvLayers: 0,
    perLayerWidth: 0,
    sparsity: undefined,
    laurelRank: 0,
    latent: undefined,
    vocabSize: read.optional("vocab_size"),
    kvHeads: read.perLayer("num_key_value_heads", layers, MAX_WIDTH, heads),
    ffnWidth: read.perLayer("intermediate_size", layers, MAX_WIDTH, usualWidths(dialect, layers, hiddenSize)),
    activation: activationOf(read, dialect),
    xielu: undefined,
    parallelResidual: undefined,
    normEps: read.positive(dialect.normEps ?? "rms_norm_eps"),
    ropeDims,
    localRopeDims: ropeDims,
    ...ropeOf(read, { contextTokens, ropeDims, ntkAlpha: dialect.ntkAlpha ?? false }, dialect),
    ropeFinetuned: true,
    ropeSections: false,
    attentionScale: attentionScaleOf(read, dialect),
    softCap: read.positiveOrZero("attn_logit_softcapping"),
    finalSoftCap: read.positiveOrZero("final_logit_softcapping"),
    ...windowsOf(read, layers, dialect),
    recurrentLayers: undefined,
    ...multipliersOf(read, dialect),
    experts: expertCount(read, dialect.experts),
    routing: expertSettings(read, dialect.experts),
    convKernel: 0,
    ssm: { innerSize: 0, stateSize: 0, heads: 0, groups: 0 },
    attentionInterval: ATTENTION_INTERVAL,
    pooling: undefined,
    dense: [],
    isConfig: true,
    factors: undefined,
  };
  const params = { ...common, ...dialect.adjust?.(read, common) };
  refuseUnreadConfig(settings, read.asked, modelType, params);
  return { params, keys: read.asked };
}

function listedCount(read: Reader, { layersOf = [] }: Dialect): number | undefined {
  const lists = layersOf.map((name) => read.value(name) as { length?: unknown } | null | undefined);
  return lists.map((list) => list?.length).find((length) => typeof length === "number");
}

/** Where AWQ, GPTQ, compressed-tensors, bitsandbytes and the like say how they packed the weights. */
const PACKINGS = ["quantization_config", "compression_config"];

/** The one whose tensors are read (load/arranged.ts). */
const READ_PACKINGS = ["mxfp4"];

/** Packed weights stand in tensors of other names and types, which mean nothing here. */
function refusePacked(read: Reader): void {
  for (const key of PACKINGS) {
    const packing = read.value(key);
    if (!isObject(packing)) continue;
    const method = String(packing["quant_method"] ?? packing["format"] ?? "an unnamed method");
    if (READ_PACKINGS.includes(method)) continue;
    const message = `config.json: ${key}: the weights are packed by ${method}, which is not read here; expected F32, F16 or BF16 weights, or a GGUF file of this model`;
    throw new TidepoolError("unsupported", message, { key, method });
  }
}

/** GPT-2 and Falcon: four times the hidden size, if the file does not say. */
function usualWidths({ defaults }: Dialect, layers: number, hiddenSize: number): number[] | undefined {
  return "intermediate_size" in defaults ? undefined : Array<number>(layers).fill(4 * hiddenSize);
}

/**
 * Objects that are read, as keys with dots; the text model's own settings go before those of the whole.
 * @param keys names of the file -> those that are read
 */
function flattened(config: Record<string, unknown>, keys: Readonly<Record<string, string>> = {}): Settings {
  const settings = new Map<string, unknown>();
  const put = (prefix: string, values: Record<string, unknown>, depth: number) => {
    for (const [name, value] of Object.entries(values)) {
      const key = prefix + (keys[name] ?? name);
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
  gelu_fast: "gelu_tanh",
  gelu: "gelu",
  relu2: "relu2",
  xielu: "xielu",
};

function activationOf(read: Reader, { activation: name, activations }: Dialect): Activation {
  const value = read.text(name) ?? "";
  const known = { ...ACTIVATIONS, ...activations };
  const activation = known[value];
  if (activation === undefined) throw read.unsupported(name, value, Object.keys(known).join(", "));
  return activation;
}

/** undefined: the architecture's own. */
function attentionScaleOf(read: Reader, { multipliers }: Dialect): number | undefined {
  if (multipliers) return read.positive("attention_multiplier", 1);
  const scalar = read.optional("query_pre_attn_scalar");
  return scalar === undefined ? undefined : 1 / Math.sqrt(read.positive("query_pre_attn_scalar"));
}

function multipliersOf(
  read: Reader,
  { multipliers }: Dialect,
): Pick<Hyperparameters, "embeddingScale" | "residualScale" | "logitDivisor"> {
  const factor = (name: string) => (multipliers ? read.positive(name, 1) : 1);
  return {
    embeddingScale: factor("embedding_multiplier"),
    residualScale: factor("residual_multiplier"),
    logitDivisor: factor("logits_scaling"),
  };
}

function partialRotation(read: Reader): number {
  const above = read.positive("partial_rotary_factor", 1);
  return read.positive("rope_parameters.partial_rotary_factor", above);
}

type RopePart = Pick<Hyperparameters, "rope" | "localRope" | "temperature">;

interface RopeSizes {
  contextTokens: number;
  ropeDims: number;
  ntkAlpha: boolean;
}

/**
 * Until version 5 of transformers the base stands at the top and the scaling in `rope_scaling`; since then both stand in
 * `rope_parameters`, which Gemma 3 lists by layer type. A file may hold both forms.
 */
function ropeOf(read: Reader, sizes: RopeSizes, { localRope, temperature }: Dialect): RopePart {
  const older = ropeScaling(read, "rope_scaling.", sizes);
  const at = (place: string, olderTheta: string, olderScaling?: RopeScaling): RopeBase => {
    const theta = read.positive(olderTheta);
    const scaling = ropeScaling(read, place, sizes);
    return {
      theta: read.positive(`${place}rope_theta`, theta),
      scaling: olderScaling ?? scaling ?? { type: "none" },
    };
  };
  const place = "rope_parameters.";
  const grows = temperature ? temperatureOf(read, place, sizes) : undefined;
  if (!localRope) return { rope: at(place, "rope_theta", older), localRope: undefined, temperature: grows };
  return {
    rope: at(`${place}full_attention.`, "rope_theta", older),
    localRope: at(`${place}sliding_attention.`, localRope),
    temperature: grows,
  };
}

function temperatureOf(
  read: Reader,
  place: string,
  { contextTokens }: RopeSizes,
): Hyperparameters["temperature"] {
  const scale = read.positiveOrZero(`${place}llama_4_scaling_beta`);
  const tokens = read.integer(`${place}original_max_position_embeddings`, MAX_CONTEXT, contextTokens);
  return scale > 0 ? { scale, tokens } : undefined;
}

/** Settings that stand beside "dynamic" in Hunyuan's files and that nothing reads. */
const BESIDE_ALPHA = ["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"];

/** Hunyuan's "dynamic" scaling is a larger base, whatever the length. */
function ntkScaling(read: Reader, place: string): RopeScaling {
  for (const name of BESIDE_ALPHA) read.value(place + name);
  return { type: "ntk", alpha: read.positive(`${place}alpha`) };
}

/** undefined: nothing is said at this place. */
function ropeScaling(read: Reader, place: string, sizes: RopeSizes): RopeScaling | undefined {
  const { contextTokens } = sizes;
  const older = read.text(`${place}type`);
  const type = read.text(`${place}rope_type`) ?? older;
  if (type === undefined) return undefined;
  if (type === "dynamic" && sizes.ntkAlpha) return ntkScaling(read, place);
  switch (type) {
    case "default":
      return { type: "none" };
    case "dynamic":
      return dynamicScaling(read, place, contextTokens);
    case "proportional":
      return { type: "linear", factor: read.positive(`${place}factor`, 1) };
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
    case "longrope":
    case "su":
      return longRopeScaling(read, place, sizes);
    default:
      throw read.unsupported(
        `${place}rope_type`,
        type,
        "default, linear, dynamic, llama3, yarn and longrope",
      );
  }
}

/** Beyond the context, where no engine goes, the base would grow. */
function dynamicScaling(read: Reader, place: string, contextTokens: number): RopeScaling {
  const name = `${place}original_max_position_embeddings`;
  const original = read.positive(name, contextTokens);
  if (original !== contextTokens)
    throw read.unsupported(name, original, `max_position_embeddings ${contextTokens}`);
  read.positive(`${place}factor`, 1);
  return { type: "none" };
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

/** The original context stands at the top in Phi-3's files, whatever is said here. */
function longRopeScaling(read: Reader, place: string, { contextTokens, ropeDims }: RopeSizes): RopeScaling {
  const inner = read.positive(`${place}original_max_position_embeddings`, contextTokens);
  const originalContext = read.positive("original_max_position_embeddings", inner);
  const factor = read.positive(`${place}factor`, contextTokens / originalContext);
  const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalContext));
  return {
    type: "longrope",
    originalContext,
    factors: {
      short: read.positives(`${place}short_factor`, ropeDims / 2),
      long: read.positives(`${place}long_factor`, ropeDims / 2),
    },
    attentionFactor: read.positive(`${place}attention_factor`, usual),
  };
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
