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
  yarnMagnitude,
  type ExpertSettings,
  type Hyperparameters,
} from "./hyperparameters.ts";
import { Reader, type Settings } from "./settings-reader.ts";
import { refuseUnreadMetadata } from "./unread-keys.ts";
import { xieluOf } from "../../shape/ffn/mlp.ts";
import type {
  ExpertRouting,
  NormKind,
  Pooling,
  QueryTemperature,
  RopeScaling,
  Xielu,
} from "../../shape/shape.ts";

/** What an architecture's files may say beside what all files say. */
export interface GgufTraits {
  /** `general.architecture`, the prefix of its keys. */
  gguf: string;
  /** Attention is latent (DeepSeek-V2). */
  latent?: boolean;
  /** Layers may share keys and values, and tokens have numbers for each layer (Gemma 3n, Gemma 4). */
  perLayer?: boolean;
  /** Gemma 3n: four streams of the residual, and what llama.cpp takes for granted with them. */
  altUp?: boolean;
  /** Default: RMS norms. */
  norm?: NormKind;
  /** The file says whether mixer and feed-forward read the same residual stream. */
  parallelFlag?: boolean;
  /** The feed-forward's activation is xIELU, whose constants the file has for each layer. */
  xielu?: boolean;
  /** Who has the sliding window: all attention layers, or all but every so many-th (Gemma 3). Absent: no window. */
  window?: "all" | LocalLayers;
  /** Attention is to both sides: the model makes vectors of texts and generates nothing. */
  isEncoder?: boolean;
  /** Embedding, residuals and logits have factors (Granite), which are 1 or what this says where the file does not. */
  multipliers?: true | ((layers: number, hiddenSize: number) => Multipliers);
  /** Caps of scores and logits where the file does not say (Gemma 2). */
  softCaps?: { attention: number; final: number };
  /** Queries may grow with their position, and YaRN may have a multiplier (Ministral 3). */
  temperature?: boolean;
  /** Files of models that see pictures have rows for the other rotation layout (GLM-4V). */
  ropeSections?: boolean;
  /** The file may carry LongRoPE's factors as tensors. */
  longRope?: boolean;
  /** Attention is every so many-th layer; `nextLayers` too. */
  deltaLayers?: boolean;
  /** Layers after the last one may predict further tokens. */
  nextLayers?: boolean;
  /** Whether attention rotates at all is up to the file (Granite hybrids). */
  ropeIsOptional?: boolean;
  /** The feed-forward may be a mixture of experts; what the file does not say of its routing. Default gate: softmax. */
  experts?: Partial<Pick<ExpertRouting, "gate" | "renormalise">>;
}

export interface LocalLayers {
  /** Absent: the file must list the layers. */
  period?: number;
  /** The first layer of a period is the global one. Default: the last. */
  isFirstGlobal?: boolean;
  /**
   * The base of local layers where the file does not say; "global": it is that of all layers. Neither is stretched. Absent:
   * local layers rotate as the others do.
   */
  localTheta?: number | "global";
  /** The window where the file does not say. Default: none. */
  tokens?(layers: number): number;
}

const WHERE = "GGUF metadata";

const EPSILON_KEYS: Readonly<Record<NormKind, string>> = {
  rms: "attention.layer_norm_rms_epsilon",
  layer: "attention.layer_norm_epsilon",
};

/**
 * Hyperparameters from metadata, and the keys that they were read from.
 * @param hasTensor whether the file has a tensor of the whole model
 * @throws TidepoolError `invalid_file` or `unsupported`, naming the key.
 */
