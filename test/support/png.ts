/**
 * Screenshots as small as they get without changing a pixel: rows are stored unfiltered, which suits flat pages better than
 * what browsers write, and packed again. Only 8-bit RGB and RGBA without interlacing, as browsers make them.
 */
import { crc32, deflateSync, inflateSync } from "node:zlib";

const SIGNATURE_BYTES = 8;
/** Length, type and checksum of a chunk. */
const FRAME_BYTES = 12;
const BYTES_PER_PIXEL: Record<number, number> = { 2: 3, 6: 4 };

interface Chunk {
  type: string;
  data: Buffer;
}

export function packPng(png: Buffer): Buffer {
  const chunks = chunksOf(png);
  const header = chunks.find(({ type }) => type === "IHDR")?.data;
  const pixelBytes = BYTES_PER_PIXEL[header?.[9] ?? -1];
  if (!header || header[8] !== 8 || header[12] !== 0 || pixelBytes === undefined)
    throw new Error("the PNG is not 8-bit RGB or RGBA without interlacing");
  const filtered = inflateSync(Buffer.concat(chunks.filter(isPixels).map(({ data }) => data)));
  const plain = unfiltered(filtered, header.readUInt32BE(0) * pixelBytes, pixelBytes);
  const packed = { type: "IDAT", data: deflateSync(plain, { level: 9, memLevel: 9 }) };
  const first = chunks.findIndex(isPixels);
  const others = chunks.filter((chunk) => !isPixels(chunk));
  const written = [...others.slice(0, first), packed, ...others.slice(first)].map(framed);
  return Buffer.concat([png.subarray(0, SIGNATURE_BYTES), ...written]);
}

const isPixels = ({ type }: Chunk): boolean => type === "IDAT";

function chunksOf(png: Buffer): Chunk[] {
  const chunks: Chunk[] = [];
  for (let at = SIGNATURE_BYTES; at < png.length;) {
    const bytes = png.readUInt32BE(at);
    chunks.push({ type: png.toString("latin1", at + 4, at + 8), data: png.subarray(at + 8, at + 8 + bytes) });
    at += bytes + FRAME_BYTES;
  }
  return chunks;
}

/** The same rows with filter 0 (PNG specification, section 9). */
function unfiltered(rows: Buffer, rowBytes: number, pixelBytes: number): Buffer {
  const plain = Buffer.alloc(rows.length);
  for (let start = 0; start < rows.length; start += rowBytes + 1) {
    const filter = rows[start] ?? 0;
    for (let i = 1; i <= rowBytes; i++) {
      const at = start + i;
      const left = i > pixelBytes ? (plain[at - pixelBytes] ?? 0) : 0;
      const up = start > 0 ? (plain[at - rowBytes - 1] ?? 0) : 0;
      const corner = start > 0 && i > pixelBytes ? (plain[at - rowBytes - 1 - pixelBytes] ?? 0) : 0;
      plain[at] = (rows[at] ?? 0) + predicted(filter, left, up, corner);
    }
  }
  return plain;
}

function predicted(filter: number, left: number, up: number, corner: number): number {
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  return filter === 4 ? paeth(left, up, corner) : 0;
}

function paeth(left: number, up: number, corner: number): number {
  const sum = left + up - corner;
  const [byLeft, byUp, byCorner] = [Math.abs(sum - left), Math.abs(sum - up), Math.abs(sum - corner)];
  if (byLeft <= byUp && byLeft <= byCorner) return left;
  return byUp <= byCorner ? up : corner;
}

function framed({ type, data }: Chunk): Buffer {
  const frame = Buffer.alloc(FRAME_BYTES + data.length);
  frame.writeUInt32BE(data.length, 0);
  frame.write(type, 4, "latin1");
  data.copy(frame, 8);
  frame.writeUInt32BE(crc32(frame.subarray(4, 8 + data.length)), 8 + data.length);
  return frame;
}
