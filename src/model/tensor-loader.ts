/**
 * Tensors -> GPU buffers. Matrices stream through in bounded pieces and stay quantised; norms and biases become f32 vectors.
 * Projections that read the same input are stacked where their formats agree, so that one dispatch computes them all. It
 * does not know which tensors a layer has.
 */
import { TidepoolError } from "../errors.ts";
import { USAGE_COPY_DST, USAGE_STORAGE } from "../gpu/op.ts";
import { transposed } from "../load/arranged.ts";
import type { ModelFile, TensorInfo } from "../load/model-file.ts";
import type { ModelShape, NormKind, RowsFactor } from "../shape/shape.ts";
import type { ExpertArena } from "./experts/arena.ts";
import type { ExpertCopy } from "./experts/copies.ts";
import { checkShape, expertTensors, type ExpertMatrix } from "./experts/matrices.ts";
import type { ExpertSlotting } from "./matrix/products.ts";
import { RowTable, rowsInMemory, type ReadRow, type RowTableLimits } from "./matrix/row-table.ts";
import { requireTensor, type LayerTensors, type TensorNames } from "./arch/tensor-lookup.ts";
import { floatsOf } from "./floats.ts";
import {
  canStack,
  UploadBuffers,
  uploadStacked,
  type PackedWeight,
  type WeightInfo,
} from "./matrix/upload.ts";

/** Matrices whose outputs stand side by side in one row, each at its offset. */
export type Projection = readonly ProjectionPart[];

export interface ProjectionPart {
  weight: PackedWeight;
  outOffset: number;
  bias: GPUBuffer | undefined;
  /** Multiplies the product, before the bias is added. */
  scale: number;
}

/** The matrices of a layer's experts, one under the other, and their biases likewise. */
export interface ExpertMatrices {
  weight: PackedWeight;
  /** Of one expert. */
  rows: number;
  bias: GPUBuffer | undefined;
  /** Only some of them are there. */
  slots?: ExpertSlotting;
  /** Low-bit copies of all. */
  copy?: ExpertCopy;
}

/** A matrix of a projection: its tensor's name, its rows, and which of the tensor's rows they are if it has more. */
export type Part = readonly [
  name: string,
  rows: number,
  slice?: { first: number; of: number } | undefined,
  factor?: number,
];

/** Of groups of `inGroup` rows each, `rows` from `first` on. */
export interface GroupedRows {
  columns: number;
  groups: number;
  inGroup: number;
  first: number;
  rows: number;
  /** A group's columns become its rows. Default: they stay as they are. */
  isTurned?: boolean;
}

/** No vector (norm, bias, divisors) is longer than this. */
const MAX_VECTOR_BYTES = 16 * 1024 * 1024;

/** Called with every piece of every tensor as it passes, in order within a tensor. */
export type OnPiece = (tensor: TensorInfo, piece: Uint8Array) => void;

export class TensorLoader {
  readonly names: TensorNames;
  readonly hiddenSize: number;
  /** Every matrix that was loaded. */
  readonly matrices: PackedWeight[] = [];
  /** Bytes of GPU memory. */
  gpuBytes = 0;
  /** Elements of all tensors read. */
  parameters = 0;
  private readonly device: GPUDevice;
  private readonly file: ModelFile;
  private readonly normKind: NormKind;
  private readonly normOffset: number;
  private readonly factors: NonNullable<ModelShape["factors"]>;
  private readonly isTransposed: boolean;
  private readonly buffers = new UploadBuffers();
  private readonly onBytes: (bytes: number) => void;
  private readonly onPiece: OnPiece;
  private readonly arena: ExpertArena | undefined;

  /**
   * @param onBytes called with the size of every piece that was read
   * @param arena has slots for the experts of which not all are on the GPU
   */
  constructor(
    device: GPUDevice,
    file: ModelFile,
    shape: Pick<ModelShape, "hiddenSize" | "norm" | "normOffset" | "factors" | "transposed">,
    names: TensorNames,
    onBytes: (bytes: number) => void,
    onPiece: OnPiece,
    arena?: ExpertArena,
  ) {
    this.device = device;
    this.arena = arena;
    this.gpuBytes = arena?.bytes ?? 0;
    this.file = file;
    this.hiddenSize = shape.hiddenSize;
    this.normKind = shape.norm;
    this.normOffset = shape.normOffset;
    this.factors = shape.factors ?? {};
    this.isTransposed = shape.transposed ?? false;
    this.names = names;
    this.onBytes = onBytes;
    this.onPiece = onPiece;
  }

  layer(index: number): LayerLoader {
    return new LayerLoader(this, index);
  }

