/**
 * Architectures as rows of one table: a model file's metadata -> the shape of the model, layer by layer. Adding an
 * architecture that is made of known mixers and feed-forwards is adding a row here. It reads no tensors and no GPU.
 *
 * Facts come from GGUF metadata or from a Hugging Face config.json; both are first brought to one plain form (`Facts`).
 */
import { TidepoolError } from "../errors.ts";
import type { KvLayer } from "../gpu/pool.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { Activation } from "./ffn.ts";
import { factsFromConfig, factsFromMetadata, type Facts, type Metadata } from "./facts.ts";
import type { RopeParams } from "./rope.ts";

/** Which pairs of a head's entries RoPE rotates: (i, i + rot/2) or (2i, 2i + 1). */
export type RopeLayout = "half" | "interleaved";

/** Softmax attention with grouped-query heads. */
export interface AttentionMixer {
  kind: "attention";
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Multiplies q.k before the softmax. */
  scale: number;
  /** A key is visible if it is fewer than `window` tokens back; 0: no limit. */
  window: number;
  /** Scores s become cap * tanh(s / cap); 0: no cap. */
  softCap: number;
  /** Index into the model's `ropeTables`; undefined: no rotation (NoPE). */
  ropeTable: number | undefined;
  /** RMS norm over each head of q and k, before rotation. */
  qkNorm: boolean;
}

export interface MlpFeedForward {
  kind: "mlp";
  width: number;
  activation: Activation;
}

/** What a layer does: a mixer over positions, then a feed-forward. New kinds are new members of these unions. */
export interface LayerShape {
  mixer: AttentionMixer;
  ffn: MlpFeedForward;
}

/** Everything about a model but its weights. Sizes are element counts. */
export interface ModelShape {
  architecture: string;
  name: string;
  hiddenSize: number;
  vocabSize: number;
  /** Tokens of context that the model was made for. */
  contextTokens: number;
  layers: LayerShape[];
  normEps: number;
  /** Multiplies the embedding. */
  embeddingScale: number;
  /** Multiplies each mixer's and feed-forward's output before it is added. */
  residualScale: number;
  /** Multiplies the logits. */
  logitScale: number;
  ropeTables: RopeParams[];
  ropeLayout: RopeLayout;
  /** Norms after the mixer and the feed-forward too (Gemma). */
  postNorms: boolean;
  /** Added to every norm weight of the file (1 for zero-centred norms in safetensors, else 0). */
  normOffset: number;
}

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
];

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
  return file.format === "gguf" ? shapeFromMetadata(file.metadata) : shapeFromConfig(file.config);
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
    embeddingScale: row.scaleEmbedding ? Math.sqrt(facts.hiddenSize) : 1,
    residualScale: 1,
    logitScale: 1,
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
  const { ropeTable, window } = row.attention?.(index, facts) ?? { ropeTable: 0, window: 0 };
  const kvHeads = facts.kvHeads[index] as number;
  if (facts.heads % kvHeads !== 0) {
    throw new TidepoolError(
      "invalid_file",
      `${facts.heads} query heads cannot share ${kvHeads} KV heads evenly`,
    );
  }
  return {
    mixer: {
      kind: "attention",
      heads: facts.heads,
      kvHeads,
      headDim: facts.headDim,
      scale: facts.attentionScale ?? 1 / Math.sqrt(facts.headDim),
      window,
      softCap: facts.softCap,
      ropeTable,
      qkNorm: row.qkNorm,
    },
    ffn: { kind: "mlp", width: facts.ffnWidth[index] as number, activation: row.activation },
  };
}

/** What the KV pool must hold of each layer. */
export function kvLayers(shape: ModelShape): KvLayer[] {
  return shape.layers.map(({ mixer }) => ({ kvHeads: mixer.kvHeads, headDim: mixer.headDim }));
}
