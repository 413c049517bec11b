/**
 * A parser for the headers of GGUF files, versions 2 and 3, little-endian: metadata, tensor directory, where the data begins.
 * It reads the header in windows and never the data, and trusts nothing: every count, length and offset is checked
 * against a named limit and against what is left of the file before anything is allocated for it.
 * It does not know what keys and tensors mean, nor join shards (model-file.ts).
 * Layout: ggml/src/gguf.cpp of llama.cpp.
 */
import { TidepoolError } from "../errors.ts";
import { HeaderReader } from "./header-reader.ts";
import type { Source } from "./source.ts";
import { bytesOfElements, formatOfId, type NamedFormat } from "./tensor-type.ts";

const MAX_KEYS = 65_536;
const MAX_TENSORS = 1_048_576;
const MAX_KEY_BYTES = 65_535;
const MAX_STRING_BYTES = 64 * 1024 * 1024;
const MAX_ARRAY_ITEMS = 64 * 1024 * 1024;
const MAX_ARRAY_DEPTH = 4;
const MAX_DIMENSIONS = 4;
/** ggml keeps names in 64 bytes with a terminator. */
const MAX_NAME_BYTES = 63;
const DEFAULT_ALIGNMENT = 32;
/** Versions are small numbers, so that a larger one is a small one with its bytes swapped. */
const MAX_LITTLE_ENDIAN_VERSION = 65_535;
const ALIGNMENT_KEY = "general.alignment";
const MAGIC = 0x46554747; // "GGUF"

/**
 * A metadata value. Numeric arrays are typed arrays (64-bit integers as Float64Array where all are exact in it, bools as
 * Uint8Array of 0 and 1); of an array of arrays nothing is kept. A 64-bit scalar is a number where that is exact, else a bigint.
 */
export type GgufValue = number | bigint | boolean | string | GgufArray;
export type GgufArray =
  | string[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

export interface GgufTensor {
  name: string;
  type: string;
  /** Dimensions, the contiguous one first: a matrix is [in, out]. */
  shape: number[];
  /** From the start of the file, bytes. */
  offset: number;
  sizeBytes: number;
}

export interface GgufFile {
  version: number;
  metadata: Map<string, GgufValue>;
  tensors: GgufTensor[];
  /** Where the data section begins, bytes from the start of the file. */
  dataOffset: number;
  alignment: number;
}

/** Reads the header of a GGUF file. Throws `invalid_file` naming the field, `unsupported` for versions and types. */
export async function readGguf(source: Source, signal?: AbortSignal): Promise<GgufFile> {
  const reader = new HeaderReader(source, signal);
  const version = await readVersion(reader);
  const tensorCount = await readCount(reader, "tensor count", MAX_TENSORS);
  const keyCount = await readCount(reader, "metadata key count", MAX_KEYS);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) await readPair(reader, metadata, i);
  const alignment = alignmentOf(metadata, reader);
  const tensors: GgufTensor[] = [];
  const names = new Set<string>();
  let runningOffset = 0;
  for (let i = 0; i < tensorCount; i++) {
    const tensor = await readTensorInfo(reader, names, runningOffset, i);
    runningOffset = alignUp(runningOffset + tensor.sizeBytes, alignment);
    tensors.push(tensor);
  }
  const dataOffset = alignUp(reader.position, alignment);
  for (const tensor of tensors) placeTensor(tensor, dataOffset, reader);
  return { version, metadata, tensors, dataOffset, alignment };
}

async function readVersion(reader: HeaderReader): Promise<number> {
  await reader.need(8, "magic and version");
  const magic = reader.u32();
  if (magic !== MAGIC) reader.fail(`magic is 0x${magic.toString(16).padStart(8, "0")}, not "GGUF"`);
  const version = reader.u32();
  if (version > MAX_LITTLE_ENDIAN_VERSION) refuse(reader, "big-endian GGUF files are not supported");
  if (version < 2 || version > 3) refuse(reader, `GGUF version ${version} is not supported, only 2 and 3`);
  return version;
}

function refuse(reader: HeaderReader, what: string): never {
  throw new TidepoolError("unsupported", `${reader.name}: ${what}`, { file: reader.name });
}

async function readCount(reader: HeaderReader, field: string, limit: number): Promise<number> {
  await reader.need(8, field);
  const count = reader.u64();
  if (count > BigInt(limit)) reader.fail(`${field} ${count} is over the limit of ${limit}`);
  return Number(count);
}

