/**
 * Architectures as rows of one table: a model file's metadata -> the shape of the model, layer by layer. Adding an
 * architecture that is made of known mixers and feed-forwards is adding a row here. It reads no tensors and no GPU.
 *
 * Hyperparameters come from GGUF metadata or from a Hugging Face config.json; both are first brought to one plain form (hyperparameters.ts).
 */
import { inFile, TidepoolError } from "../../errors.ts";
import type { GgufModelFile, ModelFile, SafetensorsModelFile } from "../../load/model-file.ts";
import { CONFIG_MODEL_TYPES, hyperparametersFromConfig } from "./hyperparameters-config.ts";
import { hyperparametersFromMetadata, type GgufTraits } from "./hyperparameters-gguf.ts";
import { MAX_VOCAB, type Hyperparameters } from "./hyperparameters.ts";
import { checkSizes } from "./sizes.ts";
import type { DeltaMixer } from "../../shape/mixer/gated-delta.ts";
import type { MambaMixer } from "../../shape/mixer/mamba2.ts";
import type {
  Activation,
  AttentionMixer,
  FeedForward,
  LayerNorms,
  LayerShape,
  Mixer,
  ModelShape,
  RopeLayout,
  RopeParams,
} from "../../shape/shape.ts";
import { TensorNames, type LayerTensors } from "./tensor-lookup.ts";

/** A row: what the hyperparameters alone do not say. */
export interface Architecture extends GgufTraits {
  /** `model_type` values of config.json; those of recurrent models are known by name only (hyperparameters-config.ts). */
  config: readonly string[];
  /** GGUF files hold q and k rows for this layout, safetensors always for "half". */
  ropeLayout: RopeLayout;
  qkNorm: boolean;
  norms: LayerNorms;
  /** What of a layer's norms and residual adds is up to the file. Default: `norms`, and one add after the other. */
  skeleton?(
    index: number,
    params: Hyperparameters,
    layer: LayerTensors,
  ): Pick<LayerShape, "norms" | "parallel">;
  embeddingNorm?: boolean;
  /** Names of tensors in safetensors, where they are not those of most architectures. */
  safetensorsNames?: Readonly<Record<string, string>>;
  activation: Activation;
  zeroCentredNorms: boolean;
  scaleEmbedding: boolean;
  /** The rope table of layer `index`. Default: that of all layers, or of local ones if they have their own. */
  ropeTable?(index: number, params: Hyperparameters): number | undefined;
  /** Multiplies q.k where the file does not say. Default: 1 / sqrt(headDim). */
  attentionScale?(params: Hyperparameters): number;
  /** The mixers of layer `index`. Default: attention alone. */
  mixers?(index: number, params: Hyperparameters, attention: () => AttentionMixer): Mixer[];
  /** The feed-forward of layer `index`. Default: the gated one. */
  ffn?(index: number, params: Hyperparameters): FeedForward | undefined;
  /** W_q carries a gate for each head. */
  gatedAttention?: boolean;
}

/** Gemma 3: one global layer after five local ones, unless the file says otherwise. */
const GEMMA3_WINDOW = { period: 6, localTheta: 10_000 };
/** How Gemma 3 27B is told from its siblings: it alone scales queries by another size (as in llama.cpp). */
const GEMMA3_27B_LAYERS = 62;

/** SmolLM3: every fourth layer has no rotation, unless config.json lists the layers. */
const SMOLLM3_NOPE_PERIOD = 4;

const PRE_NORMS: LayerNorms = { mixer: "attn_norm", ffn: "ffn_norm" };
const SANDWICH_NORMS: LayerNorms = {
  ...PRE_NORMS,
  mixerPost: "post_attention_norm",
  ffnPost: "post_ffw_norm",
};
/** In the files of some architectures, the norm before the feed-forward has the name of a post-norm. */
const PRE_NORMS_RENAMED: LayerNorms = { mixer: "attn_norm", ffn: "post_attention_norm" };

