/**
 * The log of a segment: one fixed-size entry for each record committed to the segment's data file, or for each record
 * that was forgotten (a tombstone). A record exists once its entry is whole, so entries are written last. Fixed sizes let
 * a reader step over a damaged entry. Pure: no files here.
 *
 * Entry, 128 bytes, little-endian:
 *
 *     0 magic u32    4 version u16  6 type u8 (1 record, 2 tombstone)  7 kind u8   8 key [16]
 *    24 parentKey [16]             40 fingerprint [16]                56 namespaceHash [16]
 *    72 offset u32  76 bytes u32   80 blockIndex u32                  84 tokenCount u32
 *    88 createdAtMs f64            96 expiresAtMs f64                104 rebuildCost f32  108 encoding u8
 *   109 coarsest u8
 *   112 checksum [16]
 *
 * A tombstone has the target segment's writer at 24 (8 bytes), its number at 72 and the entry's index at 76.
 */
import { assert } from "../../base.ts";
import { CHECKSUM_BYTES, checksum, sameBytes } from "../record/checksum.ts";
import { bytesToHex, hexToBytes, type Key } from "../record/keys.ts";
import {
  encodingCode,
  encodingOf,
  FORMAT_VERSION,
  infoOf,
  kindCode,
  kindOf,
  type RecordInfo,
} from "../record/record.ts";

export const LOG_ENTRY_BYTES = 128;

const MAGIC = 0x45545054; // "TPTE"
const CHECKSUM_AT = LOG_ENTRY_BYTES - CHECKSUM_BYTES;

/** One entry of one segment's log, by place. */
export interface Target {
  segment: string;
  entryIndex: number;
}

export type LogEntry =
  { type: "record"; offset: number; info: RecordInfo } | { type: "tombstone"; key: Key; target: Target };

/** A segment's name: its writer (16 hexadecimal digits) and a number. */
export function segmentName(writer: string, number: number): string {
  return `${writer}-${number.toString(16).padStart(6, "0")}`;
}

const SEGMENT_FILE = /^([0-9a-f]{16})-([0-9a-f]{6,8})\.(data|trail)$/;

export interface SegmentFile {
  segment: string;
  writer: string;
  part: "data" | "trail";
}

/** Takes a file name apart; undefined for a file that is none of ours. */
export function parseSegmentFile(name: string): SegmentFile | undefined {
  const match = SEGMENT_FILE.exec(name);
  if (match === null) return undefined;
  const [, writer, number, part] = match as unknown as [string, string, string, "data" | "trail"];
  return { segment: `${writer}-${number}`, writer, part };
}

/** The writer to whom a file belongs, a segment's or a lock's; undefined for a file that is none of ours. */
export function writerOfFile(name: string): string | undefined {
  return /^([0-9a-f]{16})-[0-9a-f]+\.(data|trail|lock)$/.exec(name)?.[1];
}

/** The writer of a segment, from its name. */
export const writerOf = (segment: string): string => segment.slice(0, 16);

function seal(bytes: Uint8Array): Uint8Array {
  bytes.set(checksum(bytes.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
  return bytes;
}

function start(type: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(LOG_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, FORMAT_VERSION, true);
  view.setUint8(6, type);
  return { bytes, view };
}

/** The entry that commits an encoded record at `offset` of the data file. */
export function encodeRecordEntry(record: Uint8Array, offset: number): Uint8Array {
  const info = infoOf(record);
  assert(offset + record.length < 2 ** 32, "a segment stays below 4 GiB");
  const { bytes, view } = start(1);
  view.setUint8(7, kindCode(info.kind));
  bytes.set(record.subarray(16, 80), 8);
  view.setUint32(72, offset, true);
  view.setUint32(76, info.bytes, true);
  view.setUint32(80, info.blockIndex, true);
  view.setUint32(84, info.tokenCount, true);
  view.setFloat64(88, info.createdAtMs, true);
  view.setFloat64(96, info.expiresAtMs, true);
  view.setFloat32(104, info.rebuildCost, true);
  view.setUint8(108, encodingCode(info.encoding));
  view.setUint8(109, encodingCode(info.coarsest));
  return seal(bytes);
}

export function encodeTombstone(key: Key, target: Target): Uint8Array {
  const { bytes, view } = start(2);
  bytes.set(hexToBytes(key), 8);
  bytes.set(hexToBytes(writerOf(target.segment)), 24);
  view.setUint32(72, Number.parseInt(target.segment.slice(17), 16), true);
  view.setUint32(76, target.entryIndex, true);
  return seal(bytes);
}

/** Reads one entry; undefined if it fails any check. */
export function decodeLogEntry(bytes: Uint8Array): LogEntry | undefined {
  if (bytes.length !== LOG_ENTRY_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(0, true) !== MAGIC || view.getUint16(4, true) !== FORMAT_VERSION) return undefined;
  if (!sameBytes(checksum(bytes.subarray(0, CHECKSUM_AT)), bytes.subarray(CHECKSUM_AT))) return undefined;
  const type = view.getUint8(6);
  if (type === 1) return recordEntry(bytes, view);
  return type === 2 ? tombstoneEntry(bytes, view) : undefined;
}

function recordEntry(bytes: Uint8Array, view: DataView): LogEntry | undefined {
  const kind = kindOf(view.getUint8(7));
  const encoding = encodingOf(view.getUint8(108));
  const coarsest = encodingOf(view.getUint8(109));
  if (kind === undefined || encoding === undefined || coarsest === undefined) return undefined;
  const info: RecordInfo = {
    key: bytesToHex(bytes.subarray(8, 24)),
    parentKey: bytesToHex(bytes.subarray(24, 40)),
    kind,
    fingerprint: bytesToHex(bytes.subarray(40, 56)),
    namespaceHash: bytesToHex(bytes.subarray(56, 72)),
    blockIndex: view.getUint32(80, true),
    tokenCount: view.getUint32(84, true),
    encoding,
    coarsest,
    bytes: view.getUint32(76, true),
    createdAtMs: view.getFloat64(88, true),
    expiresAtMs: view.getFloat64(96, true),
    rebuildCost: view.getFloat32(104, true),
  };
  return { type: "record", offset: view.getUint32(72, true), info };
}

function tombstoneEntry(bytes: Uint8Array, view: DataView): LogEntry {
  const segment = segmentName(bytesToHex(bytes.subarray(24, 32)), view.getUint32(72, true));
  const target = { segment, entryIndex: view.getUint32(76, true) };
  return { type: "tombstone", key: bytesToHex(bytes.subarray(8, 24)), target };
}
