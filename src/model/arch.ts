/**
 * Architectures as rows of one table: a model file's metadata -> the shape of the model, layer by layer. Adding an
 * architecture that is made of known mixers and feed-forwards is adding a row here. It reads no tensors and no GPU.
 *
 * Facts come from GGUF metadata or from a Hugging Face config.json; both are first brought to one plain form (`Facts`).
 */
import { inFile, TidepoolError } from "../errors.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { Activation } from "./ffn.ts";
import { factsFromConfig, factsFromMetadata, type Facts, type Metadata } from "./facts.ts";
import type { RopeParams } from "./rope.ts";
import { checkSizes } from "./sizes.ts";
import type {
  AttentionMixer,
  DeltaMixer,
  LayerShape,
  MambaMixer,
  Mixer,
  ModelShape,
  RopeLayout,
} from "./shape.ts";

/** A row: what the facts alone do not say. */
interface Architecture {
  /** `general.architecture` in GGUF. */
  gguf: string;
  /** `model_type` values of config.json. */
  config: readonly string[];
  /** GGUF files of this architecture hold q and k rows for this layout; safetensors always for "half". */
  ropeLayout: RopeLayout;
  qkNorm: boolean;
  postNorms: boolean;
  activation: Activation;
  zeroCentredNorms: boolean;
  scaleEmbedding: boolean;
  /** The rope table of layer `index`, and its window. Default: table 0, no window. */
  attention?(index: number, facts: Facts): { ropeTable: number | undefined; window: number };
  /** Tables after the first one. */
  moreRopeTables?(facts: Facts): RopeParams[];
  /** The mixers of layer `index`. Default: attention alone. */
  mixers?(index: number, facts: Facts, attention: () => AttentionMixer): Mixer[];
  /** Its safetensors files are not read: they need folded multipliers, A from A_log, other norms. */
  ggufOnly?: boolean;
  /** No feed-forwards (Mamba-2). */
  withoutFfn?: boolean;
  /** W_q carries a gate for each head. */
  gatedAttention?: boolean;
}

/** Gemma 3: one global layer after five local ones, unless config.json lists the layers. */
const GEMMA3_PERIOD = 6;
const GEMMA3_LOCAL_THETA = 10_000;

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
  { ...plain, gguf: "llama", config: ["llama", "mistral"], ropeLayout: "interleaved", attention: windowed },
  { ...plain, gguf: "qwen3", config: ["qwen3"], ropeLayout: "half", qkNorm: true },
  {
    ...plain,
    gguf: "smollm3",
    config: ["smollm3"],
    ropeLayout: "interleaved",
    attention: (index, facts) => ({ ropeTable: smollm3Rotates(index, facts) ? 0 : undefined, window: 0 }),
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
    attention: (index, facts) =>
      gemma3Local(index, facts) ? { ropeTable: 1, window: facts.window } : { ropeTable: 0, window: 0 },
    moreRopeTables: (facts) => [
      { theta: facts.localRopeTheta ?? GEMMA3_LOCAL_THETA, rot: facts.ropeDims, scaling: { type: "none" } },
    ],
  },
  {
    ...plain,
    gguf: "lfm2",
    config: ["lfm2"],
    ropeLayout: "half",
    qkNorm: true,
    ggufOnly: true,
    mixers: (index, facts, attention) =>
      isRecurrent(index, facts) ? [{ kind: "short-conv", kernel: facts.convKernel }] : [attention()],
  },
  {
    ...plain,
    gguf: "granitehybrid",
    config: ["granitemoehybrid"],
    ropeLayout: "interleaved",
    ggufOnly: true,
    attention: (_, facts) => ({ ropeTable: facts.ropeFinetuned ? 0 : undefined, window: 0 }),
    mixers: (index, facts, attention) => (isRecurrent(index, facts) ? [mamba(facts)] : [attention()]),
  },
  {
    ...plain,
    gguf: "mamba2",
    config: ["mamba2"],
    ropeLayout: "half",
    ggufOnly: true,
    withoutFfn: true,
    mixers: (_, facts) => [mamba(facts)],
  },
  {
    ...plain,
    gguf: "falcon-h1",
    config: ["falcon_h1"],
    ropeLayout: "half",
    ggufOnly: true,
    mixers: (_, facts, attention) => [attention(), mamba(facts)],
  },
  {
    ...plain,
    gguf: "qwen35",
    config: ["qwen3_5", "qwen3_5_text"],
    ropeLayout: "half",
    qkNorm: true,
    ggufOnly: true,
    gatedAttention: true,
    mixers: (index, facts, attention) =>
      isInterval(index, facts) ? [attention()] : [delta(facts, "interleaved", false)],
  },
  {
    ...plain,
    gguf: "qwen3next",
    config: ["qwen3_next"],
    ropeLayout: "half",
    qkNorm: true,
    ggufOnly: true,
    gatedAttention: true,
    mixers: (index, facts, attention) =>
      isInterval(index, facts) ? [attention()] : [delta(facts, "blocked", true)],
  },
];

/** A layer without KV heads is recurrent. */
function isRecurrent(index: number, facts: Facts): boolean {
  return facts.kvHeads[index] === 0;
}