/** What most architectures have in common. */
export const PLAIN = {
  qkNorm: false,
  norms: PRE_NORMS,
  activation: "silu",
  zeroCentredNorms: false,
  scaleEmbedding: false,
} as const;

export const ARCHITECTURES: Architecture[] = [
  { ...PLAIN, gguf: "llama", config: ["llama", "mistral"], ropeLayout: "interleaved", window: "all" },
  { ...PLAIN, gguf: "qwen3", config: ["qwen3"], ropeLayout: "half", qkNorm: true },
  {
    ...PLAIN,
    gguf: "smollm3",
    config: ["smollm3"],
    ropeLayout: "interleaved",
    ropeTable: (index, params) => (smollm3Rotates(index, params) ? 0 : undefined),
  },
  {
    gguf: "gemma3",
    config: ["gemma3_text", "gemma3"],
    ropeLayout: "half",
    qkNorm: true,
    norms: SANDWICH_NORMS,
    safetensorsNames: { ffn_norm: "pre_feedforward_layernorm" },
    activation: "gelu_tanh",
    zeroCentredNorms: true,
    scaleEmbedding: true,
    window: GEMMA3_WINDOW,
    attentionScale: gemma3Scale,
  },
  {
    ...PLAIN,
    gguf: "lfm2",
    config: ["lfm2"],
    window: "all",
    ropeLayout: "half",
    qkNorm: true,
    mixers: (index, params, attention) =>
      isRecurrent(index, params) ? [{ kind: "short-conv", kernel: params.convKernel }] : [attention()],
  },
  {
    ...PLAIN,
    gguf: "granitehybrid",
    config: ["granitemoehybrid"],
    ropeLayout: "interleaved",
    multipliers: true,
    ropeIsOptional: true,
    ropeTable: (_, params) => (params.ropeFinetuned ? 0 : undefined),
    mixers: (index, params, attention) => (isRecurrent(index, params) ? [mamba(params)] : [attention()]),
  },
  {
    ...PLAIN,
    gguf: "mamba2",
    config: ["mamba2"],
    ropeLayout: "half",
    ffn: () => undefined,
    mixers: (_, params) => [mamba(params)],
  },
  {
    ...PLAIN,
    gguf: "falcon-h1",
    config: ["falcon_h1"],
    ropeLayout: "half",
    mixers: (_, params, attention) => [attention(), mamba(params)],
  },
  {
    ...PLAIN,
    gguf: "qwen35",
    config: ["qwen3_5", "qwen3_5_text"],
    ropeLayout: "half",
    qkNorm: true,
    norms: PRE_NORMS_RENAMED,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, params, attention) =>
      isDelta(index, params) ? [delta(params, "interleaved", false)] : [attention()],
  },
  {
    ...PLAIN,
    gguf: "qwen3next",
    config: ["qwen3_next"],
    ropeLayout: "half",
    qkNorm: true,
    norms: PRE_NORMS_RENAMED,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, params, attention) =>
      isDelta(index, params) ? [delta(params, "blocked", true)] : [attention()],
  },
];

/** A layer without KV heads is recurrent. */
function isRecurrent(index: number, params: Hyperparameters): boolean {
  return params.kvHeads[index] === 0;
}

/** Qwen3.5 and Qwen3-Next: attention in every fourth layer, unless the file names another interval or lists the layers. */
function isDelta(index: number, params: Hyperparameters): boolean {
  return params.recurrentLayers?.[index] ?? (index + 1) % params.attentionInterval !== 0;
}

function mamba({ ssm, convKernel }: Hyperparameters): MambaMixer {
  const { innerSize, stateSize, heads, groups } = ssm;
  const shape = { kind: "mamba2", heads, headDim: innerSize / heads, groups, stateSize } as const;
  checkDivides("ssm.inner_size", innerSize, "ssm.time_step_rank", heads);
  checkDivides("ssm.time_step_rank", heads, "ssm.group_count", groups);
  return { ...shape, kernel: convKernel };
}