async function readPair(
  reader: HeaderReader,
  metadata: Map<string, GgufValue>,
  index: number,
): Promise<void> {
  const key = await readString(reader, `metadata key ${index}`, MAX_KEY_BYTES, true);
  if (key === "") reader.fail(`metadata key ${index} is empty`);
  if (metadata.has(key)) reader.fail(`metadata key "${key}" occurs twice`);
  const field = `metadata key "${key}"`;
  await reader.need(4, field);
  const type = reader.u32();
  if (key === ALIGNMENT_KEY && type !== UINT32)
    reader.fail(`${field} has the value type ${type}, expected u32`);
  const value = type === ARRAY ? await readArray(reader, field, 1) : await readScalar(reader, field, type);
  metadata.set(key, value);
}

const UINT32 = 4;
const UINT64 = 10;
const INT64 = 11;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;

/** A string takes its 8 bytes of length at least, an array its type and its length. */
const LEAST_ITEM_BYTES: ReadonlyMap<number, number> = new Map([
  [STRING, 8],
  [ARRAY, 12],
]);

/** Bytes of a fixed-size value by its type id. */
const VALUE_BYTES: ReadonlyMap<number, number> = new Map([
  [0, 1],
  [1, 1],
  [2, 2],
  [3, 2],
  [4, 4],
  [5, 4],
  [6, 4],
  [BOOL, 1],
  [UINT64, 8],
  [INT64, 8],
  [12, 8],
]);

async function readScalar(reader: HeaderReader, field: string, type: number): Promise<GgufValue> {
  if (type === STRING) return readString(reader, field, MAX_STRING_BYTES, false);
  const bytes = VALUE_BYTES.get(type) ?? reader.fail(`${field} has the unknown value type ${type}`);
  await reader.need(bytes, field);
  return fixedValue(reader, field, type);
}

function fixedValue(reader: HeaderReader, field: string, type: number): number | bigint | boolean {
  switch (type) {
    case 0:
      return reader.u8();
    case 1:
      return (reader.u8() << 24) >> 24;
    case 2:
      return reader.u16();
    case 3:
      return (reader.u16() << 16) >> 16;
    case 4:
      return reader.u32();
    case 5:
      return reader.u32() | 0;
    case 6:
      return reader.f32();
    case BOOL:
      return boolOf(reader, field) === 1;
    case UINT64:
      return narrow(reader.u64());
    case INT64:
      return narrow(BigInt.asIntN(64, reader.u64()));
    default:
      return reader.f64();
  }
}

