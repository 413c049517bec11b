/**
 * Architectures as rows of one table: a model file's metadata -> the shape of the model, layer by layer. Adding an
 * architecture that is made of known mixers and feed-forwards is adding a row here. It reads no tensors and no GPU.
 *
 * Facts come from GGUF metadata or from a Hugging Face config.json; both are first brought to one plain form (`Facts`).
 */
import { inFile, TidepoolError } from "../../errors.ts";
import type { GgufModelFile, ModelFile, SafetensorsModelFile } from "../../load/model-file.ts";
import { CONFIG_MODEL_TYPES, factsFromConfig } from "./hyperparameters-config.ts";
import { factsFromMetadata, type GgufTraits } from "./hyperparameters-gguf.ts";
import { MAX_VOCAB, type Facts } from "./hyperparameters.ts";
import { checkSizes } from "./sizes.ts";
import type {
  Activation,
  AttentionMixer,
  DeltaMixer,
  LayerShape,
  MambaMixer,
  Mixer,
  ModelShape,
  RopeLayout,
  RopeParams,
} from "../../shape/shape.ts";
import { TensorNames } from "./tensor-names.ts";

/** A row: what the facts alone do not say. */
interface Architecture extends GgufTraits {
  /** `model_type` values of config.json; those of recurrent models are known by name only (hyperparameters-config.ts). */
  config: readonly string[];
  /** GGUF files hold q and k rows for this layout, safetensors always for "half". */
  ropeLayout: RopeLayout;
  qkNorm: boolean;
  postNorms: boolean;
  activation: Activation;
  zeroCentredNorms: boolean;
  scaleEmbedding: boolean;
  /** The rope table of layer `index`. Default: that of all layers, or of local ones if they have their own. */
  ropeTable?(index: number, facts: Facts): number | undefined;
  /** Multiplies q.k where the file does not say. Default: 1 / sqrt(headDim). */
  attentionScale?(facts: Facts): number;
  /** The mixers of layer `index`. Default: attention alone. */
  mixers?(index: number, facts: Facts, attention: () => AttentionMixer): Mixer[];
  /** No feed-forwards (Mamba-2). */
  withoutFfn?: boolean;
  /** W_q carries a gate for each head. */
  gatedAttention?: boolean;
}

/** Gemma 3: one global layer after five local ones, unless the file says otherwise. */
const GEMMA3_WINDOW = { period: 6, localTheta: 10_000 };
/** How Gemma 3 27B is told from its siblings: it alone scales queries by another size (as in llama.cpp). */
const GEMMA3_27B_LAYERS = 62;

/** SmolLM3: every fourth layer has no rotation, unless config.json lists the layers. */
const SMOLLM3_NOPE_PERIOD = 4;

const plain = {
  qkNorm: false,
  postNorms: false,
  activation: "silu",
  zeroCentredNorms: false,
  scaleEmbedding: false,
} as const;

const ARCHITECTURES: readonly Architecture[] = [
  { ...plain, gguf: "llama", config: ["llama", "mistral"], ropeLayout: "interleaved", window: "all" },
  { ...plain, gguf: "qwen3", config: ["qwen3"], ropeLayout: "half", qkNorm: true },
  {
    ...plain,
    gguf: "smollm3",
    config: ["smollm3"],
    ropeLayout: "interleaved",
    ropeTable: (index, facts) => (smollm3Rotates(index, facts) ? 0 : undefined),
  },
  {
    gguf: "gemma3",
    config: ["gemma3_text", "gemma3"],
    ropeLayout: "half",
    qkNorm: true,
    postNorms: true,
    activation: "gelu_tanh",
    zeroCentredNorms: true,
    scaleEmbedding: true,
    window: GEMMA3_WINDOW,
    attentionScale: gemma3Scale,
  },
  {
    ...plain,
    gguf: "lfm2",
    config: ["lfm2"],
    window: "all",
    ropeLayout: "half",
    qkNorm: true,
    mixers: (index, facts, attention) =>
      isRecurrent(index, facts) ? [{ kind: "short-conv", kernel: facts.convKernel }] : [attention()],
  },
  {
    ...plain,
    gguf: "granitehybrid",
    config: ["granitemoehybrid"],
    ropeLayout: "interleaved",
    multipliers: true,
    ropeIsOptional: true,
    ropeTable: (_, facts) => (facts.ropeFinetuned ? 0 : undefined),
    mixers: (index, facts, attention) => (isRecurrent(index, facts) ? [mamba(facts)] : [attention()]),
  },
  {
    ...plain,
    gguf: "mamba2",
    config: ["mamba2"],
    ropeLayout: "half",
    withoutFfn: true,
    mixers: (_, facts) => [mamba(facts)],
  },
  {
    ...plain,
    gguf: "falcon-h1",
    config: ["falcon_h1"],
    ropeLayout: "half",
    mixers: (_, facts, attention) => [attention(), mamba(facts)],
  },
  {
    ...plain,
    gguf: "qwen35",
    config: ["qwen3_5", "qwen3_5_text"],
    ropeLayout: "half",
    qkNorm: true,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, facts, attention) =>
      isDelta(index, facts) ? [delta(facts, "interleaved", false)] : [attention()],
  },
  {
    ...plain,
    gguf: "qwen3next",
    config: ["qwen3_next"],
    ropeLayout: "half",
    qkNorm: true,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, facts, attention) =>
      isDelta(index, facts) ? [delta(facts, "blocked", true)] : [attention()],
  },
];

