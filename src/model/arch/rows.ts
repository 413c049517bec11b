/**
 * Architectures as rows of one table: a model file's metadata -> the shape of the model, layer by layer. Adding an
 * architecture that is made of known mixers and feed-forwards is adding a row here. It reads no tensors and no GPU.
 *
 * Hyperparameters come from GGUF metadata or from a Hugging Face config.json; both are first brought to one plain form (hyperparameters.ts).
 */
import { inFile, TidepoolError } from "../../errors.ts";
import type { GgufModelFile, ModelFile, SafetensorsModelFile } from "../../load/model-file.ts";
import { hyperparametersFromConfig } from "./hyperparameters-config.ts";
import { hyperparametersFromMetadata } from "./hyperparameters-gguf.ts";
import { MAX_VOCAB, type Hyperparameters } from "./hyperparameters.ts";
import { checkSizes } from "./sizes.ts";
import type {
  AttentionMixer,
  EmbeddingShape,
  FeedForward,
  LayerShape,
  MlpFeedForward,
  ModelShape,
  RopeLayout,
  RopeParams,
} from "../../shape/shape.ts";
import type { Architecture } from "./architecture.ts";
import { DENSE } from "./rows/dense.ts";
import { ENCODERS } from "./rows/encoders.ts";
import { expertRows } from "./rows/experts.ts";
import { LAYER_NORM } from "./rows/layer-norm.ts";
import { RECURRENT } from "./rows/recurrent.ts";
import { EXPERTS } from "../ffn/experts.ts";
import { ATTENTION } from "../mixer/attention.ts";
import { PER_LAYER_TABLE } from "../residual/per-layer.ts";
import { sentenceTraits } from "./sentence.ts";
import { TensorNames, type LayerTensors } from "./tensor-lookup.ts";

const BASE: readonly Architecture[] = [...DENSE, ...LAYER_NORM, ...ENCODERS, ...RECURRENT];

export const ARCHITECTURES: Architecture[] = [...BASE, ...expertRows(BASE)];

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
  const { params, keys } = hyperparametersFromMetadata(metadata, row, (tensor) => file.tensors.has(tensor));
  return {
    shape: build(row, params, file),
    keys: new Set(["general.architecture", ...keys]),
  };
}

function readConfigShape(file: SafetensorsModelFile): ReadShape {
  const { config } = file;
  const type = modelTypeOf(config);
  const rows = ARCHITECTURES.filter((candidate) => candidate.config.includes(type));
  const row =
    rows.find(({ configFlag }) => configFlag !== undefined && textSetting(config, configFlag) === true) ??
    rows.find(({ configFlag }) => configFlag === undefined);
  if (!row) throw unknownArchitecture(type);
  const { params, keys } = hyperparametersFromConfig(config, type);
  const { pooling, dense, tasks } = file.sentence
    ? sentenceTraits(file.sentence)
    : { pooling: undefined, dense: [], tasks: {} };
  if (row.isEncoder && !pooling) {
    const message =
      "no file says how the tokens of a text become one vector: modules.json and 1_Pooling/config.json do";
    throw new TidepoolError("unsupported", message, { architecture: row.gguf });
  }
  return {
    shape: build({ ...row, tasks: { ...row.tasks, ...tasks } }, { ...params, pooling, dense }, file),
    keys: new Set(["model_type", ...keys]),
  };
}

/** A setting of a model, or of the text model in one that sees pictures. */
function textSetting(config: Record<string, unknown>, key: string): unknown {
  const text = config["text_config"] as Record<string, unknown> | null | undefined;
  return text?.[key] ?? config[key];
}

/** The model type, or that of the text model in one that sees pictures, if it alone is known (Mistral 3). */
export function modelTypeOf(config: Record<string, unknown>): string {
  const text = config["text_config"] as { model_type?: unknown } | null | undefined;
  const types = [config["model_type"], text?.model_type].map(String);
  return types.find((type) => ARCHITECTURES.some((row) => row.config.includes(type))) ?? (types[0] as string);
}
/** Architectures that cannot run by themselves. */
const REFUSED: Readonly<Record<string, string>> = {
  "gemma4-assistant": "a draft model, which reads the KV cache of the Gemma 4 that it assists",
};

function unknownArchitecture(name: string): TidepoolError {
  const why = REFUSED[name];
  if (why !== undefined) {
    const message = `"${name}" does not run here: it is ${why}`;
    return new TidepoolError("unsupported", message, { architecture: name });
  }
  return new TidepoolError(
    "unsupported",
    `the architecture "${name}" is not known; known are ${ARCHITECTURE_NAMES.join(", ")}`,
    { architecture: name, known: [...ARCHITECTURE_NAMES] },
  );
}

