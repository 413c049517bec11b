/**
 * Tensors that a safetensors file holds in another order than the one they are computed with, as sources of bytes in that one:
 * MXFP4 in a tensor of blocks and one of scales, and experts that stand column by column (both gpt-oss). It decodes no number.
 */
import { TidepoolError } from "../errors.ts";
import type { Source } from "./source.ts";
import { BLOCK_FORMATS, type TensorInfo } from "./tensor-type.ts";

/** A tensor, and where its bytes come from: `offset` counts in there. */
export interface Arranged {
  tensor: Omit<TensorInfo, "shard">;
  source: Source;
  /** The tensors that it is made of. */
  of: readonly string[];
}

/** Model types whose experts stand column by column. */
const TURNED_TYPES = ["gpt_oss"];
const TURNED = /\.experts\.(gate_up|down)_proj$/;

/** A matrix that is turned is held as a whole, and once more while it is. */
const MAX_TURNED_BYTES = 64 * 1024 * 1024;

/** @throws TidepoolError `invalid_file` naming a tensor whose counterpart has other dimensions */
export function arrangedTensors(
  tensors: ReadonlyMap<string, TensorInfo>,
  sources: readonly Source[],
  modelType: unknown,
): Arranged[] {
  const isTurned = TURNED_TYPES.includes(String(modelType));
  return [...tensors.values()].flatMap((tensor) => {
    const source = sources[tensor.shard] as Source;
    if (isTurned && TURNED.test(tensor.name)) return [turned(tensor, source)];
    const name = /^(.+)_blocks$/.exec(tensor.name)?.[1];
    const scales = name === undefined ? undefined : tensors.get(`${name}_scales`);
    if (name === undefined || !scales) return [];
    return [zipped(name, { tensor, source }, { tensor: scales, source: sources[scales.shard] as Source })];
  });
}

interface Part {
  tensor: TensorInfo;
  source: Source;
}

const { blockLength, blockBytes } = BLOCK_FORMATS.MXFP4;
const NIBBLE_BYTES = blockBytes - 1;

/** Blocks of nibbles in the order of the numbers -> blocks as GGUF has them: the scale first, then numbers 0 to 15 low, 16 to 31 high. */
function zipped(name: string, blocks: Part, scales: Part): Arranged {
  const [inBlock, ...outer] = blocks.tensor.shape;
  const [types, sizes] = [[blocks.tensor.type, scales.tensor.type], scales.tensor.shape];
  if (inBlock !== NIBBLE_BYTES || outer.join() !== sizes.join() || types.some((type) => type !== "U8")) {
    const found = `${blocks.tensor.name} is ${types[0]} ${blocks.tensor.shape.join(" x ")}`;
    const message = `${found}, expected U8 ${NIBBLE_BYTES} x ${sizes.join(" x ")}, as ${scales.tensor.name} has it`;
    throw new TidepoolError("invalid_file", message, { tensor: blocks.tensor.name });
  }
  const [inRow = 0, ...others] = sizes;
  const sizeBytes = scales.tensor.sizeBytes * blockBytes;
  const read: Source["read"] = async (offset, length, signal) => {
    const first = Math.floor(offset / blockBytes);
    const count = Math.ceil((offset + length) / blockBytes) - first;
    const bytes = new Uint8Array(count * blockBytes);
    const exponents = await scales.source.read(scales.tensor.offset + first, count, signal);
    for (let block = 0; block < count; block++) bytes[block * blockBytes] = exponents[block] as number;
    const from = blocks.tensor.offset + first * NIBBLE_BYTES;
    const nibbles = await blocks.source.read(from, count * NIBBLE_BYTES, signal);
    for (let block = 0; block < count; block++) regroup(nibbles, bytes, block);
    return bytes.subarray(offset - first * blockBytes, offset - first * blockBytes + length);
  };
  return {
    tensor: { name, type: "MXFP4", shape: [inRow * blockLength, ...others], offset: 0, sizeBytes },
    source: sourceOf(name, sizeBytes, [blocks.source, scales.source], read),
    of: [blocks.tensor.name, scales.tensor.name],
  };
}

function regroup(from: Uint8Array, to: Uint8Array, block: number): void {
  const [source, target] = [block * NIBBLE_BYTES, block * blockBytes + 1];
  for (let number = 0; number < NIBBLE_BYTES; number++) {
    const shift = (number & 1) * 4;
    const low = (from[source + (number >> 1)] as number) >> shift;
    const high = (from[source + NIBBLE_BYTES / 2 + (number >> 1)] as number) >> shift;
    to[target + number] = (low & 15) | ((high & 15) << 4);
  }
}

/** Matrices [rows, columns] of which columns are contiguous, one behind the other -> those of which rows are. */
function turned({ name, ...tensor }: TensorInfo, from: Source): Arranged {
  const [rows = 0, columns = 0, ...others] = tensor.shape;
  const matrixBytes = tensor.sizeBytes / others.reduce((product, size) => product * size, 1);
  if (matrixBytes > MAX_TURNED_BYTES) {
    const message = `${name} has matrices of ${matrixBytes} bytes to be turned, at most ${MAX_TURNED_BYTES}`;
    throw new TidepoolError("unsupported", message, { tensor: name });
  }
  let last: { matrix: number; bytes: Uint8Array } | undefined;
  const turn = async (matrix: number, signal?: AbortSignal) => {
    if (last?.matrix === matrix) return last.bytes;
    const bytes = await from.read(tensor.offset + matrix * matrixBytes, matrixBytes, signal);
    last = { matrix, bytes: transposed(bytes.slice(), columns, rows) };
    return last.bytes;
  };
  const read: Source["read"] = async (offset, length, signal) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const matrix = Math.floor((offset + at) / matrixBytes);
      const inside = offset + at - matrix * matrixBytes;
      const piece = (await turn(matrix, signal)).subarray(inside, inside + length - at);
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return bytes;
  };
  return {
    tensor: { ...tensor, name, shape: [columns, rows, ...others], offset: 0 },
    source: sourceOf(name, tensor.sizeBytes, [from], read),
    of: [name],
  };
}

/** It owns nothing: the sources that it reads are closed by others. */
function sourceOf(name: string, sizeBytes: number, from: readonly Source[], read: Source["read"]): Source {
  const isAtHand = from.every((source) => source.isAtHand);
  return { name, sizeBytes, isAtHand, read, close: () => Promise.resolve() };
}

/** The bytes of a matrix [rows, columns] of two- or four-byte numbers as those of [columns, rows]. */
export function transposed(bytes: Uint8Array<ArrayBuffer>, rows: number, columns: number): Uint8Array {
  const of = bytes.byteLength === 4 * rows * columns ? Uint32Array : Uint16Array;
  const from = new of(bytes.buffer);
  const to = new of(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      to[column * rows + row] = from[row * columns + column] as number;
  return new Uint8Array(to.buffer);
}