  /** @param slice which of the tensor's rows they are, and how many it has. Default: all of them */
  matrix(
    tensor: TensorInfo,
    columns: number,
    rows: number,
    { first = 0, of = first + rows }: { first?: number | undefined; of?: number } = {},
  ): Promise<PackedWeight> {
    const info = { ...checkedInfo(tensor, columns, of), rows };
    return this.upload([{ tensor: rows < of ? sliced(tensor, rows, { first, of }) : tensor, info }]);
  }

  /** Some rows of each group of a matrix. */
  grouped(
    tensor: TensorInfo,
    { columns, groups, inGroup, first, rows, isTurned = false }: GroupedRows,
  ): Promise<PackedWeight> {
    const of = groups * inGroup;
    const { name, type } = checkedInfo(tensor, columns, of);
    const [width, height] = isTurned ? [rows, columns] : [columns, rows];
    const parts = Array.from({ length: groups }, (_, group) => ({
      tensor: sliced(tensor, rows, { first: group * inGroup + first, of }),
      info: { name, type, columns: width, rows: height },
    }));
    return this.upload(parts, isTurned);
  }

  /** A matrix of which rows are read by number, and that stays off the GPU; its bytes are seen all the same. */
  async rowTable(
    tensor: TensorInfo,
    columns: number,
    rows: number,
    limits: RowTableLimits,
  ): Promise<RowTable> {
    checkedInfo(tensor, columns, rows);
    const isAtHand = this.file.sources[tensor.shard]?.isAtHand ?? false;
    const pieces: Uint8Array[] = [];
    for await (const piece of this.counted(tensor)) if (!isAtHand) pieces.push(piece.slice());
    const fromFile: ReadRow = (offset, length) => this.bytesOf(tensor, offset, length);
    const read = isAtHand ? fromFile : rowsInMemory(pieces);
    const table = new RowTable(this.device, tensor, { columns, rows }, limits, { read, isAtHand });
    this.gpuBytes += table.bytes;
    return table;
  }

  private async bytesOf(tensor: TensorInfo, offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    let at = 0;
    const part = { ...tensor, offset: tensor.offset + offset, sizeBytes: length };
    for await (const piece of this.file.readTensor(part)) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return bytes;
  }

  /** Matrices with one input: stacked where all formats agree, else one by one. */
  async projection(index: number, columns: number, parts: readonly Part[]): Promise<Projection> {
    const tensors = parts
      .flatMap((part) => factored(part, this.factors[part[0]]))
      .map(([name, rows, slice, scale = 1]) => {
        const tensor = this.names.require(this.names.layer(index, name), `blk.${index}.${name}.weight`);
        const info = { ...this.infoOf(tensor, columns, slice?.of ?? rows), rows };
        const bias = this.names.layer(index, name, "bias");
        if (!slice) return { tensor, rows, info, bias, scale };
        return {
          tensor: sliced(tensor, rows, slice),
          rows,
          info,
          bias: bias && sliced(bias, rows, slice),
          scale,
        };
      });
    const first = tensors[0] as (typeof tensors)[number];
    const stackable = tensors.every(
      ({ info, bias, scale }) => canStack(first.info, info) && !bias === !first.bias && scale === first.scale,
    );
    const groups = stackable ? [tensors] : tensors.map((tensor) => [tensor]);
    const projection: ProjectionPart[] = [];
    let outOffset = 0;
    for (const group of groups) {
      const weight = await this.upload(group, this.isTransposed);
      const { scale } = group[0] as (typeof tensors)[number];
      projection.push({ weight, outOffset, bias: await this.biases(group), scale });
      outOffset += weight.rows;
    }
    return projection;
  }

  private infoOf(tensor: TensorInfo, columns: number, rows: number): WeightInfo {
    if (!this.isTransposed) return checkedInfo(tensor, columns, rows);
    return { ...checkedInfo(tensor, rows, columns), columns, rows };
  }

  /** The matrices of a layer's experts: all of them, or slots for some. */
  async experts(index: number, matrix: ExpertMatrix, count: number): Promise<ExpertMatrices> {
    const { name, rows, columns } = matrix;
    const tensors = expertTensors(this.names, index, matrix, count);
    const bias = this.names.layer(index, `${name}_exps`, "bias");
    const biases = bias && this.vectorBuffer(await this.vector(bias, rows * count), `${name} biases`);
    if (this.arena) {
      await this.arena.copy(
        index,
        name,
        tensors.map((tensor) => this.counted(tensor)),
      );
      return { ...this.arena.of(index, name), rows, bias: biases };
    }
    const each = (rows * count) / tensors.length;
    const parts = tensors.map((tensor) => ({
      tensor,
      info: { name: tensor.name, type: tensor.type, columns, rows: each },
    }));
    return { weight: await this.upload(parts), rows, bias: biases };
  }