function build(row: Architecture, params: Hyperparameters, file: ModelFile): ModelShape {
  const isGguf = file.format === "gguf";
  const kinds = { ...ATTENTION.safetensorsNames, ...EXPERTS.safetensorsNames };
  const names = new TensorNames(file, { ...kinds, ...row.safetensorsNames });
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
    learnedPositions: row.learnedPositions ?? false,
    ...(params.positionOffset && { positionOffset: params.positionOffset }),
    embeddingNorm: row.embeddingNorm ?? false,
    ...(row.outputNorm === false && { outputNorm: false }),
    ...embeddingOf(row, params),
    perLayerWidth: params.perLayerWidth || undefined,
    altUp: row.altUp ? { laurelRank: params.laurelRank } : undefined,
    residualScale: params.residualScale,
    logitScale: 1 / params.logitDivisor,
    logitSoftCap: params.finalSoftCap,
    ropeTables: ropeTables(params),
    ropeLayout: ropeLayoutOf(row, params, isGguf),
    safetensorsNames: row.safetensorsNames ?? {},
    ...(params.factors && { factors: params.factors }),
    ...(row.transposed && !isGguf && { transposed: true }),
    normOffset: row.zeroCentredNorms && !isGguf ? 1 : 0,
  };
}

function ropeLayoutOf(row: Architecture, { ropeSections }: Hyperparameters, isGguf: boolean): RopeLayout {
  if (!isGguf) return row.configRopeLayout ?? "half";
  return ropeSections ? "half" : row.ropeLayout;
}

/** A causal model's first token sees nothing else, so that its vector stands for no text. */
function embeddingOf(
  { isEncoder = false, tasks = {} }: Architecture,
  { pooling, dense }: Hyperparameters,
): { embedding?: EmbeddingShape } {
  if (!pooling || (!isEncoder && pooling === "cls")) return {};
  return { embedding: { pooling, isEncoder, dense, tasks } };
}

function checkExperts(row: Architecture, { experts, routing }: Hyperparameters): void {
  if (experts === 0 || routing) return;
  const where = row.experts ? "from safetensors does not run" : "does not run";
  const message = `"${row.gguf}" with ${experts} experts ${where} yet`;
  throw new TidepoolError("unsupported", message, { architecture: row.gguf });
}

/** The embedding's rows: what the settings say is older than the last tokens that were added, or padded. */
function vocabSizeOf(params: Hyperparameters, names: TensorNames): number {
  const rows = vocabularyRows(names) ?? params.vocabSize;
  if (rows !== undefined && rows > 0 && rows <= MAX_VOCAB) return rows;
  throw new TidepoolError(
    "invalid_file",
    `the vocabulary has ${rows ?? "an unknown number of"} tokens, expected 1 to ${MAX_VOCAB}`,
  );
}

/** Gemma 3n has numbers for each layer of fewer tokens: the others stand for pictures and sound. */
function vocabularyRows(names: TensorNames): number | undefined {
  const rows = ["token_embd", PER_LAYER_TABLE].map((name) => names.model(name)?.shape[1] ?? Infinity);
  const least = Math.min(...rows);
  return rows[0] === Infinity ? undefined : least;
}

function ropeTables({ rope, localRope, localLayers, ...dims }: Hyperparameters): RopeParams[] {
  const all = { ...rope, rot: dims.ropeDims };
  const hasLocal = localRope && localLayers.includes(true);
  const tables = hasLocal ? [all, { ...localRope, rot: dims.localRopeDims }] : [all];
  return tables.map(({ magnitude = 1, divisors, ...table }) => ({
    ...table,
    ...(magnitude !== 1 && { magnitude }),
    ...(divisors && { divisors }),
  }));
}

function layerShape(
  row: Architecture,
  params: Hyperparameters,
  names: TensorNames,
  index: number,
): LayerShape {
  const layer = names.at(index);
  const attention = () => attentionMixer(row, params, layer, index);
  const mlp = () =>
    layer.has("ffn_gate_inp") ? expertsOf(row, params, layer, index) : mlpOf(row, params, index);
  return {
    mixers: row.mixers?.(index, params, attention) ?? [attention()],
    ffn: row.ffn ? row.ffn(index, params, mlp) : mlp(),
    ...(row.skeleton?.(index, params, layer) ?? { norms: row.norms, parallel: false }),
    ...(params.perLayerWidth > 0 && { perLayerGate: true }),
    ...(row.outputScale && { outputScale: true }),
  };
}

