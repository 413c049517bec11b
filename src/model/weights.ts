/**
 * A model file's tensors -> the weights of its layers on the GPU. What a mixer or feed-forward loads is its kind's business,
 * and nobody else looks into it; how a tensor comes to the GPU is tensor-loader.ts's.
 */
import type { ModelFile } from "../load/model-file.ts";
import { normsOf, type LayerShape, type ModelShape, type NormPlace } from "../shape/shape.ts";
import { loadAltUp, loadAltUpLayer, type AltUpLayer, type AltUpWeights } from "./residual/altup.ts";
import { namesIn, OUTPUT_SCALE, ropeDivisors, usedTensors } from "./arch/tensor-names.ts";
import { DENSE_NAMES } from "./embedding.ts";
import type { ExpertArena } from "./experts/arena.ts";
import { FEED_FORWARDS } from "./ffn/kinds.ts";
import { destroyWeight, type PackedWeight } from "./matrix/upload.ts";
import { MIXERS } from "./mixer/kinds.ts";
import { loadGate, loadPerLayer, type PerLayerGate, type PerLayerWeights } from "./residual/per-layer.ts";
import { RowTable, type RowTableLimits } from "./matrix/row-table.ts";
import { TensorLoader, type LayerLoader, type OnPiece } from "./tensor-loader.ts";

export interface LayerWeights {
  norms: Partial<Record<NormPlace, GPUBuffer>>;
  /** What each mixer's kind has loaded, in the order of the layer's mixers. */
  mixers: unknown[];
  /** What the feed-forward's kind has loaded. */
  ffn: unknown;
  perLayerGate?: PerLayerGate;
  altUp?: AltUpLayer;
  outputScale?: number;
}

export interface Weights {
  embedding: PackedWeight;
  /** Learned positions. */
  positions: PackedWeight | undefined;
  /** The same object as `embedding` where they are tied. */
  head: PackedWeight;
  headBias: GPUBuffer | undefined;
  /** Rows of which the first is added to every token's: a text alone is of that type (BERT). */
  tokenTypes: PackedWeight | undefined;
  embeddingNorm: GPUBuffer | undefined;
  /** Absent where the last layer's own norm is the last (BERT). */
  outputNorm: GPUBuffer | undefined;
  /** Matrices that pooled vectors pass through, in order. */
  dense: readonly PackedWeight[];
  /** Divisors of the RoPE frequencies that the file carries (llama3 scaling and LongRoPE in GGUF), one a pair. */
  ropeDivisors: Float32Array | undefined;
  perLayer: PerLayerWeights | undefined;
  altUp: AltUpWeights | undefined;
  layers: LayerWeights[];
  /** Bytes of GPU memory. */
  bytes: number;
  /** Elements of all tensors. */
  parameters: number;
  /** Every matrix above, to be freed. */
  matrices: readonly PackedWeight[];
}

export async function loadWeights(
  device: GPUDevice,
  file: ModelFile,
  shape: ModelShape,
  onBytes: (done: number, total: number) => void,
  onPiece: OnPiece = () => {},
  offGpu?: RowTableLimits,
  arena?: ExpertArena,
): Promise<Weights> {
  const total = usedTensors(file, shape).reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  let done = 0;
  const onRead = (bytes: number) => onBytes((done += bytes), total);
  const names = namesIn(file, shape);
  return loadAll(new TensorLoader(device, file, shape, names, onRead, onPiece, arena), shape, offGpu);
}

/** Frees the matrices; vectors go with the device. */
export function destroyWeights({ matrices, perLayer }: Weights): void {
  for (const matrix of matrices) destroyWeight(matrix);
  if (perLayer?.table instanceof RowTable) perLayer.table.destroy();
}

/** @param offGpu tables that may stay off the GPU do, for steps of these sizes */
async function loadAll(
  loader: TensorLoader,
  shape: ModelShape,
  offGpu: RowTableLimits | undefined,
): Promise<Weights> {
  const { names } = loader;
  const { hiddenSize, vocabSize } = shape;
  const embeddingTensor = names.require(names.model("token_embd"), "token_embd.weight");
  const rows = { of: embeddingTensor.shape[1] ?? 0 };
  const embedding = await loader.matrix(embeddingTensor, hiddenSize, vocabSize, rows);
  const headTensor = names.model("output");
  const head = headTensor ? await loader.matrix(headTensor, hiddenSize, vocabSize, rows) : embedding;
  const headBias = names.model("output", "bias");
  const positions = shape.learnedPositions
    ? names.require(names.model("position_embd"), "position_embd.weight")
    : undefined;
  const types = names.model("token_types");
  const norm = (name: string) =>
    loader.streamNorm(names.model(name), names.model(name, "bias"), `${name}.weight`);
  const embeddingNorm = shape.embeddingNorm ? await norm("token_embd_norm") : undefined;
  const outputNorm = shape.outputNorm === false ? undefined : await norm("output_norm");
  const dense: PackedWeight[] = [];
  for (const [index, rows] of (shape.embedding?.dense ?? []).entries()) {
    const columns = dense.at(-1)?.rows ?? hiddenSize;
    const name = DENSE_NAMES[index] as string;
    dense.push(await loader.matrix(names.require(names.model(name), `${name}.weight`), columns, rows));
  }
  const divisors = ropeDivisors(names, shape)[0];
  const perLayer = shape.perLayerWidth ? await loadPerLayer(loader, shape, offGpu) : undefined;
  const altUp = shape.altUp && (await loadAltUp(loader));
  const layers: LayerWeights[] = [];
  for (const [index, layer] of shape.layers.entries())
    layers.push(await loadLayer(loader.layer(index), layer, shape));
  return {
    embedding,
    positions:
      positions &&
      (await loader.matrix(positions, hiddenSize, shape.contextTokens, { first: shape.positionOffset })),
    tokenTypes: types && (await loader.matrix(types, hiddenSize, types.shape[1] ?? 0)),
    head,
    headBias: headBias && (await loader.plain(headBias, "output.bias", vocabSize)),
    embeddingNorm,
    outputNorm,
    dense,
    ropeDivisors: divisors && (await loader.vector(divisors, (shape.ropeTables[0]?.rot ?? 0) / 2)),
    perLayer,
    altUp,
    layers,
    bytes: loader.gpuBytes,
    parameters: loader.parameters,
    matrices: loader.matrices,
  };
}

async function loadLayer(
  loader: LayerLoader,
  layer: LayerShape,
  { perLayerWidth, altUp }: ModelShape,
): Promise<LayerWeights> {
  const { mixers, ffn } = layer;
  const norms: LayerWeights["norms"] = {};
  for (const [place, name] of normsOf(layer)) norms[place] = await loader.streamNorm(name);
  const loaded: unknown[] = [];
  for (const mixer of mixers) loaded.push(await MIXERS.of(mixer).load(mixer, loader));
  return {
    ...{ norms, mixers: loaded, ffn: ffn && (await FEED_FORWARDS.of(ffn).load(ffn, loader)) },
    ...(layer.perLayerGate && { perLayerGate: await loadGate(loader, perLayerWidth ?? 0) }),
    ...(altUp && { altUp: await loadAltUpLayer(loader, altUp.laurelRank) }),
    ...(layer.outputScale && { outputScale: await loader.number(OUTPUT_SCALE) }),
  };
}
