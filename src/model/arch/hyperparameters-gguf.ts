/**
 * The hyperparameters from a GGUF file's metadata, with the defaults that llama.cpp has. Keys of the architecture that change what is
 * computed and that no code here reads are refused by name (unread-keys.ts).
 */
import {
  ATTENTION_INTERVAL,
  localByPeriod,
  MAX_CONTEXT,
  MAX_CONV_KERNEL,
  MAX_EXPERTS,
  MAX_HEAD_DIM,
  MAX_LAYERS,
  MAX_WIDTH,
  type Hyperparameters,
} from "./hyperparameters.ts";
import { Reader, type Settings } from "./settings-reader.ts";
import { refuseUnreadMetadata } from "./unread-keys.ts";
import type { NormKind, RopeScaling } from "../../shape/shape.ts";

/** What an architecture's files may say beside what all files say. */
export interface GgufTraits {
  /** `general.architecture`, the prefix of its keys. */
  gguf: string;
  /** Default: RMS norms. */
  norm?: NormKind;
  /** Who has the sliding window: all attention layers, or all but every so many-th (Gemma 3). Absent: no window. */
  window?: "all" | { period: number; localTheta: number };
  /** Embedding, residuals and logits have factors (Granite). */
  multipliers?: boolean;
  /** Layers after the last one may predict further tokens; they are left out. Attention is every so many-th layer. */
  deltaLayers?: boolean;
  /** Whether attention rotates at all is up to the file (Granite hybrids). */
  ropeIsOptional?: boolean;
}

const WHERE = "GGUF metadata";

const EPSILON_KEYS: Readonly<Record<NormKind, string>> = {
  rms: "attention.layer_norm_rms_epsilon",
  layer: "attention.layer_norm_epsilon",
};

/**
 * Hyperparameters from metadata, and the keys that they were read from.
 * @throws TidepoolError `invalid_file` or `unsupported`, naming the key.
 */
export function hyperparametersFromMetadata(
  metadata: Settings,
  traits: GgufTraits,
): { params: Hyperparameters; keys: ReadonlySet<string> } {
  const read = new Reader(metadata, WHERE, `${traits.gguf}.`);
  const general = new Reader(metadata, WHERE);
  const { layers, unusedLayers } = layerCounts(read, traits);
  const hiddenSize = read.integer("embedding_length", MAX_WIDTH);
  const contextTokens = read.integer("context_length", MAX_CONTEXT);
  const heads = read.perLayer("attention.head_count", layers, MAX_WIDTH);
  const kvHeads = read.perLayer("attention.head_count_kv", layers, MAX_WIDTH, heads);
  const headDim = headDimOf(read, hiddenSize, heads.find((count) => count > 0) ?? 0);
  const params: Hyperparameters = {
    name: String(general.value("general.name") ?? traits.gguf),
    ...{ layers, unusedLayers, hiddenSize, contextTokens, heads, kvHeads, headDim },
    vocabSize: vocabSizeOf(read, general),
    ffnWidth: read.perLayer("feed_forward_length", layers, MAX_WIDTH),
    activation: undefined,
    normEps: read.positive(EPSILON_KEYS[traits.norm ?? "rms"]),
    ...ropeOf(read, headDim, contextTokens, traits),
    attentionScale: read.positiveOrZero("attention.scale") || undefined,
    softCap: read.positiveOrZero("attn_logit_softcapping"),
    finalSoftCap: read.positiveOrZero("final_logit_softcapping"),
    ...windowsOf(read, layers, traits),
    ...multipliers(read, traits),
    experts: read.integer("expert_count", MAX_EXPERTS, 0, 0),
    ...recurrentOf(read, layers, traits),
  };
  const keys = new Set([...read.asked, ...general.asked]);
  refuseUnreadMetadata(metadata, keys, traits.gguf, params);
  return { params, keys };
}

function layerCounts(
  read: Reader,
  { deltaLayers }: GgufTraits,
): Pick<Hyperparameters, "layers" | "unusedLayers"> {
  const all = read.integer("block_count", MAX_LAYERS);
  const unusedLayers = deltaLayers ? read.integer("nextn_predict_layers", all - 1, 0, 0) : 0;
  return { layers: all - unusedLayers, unusedLayers };
}

/** Keys, values and all layers have one head size here. */
function headDimOf(read: Reader, hiddenSize: number, heads: number): number {
  if (heads === 0) return 0;
  const headDim = read.integer("attention.key_length", MAX_HEAD_DIM, Math.floor(hiddenSize / heads));
  const others = ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"];
  for (const name of others) {
    const length = read.optional(name) ?? headDim;
    if (length !== headDim)
      throw read.unsupported(name, length, `${headDim}, the same as attention.key_length`);
  }
  return headDim;
}

/** Tokens of the vocabulary, where no embedding says how many there are. */
function vocabSizeOf(read: Reader, general: Reader): number | undefined {
  const tokens = general.value("tokenizer.ggml.tokens");
  const stated = read.value("vocab_size");
  if (Array.isArray(tokens)) return tokens.length;
  return typeof stated === "number" ? stated : undefined;
}