export function hyperparametersFromMetadata(
  metadata: Settings,
  traits: GgufTraits,
  hasTensor: (name: string) => boolean,
): { params: Hyperparameters; keys: ReadonlySet<string> } {
  const read = new Reader(metadata, WHERE, `${traits.gguf}.`);
  const general = new Reader(metadata, WHERE);
  const { layers, unusedLayers } = layerCounts(read, traits);
  const hiddenSize = read.integer("embedding_length", MAX_WIDTH);
  const contextTokens = read.integer("context_length", MAX_CONTEXT);
  const heads = read.perLayer("attention.head_count", layers, MAX_WIDTH);
  const kvHeads = read.perLayer("attention.head_count_kv", layers, MAX_WIDTH, heads);
  const headDim = traits.latent
    ? read.integer("attention.key_length_mla", MAX_HEAD_DIM)
    : headDimOf(read, hiddenSize, heads.find((count) => count > 0) ?? 0);
  const localHeadDim = localHeadDimOf(read, headDim, traits);
  const experts = read.integer("expert_count", MAX_EXPERTS, 0, 0);
  const params: Hyperparameters = {
    name: String(general.value("general.name") ?? traits.gguf),
    ...{ layers, unusedLayers, hiddenSize, contextTokens, heads, kvHeads, headDim, localHeadDim },
    ...perLayerOf(read, layers, traits),
    latent: traits.latent ? latentOf(read, headDim) : undefined,
    vocabSize: vocabSizeOf(read, general),
    ffnWidth: read.perLayer(
      "feed_forward_length",
      layers,
      MAX_WIDTH,
      experts > 0 ? Array<number>(layers).fill(0) : undefined,
    ),
    activation: undefined,
    xielu: traits.xielu ? xieluLayers(general, layers) : undefined,
    parallelResidual: traits.parallelFlag ? read.flag("use_parallel_residual", true) : undefined,
    normEps: read.positive(EPSILON_KEYS[traits.norm ?? "rms"]),
    ...ropeOf(
      read,
      { headDim, localHeadDim, contextTokens },
      { ...traits, longRope: traits.longRope === true && hasTensor("rope_factors_long.weight") },
    ),
    attentionScale: read.positiveOrZero("attention.scale") || undefined,
    temperature: traits.temperature ? temperatureOf(read, contextTokens) : undefined,
    softCap: read.positiveOrZero("attn_logit_softcapping", traits.softCaps?.attention),
    finalSoftCap: read.positiveOrZero("final_logit_softcapping", traits.softCaps?.final),
    ...windowsOf(read, layers, traits),
    ...multipliers(read, traits, layers, hiddenSize),
    experts,
    routing: traits.experts && experts > 0 ? expertSettings(read) : undefined,
    ...recurrentOf(read, layers, traits),
    ...poolingOf(read, traits),
    isConfig: false,
    factors: undefined,
  };
  const keys = new Set([...read.asked, ...general.asked]);
  refuseUnreadMetadata(metadata, keys, traits.gguf, params);
  return { params, keys };
}

/** Values of `expert_gating_func`; the last is a softmax over the chosen alone. */
const GATES = { softmax: 1, sigmoid: 2, softmaxOfChosen: 3 };

function expertSettings(read: Reader): ExpertSettings {
  const size = (name: string) => read.integer(name, MAX_WIDTH, 0, 0);
  const gate = size("expert_gating_func");
  if (gate > GATES.softmaxOfChosen)
    throw read.unsupported(
      "expert_gating_func",
      gate,
      "1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen)",
    );
  const norm =
    read.value("expert_weights_norm") === undefined ? undefined : read.flag("expert_weights_norm", false);
  const width = size("expert_feed_forward_length");
  const [count, used] = [size("expert_group_count"), size("expert_group_used_count")];
  const sharedWidth = size("expert_shared_count") * width;
  // Which layers have experts is seen by their tensors.
  for (const name of ["leading_dense_block_count", "interleave_moe_layer_step", "moe_every_n_layers"])
    read.optional(name);
  return {
    chosen: read.integer("expert_used_count", MAX_EXPERTS),
    width,
    sharedWidth: size("expert_shared_feed_forward_length") || sharedWidth,
    gate: gate === 0 ? undefined : gate === GATES.sigmoid ? "sigmoid" : "softmax",
    renormalise: gate === GATES.softmaxOfChosen ? true : norm,
    scale: read.positiveOrZero("expert_weights_scale") || 1,
    groups: count > 1 ? { count, used: used || count } : undefined,
  };
}

