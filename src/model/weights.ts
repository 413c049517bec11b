/**
 * A model file's tensors -> GPU buffers. Matrices stream through in bounded pieces and stay quantised; norms and biases
 * become f32 vectors. Projections that read the same input are stacked where their formats agree, so that one dispatch
 * computes them all. Which kernels read them is the runner's business.
 */
import { TidepoolError } from "../errors.ts";
import type { ModelFile, TensorInfo } from "../load/model-file.ts";
import { USAGE_COPY_DST, USAGE_STORAGE } from "../gpu/op.ts";
import {
  convChannels,
  type AttentionMixer,
  type DeltaMixer,
  type LayerShape,
  type MambaMixer,
  type Mixer,
  type ModelShape,
  type RecurrentMixer,
  type ShortConvMixer,
} from "../shape/shape.ts";
import {
  canStack,
  destroyWeight,
  UploadBuffers,
  uploadStacked,
  type PackedWeight,
  type WeightInfo,
} from "./matrix/upload.ts";
import { FUSED_NAME, TensorNames, usedTensors } from "./arch/tensor-names.ts";

/** Matrices whose outputs stand side by side in one row, each at its offset. */
export type Projection = readonly { weight: PackedWeight; outOffset: number; bias: GPUBuffer | undefined }[];

export interface AttentionWeights {
  kind: "attention";
  /** q, k and v; where the mixer is gated, k and v, and `queryGate` has the queries. */
  qkv: Projection;
  /** [q; gate] head by head. */
  queryGate: Projection | undefined;
  qNorm: GPUBuffer | undefined;
  kNorm: GPUBuffer | undefined;
  output: Projection;
}

/** f32 [channels][kernel], and a bias for each channel. */
export interface ConvWeights {
  taps: GPUBuffer;
  bias: GPUBuffer | undefined;
}

export interface ShortConvWeights {
  kind: "short-conv";
  /** B, C and X. */
  input: Projection;
  conv: ConvWeights;
  output: Projection;
}

export interface MambaWeights {
  kind: "mamba2";
  /** z, xBC and dt. */
  input: Projection;
  conv: ConvWeights;
  /** f32 [heads]; a = -exp(A_log). */
  dtBias: GPUBuffer;
  a: GPUBuffer;
  d: GPUBuffer;
  /** f32 [inner]; some Falcon-H1 have none. */
  norm: GPUBuffer | undefined;
  output: Projection;
}

export interface DeltaWeights {
  kind: "gated-delta";
  /** qkv, z, then b and a. */
  input: Projection;
  conv: ConvWeights;
  /** f32 [valueHeads]; a = -exp(A_log). */
  dtBias: GPUBuffer;
  a: GPUBuffer;
  /** f32 [valueDim]. */
  norm: GPUBuffer;
  output: Projection;
}

export type MixerWeights = AttentionWeights | ShortConvWeights | MambaWeights | DeltaWeights;

export interface FfnWeights {
  norm: GPUBuffer;
  gateUp: Projection;
  down: Projection;
  /** Norm of the output, before it is added. */
  postNorm: GPUBuffer | undefined;
}

export interface LayerWeights {
  mixerNorm: GPUBuffer;
  /** In the order of the layer's mixers. */
  mixers: MixerWeights[];
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
}

/** A matrix of a projection: its tensor's name, its rows, and which of the tensor's rows they are if it has more. */
type Part = readonly [name: string, rows: number, slice?: { first: number; of: number }];

/** No vector (norm, bias, divisors) is longer than this. */
const MAX_VECTOR_BYTES = 16 * 1024 * 1024;

/** Hears of every piece of every tensor as it passes, in order within a tensor. */
export type OnPiece = (tensor: TensorInfo, piece: Uint8Array) => void;

export async function loadWeights(
  device: GPUDevice,
  file: ModelFile,
  shape: ModelShape,
  onBytes: (done: number, total: number) => void,
  onPiece: OnPiece = () => {},
): Promise<Weights> {
  return new Loader(device, file, shape, onBytes, onPiece).load();
}

/** Frees the matrices; vectors go with the device. */
export function destroyWeights(weights: Weights): void {
  destroyWeight(weights.embedding);
  if (weights.head !== weights.embedding) destroyWeight(weights.head);
  for (const { mixers, ffn } of weights.layers) {
    const projections = [...mixers.flatMap(projectionsOf), ...(ffn ? [ffn.gateUp, ffn.down] : [])];
    for (const { weight } of projections.flat()) destroyWeight(weight);
  }
}

function projectionsOf(mixer: MixerWeights): Projection[] {
  if (mixer.kind !== "attention") return [mixer.input, mixer.output];
  return [mixer.qkv, mixer.output, ...(mixer.queryGate ? [mixer.queryGate] : [])];
}

