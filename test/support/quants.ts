/**
 * The stored formats in float64, block by block, written from the description of the file format and from nothing in
 * src/ or shaders/: the reference that the kernels are judged by. Also random blocks whose scales are sane.
 */
import type { Random } from "../../src/base.ts";

export interface QuantReference {
  name: string;
  blockLen: number;
  blockBytes: number;
  /** The values of the block that begins at `offset`. */
  decode(view: DataView, offset: number): number[];
  /** Byte offsets of f16 fields, which random bytes could make infinite or huge. */
  halfFields: readonly number[];
}

const IQ4_TABLE = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const FP4_TABLE = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/** IEEE half to number, by the definition. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The nearest IEEE half, ties to even. */
export function numberToHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(size)) return 0x7e00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size === 0 ? 2 ** -24 : size)));
  const step = 2 ** (Math.max(exponent, -14) - 10);
  const units = roundHalfEven(size / step);
  const bits = units >= 1024 ? ((exponent + 14) << 10) + units : units;
  return sign | Math.min(bits, 0x7c00);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** A number rounded to f16. */
export function roundToHalf(value: number): number {
  return halfToNumber(numberToHalf(value));
}

function half(view: DataView, offset: number): number {
  return halfToNumber(view.getUint16(offset, true));
}

/** 32 nibbles at `offset`: low nibbles are values 0 to 15, high nibbles 16 to 31. */
function nibbles(view: DataView, offset: number): number[] {
  const bytes = Array.from({ length: 16 }, (_, j) => view.getUint8(offset + j));
  return [...bytes.map((byte) => byte & 15), ...bytes.map((byte) => byte >> 4)];
}

function fifthBits(view: DataView, offset: number): number[] {
  const bits = view.getUint32(offset, true);
  return Array.from({ length: 32 }, (_, j) => ((bits >>> j) & 1) << 4);
}

function q4k(view: DataView, at: number, quants: number, high?: number): number[] {
  const d = half(view, at);
  const dmin = half(view, at + 2);
  const s = Array.from({ length: 12 }, (_, index) => view.getUint8(at + 4 + index));
  const out: number[] = [];
  for (let g = 0; g < 8; g++) {
    const a = s[g] as number;
    const b = s[g + 4] as number;
    const scale = g < 4 ? a & 63 : (b & 15) | (((s[g - 4] as number) >> 6) << 4);
    const minimum = g < 4 ? b & 63 : (b >> 4) | ((a >> 6) << 4);
    for (let l = 0; l < 32; l++) {
      const byte = view.getUint8(quants + (g >> 1) * 32 + l);
      let q = g % 2 ? byte >> 4 : byte & 15;
      if (high !== undefined && (view.getUint8(high + l) >> g) & 1) q += 16;
      out.push(d * scale * q - dmin * minimum);
    }
  }
  return out;
}

function q6k(view: DataView, at: number): number[] {
  const d = half(view, at + 208);
  const out = new Array<number>(256).fill(0);
  for (let h = 0; h < 2; h++) {
    for (let l = 0; l < 32; l++) {
      const a = view.getUint8(at + h * 64 + l);
      const b = view.getUint8(at + h * 64 + 32 + l);
      const c = view.getUint8(at + 128 + h * 32 + l);
      const q = [
        (a & 15) | ((c & 3) << 4),
        (b & 15) | (((c >> 2) & 3) << 4),
        (a >> 4) | (((c >> 4) & 3) << 4),
        (b >> 4) | (((c >> 6) & 3) << 4),
      ];
      for (let t = 0; t < 4; t++) {
        const scale = view.getInt8(at + 192 + h * 8 + 2 * t + (l >> 4));
        out[h * 128 + t * 32 + l] = d * scale * ((q[t] as number) - 32);
      }
    }
  }
  return out;
}

function q2k(view: DataView, at: number): number[] {
  const d = half(view, at + 80);
  const dmin = half(view, at + 82);
  const out: number[] = [];
  for (let g = 0; g < 16; g++) {
    const s = view.getUint8(at + g);
    for (let l = 0; l < 16; l++) {
      const byte = view.getUint8(at + 16 + (g >> 3) * 32 + (g & 1) * 16 + l);
      const q = (byte >> (2 * ((g & 7) >> 1))) & 3;
      out.push(d * (s & 15) * q - dmin * (s >> 4));
    }
  }
  return out;
}

function q3k(view: DataView, at: number): number[] {
  const d = half(view, at + 108);
  const sc = Array.from({ length: 12 }, (_, index) => view.getUint8(at + 96 + index));
  const out: number[] = [];
  for (let g = 0; g < 16; g++) {
    const low = g < 8 ? (sc[g] as number) & 15 : (sc[g - 8] as number) >> 4;
    const scale = low | ((((sc[8 + (g & 3)] as number) >> (2 * (g >> 2))) & 3) << 4);
    for (let l = 0; l < 16; l++) {
      const index = (g & 1) * 16 + l;
      const byte = view.getUint8(at + 32 + (g >> 3) * 32 + index);
      const mask = (view.getUint8(at + index) >> ((g >> 3) * 4 + ((g & 7) >> 1))) & 1;
      const q = ((byte >> (2 * ((g & 7) >> 1))) & 3) - (mask ? 0 : 4);
      out.push(d * (scale - 32) * q);
    }
  }
  return out;
}