function layerCounts(
  read: Reader,
  { deltaLayers, nextLayers }: GgufTraits,
): Pick<Hyperparameters, "layers" | "unusedLayers"> {
  const all = read.integer("block_count", MAX_LAYERS);
  const unusedLayers = deltaLayers || nextLayers ? read.integer("nextn_predict_layers", all - 1, 0, 0) : 0;
  return { layers: all - unusedLayers, unusedLayers };
}

/** Latent attention has its head sizes under other keys, and those of what is kept under the usual ones. */
function latentOf(read: Reader, inHead: number): Hyperparameters["latent"] {
  const rank = read.integer("attention.kv_lora_rank", MAX_WIDTH);
  const ropeDim = read.integer("rope.dimension_count", inHead);
  checkSame(read, "attention.key_length", rank + ropeDim, "the latent vector and the rotated key");
  checkSame(read, "attention.value_length", rank, "the latent vector");
  const isYarn = read.text("rope.scaling.type") === "yarn";
  const multiplier = isYarn ? read.positiveOrZero("rope.scaling.yarn_log_multiplier") : 0;
  return {
    queryRank: read.integer("attention.q_lora_rank", MAX_WIDTH, 0, 0) || undefined,
    ...{ rank, ropeDim, plainDim: inHead - ropeDim },
    valueDim: read.integer("attention.value_length_mla", MAX_WIDTH),
    stretch: 1 + multiplier * Math.log(Math.max(1, read.positiveOrZero("rope.scaling.factor"))),
  };
}

/** Keys and values have one head size. */
function headDimOf(read: Reader, hiddenSize: number, heads: number): number {
  if (heads === 0) return 0;
  const headDim = read.integer("attention.key_length", MAX_HEAD_DIM, Math.floor(hiddenSize / heads));
  checkSame(read, "attention.value_length", headDim, "attention.key_length");
  return headDim;
}

/** Local layers may have heads of their own size. */
function localHeadDimOf(read: Reader, headDim: number, { window }: GgufTraits): number {
  const name = "attention.key_length_swa";
  if (typeof window !== "object") checkSame(read, name, headDim, "attention.key_length");
  const localHeadDim = headDim === 0 ? 0 : read.integer(name, MAX_HEAD_DIM, headDim);
  checkSame(read, "attention.value_length_swa", localHeadDim, name);
  return localHeadDim;
}

/** Checks that a size is what another key says, if it is there. */
function checkSame(read: Reader, name: string, expected: number, other: string): void {
  const value = read.optional(name) ?? expected;
  if (value !== expected) throw read.unsupported(name, value, `${expected}, the same as ${other}`);
}

/** Tokens of the vocabulary, where no embedding says how many there are. */
function vocabSizeOf(read: Reader, general: Reader): number | undefined {
  const tokens = general.value("tokenizer.ggml.tokens");
  const stated = read.value("vocab_size");
  if (Array.isArray(tokens)) return tokens.length;
  return typeof stated === "number" ? stated : undefined;
}

/** The file has the constants before the softplus that keeps them positive. */
function xieluLayers(general: Reader, layers: number): Xielu[] {
  const lists = ["alpha_p", "alpha_n", "beta", "eps"].map((name) => general.numbers(`xielu.${name}`, layers));
  return Array.from({ length: layers }, (_, index) =>
    xieluOf(...(lists.map((list) => list[index]) as [number, number, number, number])),
  );
}

type RopePart = Pick<
  Hyperparameters,
  "ropeDims" | "localRopeDims" | "rope" | "localRope" | "ropeLayers" | "ropeFinetuned" | "ropeSections"
>;