class Loader {
  private readonly device: GPUDevice;
  private readonly file: ModelFile;
  private readonly shape: ModelShape;
  private readonly names: TensorNames;
  private readonly onPiece: OnPiece;
  private readonly buffers = new UploadBuffers();
  private readonly onBytes: (done: number, total: number) => void;
  private readonly totalBytes: number;
  private doneBytes = 0;
  private gpuBytes = 0;
  private parameters = 0;

  constructor(
    device: GPUDevice,
    file: ModelFile,
    shape: ModelShape,
    onBytes: (done: number, total: number) => void,
    onPiece: OnPiece,
  ) {
    this.onPiece = onPiece;
    this.device = device;
    this.file = file;
    this.shape = shape;
    this.onBytes = onBytes;
    this.names = new TensorNames(file, shape.postNorms);
    this.totalBytes = usedTensors(file, shape).reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  }

  async load(): Promise<Weights> {
    const { hiddenSize, vocabSize, layers } = this.shape;
    const embeddingTensor = this.names.require(this.names.model("token_embd"), "token_embd.weight");
    const embedding = await this.matrix(embeddingTensor, hiddenSize, vocabSize);
    const headTensor = this.names.model("output");
    const head = headTensor ? await this.matrix(headTensor, hiddenSize, vocabSize) : embedding;
    const outputNorm = await this.norm(this.names.model("output_norm"), "output_norm.weight", hiddenSize);
    const divisors = this.names.model("rope_freqs");
    const loaded: LayerWeights[] = [];
    for (const [index, layer] of layers.entries()) loaded.push(await this.layer(index, layer));
    return {
      embedding,
      head,
      outputNorm,
      ropeDivisors: divisors && (await this.vector(divisors, (this.shape.ropeTables[0]?.rot ?? 0) / 2)),
      layers: loaded,
      bytes: this.gpuBytes,
      parameters: this.parameters,
    };
  }

  private async layer(index: number, { mixers, ffn }: LayerShape): Promise<LayerWeights> {
    const d = this.shape.hiddenSize;
    const mixerNorm = await this.layerVector(index, "attn_norm", d, "norm");
    const loaded: MixerWeights[] = [];
    for (const mixer of mixers) loaded.push(await this.mixer(index, mixer));
    const { postNorms } = this.shape;
    return {
      mixerNorm,
      mixers: loaded,
      mixerPostNorm: postNorms ? await this.layerVector(index, "post_attention_norm", d, "norm") : undefined,
      ffn: ffn && (await this.ffn(index, ffn.width)),
    };
  }

  private async ffn(index: number, width: number): Promise<FfnWeights> {
    const d = this.shape.hiddenSize;
    return {
      norm: await this.norm(this.names.ffnNorm(index), `blk.${index}.ffn_norm`, d),
      gateUp: await this.projection(index, d, [
        ["ffn_gate", width],
        ["ffn_up", width],
      ]),
      down: await this.projection(index, width, [["ffn_down", d]]),
      postNorm: this.shape.postNorms ? await this.layerVector(index, "post_ffw_norm", d, "norm") : undefined,
    };
  }

  private mixer(index: number, mixer: Mixer): Promise<MixerWeights> {
    switch (mixer.kind) {
      case "attention":
        return this.attention(index, mixer);
      case "short-conv":
        return this.shortConv(index, mixer);
      case "mamba2":
        return this.mamba(index, mixer);
      case "gated-delta":
        return this.delta(index, mixer);
    }
  }

  private async attention(index: number, mixer: AttentionMixer): Promise<AttentionWeights> {
    const d = this.shape.hiddenSize;
    const { heads, headDim, qkNorm, gated } = mixer;
    const { queries, keysAndValues } = this.attentionParts(index, mixer);
    const headNorm = (name: string) => this.layerVector(index, name, headDim, "norm");
    const queryGate = gated ? await this.projection(index, d, queries) : undefined;
    return {
      kind: "attention",
      qkv: await this.projection(index, d, gated ? keysAndValues : [...queries, ...keysAndValues]),
      queryGate,
      qNorm: qkNorm ? await headNorm("attn_q_norm") : undefined,
      kNorm: qkNorm ? await headNorm("attn_k_norm") : undefined,
      output: await this.projection(index, heads * headDim, [["attn_output", d]]),
    };
  }

  /** Queries (with their gates), keys and values: a tensor each, or rows of one. */
  private attentionParts(index: number, { heads, kvHeads, headDim, gated }: AttentionMixer) {
    const queryRows = (gated ? 2 : 1) * heads * headDim;
    const kvRows = kvHeads * headDim;
    const of = queryRows + 2 * kvRows;
    const separate: Record<"queries" | "keysAndValues", Part[]> = {
      queries: [["attn_q", queryRows]],
      keysAndValues: [
        ["attn_k", kvRows],
        ["attn_v", kvRows],
      ],
    };
    const fused: typeof separate = {
      queries: [[FUSED_NAME, queryRows, { first: 0, of }]],
      keysAndValues: [[FUSED_NAME, 2 * kvRows, { first: queryRows, of }]],
    };
    return this.names.isFused(index) ? fused : separate;
  }

