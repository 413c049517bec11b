/**
 * Writes GGUF and safetensors files in memory, for tests that make models on the fly; with overrides for every field, so that
 * malformed files can be made as well. It shares nothing with the readers in src/load, so that a mistake in one shows.
 * It checks nothing.
 */

/** Appends little-endian values. */
export class ByteWriter {
  private bytes = new Uint8Array(1024);
  length = 0;

  u8(value: number): this {
    return this.put(1, (view) => view.setUint8(0, value));
  }

  u16(value: number): this {
    return this.put(2, (view) => view.setUint16(0, value, true));
  }

  u32(value: number): this {
    return this.put(4, (view) => view.setUint32(0, value, true));
  }

  u64(value: number | bigint): this {
    return this.put(8, (view) => view.setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true));
  }

  f32(value: number): this {
    return this.put(4, (view) => view.setFloat32(0, value, true));
  }

  f64(value: number): this {
    return this.put(8, (view) => view.setFloat64(0, value, true));
  }

  raw(bytes: Uint8Array): this {
    const at = this.reserve(bytes.length);
    this.bytes.set(bytes, at);
    return this;
  }

  text(value: string): this {
    return this.raw(new TextEncoder().encode(value));
  }

  /** A GGUF string: u64 length and UTF-8. */
  string(value: string): this {
    const bytes = new TextEncoder().encode(value);
    return this.u64(bytes.length).raw(bytes);
  }

  align(alignment: number): this {
    return this.raw(new Uint8Array((alignment - (this.length % alignment)) % alignment));
  }

  finish(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }

  private put(bytes: number, set: (view: DataView) => void): this {
    const at = this.reserve(bytes);
    set(new DataView(this.bytes.buffer, at, bytes));
    return this;
  }

  private reserve(bytes: number): number {
    const at = this.length;
    this.length += bytes;
    if (this.length > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, this.bytes.length * 2));
      larger.set(this.bytes);
      this.bytes = larger;
    }
    return at;
  }
}

const VALUE_TYPES = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

export type ValueType = Exclude<keyof typeof VALUE_TYPES, "array">;
type Scalar = number | bigint | boolean | string;

/** A value whose type is said, not guessed. An array where `value` is an array. */
export interface TypedValue {
  type: ValueType;
  value: Scalar | readonly Scalar[];
}

/** Plain values are written as bool, string, u32, i32 (negative) or f32 (fractional); arrays as string, i32 or f32. */
export type WriteValue = Scalar | readonly Scalar[] | Float32Array | Int32Array | TypedValue;

export function typed(type: ValueType, value: Scalar | readonly Scalar[]): TypedValue {
  return { type, value };
}

/** ggml's type ids, also of types that Tidepool refuses. */
export const GGML_TYPE_IDS: Readonly<Record<string, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q2_K: 10,
  Q3_K: 11,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
  IQ4_NL: 20,
  IQ4_XS: 23,
  I8: 24,
  I16: 25,
  I32: 26,
  F64: 28,
  BF16: 30,
  MXFP4: 39,
};

export interface GgufTensorInput {
  name: string;
  /** A name of GGML_TYPE_IDS, or an id. */
  type: string | number;
  /** The contiguous dimension first. */
  shape: readonly (number | bigint)[];
  data: Uint8Array;
  /** Overrides for malformed files. */
  offset?: number | bigint;
  dimensions?: number;
}

export interface GgufInput {
  /** An object, or pairs where keys repeat. */
  metadata?: Readonly<Record<string, WriteValue>> | readonly (readonly [string, WriteValue])[];
  tensors?: readonly GgufTensorInput[];
  /** Written as general.alignment where given; 32 where not. */
  alignment?: number;
  version?: number;
  /** Overrides for malformed files. */
  magic?: string;
  tensorCount?: number | bigint;
  keyCount?: number | bigint;
}

/** The bytes of a GGUF file. Tensor data is laid out in order, each padded to the alignment. */
export function writeGguf(input: GgufInput): Uint8Array<ArrayBuffer> {
  const tensors = input.tensors ?? [];
  const given = isPairs(input.metadata) ? input.metadata : Object.entries(input.metadata ?? {});
  const alignment = input.alignment ?? 32;
  const pairs: (readonly [string, WriteValue])[] =
    input.alignment === undefined ? [...given] : [...given, ["general.alignment", typed("u32", alignment)]];
  const writer = new ByteWriter();
  writer.text(input.magic ?? "GGUF").u32(input.version ?? 3);
  writer.u64(input.tensorCount ?? tensors.length).u64(input.keyCount ?? pairs.length);
  for (const [key, value] of pairs) writeValue(writer.string(key), value);
  let offset = 0;
  for (const tensor of tensors) {
    writeTensorInfo(writer, tensor, offset);
    offset += Math.ceil(tensor.data.length / alignment) * alignment;
  }
  writer.align(alignment);
  for (const tensor of tensors) writer.raw(tensor.data).align(alignment);
  return writer.finish();
}

