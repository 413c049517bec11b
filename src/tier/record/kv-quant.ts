/**
 * KV at rest in 8 or 4 bits, as KIVI stores it (2402.02750): keys per channel, since a few key channels are outliers in
 * every token, in groups of the block's tokens; values per token, in groups of 32 channels. Asymmetric: each group has a
 * minimum and a scale, kept as float16. The error of a value is at most half its group's scale, plus the rounding of the
 * minimum to float16 (2^-11 of it).
 * It does not quantise snapshots, and gives up (undefined) on payloads with values that float16 cannot hold: those are
 * stored raw.
 *
 * Payload: for each layer the keys [kvHeads][blockTokens][headDim], then the values in the same order.
 * Quantised payload: header of 32 bytes (magic, bits, dtype, layers, kvHeads, headDim, blockTokens: u32 each), then the
 * groups' (minimum, scale) as float16 pairs in the order of the layers, keys before values, then all codes in the
 * payload's own order, with 4-bit codes two to a byte, low half first. It needs no layout to be read.
 */
import { assert } from "../../base.ts";

export type KvDtype = "f32" | "f16";
export type KvBits = 8 | 4;

export interface KvLayout {
  layers: number;
  kvHeads: number;
  headDim: number;
  blockTokens: number;
  dtype: KvDtype;
}

/** Channels of one token that share a scale, for values. */
export const VALUE_GROUP_CHANNELS = 32;

const MAGIC = 0x51564b54; // "TKVQ"
const HEADER_BYTES = 32;
const DTYPES: readonly KvDtype[] = ["f32", "f16"];

/** Bytes of an unquantised payload. */
export function kvBytes(layout: KvLayout): number {
  return valueCount(layout) * (layout.dtype === "f32" ? 4 : 2);
}

function valueCount({ layers, kvHeads, headDim, blockTokens }: KvLayout): number {
  return 2 * layers * kvHeads * headDim * blockTokens;
}

/** Where one group's values lie: `count` of them from `start`, `stride` apart. */
interface Group {
  start: number;
  stride: number;
  count: number;
}

/** All groups, in the order in which their scales are stored. */
function* groupsOf(layout: KvLayout): Generator<Group> {
  const { layers, kvHeads, headDim, blockTokens } = layout;
  const headValues = blockTokens * headDim;
  for (let head = 0; head < 2 * layers * kvHeads; head++) {
    const isKeys = Math.floor(head / kvHeads) % 2 === 0;
    const start = head * headValues;
    if (isKeys) yield* keyGroups(start, headDim, blockTokens);
    else yield* valueGroups(start, headDim, blockTokens);
  }
}

function* keyGroups(start: number, headDim: number, blockTokens: number): Generator<Group> {
  for (let channel = 0; channel < headDim; channel++) {
    yield { start: start + channel, stride: headDim, count: blockTokens };
  }
}

function* valueGroups(start: number, headDim: number, blockTokens: number): Generator<Group> {
  for (let token = 0; token < blockTokens; token++) {
    for (let channel = 0; channel < headDim; channel += VALUE_GROUP_CHANNELS) {
      const count = Math.min(VALUE_GROUP_CHANNELS, headDim - channel);
      yield { start: start + token * headDim + channel, stride: 1, count };
    }
  }
}

function groupCount({ layers, kvHeads, headDim, blockTokens }: KvLayout): number {
  return layers * kvHeads * (headDim + blockTokens * Math.ceil(headDim / VALUE_GROUP_CHANNELS));
}

/** Bytes of a quantised payload. */
export function quantisedKvBytes(layout: KvLayout, bits: KvBits): number {
  return HEADER_BYTES + 4 * groupCount(layout) + Math.ceil((valueCount(layout) * bits) / 8);
}

/** Quantises a payload; undefined if a value is not finite or too large for float16. */
export function quantiseKv(payload: Uint8Array, layout: KvLayout, bits: KvBits): Uint8Array | undefined {
  assert(payload.length === kvBytes(layout), `payload has ${payload.length} bytes, not ${kvBytes(layout)}`);
  const values = toFloats(payload, layout.dtype);
  const out = new Uint8Array(quantisedKvBytes(layout, bits));
  writeHeader(out, layout, bits);
  const scales = new Uint16Array(out.buffer, HEADER_BYTES, 2 * groupCount(layout));
  const codes = new Uint8Array(values.length);
  const levels = 2 ** bits - 1;
  let at = 0;
  for (const group of groupsOf(layout)) {
    const range = quantiseGroup(values, codes, group, levels);
    if (range === undefined) return undefined;
    scales[at++] = range.minimum;
    scales[at++] = range.scale;
  }
  out.set(bits === 8 ? codes : packNibbles(codes), HEADER_BYTES + 4 * groupCount(layout));
  return out;
}