  private async shortConv(index: number, mixer: ShortConvMixer): Promise<ShortConvWeights> {
    const d = this.shape.hiddenSize;
    return {
      kind: "short-conv",
      input: await this.projection(index, d, [["shortconv.in_proj", 3 * d]]),
      conv: await this.conv(index, "shortconv.conv", mixer),
      output: await this.projection(index, d, [["shortconv.out_proj", d]]),
    };
  }

  private async mamba(index: number, mixer: MambaMixer): Promise<MambaWeights> {
    const d = this.shape.hiddenSize;
    const { heads, headDim } = mixer;
    const inner = heads * headDim;
    const rows = inner + convChannels(mixer, d) + heads;
    const hasNorm = this.names.layer(index, "ssm_norm") !== undefined;
    return {
      kind: "mamba2",
      input: await this.projection(index, d, [["ssm_in", rows]]),
      conv: await this.conv(index, "ssm_conv1d", mixer),
      dtBias: await this.layerVector(index, "ssm_dt", heads, "plain", "bias"),
      a: await this.layerVector(index, "ssm_a", heads, "plain", ""),
      d: await this.layerVector(index, "ssm_d", heads, "plain", ""),
      norm: hasNorm ? await this.layerVector(index, "ssm_norm", inner, "plain") : undefined,
      output: await this.projection(index, inner, [["ssm_out", d]]),
    };
  }

  private async delta(index: number, mixer: DeltaMixer): Promise<DeltaWeights> {
    const d = this.shape.hiddenSize;
    const { valueHeads, valueDim, baGrouped } = mixer;
    const values = valueHeads * valueDim;
    const gates: Part[] = baGrouped
      ? [["ssm_ba", 2 * valueHeads]]
      : [
          ["ssm_beta", valueHeads],
          ["ssm_alpha", valueHeads],
        ];
    return {
      kind: "gated-delta",
      input: await this.projection(index, d, [
        ["attn_qkv", convChannels(mixer, d)],
        ["attn_gate", values],
        ...gates,
      ]),
      conv: await this.conv(index, "ssm_conv1d", mixer),
      dtBias: await this.layerVector(index, "ssm_dt", valueHeads, "plain", "bias"),
      a: await this.layerVector(index, "ssm_a", valueHeads, "plain", ""),
      norm: await this.layerVector(index, "ssm_norm", valueDim, "plain"),
      output: await this.projection(index, values, [["ssm_out", d]]),
    };
  }

  private async conv(index: number, name: string, mixer: RecurrentMixer): Promise<ConvWeights> {
    const channels = convChannels(mixer, this.shape.hiddenSize);
    const hasBias = this.names.layer(index, name, "bias") !== undefined;
    return {
      taps: await this.layerVector(index, name, channels * mixer.kernel, "plain"),
      bias: hasBias ? await this.layerVector(index, name, channels, "plain", "bias") : undefined,
    };
  }

  /** A vector of a layer; "norm": with the shape's norm offset added. */
  private async layerVector(
    index: number,
    name: string,
    length: number,
    how: "norm" | "plain",
    suffix = "weight",
  ): Promise<GPUBuffer> {
    const tensor = this.names.layer(index, name, suffix);
    const label = `blk.${index}.${name}${suffix === "" ? "" : `.${suffix}`}`;
    if (how === "norm") return this.norm(tensor, label, length);
    return this.vectorBuffer(await this.vector(this.names.require(tensor, label), length), label);
  }

  /** Matrices with one input: stacked where all formats agree, else one by one. */
  private async projection(index: number, columns: number, parts: readonly Part[]): Promise<Projection> {
    const tensors = parts.map(([name, rows, slice]) => {
      const tensor = this.names.require(this.names.layer(index, name), `blk.${index}.${name}.weight`);
      const info = { ...this.checked(tensor, columns, slice?.of ?? rows), rows };
      const bias = this.names.layer(index, name, "bias");
      if (!slice) return { tensor, rows, info, bias };
      return { tensor: sliced(tensor, rows, slice), rows, info, bias: bias && sliced(bias, rows, slice) };
    });
    const first = tensors[0] as (typeof tensors)[number];
    const stackable = tensors.every(({ info, bias }) => canStack(first.info, info) && !bias === !first.bias);
    const groups = stackable ? [tensors] : tensors.map((tensor) => [tensor]);
    const projection: { weight: PackedWeight; outOffset: number; bias: GPUBuffer | undefined }[] = [];
    let outOffset = 0;
    for (const group of groups) {
      const weight = await this.upload(group.map(({ info, tensor }) => ({ info, tensor })));
      projection.push({ weight, outOffset, bias: await this.biases(group) });
      outOffset += weight.rows;
    }
    return projection;
  }