function iq4xs(view: DataView, at: number): number[] {
  const d = half(view, at);
  const top = view.getUint16(at + 2, true);
  const out: number[] = [];
  for (let g = 0; g < 8; g++) {
    const low = (view.getUint8(at + 4 + (g >> 1)) >> (4 * (g & 1))) & 15;
    const scale = low | (((top >> (2 * g)) & 3) << 4);
    for (const q of nibbles(view, at + 8 + g * 16)) out.push(d * (scale - 32) * (IQ4_TABLE[q] as number));
  }
  return out;
}

function bfloat(view: DataView, at: number): number {
  const word = new DataView(new ArrayBuffer(4));
  word.setUint32(0, view.getUint16(at, true) << 16);
  return word.getFloat32(0);
}

type Row = [string, number, number, readonly number[], (view: DataView, at: number) => number[]];

const TABLE: Row[] = [
  ["F32", 1, 4, [], (v, o) => [v.getFloat32(o, true)]],
  ["F16", 1, 2, [0], (v, o) => [half(v, o)]],
  ["BF16", 1, 2, [], (v, o) => [bfloat(v, o)]],
  ["Q4_0", 32, 18, [0], (v, o) => nibbles(v, o + 2).map((q) => half(v, o) * (q - 8))],
  ["Q4_1", 32, 20, [0, 2], (v, o) => nibbles(v, o + 4).map((q) => half(v, o) * q + half(v, o + 2))],
  [
    "Q5_0",
    32,
    22,
    [0],
    (v, o) => {
      const fifth = fifthBits(v, o + 2);
      return nibbles(v, o + 6).map((q, j) => half(v, o) * ((q | (fifth[j] as number)) - 16));
    },
  ],
  [
    "Q5_1",
    32,
    24,
    [0, 2],
    (v, o) => {
      const fifth = fifthBits(v, o + 4);
      return nibbles(v, o + 8).map((q, j) => half(v, o) * (q | (fifth[j] as number)) + half(v, o + 2));
    },
  ],
  ["Q8_0", 32, 34, [0], (v, o) => Array.from({ length: 32 }, (_, j) => half(v, o) * v.getInt8(o + 2 + j))],
  ["Q2_K", 256, 84, [80, 82], q2k],
  ["Q3_K", 256, 110, [108], q3k],
  ["Q4_K", 256, 144, [0, 2], (v, o) => q4k(v, o, o + 16)],
  ["Q5_K", 256, 176, [0, 2], (v, o) => q4k(v, o, o + 48, o + 16)],
  ["Q6_K", 256, 210, [208], q6k],
  ["IQ4_NL", 32, 18, [0], (v, o) => nibbles(v, o + 2).map((q) => half(v, o) * (IQ4_TABLE[q] as number))],
  ["IQ4_XS", 256, 136, [0], iq4xs],
  [
    "MXFP4",
    32,
    17,
    [],
    (v, o) => nibbles(v, o + 1).map((q) => 2 ** (v.getUint8(o) - 128) * (FP4_TABLE[q] as number)),
  ],
];

/** Every stored format. */
export const QUANT_REFERENCES: readonly QuantReference[] = TABLE.map(
  ([name, blockLen, blockBytes, halfFields, decode]) => ({ name, blockLen, blockBytes, halfFields, decode }),
);

export function quantReference(name: string): QuantReference {
  const found = QUANT_REFERENCES.find((each) => each.name === name);
  if (!found) throw new Error(`no reference for format ${name}`);
  return found;
}

/** The values of a whole tensor as it stands in a file. */
export function dequantise(reference: QuantReference, bytes: Uint8Array): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blocks = bytes.byteLength / reference.blockBytes;
  const out = new Float64Array(blocks * reference.blockLen);
  for (let block = 0; block < blocks; block++) {
    out.set(reference.decode(view, block * reference.blockBytes), block * reference.blockLen);
  }
  return out;
}

/** Bytes of random blocks: every bit random, but scales are finite, of both signs and of a size that f16 products can bear. */
export function randomBlocks(reference: QuantReference, blocks: number, random: Random): Uint8Array {
  const bytes = new Uint8Array(blocks * reference.blockBytes);
  for (let index = 0; index < bytes.length; index++) bytes[index] = random.below(256);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const at = block * reference.blockBytes;
    // Blocks of 256 multiply by an integer scale as well.
    const size = (random.below(10) === 0 ? 0.5 : 0.05) / (reference.blockLen === 256 ? 16 : 1);
    for (const field of reference.halfFields) {
      view.setUint16(at + field, numberToHalf(random.normal() * size), true);
    }
    if (reference.name === "F32") view.setFloat32(at, random.normal() * size, true);
    if (reference.name === "BF16") view.setUint8(at + 1, 0x3c + random.below(4) + 0x80 * random.below(2));
    if (reference.name === "MXFP4") view.setUint8(at, 118 + random.below(10));
  }
  return bytes;
}