function delta(
  { ssm, convKernel }: Hyperparameters,
  keyHeadOrder: DeltaMixer["keyHeadOrder"],
  baGrouped: boolean,
): DeltaMixer {
  const { innerSize, stateSize: keyDim, heads: valueHeads, groups: keyHeads } = ssm;
  checkDivides("ssm.inner_size", innerSize, "ssm.time_step_rank", valueHeads);
  checkDivides("ssm.time_step_rank", valueHeads, "ssm.group_count", keyHeads);
  const sizes = { keyHeads, valueHeads, keyDim, valueDim: innerSize / valueHeads };
  return { kind: "gated-delta", ...sizes, kernel: convKernel, keyHeadOrder, baGrouped };
}

function checkDivides(whole: string, value: number, part: string, divisor: number): void {
  if (divisor > 0 && value > 0 && value % divisor === 0) return;
  throw new TidepoolError(
    "invalid_file",
    `${whole} is ${value} and ${part} is ${divisor}: it must divide it`,
  );
}

function smollm3Rotates(index: number, params: Hyperparameters): boolean {
  const listed = params.ropeLayers?.[index];
  return listed ?? (index + 1) % SMOLLM3_NOPE_PERIOD !== 0;
}

function gemma3Scale({ layers, hiddenSize, heads, headDim }: Hyperparameters): number {
  const size = layers === GEMMA3_27B_LAYERS ? Math.floor(hiddenSize / (heads[0] || 1)) : headDim;
  return 1 / Math.sqrt(size);
}

/** The names of all architectures that run here. */
export const ARCHITECTURE_NAMES: readonly string[] = ARCHITECTURES.map((row) => row.gguf);

/** A shape, and the keys of the file's settings that it was read from, present or not. */
export interface ReadShape {
  shape: ModelShape;
  keys: ReadonlySet<string>;
}

/** The shape of the model in an open file. @throws TidepoolError `unsupported`, `invalid_file`. */
export function shapeOf(file: ModelFile): ModelShape {
  return readShape(file).shape;
}

/** As `shapeOf`, with the keys. */
export function readShape(file: ModelFile): ReadShape {
  try {
    const read = file.format === "gguf" ? readGgufShape(file) : readConfigShape(file);
    checkSizes(read.shape);
    return read;
  } catch (error) {
    throw inFile(file.name, error);
  }
}

function readGgufShape(file: GgufModelFile): ReadShape {
  const { metadata } = file;
  const name = metadata.get("general.architecture");
  const row = ARCHITECTURES.find((candidate) => candidate.gguf === name);
  if (!row) throw unknownArchitecture(String(name));
  const { params, keys } = hyperparametersFromMetadata(metadata, row);
  return {
    shape: build(row, params, file),
    keys: new Set(["general.architecture", ...keys]),
  };
}

function readConfigShape(file: SafetensorsModelFile): ReadShape {
  const { config } = file;
  const type = String(config["model_type"]);
  const row = ARCHITECTURES.find((candidate) => candidate.config.includes(type));
  if (!row) throw unknownArchitecture(type);
  if (!CONFIG_MODEL_TYPES.includes(type)) {
    const message = `"${type}" is read from GGUF files only, not from safetensors`;
    throw new TidepoolError("unsupported", message, { architecture: row.gguf });
  }
  const { params, keys } = hyperparametersFromConfig(config, type);
  return {
    shape: build(row, params, file),
    keys: new Set(["model_type", ...keys]),
  };
}

function unknownArchitecture(name: string): TidepoolError {
  return new TidepoolError(
    "unsupported",
    `the architecture "${name}" is not known; known are ${ARCHITECTURE_NAMES.join(", ")}`,
    { architecture: name, known: [...ARCHITECTURE_NAMES] },
  );
}