function ropeOf(
  read: Reader,
  {
    headDim,
    localHeadDim,
    contextTokens,
  }: Pick<Hyperparameters, "headDim" | "localHeadDim" | "contextTokens">,
  traits: GgufTraits,
): RopePart {
  const ropeDims = headDim === 0 ? 0 : read.integer("rope.dimension_count", headDim, headDim);
  // Some converters of Gemma 3 name the bases of global and local layers so.
  const theta = read.positive("rope.freq_base", read.optional("rope.global.freq_base") ?? 10_000);
  const magnitude = read.positive("rope.scaling.attn_factor", 1);
  const sections = traits.ropeSections ? read.list("rope.dimension_sections", 2) : undefined;
  const local = "rope.dimension_count_swa";
  const ofLocal = localRope(read, traits, theta);
  if (!ofLocal) checkSame(read, local, ropeDims, "rope.dimension_count");
  return {
    ropeDims,
    localRopeDims: ropeDims === 0 ? 0 : read.integer(local, localHeadDim, Math.min(ropeDims, localHeadDim)),
    rope: { theta, scaling: ropeScaling(read, contextTokens, traits), magnitude },
    localRope: ofLocal,
    ropeLayers: undefined,
    ropeSections: sections?.every((size) => Number(size) > 0) ?? false,
    ropeFinetuned: traits.ropeIsOptional ? read.flag("rope.scaling.finetuned", true) : true,
  };
}

/** Local layers with a base of their own are never stretched. */
function localRope(read: Reader, { window }: GgufTraits, global: number): Hyperparameters["localRope"] {
  if (typeof window !== "object" || window.localTheta === undefined) return undefined;
  const usual = window.localTheta === "global" ? global : window.localTheta;
  const theta = read.positive("rope.freq_base_swa", read.optional("rope.local.freq_base") ?? usual);
  return { theta, scaling: { type: "none" } };
}

/** In the file's words it grows once for each context of the original training. */
function temperatureOf(read: Reader, contextTokens: number): QueryTemperature | undefined {
  const scale = read.positiveOrZero("attention.temperature_scale");
  return scale > 0 ? { scale, tokens: originalContextOf(read, contextTokens) } : undefined;
}

function originalContextOf(read: Reader, contextTokens: number): number {
  return read.integer("rope.scaling.original_context_length", MAX_CONTEXT, 0, 0) || contextTokens;
}

/** A factor without a type is linear, a type without a factor stretches by 1; `scale_linear` is the factor's old name. */
function ropeScaling(read: Reader, contextTokens: number, traits: GgufTraits): RopeScaling {
  const type = read.text("rope.scaling.type") ?? "linear";
  const oldFactor = read.positiveOrZero("rope.scale_linear");
  const factor = (read.optional("rope.scaling.factor") ?? oldFactor) || 1;
  const originalContext = originalContextOf(read, contextTokens);
  const betaFast = read.positive("rope.scaling.yarn_beta_fast", 32);
  const betaSlow = read.positive("rope.scaling.yarn_beta_slow", 1);
  if (factor < 0) throw read.bad("rope.scaling.factor", factor, "a positive number");
  if (traits.longRope) return { type: "longrope", originalContext };
  if (type === "none" || (type === "linear" && factor === 1)) return { type: "none" };
  if (type === "linear") return { type, factor };
  if (type !== "yarn") throw read.unsupported("rope.scaling.type", type, "none, linear and yarn");
  const multiplier = traits.temperature ? read.positiveOrZero("rope.scaling.yarn_log_multiplier") : 0;
  const attentionFactor = yarnMagnitude(factor, 1) / yarnMagnitude(factor, multiplier);
  const yarn = { type, factor, originalContext, betaFast, betaSlow } as const;
  if (traits.latent) return { ...yarn, attentionFactor: 1 }; // the scale of q.k has it all
  return multiplier > 0 ? { ...yarn, attentionFactor } : yarn;
}

function windowsOf(
  read: Reader,
  layers: number,
  { window: owners }: GgufTraits,
): Pick<Hyperparameters, "window" | "localLayers"> {
  const none = { window: 0, localLayers: Array<boolean>(layers).fill(false) };
  if (owners === undefined) return none;
  const usual = owners === "all" ? 0 : (owners.tokens?.(layers) ?? 0);
  const window = read.integer("attention.sliding_window", MAX_CONTEXT, usual, 0);
  if (owners === "all") return { window, localLayers: Array<boolean>(layers).fill(window > 0) };
  const localLayers = localPattern(read, layers, owners);
  return window === 0 ? none : { window, localLayers };
}