type RopePart = Pick<
  Hyperparameters,
  "ropeDims" | "rope" | "localRope" | "ropeMagnitude" | "ropeLayers" | "ropeFinetuned"
>;

function ropeOf(read: Reader, headDim: number, contextTokens: number, traits: GgufTraits): RopePart {
  const ropeDims = headDim === 0 ? 0 : read.integer("rope.dimension_count", headDim, headDim);
  const localDims = read.optional("rope.dimension_count_swa") ?? ropeDims;
  if (localDims !== ropeDims)
    throw read.unsupported("rope.dimension_count_swa", localDims, `${ropeDims}, as in all layers`);
  return {
    ropeDims,
    // Some converters of Gemma 3 name the bases of global and local layers so.
    rope: {
      theta: read.positive("rope.freq_base", read.optional("rope.global.freq_base") ?? 10_000),
      scaling: ropeScaling(read, contextTokens),
    },
    localRope: localRope(read, traits),
    ropeMagnitude: read.positive("rope.scaling.attn_factor", 1),
    ropeLayers: undefined,
    ropeFinetuned: traits.ropeIsOptional ? read.flag("rope.scaling.finetuned", true) : true,
  };
}

/** Local layers are never stretched. */
function localRope(read: Reader, { window }: GgufTraits): Hyperparameters["localRope"] {
  if (typeof window !== "object") return undefined;
  const theta = read.positive(
    "rope.freq_base_swa",
    read.optional("rope.local.freq_base") ?? window.localTheta,
  );
  return { theta, scaling: { type: "none" } };
}

/** A factor without a type is linear, a type without a factor stretches by 1; `scale_linear` is the factor's old name. */
function ropeScaling(read: Reader, contextTokens: number): RopeScaling {
  const type = read.text("rope.scaling.type") ?? "linear";
  const oldFactor = read.positiveOrZero("rope.scale_linear");
  const factor = (read.optional("rope.scaling.factor") ?? oldFactor) || 1;
  const originalContext = read.positiveOrZero("rope.scaling.original_context_length") || contextTokens;
  const betaFast = read.positive("rope.scaling.yarn_beta_fast", 32);
  const betaSlow = read.positive("rope.scaling.yarn_beta_slow", 1);
  if (factor < 0) throw read.bad("rope.scaling.factor", factor, "a positive number");
  if (type === "none" || (type === "linear" && factor === 1)) return { type: "none" };
  if (type === "linear") return { type, factor };
  if (type !== "yarn") throw read.unsupported("rope.scaling.type", type, "none, linear and yarn");
  return { type, factor, originalContext, betaFast, betaSlow };
}

function windowsOf(
  read: Reader,
  layers: number,
  { window: owners }: GgufTraits,
): Pick<Hyperparameters, "window" | "localLayers"> {
  const none = { window: 0, localLayers: Array<boolean>(layers).fill(false) };
  if (owners === undefined) return none;
  const window = read.integer("attention.sliding_window", MAX_CONTEXT, 0, 0);
  if (owners === "all") return { window, localLayers: Array<boolean>(layers).fill(window > 0) };
  const localLayers = localPattern(read, layers, owners.period);
  return window === 0 ? none : { window, localLayers };
}

/** A number is a period; a list says it for each layer. */
function localPattern(read: Reader, layers: number, period: number): boolean[] {
  const name = "attention.sliding_window_pattern";
  return read.flags(name, layers) ?? localByPeriod(layers, read.integer(name, MAX_LAYERS, period, 0));
}

function multipliers(
  read: Reader,
  { multipliers: has }: GgufTraits,
): Pick<Hyperparameters, "embeddingScale" | "residualScale" | "logitDivisor"> {
  const factor = (name: string) => (has ? read.positiveOrZero(name) || 1 : 1);
  return {
    embeddingScale: factor("embedding_scale"),
    residualScale: factor("residual_scale"),
    logitDivisor: factor("logit_scale"),
  };
}

type RecurrentPart = Pick<Hyperparameters, "convKernel" | "ssm" | "attentionInterval" | "recurrentLayers">;

function recurrentOf(read: Reader, layers: number, { deltaLayers }: GgufTraits): RecurrentPart {
  const size = (name: string) => read.integer(name, MAX_WIDTH, 0, 0);
  const convKernel = read.integer("ssm.conv_kernel", MAX_CONV_KERNEL, 0, 0);
  return {
    convKernel: read.integer("shortconv.l_cache", MAX_CONV_KERNEL, convKernel, 0),
    ssm: {
      innerSize: size("ssm.inner_size"),
      stateSize: size("ssm.state_size"),
      heads: size("ssm.time_step_rank"),
      groups: size("ssm.group_count"),
    },
    attentionInterval: deltaLayers
      ? read.integer("full_attention_interval", MAX_LAYERS, ATTENTION_INTERVAL)
      : ATTENTION_INTERVAL,
    recurrentLayers: deltaLayers ? read.flags("attention.recurrent_layers", layers) : undefined,
  };
}