/** Qwen3.5 and Qwen3-Next: attention in every fourth layer, unless the file names another interval. */
function isInterval(index: number, facts: Facts): boolean {
  return (index + 1) % facts.attentionInterval === 0;
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

function windowed(_index: number, facts: Facts): { ropeTable: number; window: number } {
  return { ropeTable: 0, window: facts.window };
}

function smollm3Rotates(index: number, facts: Facts): boolean {
  const listed = facts.ropeLayers?.[index];
  return listed ?? (index + 1) % SMOLLM3_NOPE_PERIOD !== 0;
}

function gemma3Local(index: number, facts: Facts): boolean {
  const listed = facts.localLayers?.[index];
  return listed ?? index % GEMMA3_PERIOD !== GEMMA3_PERIOD - 1;
}

/** The names of all architectures that run here. */
export const ARCHITECTURE_NAMES: readonly string[] = ARCHITECTURES.map((row) => row.gguf);

/** The shape of the model in an open file. @throws TidepoolError `unsupported`, `invalid_file`. */
export function shapeOf(file: ModelFile): ModelShape {
  try {
    const shape = file.format === "gguf" ? shapeFromMetadata(file.metadata) : shapeFromConfig(file.config);
    checkSizes(shape);
    return shape;
  } catch (error) {
    throw inFile(file.name, error);
  }
}

/**
 * The shape of the model in a GGUF file.
 * @throws TidepoolError `unsupported` for an unknown architecture, `invalid_file` for missing or absurd metadata.
 */
export function shapeFromMetadata(metadata: Metadata): ModelShape {
  const name = metadata.get("general.architecture");
  const row = ARCHITECTURES.find((candidate) => candidate.gguf === name);
  if (!row) throw unknownArchitecture(String(name));
  const facts = factsFromMetadata(metadata, row.gguf);
  if (facts.experts > 0) {
    throw new TidepoolError("unsupported", `"${row.gguf}" with ${facts.experts} experts does not run yet`, {
      architecture: row.gguf,
    });
  }
  return build(row, facts, row.ropeLayout, 0);
}

/**
 * The shape of the model beside a Hugging Face config.json.
 * @throws TidepoolError as `shapeFromMetadata`.
 */
export function shapeFromConfig(config: Record<string, unknown>): ModelShape {
  const type = config["model_type"];
  const row = ARCHITECTURES.find((candidate) => candidate.config.includes(String(type)));
  if (!row) throw unknownArchitecture(String(type));
  if (row.ggufOnly) {
    const message = `"${String(type)}" is read from GGUF files only, not from safetensors`;
    throw new TidepoolError("unsupported", message, { architecture: row.gguf });
  }
  return build(row, factsFromConfig(config), "half", row.zeroCentredNorms ? 1 : 0);
}

function unknownArchitecture(name: string): TidepoolError {
  return new TidepoolError(
    "unsupported",
    `the architecture "${name}" is not known; known are ${ARCHITECTURE_NAMES.join(", ")}`,
    { architecture: name, known: [...ARCHITECTURE_NAMES] },
  );
}

function build(row: Architecture, facts: Facts, ropeLayout: RopeLayout, normOffset: number): ModelShape {
  const layers = Array.from({ length: facts.layers }, (_, index): LayerShape =>
    layerShape(row, facts, index),
  );
  return {
    architecture: row.gguf,
    name: facts.name,
    hiddenSize: facts.hiddenSize,
    vocabSize: facts.vocabSize,
    contextTokens: facts.contextTokens,
    layers,
    normEps: facts.normEps,
    embeddingScale: row.scaleEmbedding ? Math.sqrt(facts.hiddenSize) : facts.embeddingScale,
    residualScale: facts.residualScale,
    logitScale: 1 / facts.logitDivisor,
    ropeTables: [
      { theta: facts.ropeTheta, rot: facts.ropeDims, scaling: facts.ropeScaling },
      ...(row.moreRopeTables?.(facts) ?? []),
    ],
    ropeLayout,
    postNorms: row.postNorms,
    normOffset,
  };
}

function layerShape(row: Architecture, facts: Facts, index: number): LayerShape {
  const attention = () => attentionMixer(row, facts, index);
  return {
    mixers: row.mixers?.(index, facts, attention) ?? [attention()],
    ffn: row.withoutFfn
      ? undefined
      : { kind: "mlp", width: ffnWidth(facts, index), activation: row.activation },
  };
}

function ffnWidth(facts: Facts, index: number): number {
  const width = facts.ffnWidth[index] ?? 0;
  if (width > 0) return width;
  throw new TidepoolError("invalid_file", `layer ${index} has a feed-forward of width ${width}`);
}

function attentionMixer(row: Architecture, facts: Facts, index: number): AttentionMixer {
  const { ropeTable, window } = row.attention?.(index, facts) ?? { ropeTable: 0, window: 0 };
  const kvHeads = facts.kvHeads[index] ?? 0;
  if (kvHeads === 0 || facts.heads % kvHeads !== 0) {
    throw new TidepoolError(
      "invalid_file",
      `layer ${index}: ${facts.heads} query heads cannot share ${kvHeads} KV heads evenly`,
    );
  }
  return {
    kind: "attention",
    heads: facts.heads,
    kvHeads,
    headDim: facts.headDim,
    scale: facts.attentionScale ?? 1 / Math.sqrt(facts.headDim),
    window,
    softCap: facts.softCap,
    ropeTable,
    qkNorm: row.qkNorm,
    gated: row.gatedAttention ?? false,
  };
}