/** A layer without KV heads is recurrent. */
function isRecurrent(index: number, facts: Facts): boolean {
  return facts.kvHeads[index] === 0;
}

/** Qwen3.5 and Qwen3-Next: attention in every fourth layer, unless the file names another interval or lists the layers. */
function isDelta(index: number, facts: Facts): boolean {
  return facts.recurrentLayers?.[index] ?? (index + 1) % facts.attentionInterval !== 0;
}

function mamba({ ssm, convKernel }: Facts): MambaMixer {
  const { innerSize, stateSize, heads, groups } = ssm;
  const shape = { kind: "mamba2", heads, headDim: innerSize / heads, groups, stateSize } as const;
  checkDivides("ssm.inner_size", innerSize, "ssm.time_step_rank", heads);
  checkDivides("ssm.time_step_rank", heads, "ssm.group_count", groups);
  return { ...shape, kernel: convKernel };
}

function delta(
  { ssm, convKernel }: Facts,
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

function smollm3Rotates(index: number, facts: Facts): boolean {
  const listed = facts.ropeLayers?.[index];
  return listed ?? (index + 1) % SMOLLM3_NOPE_PERIOD !== 0;
}

function gemma3Scale({ layers, hiddenSize, heads, headDim }: Facts): number {
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
  const { facts, keys } = factsFromMetadata(metadata, row);
  return {
    shape: build(row, facts, file),
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
  const { facts, keys } = factsFromConfig(config, type);
  return {
    shape: build(row, facts, file),
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

function build(row: Architecture, facts: Facts, file: ModelFile): ModelShape {
  const isGguf = file.format === "gguf";
  checkExperts(row, facts);
  return {
    architecture: row.gguf,
    name: facts.name,
    hiddenSize: facts.hiddenSize,
    vocabSize: vocabSizeOf(facts, new TensorNames(file, row.postNorms)),
    contextTokens: facts.contextTokens,
    layers: Array.from({ length: facts.layers }, (_, index) => layerShape(row, facts, index)),
    unusedLayers: facts.unusedLayers,
    normEps: facts.normEps,
    embeddingScale: row.scaleEmbedding ? Math.sqrt(facts.hiddenSize) : facts.embeddingScale,
    residualScale: facts.residualScale,
    logitScale: 1 / facts.logitDivisor,
    logitSoftCap: facts.finalSoftCap,
    ropeTables: ropeTables(facts),
    ropeLayout: isGguf ? row.ropeLayout : "half",
    postNorms: row.postNorms,
    normOffset: row.zeroCentredNorms && !isGguf ? 1 : 0,
  };
}

function checkExperts(row: Architecture, { experts }: Facts): void {
  if (experts === 0) return;
  const message = `"${row.gguf}" with ${experts} experts does not run yet`;
  throw new TidepoolError("unsupported", message, { architecture: row.gguf });
}

/** The embedding's rows: what the settings say is older than the last tokens that were added, or padded. */
function vocabSizeOf(facts: Facts, names: TensorNames): number {
  const rows = names.model("token_embd")?.shape[1] ?? facts.vocabSize;
  if (rows !== undefined && rows > 0 && rows <= MAX_VOCAB) return rows;
  throw new TidepoolError(
    "invalid_file",
    `the vocabulary has ${rows ?? "an unknown number of"} tokens, expected 1 to ${MAX_VOCAB}`,
  );
}

function ropeTables({ rope, localRope, ropeDims, ropeMagnitude }: Facts): RopeParams[] {
  return [rope, ...(localRope ? [localRope] : [])].map((base) => ({
    ...base,
    rot: ropeDims,
    ...(ropeMagnitude !== 1 && { magnitude: ropeMagnitude }),
  }));
}

function layerShape(row: Architecture, facts: Facts, index: number): LayerShape {
  const attention = () => attentionMixer(row, facts, index);
  const activation = facts.activation ?? row.activation;
  return {
    mixers: row.mixers?.(index, facts, attention) ?? [attention()],
    ffn: row.withoutFfn ? undefined : { kind: "mlp", width: ffnWidth(facts, index), activation },
  };
}

function ffnWidth(facts: Facts, index: number): number {
  const width = facts.ffnWidth[index] ?? 0;
  if (width > 0) return width;
  throw new TidepoolError("invalid_file", `layer ${index} has a feed-forward of width ${width}`);
}

function attentionMixer(row: Architecture, facts: Facts, index: number): AttentionMixer {
  const isLocal = facts.localLayers[index] ?? false;
  const heads = facts.heads[index] ?? 0;
  const kvHeads = facts.kvHeads[index] ?? 0;
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
    headDim: facts.headDim,
    scale: facts.attentionScale ?? row.attentionScale?.(facts) ?? 1 / Math.sqrt(facts.headDim),
    window: isLocal ? facts.window : 0,
    softCap: facts.softCap,
    ropeTable: row.ropeTable ? row.ropeTable(index, facts) : isLocal && facts.localRope ? 1 : 0,
    qkNorm: row.qkNorm,
    gated: row.gatedAttention ?? false,
  };
}