function writeHeader(out: Uint8Array, layout: KvLayout, bits: KvBits): void {
  const { layers, kvHeads, headDim, blockTokens, dtype } = layout;
  const fields = [MAGIC, bits, DTYPES.indexOf(dtype), layers, kvHeads, headDim, blockTokens];
  new Uint32Array(out.buffer, 0, fields.length).set(fields);
}

/** Codes one group against the rounded minimum and scale, which are returned as float16 bits. */
function quantiseGroup(
  values: Float32Array,
  codes: Uint8Array,
  { start, stride, count }: Group,
  levels: number,
): { minimum: number; scale: number } | undefined {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < count; i++) {
    const value = values[start + i * stride] as number;
    if (!(Math.abs(value) <= 65504)) return undefined;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const minimum = floatToHalf(low);
  const base = halfToFloat(minimum);
  const scale = halfAtLeast((high - base) / levels);
  const step = halfToFloat(scale);
  for (let i = 0; i < count; i++) {
    const index = start + i * stride;
    const code = step === 0 ? 0 : Math.round(((values[index] as number) - base) / step);
    codes[index] = Math.min(levels, Math.max(0, code));
  }
  return { minimum, scale };
}

/** The least float16 that is not below `value`, so that the group's maximum is within reach. */
function halfAtLeast(value: number): number {
  if (value <= 0) return 0;
  const bits = floatToHalf(value);
  return halfToFloat(bits) < value ? bits + 1 : bits;
}

function packNibbles(codes: Uint8Array): Uint8Array {
  const packed = new Uint8Array(Math.ceil(codes.length / 2));
  for (let i = 0; i < packed.length; i++) packed[i] = (codes[2 * i] ?? 0) | ((codes[2 * i + 1] ?? 0) << 4);
  return packed;
}

/** What a quantised payload says of itself; undefined if it cannot be one. */
function quantisedKvLayout(bytes: Uint8Array): { layout: KvLayout; bits: KvBits } | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const fields = new Uint32Array(bytes.slice(0, HEADER_BYTES).buffer);
  const [magic, bits, dtypeIndex, layers = 0, kvHeads = 0, headDim = 0, blockTokens = 0] = fields;
  const dtype = DTYPES[dtypeIndex ?? -1];
  if (magic !== MAGIC || (bits !== 8 && bits !== 4) || dtype === undefined) return undefined;
  const layout = { layers, kvHeads, headDim, blockTokens, dtype };
  return quantisedKvBytes(layout, bits) === bytes.length ? { layout, bits } : undefined;
}

/** The payload that was quantised, in its own dtype; undefined if `bytes` is no quantised payload. */
export function dequantiseKv(bytes: Uint8Array): Uint8Array | undefined {
  const found = quantisedKvLayout(bytes);
  if (found === undefined) return undefined;
  const { layout, bits } = found;
  const scaleBytes = 4 * groupCount(layout);
  const codesAt = HEADER_BYTES + scaleBytes;
  const scales = new Uint16Array(bytes.slice(HEADER_BYTES, codesAt).buffer);
  const values = new Float32Array(valueCount(layout));
  let at = 0;
  for (const { start, stride, count } of groupsOf(layout)) {
    const minimum = halfToFloat(scales[at++] as number);
    const scale = halfToFloat(scales[at++] as number);
    for (let i = 0; i < count; i++) {
      const index = start + i * stride;
      values[index] = minimum + scale * codeAt(bytes, codesAt, index, bits);
    }
  }
  return fromFloats(values, layout.dtype);
}

function codeAt(bytes: Uint8Array, codesAt: number, index: number, bits: KvBits): number {
  if (bits === 8) return bytes[codesAt + index] as number;
  return ((bytes[codesAt + (index >> 1)] as number) >> (4 * (index & 1))) & 15;
}

function toFloats(payload: Uint8Array, dtype: KvDtype): Float32Array {
  const aligned = payload.byteOffset % 4 === 0 ? payload : payload.slice();
  if (dtype === "f32") return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
  return Float32Array.from(halves, halfToFloat);
}

function fromFloats(values: Float32Array, dtype: KvDtype): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.buffer);
  return new Uint8Array(Uint16Array.from(values, floatToHalf).buffer);
}

let halfTable: Float32Array | undefined;

/** float16 bits to a number. The 65,536 values are computed once (256 KiB). */
export function halfToFloat(bits: number): number {
  halfTable ??= Float32Array.from({ length: 0x10000 }, (_, half) => computeHalf(half));
  return halfTable[bits] as number;
}

function computeHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** A number to the nearest float16, ties to even. */
export function floatToHalf(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0] as number;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to infinity
  if (magnitude < 0x38800000) return sign | roundEven(Math.abs(scratchFloat[0]) * 2 ** 24); // subnormal
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest === 0.5) return floor + (floor & 1);
  return rest > 0.5 ? floor + 1 : floor;
}