  private async biases(
    group: readonly { rows: number; bias: TensorInfo | undefined }[],
  ): Promise<GPUBuffer | undefined> {
    if (!group[0]?.bias) return undefined;
    const all = new Float32Array(group.reduce((sum, { rows }) => sum + rows, 0));
    let at = 0;
    for (const { rows, bias } of group) {
      all.set(await this.vector(bias as TensorInfo, rows), at);
      at += rows;
    }
    return this.vectorBuffer(all, "bias");
  }

  private matrix(tensor: TensorInfo, columns: number, rows: number): Promise<PackedWeight> {
    return this.upload([{ tensor, info: this.checked(tensor, columns, rows) }]);
  }

  private async upload(parts: readonly { tensor: TensorInfo; info: WeightInfo }[]): Promise<PackedWeight> {
    const weight = await uploadStacked(
      this.device,
      parts.map(({ info }) => info),
      parts.map(({ tensor }) => this.counted(tensor)),
      this.buffers,
    );
    this.gpuBytes += weight.bytes;
    return weight;
  }

  private checked(tensor: TensorInfo, columns: number, rows: number): WeightInfo {
    const [inner, outer] = tensor.shape;
    if (tensor.shape.length !== 2 || inner !== columns || outer !== rows) {
      const found = tensor.shape.join(" x ");
      throw new TidepoolError("invalid_file", `${tensor.name} is ${found}, expected ${columns} x ${rows}`, {
        tensor: tensor.name,
      });
    }
    return { name: tensor.name, type: tensor.type, columns, rows };
  }

  private async norm(tensor: TensorInfo | undefined, name: string, width: number): Promise<GPUBuffer> {
    const values = await this.vector(this.names.require(tensor, name), width);
    const { normOffset } = this.shape;
    if (normOffset !== 0)
      for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) + normOffset;
    return this.vectorBuffer(values, name);
  }

  private vectorBuffer(values: Float32Array<ArrayBuffer>, label: string): GPUBuffer {
    const size = Math.max(16, values.byteLength);
    const buffer = this.device.createBuffer({ label, size, usage: USAGE_STORAGE | USAGE_COPY_DST });
    this.device.queue.writeBuffer(buffer, 0, values);
    this.gpuBytes += size;
    return buffer;
  }

  /** A whole F32, F16 or BF16 tensor as f32. */
  private async vector(tensor: TensorInfo, length?: number): Promise<Float32Array<ArrayBuffer>> {
    const elements = tensor.shape.reduce((product, size) => product * size, 1);
    if (tensor.sizeBytes > MAX_VECTOR_BYTES || (length !== undefined && elements !== length)) {
      throw new TidepoolError(
        "invalid_file",
        `${tensor.name} has ${elements} elements, expected ${length ?? "fewer"}`,
        {
          tensor: tensor.name,
        },
      );
    }
    const bytes = new Uint8Array(tensor.sizeBytes);
    let at = 0;
    for await (const piece of this.counted(tensor)) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return floats(tensor, bytes);
  }

  private async *counted(tensor: TensorInfo): AsyncGenerator<Uint8Array> {
    this.parameters += tensor.shape.reduce((product, size) => product * size, 1);
    for await (const piece of this.file.readTensor(tensor, { isTransient: true })) {
      this.onPiece(tensor, piece);
      yield piece;
      this.doneBytes += piece.byteLength;
      this.onBytes(this.doneBytes, this.totalBytes);
    }
  }
}

/** Some rows of a matrix, or as many entries of its bias. */
function sliced(tensor: TensorInfo, rows: number, { first, of }: { first: number; of: number }): TensorInfo {
  const rowBytes = tensor.sizeBytes / of;
  return {
    ...tensor,
    shape: [...tensor.shape.slice(0, -1), rows],
    offset: tensor.offset + first * rowBytes,
    sizeBytes: rows * rowBytes,
  };
}

function floats(tensor: TensorInfo, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  if (tensor.type === "F32") return new Float32Array(bytes.buffer);
  const halves = new Uint16Array(bytes.buffer);
  if (tensor.type === "BF16") {
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  }
  if (tensor.type === "F16") return Float32Array.from(halves, halfToFloat);
  throw new TidepoolError(
    "unsupported",
    `${tensor.name} is a vector of type ${tensor.type}; expected F32, F16 or BF16`,
    {
      tensor: tensor.name,
    },
  );
}

/** IEEE binary16 -> number. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