function mlpOf(row: Architecture, params: Hyperparameters, index: number): MlpFeedForward {
  const xielu = params.xielu?.[index];
  const sparsity = params.sparsity?.[index];
  return {
    kind: "mlp",
    width: ffnWidth(params, index),
    activation: params.activation ?? row.activation,
    gated: row.gated ?? true,
    ...(isFused(row, params) && { fused: true }),
    ...(xielu && { xielu }),
    ...(sparsity !== undefined && { sparsity }),
  };
}

function isFused({ fusedGateUp, fusedInConfig }: Architecture, { isConfig }: Hyperparameters): boolean {
  return (fusedGateUp ?? false) || (isConfig && (fusedInConfig ?? false));
}

function expertsOf(
  row: Architecture,
  params: Hyperparameters,
  layer: LayerTensors,
  index: number,
): FeedForward {
  const { experts, routing } = params;
  if (!routing || !row.experts)
    throw new TidepoolError("invalid_file", `layer ${index} has a router, and the settings name no experts`);
  const { chosen, gate, renormalise, scale, groups } = routing;
  const width = routing.width || ffnWidth(params, index);
  const [activation, gated] = [row.activation, row.gated ?? true];
  const sharedMlp: MlpFeedForward = {
    kind: "mlp",
    width: routing.sharedWidth || width,
    activation,
    gated,
    ...(isFused(row, params) && { fused: true }),
  };
  const sigmoidGate = layer.has("ffn_gate_inp_shexp");
  return {
    ...{ kind: "experts", experts, chosen, width, activation, gated },
    routing: {
      gate: gate ?? row.experts.gate ?? "softmax",
      renormalise: renormalise ?? row.experts.renormalise ?? false,
      scale,
      ...(groups && { groups }),
    },
    ...(params.isConfig && row.alternatingExperts && { alternating: true as const }),
    ...(layer.has("ffn_up_shexp") && { shared: { mlp: sharedMlp, sigmoidGate } }),
    ...(row.besideExperts && { beside: mlpOf(row, params, index) }),
  };
}

function ffnWidth(params: Hyperparameters, index: number): number {
  const width = params.ffnWidth[index] ?? 0;
  if (width > 0) return width;
  throw new TidepoolError("invalid_file", `layer ${index} has a feed-forward of width ${width}`);
}

function attentionMixer(
  row: Architecture,
  params: Hyperparameters,
  layer: LayerTensors,
  index: number,
): AttentionMixer {
  const isLocal = params.localLayers[index] ?? false;
  const heads = params.heads[index] ?? 0;
  const kvHeads = params.kvHeads[index] ?? 0;
  const sharesKvOf = kvOwner(params, index);
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
    headDim: isLocal ? params.localHeadDim : params.headDim,
    scale: params.attentionScale ?? row.attentionScale?.(params) ?? 1 / Math.sqrt(params.headDim),
    window: isLocal ? params.window : 0,
    softCap: params.softCap,
    ropeTable: row.ropeTable ? row.ropeTable(index, params) : isLocal && params.localRope ? 1 : 0,
    qkNorm: row.qkNormIsOptional && !hasHeadNorms(layer) ? false : row.qkNorm,
    ...(params.temperature && { temperature: params.temperature }),
    ...(row.vNorm && { vNorm: true }),
    ...(row.valuesMayBeKeys && sharesKvOf === undefined && !layer.has("attn_v") && { valuesAreKeys: true }),
    sharesKvOf,
    gated: row.gatedAttention ?? false,
    ...(row.isEncoder && { bidirectional: true }),
    ...(row.groupedQkv && params.isConfig && { groupedQkv: true }),
  };
}

function hasHeadNorms(layer: LayerTensors): boolean {
  return layer.has("attn_q_norm") || layer.has("attn_q_norm.0");
}

/** The last layer of the same kind, local or global, that has keys and values of its own. */
function kvOwner(
  { layers, sharedKvLayers, localLayers }: Hyperparameters,
  index: number,
): number | undefined {
  const owners = layers - sharedKvLayers;
  if (index < owners) return undefined;
  const owner = localLayers.slice(0, owners).lastIndexOf(localLayers[index] ?? false);
  if (owner >= 0) return owner;
  throw new TidepoolError(
    "invalid_file",
    `layer ${index} has no layer before it whose keys and values it could read`,
  );
}