function isPairs(metadata: GgufInput["metadata"]): metadata is readonly (readonly [string, WriteValue])[] {
  return Array.isArray(metadata);
}

function writeTensorInfo(writer: ByteWriter, tensor: GgufTensorInput, offset: number): void {
  writer.string(tensor.name).u32(tensor.dimensions ?? tensor.shape.length);
  for (const dimension of tensor.shape) writer.u64(dimension);
  const id = typeof tensor.type === "number" ? tensor.type : GGML_TYPE_IDS[tensor.type];
  if (id === undefined) throw new Error(`GGUF writer: no type ${tensor.type}`);
  writer.u32(id).u64(tensor.offset ?? offset);
}

function writeValue(writer: ByteWriter, value: WriteValue): void {
  const { type, value: plain } = isTyped(value) ? value : guess(value);
  if (!isList(plain)) {
    writeScalar(writer.u32(VALUE_TYPES[type]), type, plain);
    return;
  }
  writer.u32(VALUE_TYPES.array).u32(VALUE_TYPES[type]).u64(plain.length);
  for (const item of plain) writeScalar(writer, type, item);
}

function isTyped(value: WriteValue): value is TypedValue {
  return typeof value === "object" && "type" in value && "value" in value;
}

function isList(value: Scalar | readonly Scalar[]): value is readonly Scalar[] {
  return Array.isArray(value);
}

function guess(value: Exclude<WriteValue, TypedValue>): TypedValue {
  if (value instanceof Float32Array) return typed("f32", Array.from(value));
  if (value instanceof Int32Array) return typed("i32", Array.from(value));
  if (typeof value === "object") {
    if (typeof value[0] === "string") return typed("string", value);
    const whole = value.every((item) => Number.isInteger(item));
    return typed(typeof value[0] === "boolean" ? "bool" : whole ? "i32" : "f32", value);
  }
  return typed(guessScalar(value), value);
}

function guessScalar(value: Scalar): ValueType {
  if (typeof value === "boolean") return "bool";
  if (typeof value === "string") return "string";
  if (typeof value === "bigint") return "u64";
  if (!Number.isInteger(value)) return "f32";
  return value < 0 ? "i32" : "u32";
}

function writeScalar(writer: ByteWriter, type: ValueType, value: Scalar): void {
  if (type === "string") writer.string(String(value));
  else if (type === "u64" || type === "i64") writer.u64(value as number | bigint);
  else if (type === "f32") writer.f32(Number(value));
  else if (type === "f64") writer.f64(Number(value));
  else if (type === "u8" || type === "i8" || type === "bool") writer.u8(Number(value));
  else if (type === "u16" || type === "i16") writer.u16(Number(value));
  else writer.u32(Number(value));
}

export interface SafeTensorInput {
  name: string;
  /** F32, F16, BF16, I64, ... */
  dtype: string;
  /** In the file's own order: [out, in]. */
  shape: readonly number[];
  data: Uint8Array;
}

/** The bytes of a safetensors file, its header padded with spaces to 8 bytes. */
export function writeSafetensors(
  tensors: readonly SafeTensorInput[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  const data = new ByteWriter();
  for (const { name, dtype, shape, data: bytes } of tensors) {
    const begin = data.length;
    data.raw(bytes);
    header[name] = { dtype, shape, data_offsets: [begin, data.length] };
  }
  return safetensorsBytes(JSON.stringify(header), data.finish());
}

/** A safetensors file with the header text as given, for malformed ones. */
export function safetensorsBytes(
  header: string,
  data: Uint8Array = new Uint8Array(0),
  headerLength?: number | bigint,
): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(header);
  const padding = (8 - (bytes.length % 8)) % 8;
  return new ByteWriter()
    .u64(headerLength ?? bytes.length + padding)
    .raw(bytes)
    .text(" ".repeat(padding))
    .raw(data)
    .finish();
}

/** The bytes of float32 numbers. */
export function f32Bytes(values: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Float32Array.from(values).buffer);
}