function boolOf(reader: HeaderReader, field: string): number {
  const byte = reader.u8();
  if (byte > 1) reader.fail(`${field} is a bool with the value ${byte}`);
  return byte;
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

async function readArray(reader: HeaderReader, field: string, depth: number): Promise<GgufArray> {
  await reader.need(12, field);
  const type = reader.u32();
  const count = reader.u64();
  if (type === ARRAY && depth === MAX_ARRAY_DEPTH)
    refuse(reader, `${field} has arrays nested more than ${MAX_ARRAY_DEPTH} deep`);
  const itemBytes = LEAST_ITEM_BYTES.get(type) ?? VALUE_BYTES.get(type);
  if (itemBytes === undefined) reader.fail(`${field} is an array of the unknown value type ${type}`);
  if (count > BigInt(MAX_ARRAY_ITEMS)) {
    reader.fail(`${field} has ${count} items, over the limit of ${MAX_ARRAY_ITEMS}`);
  }
  const items = Number(count);
  reader.claim(items * itemBytes, `${field} (${items} items)`);
  if (type === STRING) return readStrings(reader, field, items);
  if (type === ARRAY) return skipArrays(reader, field, items, depth + 1);
  return readNumbers(reader, field, type, items, itemBytes);
}

/** Nobody reads arrays of arrays: they are walked over and not kept. */
async function skipArrays(
  reader: HeaderReader,
  field: string,
  count: number,
  depth: number,
): Promise<GgufArray> {
  for (let i = 0; i < count; i++) await readArray(reader, `${field}, item ${i}`, depth);
  return [];
}

async function readStrings(reader: HeaderReader, field: string, count: number): Promise<string[]> {
  const strings: string[] = [];
  for (let i = 0; i < count; i++) {
    // Vocabularies have a quarter of a million strings: await only where the window ends.
    const ready = reader.stringIfBuffered();
    strings.push(ready ?? (await readString(reader, `${field}, item ${i}`, MAX_STRING_BYTES, false)));
  }
  return strings;
}

async function readNumbers(
  reader: HeaderReader,
  field: string,
  type: number,
  count: number,
  itemBytes: number,
): Promise<GgufArray> {
  let array: NumericArray = numericArray(type, count);
  for (let i = 0; i < count; i++) {
    if (reader.buffered < itemBytes) await reader.need(itemBytes, `${field}, item ${i}`);
    const value = type === BOOL ? boolOf(reader, field) : fixedValue(reader, field, type);
    if (typeof value === "bigint" && !isExact(array)) array = exactArray(type, array);
    if (isExact(array)) array[i] = BigInt(value);
    else array[i] = Number(value);
  }
  return array;
}

type ExactArray = BigInt64Array | BigUint64Array;
type NumericArray = Exclude<GgufArray, string[]>;

function isExact(array: NumericArray): array is ExactArray {
  return array instanceof BigInt64Array || array instanceof BigUint64Array;
}

/** The same numbers where a double has no room for all of them. */
function exactArray(type: number, array: Exclude<NumericArray, ExactArray>): ExactArray {
  const items = Array.from(array as Float64Array, BigInt);
  return type === INT64 ? BigInt64Array.from(items) : BigUint64Array.from(items);
}

function numericArray(type: number, count: number): Exclude<NumericArray, ExactArray> {
  switch (type) {
    case 0:
    case BOOL:
      return new Uint8Array(count);
    case 1:
      return new Int8Array(count);
    case 2:
      return new Uint16Array(count);
    case 3:
      return new Int16Array(count);
    case 4:
      return new Uint32Array(count);
    case 5:
      return new Int32Array(count);
    case 6:
      return new Float32Array(count);
    default:
      return new Float64Array(count);
  }
}

/** `strict` text must be UTF-8 (keys and names); in values what is not becomes U+FFFD, since values are only shown or tokenised. */
async function readString(
  reader: HeaderReader,
  field: string,
  limit: number,
  strict: boolean,
): Promise<string> {
  await reader.need(8, `${field} (length)`);
  const length = reader.u64();
  if (length > BigInt(limit)) reader.fail(`${field} has ${length} bytes, over the limit of ${limit}`);
  await reader.need(Number(length), field);
  return reader.text(Number(length), strict, field);
}

function alignmentOf(metadata: Map<string, GgufValue>, reader: HeaderReader): number {
  const value = metadata.get(ALIGNMENT_KEY);
  if (value === undefined) return DEFAULT_ALIGNMENT;
  if (typeof value !== "number" || value < 1 || (value & (value - 1)) !== 0) {
    reader.fail(`${ALIGNMENT_KEY} ${String(value)} is not a power of two`);
  }
  return value;
}

async function readTensorInfo(
  reader: HeaderReader,
  names: Set<string>,
  expectedOffset: number,
  index: number,
): Promise<GgufTensor> {
  const name = await readString(reader, `name of tensor ${index}`, MAX_NAME_BYTES, true);
  if (names.has(name)) reader.fail(`tensor "${name}" occurs twice`);
  names.add(name);
  const field = `tensor "${name}"`;
  await reader.need(4, `${field} (dimensions)`);
  const dimensions = reader.u32();
  if (dimensions > MAX_DIMENSIONS)
    reader.fail(`${field} has ${dimensions} dimensions, at most ${MAX_DIMENSIONS}`);
  await reader.need(dimensions * 8 + 12, field);
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) shape.push(dimensionOf(reader, field));
  const format = formatOfId(reader.u32(), name, reader.name);
  const sizeBytes = tensorBytes(reader, field, format, shape);
  const offset = reader.u64();
  if (offset !== BigInt(expectedOffset)) {
    reader.fail(
      `${field} has offset ${offset}, expected ${expectedOffset} (the end of the one before, aligned)`,
    );
  }
  return { name, type: format.name, shape, offset: expectedOffset, sizeBytes };
}

function dimensionOf(reader: HeaderReader, field: string): number {
  const value = reader.u64();
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    reader.fail(`${field} has the dimension ${value}, out of range`);
  return Number(value);
}

function tensorBytes(reader: HeaderReader, field: string, format: NamedFormat, shape: number[]): number {
  const { name, blockLength } = format;
  const row = shape[0] ?? 1;
  if (row % blockLength !== 0) {
    reader.fail(`${field} of type ${name} has rows of ${row} elements, not a multiple of ${blockLength}`);
  }
  const elements = shape.reduce((product, dimension) => product * BigInt(dimension), 1n);
  // The data must lie in the file, so that no honest tensor is larger; this also keeps all sizes exact.
  if (elements > BigInt(reader.sizeBytes) * 8n) {
    reader.fail(
      `${field} of shape [${shape.join(", ")}] is larger than the file of ${reader.sizeBytes} bytes`,
    );
  }
  return bytesOfElements(format, Number(elements));
}

function placeTensor(tensor: GgufTensor, dataOffset: number, reader: HeaderReader): void {
  tensor.offset += dataOffset;
  if (tensor.offset + tensor.sizeBytes > reader.sizeBytes) {
    reader.fail(
      `data of tensor "${tensor.name}" ends at byte ${tensor.offset + tensor.sizeBytes}, the file has ${reader.sizeBytes}`,
    );
  }
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
