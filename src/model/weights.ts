/**
 * A model file's tensors -> the weights of its layers on the GPU. What a mixer or feed-forward loads is its kind's business,
 * and nobody else looks into it; how a tensor comes to the GPU is tensor-loader.ts's.
 */
import type { ModelFile } from "../load/model-file.ts";
import type { FeedForward, LayerShape, ModelShape } from "../shape/shape.ts";
import { namesIn, usedTensors } from "./arch/tensor-names.ts";
import { FEED_FORWARDS } from "./ffn/kinds.ts";
import { destroyWeight, type PackedWeight } from "./matrix/upload.ts";
import { MIXERS } from "./mixer/kinds.ts";
import { TensorLoader, type LayerLoader, type OnPiece } from "./tensor-loader.ts";

export interface FfnWeights {
  norm: GPUBuffer;
  /** What its kind has loaded. */
  own: unknown;
  /** Norm of the output, before it is added. */
  postNorm: GPUBuffer | undefined;
}

export interface LayerWeights {
  mixerNorm: GPUBuffer;
  /** What each mixer's kind has loaded, in the order of the layer's mixers. */
  mixers: unknown[];
  /** Norm of the mixers' output, before it is added. */
  mixerPostNorm: GPUBuffer | undefined;
  ffn: FfnWeights | undefined;
}

export interface Weights {
  embedding: PackedWeight;
  /** The same object as `embedding` where they are tied. */
  head: PackedWeight;
  outputNorm: GPUBuffer;
  /** Divisors of the RoPE frequencies that the file carries (llama3 scaling in GGUF), one a pair. */
  ropeDivisors: Float32Array | undefined;
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
): Promise<Weights> {
  const total = usedTensors(file, shape).reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  let done = 0;
  const onRead = (bytes: number) => onBytes((done += bytes), total);
  return loadAll(new TensorLoader(device, file, shape, namesIn(file, shape), onRead, onPiece), shape);
}

/** Frees the matrices; vectors go with the device. */
export function destroyWeights({ matrices }: Weights): void {
  for (const matrix of matrices) destroyWeight(matrix);
}

async function loadAll(loader: TensorLoader, shape: ModelShape): Promise<Weights> {
  const { names } = loader;
  const { hiddenSize, vocabSize } = shape;
  const embeddingTensor = names.require(names.model("token_embd"), "token_embd.weight");
  const embedding = await loader.matrix(embeddingTensor, hiddenSize, vocabSize);
  const headTensor = names.model("output");
  const head = headTensor ? await loader.matrix(headTensor, hiddenSize, vocabSize) : embedding;
  const outputNorm = await loader.norm(names.model("output_norm"), "output_norm.weight", hiddenSize);
  const divisors = names.model("rope_freqs");
  const layers: LayerWeights[] = [];
  for (const [index, layer] of shape.layers.entries())
    layers.push(await loadLayer(loader.layer(index), layer, shape.postNorms));
  return {
    embedding,
    head,
    outputNorm,
    ropeDivisors: divisors && (await loader.vector(divisors, (shape.ropeTables[0]?.rot ?? 0) / 2)),
    layers,
    bytes: loader.gpuBytes,
    parameters: loader.parameters,
    matrices: loader.matrices,
  };
}

async function loadLayer(
  loader: LayerLoader,
  { mixers, ffn }: LayerShape,
  postNorms: boolean,
): Promise<LayerWeights> {
  const d = loader.hiddenSize;
  const mixerNorm = await loader.norm("attn_norm", d);
  const loaded: unknown[] = [];
  for (const mixer of mixers) loaded.push(await MIXERS.of(mixer).load(mixer, loader));
  return {
    mixerNorm,
    mixers: loaded,
    mixerPostNorm: postNorms ? await loader.norm("post_attention_norm", d) : undefined,
    ffn: ffn && (await loadFfn(loader, ffn, postNorms)),
  };
}

async function loadFfn(loader: LayerLoader, ffn: FeedForward, postNorms: boolean): Promise<FfnWeights> {
  return {
    norm: await loader.ffnNorm(),
    own: await FEED_FORWARDS.of(ffn).load(ffn, loader),
    postNorm: postNorms ? await loader.norm("post_ffw_norm", loader.hiddenSize) : undefined,
  };
}