  /** Vectors one behind the other, as f32. */
  async vectors(tensors: readonly TensorInfo[], length: number): Promise<GPUBuffer | undefined> {
    const all = new Float32Array(tensors.length * length);
    for (const [place, tensor] of tensors.entries())
      all.set(await this.vector(tensor, length), place * length);
    return tensors.length > 0 ? this.vectorBuffer(all, "vectors") : undefined;
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

  /** The weights of an RMS norm, with the shape's norm offset added. */
  async norm(tensor: TensorInfo | undefined, name: string, width: number): Promise<GPUBuffer> {
    return this.vectorBuffer(await this.normWeights(tensor, name, width), name);
  }

  /** A norm of the residual stream: [weights], or [weights, biases] of a LayerNorm, 0 without a bias. */
  async streamNorm(
    tensor: TensorInfo | undefined,
    bias: TensorInfo | undefined,
    name: string,
  ): Promise<GPUBuffer> {
    const d = this.hiddenSize;
    if (this.normKind === "rms") return this.norm(tensor, name, d);
    const both = new Float32Array(2 * d);
    both.set(await this.normWeights(tensor, name, d));
    if (bias) both.set(await this.vector(bias, d), d);
    return this.vectorBuffer(both, name);
  }

  private async normWeights(
    tensor: TensorInfo | undefined,
    name: string,
    width: number,
  ): Promise<Float32Array<ArrayBuffer>> {
    const values = await this.vector(this.names.require(tensor, name), width);
    const { normOffset } = this;
    return normOffset === 0 ? values : values.map((value) => value + normOffset);
  }

  async plain(tensor: TensorInfo | undefined, name: string, width: number): Promise<GPUBuffer> {
    return this.vectorBuffer(await this.vector(this.names.require(tensor, name), width), name);
  }

  async decays(tensor: TensorInfo | undefined, name: string, width: number): Promise<GPUBuffer> {
    const values = await this.vector(this.names.require(tensor, name), width);
    const isLogarithm = this.file.format === "safetensors";
    return this.vectorBuffer(isLogarithm ? values.map((value) => -Math.exp(value)) : values, name);
  }

  /** A whole F32, F16 or BF16 tensor as f32. */
  async vector(tensor: TensorInfo, length?: number): Promise<Float32Array<ArrayBuffer>> {
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
    return floatsOf(tensor, await this.whole(tensor));
  }

  private async whole(tensor: TensorInfo): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(tensor.sizeBytes);
    let at = 0;
    for await (const piece of this.counted(tensor)) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return bytes;
  }

  /** The rows of a matrix that stands column by column, in one piece. */
  private async *turned(tensor: TensorInfo): AsyncGenerator<Uint8Array> {
    const [columns = 0, rows = 0] = tensor.shape;
    yield transposed(await this.whole(tensor), rows, columns);
  }

  private async upload(
    parts: readonly { tensor: TensorInfo; info: WeightInfo }[],
    isTransposed = false,
  ): Promise<PackedWeight> {
    const weight = await uploadStacked(
      this.device,
      parts.map(({ info }) => info),
      parts.map(({ tensor }) => (isTransposed ? this.turned(tensor) : this.counted(tensor))),
      this.buffers,
    );
    this.gpuBytes += weight.bytes;
    this.matrices.push(weight);
    return weight;
  }

  vectorBuffer(values: Float32Array<ArrayBuffer>, label: string): GPUBuffer {
    const size = Math.max(16, values.byteLength);
    const buffer = this.device.createBuffer({ label, size, usage: USAGE_STORAGE | USAGE_COPY_DST });
    this.device.queue.writeBuffer(buffer, 0, values);
    this.gpuBytes += size;
    return buffer;
  }

  private async *counted(tensor: TensorInfo): AsyncGenerator<Uint8Array> {
    this.parameters += tensor.shape.reduce((product, size) => product * size, 1);
    for await (const piece of this.file.readTensor(tensor, { isTransient: true })) {
      this.onPiece(tensor, piece);
      yield piece;
      this.onBytes(piece.byteLength);
    }
  }
}

/** The tensors of one layer, by their names without the layer's prefix. */
export class LayerLoader implements LayerTensors {
  readonly hiddenSize: number;
  private readonly tensors: TensorLoader;
  private readonly index: number;

  constructor(tensors: TensorLoader, index: number) {
    this.tensors = tensors;
    this.index = index;
    this.hiddenSize = tensors.hiddenSize;
  }

  has(name: string, suffix = "weight"): boolean {
    return this.tensors.names.layer(this.index, name, suffix) !== undefined;
  }

  /** Matrices with one input of `columns` numbers. */
  projection(columns: number, parts: readonly Part[]): Promise<Projection> {
    return this.tensors.projection(this.index, columns, parts);
  }