function build(row: Architecture, params: Hyperparameters, file: ModelFile): ModelShape {
  const isGguf = file.format === "gguf";
  const names = new TensorNames(file, row.safetensorsNames);
  checkExperts(row, params);
  return {
    architecture: row.gguf,
    name: params.name,
    hiddenSize: params.hiddenSize,
    vocabSize: vocabSizeOf(params, names),
    contextTokens: params.contextTokens,
    layers: Array.from({ length: params.layers }, (_, index) => layerShape(row, params, names, index)),
    unusedLayers: params.unusedLayers,
    norm: row.norm ?? "rms",
    normEps: params.normEps,
    embeddingScale: row.scaleEmbedding ? Math.sqrt(params.hiddenSize) : params.embeddingScale,
    embeddingNorm: row.embeddingNorm ?? false,
    residualScale: params.residualScale,
    logitScale: 1 / params.logitDivisor,
    logitSoftCap: params.finalSoftCap,
    ropeTables: ropeTables(params),
    ropeLayout: isGguf ? row.ropeLayout : "half",
    safetensorsNames: row.safetensorsNames ?? {},
    normOffset: row.zeroCentredNorms && !isGguf ? 1 : 0,
  };
}

function checkExperts(row: Architecture, { experts }: Hyperparameters): void {
  if (experts === 0) return;
  const message = `"${row.gguf}" with ${experts} experts does not run yet`;
  throw new TidepoolError("unsupported", message, { architecture: row.gguf });
}

/** The embedding's rows: what the settings say is older than the last tokens that were added, or padded. */
function vocabSizeOf(params: Hyperparameters, names: TensorNames): number {
  const rows = names.model("token_embd")?.shape[1] ?? params.vocabSize;
  if (rows !== undefined && rows > 0 && rows <= MAX_VOCAB) return rows;
  throw new TidepoolError(
    "invalid_file",
    `the vocabulary has ${rows ?? "an unknown number of"} tokens, expected 1 to ${MAX_VOCAB}`,
  );
}

function ropeTables({ rope, localRope, ropeDims, ropeMagnitude }: Hyperparameters): RopeParams[] {
  return [rope, ...(localRope ? [localRope] : [])].map((base) => ({
    ...base,
    rot: ropeDims,
    ...(ropeMagnitude !== 1 && { magnitude: ropeMagnitude }),
  }));
}

function layerShape(
  row: Architecture,
  params: Hyperparameters,
  names: TensorNames,
  index: number,
): LayerShape {
  const attention = () => attentionMixer(row, params, index);
  return {
    mixers: row.mixers?.(index, params, attention) ?? [attention()],
    ffn: row.ffn ? row.ffn(index, params) : gatedFfn(row, params, index),
    ...(row.skeleton?.(index, params, names.at(index)) ?? { norms: row.norms, parallel: false }),
  };
}

function gatedFfn(row: Architecture, params: Hyperparameters, index: number): FeedForward {
  return { kind: "mlp", width: ffnWidth(params, index), activation: params.activation ?? row.activation };
}

function ffnWidth(params: Hyperparameters, index: number): number {
  const width = params.ffnWidth[index] ?? 0;
  if (width > 0) return width;
  throw new TidepoolError("invalid_file", `layer ${index} has a feed-forward of width ${width}`);
}

function attentionMixer(row: Architecture, params: Hyperparameters, index: number): AttentionMixer {
  const isLocal = params.localLayers[index] ?? false;
  const heads = params.heads[index] ?? 0;
  const kvHeads = params.kvHeads[index] ?? 0;
  if (kvHeads === 0 || heads % kvHeads !== 0) {
    throw new TidepoolError(
      "invalid_file",
      `layer ${index}: ${heads} query heads cannot share ${kvHeads} KV heads evenly`,
    );
  }
  return {
    kind: "attention",
    heads,
    kvHeads,
    headDim: params.headDim,
    scale: params.attentionScale ?? row.attentionScale?.(params) ?? 1 / Math.sqrt(params.headDim),
    window: isLocal ? params.window : 0,
    softCap: params.softCap,
    ropeTable: row.ropeTable ? row.ropeTable(index, params) : isLocal && params.localRope ? 1 : 0,
    qkNorm: row.qkNorm,
    gated: row.gatedAttention ?? false,
  };
}