/** A number is a period; a list says it for each layer. */
function localPattern(read: Reader, layers: number, { period, isFirstGlobal }: LocalLayers): boolean[] {
  const name = "attention.sliding_window_pattern";
  const listed = read.flags(name, layers);
  return listed ?? localByPeriod(layers, read.integer(name, MAX_LAYERS, period, 0), isFirstGlobal);
}

/** Values of `pooling_type`: none, and those that run here; 4 is a reranker's. */
const POOLINGS: readonly (Pooling | undefined)[] = [undefined, "mean", "cls", "last"];

function poolingOf(read: Reader, { isEncoder }: GgufTraits): Pick<Hyperparameters, "pooling" | "dense"> {
  if (isEncoder && read.flag("attention.causal", false))
    throw read.unsupported("attention.causal", true, "false");
  const sizes = ["dense_2_feat_out", "dense_3_feat_out"].map((name) => read.integer(name, MAX_WIDTH, 0, 0));
  const pooling = POOLINGS[read.integer("pooling_type", POOLINGS.length, 0, 0)];
  if (isEncoder && !pooling)
    throw read.unsupported("pooling_type", read.value("pooling_type"), "1 (mean), 2 (cls) and 3 (last)");
  return { pooling, dense: sizes.filter((rows) => rows > 0) };
}

export type Multipliers = Pick<Hyperparameters, "embeddingScale" | "residualScale" | "logitDivisor">;

function multipliers(
  read: Reader,
  { multipliers: has }: GgufTraits,
  layers: number,
  hiddenSize: number,
): Multipliers {
  const usual =
    typeof has === "function"
      ? has(layers, hiddenSize)
      : { embeddingScale: 1, residualScale: 1, logitDivisor: 1 };
  if (!has) return usual;
  return {
    embeddingScale: read.positiveOrZero("embedding_scale") || usual.embeddingScale,
    residualScale: read.positiveOrZero("residual_scale") || usual.residualScale,
    logitDivisor: read.positiveOrZero("logit_scale") || usual.logitDivisor,
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

type PerLayerPart = Pick<Hyperparameters, "laurelRank" | "sharedKvLayers" | "perLayerWidth" | "sparsity">;

/** Gemma 3n's files leave unsaid what llama.cpp takes for granted: layers 0 to 19 have their own keys, 0 to 9 sparse gates. */
function perLayerOf(read: Reader, layers: number, { perLayer, altUp }: GgufTraits): PerLayerPart {
  if (!perLayer) return { laurelRank: 0, sharedKvLayers: 0, perLayerWidth: 0, sparsity: undefined };
  const shared = altUp ? Math.max(0, layers - 20) : 0;
  const part = {
    laurelRank: altUp ? 64 : 0,
    sharedKvLayers: read.integer("attention.shared_kv_layers", layers - 1, shared, 0),
    perLayerWidth: read.integer(
      "embedding_length_per_layer_input",
      MAX_WIDTH,
      altUp ? 256 : 0,
      altUp ? 1 : 0,
    ),
  };
  if (!altUp) return { ...part, sparsity: undefined };
  checkSame(read, "altup.num_inputs", 4, "the streams that the kernels have");
  checkSame(read, "altup.active_idx", 0, "the stream that the kernels take for the active one");
  // The 95th percentile of a normal distribution.
  const usual = Array.from({ length: layers }, (_, index) => (index < 10 ? 1.6448533535003662 : undefined));
  return { ...part, sparsity: sparsityOf(read, layers) ?? usual };
}

/** A factor a layer; minus infinity where nothing is spared. */
function sparsityOf(read: Reader, layers: number): (number | undefined)[] | undefined {
  const listed = read.list("activation_sparsity_scale", layers);
  return listed?.map((factor) => (Number.isFinite(factor) ? Number(factor) : undefined));
}