  /** Matrices of one shape, [columns, rows, count] in the file, as one of count * rows rows. */
  stacked(name: string, [columns, rows, count]: readonly [number, number, number]): Promise<PackedWeight> {
    const { names } = this.tensors;
    const tensor = requireTensor(names.layer(this.index, name), `blk.${this.index}.${name}.weight`);
    const [inner, middle, outer = 1] = tensor.shape;
    if (inner !== columns || middle !== rows || outer !== count) {
      const found = tensor.shape.join(" x ");
      const message = `${tensor.name} is ${found}, expected ${columns} x ${rows} x ${count}`;
      throw new TidepoolError("invalid_file", message, { tensor: tensor.name });
    }
    return this.tensors.matrix({ ...tensor, shape: [columns, rows * count] }, columns, rows * count);
  }

  /** Some rows of each group of a matrix, one group under the other. */
  grouped(name: string, rows: GroupedRows): Promise<PackedWeight> {
    const tensor = requireTensor(
      this.tensors.names.layer(this.index, name),
      `blk.${this.index}.${name}.weight`,
    );
    return this.tensors.grouped(tensor, rows);
  }

  /** Vectors, and small matrices row by row, one behind the other, as f32. */
  async joined(parts: readonly (readonly [name: string, length: number])[]): Promise<GPUBuffer> {
    const { names } = this.tensors;
    const all = new Float32Array(parts.reduce((sum, [, length]) => sum + length, 0));
    let at = 0;
    for (const [name, length] of parts) {
      const tensor = names.require(names.layer(this.index, name), `blk.${this.index}.${name}.weight`);
      all.set(await this.tensors.vector(tensor, length), at);
      at += length;
    }
    return this.tensors.vectorBuffer(all, parts[0]?.[0] ?? "");
  }

  /** A tensor of one number. */
  async number(name: string): Promise<number> {
    const { names } = this.tensors;
    const tensor = names.require(names.layer(this.index, name), `blk.${this.index}.${name}.weight`);
    return (await this.tensors.vector(tensor, 1))[0] as number;
  }

  /** The matrices "ffn_up" and the like of a layer's experts. */
  experts(matrix: ExpertMatrix, count: number): Promise<ExpertMatrices> {
    return this.tensors.experts(this.index, matrix, count);
  }

  /** Of the vectors with these names and suffixes those that the file has, one behind the other; undefined: none. */
  vectorsOf(names: readonly (readonly [string, string])[], length: number): Promise<GPUBuffer | undefined> {
    const found = names.map(([name, suffix]) => this.tensors.names.layer(this.index, name, suffix));
    return this.tensors.vectors(
      found.filter((tensor) => tensor !== undefined),
      length,
    );
  }

  /** The weights of an RMS norm: f32, with the shape's norm offset added. */
  norm(name: string, length: number): Promise<GPUBuffer> {
    const tensor = this.tensors.names.layer(this.index, name);
    return this.tensors.norm(tensor, `blk.${this.index}.${name}.weight`, length);
  }

  /** Any other vector, as f32. */
  vector(name: string, length: number, suffix = "weight"): Promise<GPUBuffer> {
    const tensor = this.tensors.names.layer(this.index, name, suffix);
    const label = `blk.${this.index}.${name}${suffix === "" ? "" : `.${suffix}`}`;
    return this.tensors.plain(tensor, label, length);
  }

  /** The decays of a recurrence: safetensors hold the logarithm of what GGUF files hold negated. */
  decays(name: string, length: number): Promise<GPUBuffer> {
    return this.tensors.decays(
      this.tensors.names.layer(this.index, name, ""),
      `blk.${this.index}.${name}`,
      length,
    );
  }

  /** A norm of the residual stream. */
  streamNorm(name: string): Promise<GPUBuffer> {
    const { names } = this.tensors;
    const bias = names.layer(this.index, name, "bias");
    return this.tensors.streamNorm(names.norm(this.index, name), bias, `blk.${this.index}.${name}.weight`);
  }
}

/** A part for each run of rows that has a factor of its own. */
function factored(part: Part, factors: readonly RowsFactor[] | undefined): Part[] {
  if (!factors) return [part];
  const [name, allRows, slice = { first: 0, of: allRows }] = part;
  let first = slice.first;
  return factors.map(([factor, rows = allRows]) => {
    const run = rows === slice.of ? undefined : { first, of: slice.of };
    first += rows;
    return [name, rows, run, factor];
  });
}

function checkedInfo(tensor: TensorInfo, columns: number, rows: number): WeightInfo {
  return shapedInfo(tensor, [columns, rows]);
}

/** Matrices of one tensor stand one under the other. */
function shapedInfo(tensor: TensorInfo, shape: readonly number[]): WeightInfo {
  checkShape(tensor, shape);
  const [columns = 0, ...rows] = shape;
  const all = rows.reduce((product, size) => product * size, 1);
  return { name: tensor.name, type: tensor.type, columns, rows: all };
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
