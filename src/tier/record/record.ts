/**
 * The one record format: the KV of a block, or a snapshot, at rest. Pure: bytes in, bytes out.
 * A record that fails any check is a miss with a reason, never an exception; only a caller's wrong draft is asserted.
 * It does not know where records lie (segments.ts) nor what their payload means (kv-quant.ts, model/).
 *
 * Layout, little-endian; the header's length is a multiple of 16, so that the payload is aligned:
 *
 *     0 magic u32        4 version u8      5 coarsest u8    6 kind u8        7 encoding u8
 *     8 headerBytes u32 12 payloadBytes u32
 *    16 key [16]        32 parentKey [16]  48 fingerprint [16]  64 namespaceHash [16]
 *    80 blockIndex u32  84 tokenCount u32  88 createdAtMs f64   96 expiresAtMs f64 (0: never)
 *   104 rebuildCost f64 112 payload checksum [16]
 *   128 token ids u32 [tokenCount], zero padding, header checksum [16] | payload
 */
import { assert } from "../../base.ts";
import { CHECKSUM_BYTES, checksum, sameBytes } from "./checksum.ts";
import { bytesToHex, hexToBytes, namespaceHashOf, recordKey, type Key, type RecordKind } from "./keys.ts";

const RECORD_MAGIC = 0x564b5054; // "TPKV"
export const FORMAT_VERSION = 3;
export const MAX_RECORD_TOKENS = 1 << 20;

const FIXED_BYTES = 128;
const PAYLOAD_CHECKSUM_AT = 112;

/** How the payload is stored: as given, a state in f16 (state-half.ts), or quantised (kv-quant.ts). */
export type Encoding = "raw" | "half" | "kivi8" | "kivi4";

const KINDS: readonly RecordKind[] = ["block", "snapshot"];
/** The finest first. */
const ENCODINGS: readonly Encoding[] = ["raw", "half", "kivi8", "kivi4"];

/** Why a look-up gave nothing. The first group comes from the record itself, the second from where it should have been. */
export const MISS_REASONS = [
  "short", // fewer bytes than the header says
  "magic", // not a record
  "version", // another format version
  "header", // header checksum, or fields that cannot be
  "payload", // payload checksum
  "key", // the content does not hash to the key, or it is another record
  "fingerprint", // another model
  "tokens", // other token ids
  "expired",
  "encoding", // stored coarser than this store accepts, or computed from what was
  "absent", // not stored
  "gone", // indexed, but its bytes have vanished
  "io", // the medium failed
  "busy", // too many reads are waiting
  "closed", // the store is closed
] as const;
export type MissReason = (typeof MISS_REASONS)[number];

/** What an index knows of a record without reading it. */
export interface RecordInfo {
  key: Key;
  parentKey: Key;
  kind: RecordKind;
  fingerprint: Key;
  namespaceHash: Key;
  /** Position of the block in its chain, from 0. */
  blockIndex: number;
  tokenCount: number;
  encoding: Encoding;
  /** The coarsest encoding of this record and of all that it was computed from: "raw" is exact. */
  coarsest: Encoding;
  /** Bytes of the whole record, header and payload. */
  bytes: number;
  /** Milliseconds since 1970. */
  createdAtMs: number;
  /** Milliseconds since 1970; 0 is never. */
  expiresAtMs: number;
  /** What it takes to compute it again, in any unit that all records of a store share (FLOPs, say). */
  rebuildCost: number;
}

/** A record read back and checked. `payload` is a view that must not be written to. */
export interface StoredRecord extends RecordInfo {
  tokens: Uint32Array;
  payload: Uint8Array;
}

/** What a caller gives to have a record made. */
export interface RecordDraft {
  kind: RecordKind;
  parentKey: Key;
  fingerprint: Key;
  namespace: string;
  blockIndex: number;
  tokens: ArrayLike<number>;
  payload: Uint8Array;
  /**
   * The payload ends a buffer of its own that begins with headerBytesOf(tokens.length) free bytes: the record is made in
   * that buffer, which changes hands, instead of a copy. Default false.
   */
  hasHeaderRoom?: boolean;
  encoding?: Encoding;
  /** Default: as `encoding`. */
  coarsest?: Encoding;
  createdAtMs?: number;
  expiresAtMs?: number;
  rebuildCost?: number;
}

export type Decoded = { ok: true; record: StoredRecord } | { ok: false; reason: MissReason };

/** Bytes of the header of a record with this many token ids. */
export function headerBytesOf(tokenCount: number): number {
  return FIXED_BYTES + 16 * Math.ceil((4 * tokenCount) / 16) + CHECKSUM_BYTES;
}

/** The record's bytes. Its key follows from kind, parent and tokens: recordKey(), for those who have it already. */
export function encodeRecord(
  draft: RecordDraft,
  key: Key = recordKey(draft.kind, draft.parentKey, draft.tokens),
): Uint8Array {
  const tokens = Uint32Array.from(draft.tokens);
  assert(tokens.length <= MAX_RECORD_TOKENS, `a record holds at most ${MAX_RECORD_TOKENS} tokens`);
  const headerBytes = headerBytesOf(tokens.length);
  const bytes = withHeaderRoom(draft, headerBytes);
  writeFixed(bytes, draft, tokens, key);
  bytes.set(checksum(bytes.subarray(headerBytes)), PAYLOAD_CHECKSUM_AT);
  bytes.set(new Uint8Array(tokens.buffer), FIXED_BYTES);
  const end = headerBytes - CHECKSUM_BYTES;
  bytes.set(checksum(bytes.subarray(0, end)), end);
  return bytes;
}

function withHeaderRoom({ payload, hasHeaderRoom }: RecordDraft, headerBytes: number): Uint8Array {
  if (hasHeaderRoom === true) {
    const { buffer, byteOffset, length } = payload;
    assert(
      byteOffset === headerBytes && buffer.byteLength === headerBytes + length,
      `a payload with room for its header begins at ${headerBytes}, not ${byteOffset}, and ends its buffer`,
    );
    return new Uint8Array(buffer);
  }
  const bytes = new Uint8Array(headerBytes + payload.length);
  bytes.set(payload, headerBytes);
  return bytes;
}

function writeFixed(bytes: Uint8Array, draft: RecordDraft, tokens: Uint32Array, key: Key): void {
  const view = new DataView(bytes.buffer);
  view.setUint32(0, RECORD_MAGIC, true);
  view.setUint8(4, FORMAT_VERSION);
  view.setUint8(5, encodingCode(coarserOf(draft.encoding, draft.coarsest)));
  view.setUint8(6, KINDS.indexOf(draft.kind) + 1);
  view.setUint8(7, ENCODINGS.indexOf(draft.encoding ?? "raw") + 1);
  view.setUint32(8, headerBytesOf(tokens.length), true);
  view.setUint32(12, draft.payload.length, true);
  bytes.set(hexToBytes(key), 16);
  bytes.set(hexToBytes(draft.parentKey), 32);
  bytes.set(hexToBytes(draft.fingerprint), 48);
  bytes.set(hexToBytes(namespaceHashOf(draft.namespace)), 64);
  view.setUint32(80, draft.blockIndex, true);
  view.setUint32(84, tokens.length, true);
  view.setFloat64(88, draft.createdAtMs ?? 0, true);
  view.setFloat64(96, draft.expiresAtMs ?? 0, true);
  view.setFloat64(104, Math.fround(draft.rebuildCost ?? draft.blockIndex + 1), true); // segment logs keep 32 bits of it
}

/**
 * What a header says, without the checksums: for the bytes that this process has itself encoded.
 * Anything from outside goes through decodeRecord.
 */
export function infoOf(bytes: Uint8Array): RecordInfo {
  assert(bytes.length >= FIXED_BYTES, "infoOf needs a whole record");
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return {
    key: bytesToHex(bytes.subarray(16, 32)),
    parentKey: bytesToHex(bytes.subarray(32, 48)),
    kind: KINDS[view.getUint8(6) - 1] ?? "block",
    fingerprint: bytesToHex(bytes.subarray(48, 64)),
    namespaceHash: bytesToHex(bytes.subarray(64, 80)),
    blockIndex: view.getUint32(80, true),
    tokenCount: view.getUint32(84, true),
    encoding: ENCODINGS[view.getUint8(7) - 1] ?? "raw",
    coarsest: ENCODINGS[view.getUint8(5) - 1] ?? "kivi4",
    bytes: bytes.length,
    createdAtMs: view.getFloat64(88, true),
    expiresAtMs: view.getFloat64(96, true),
    rebuildCost: view.getFloat64(104, true),
  };
}

export interface DecodeOptions {
  /** False for bytes that never left this process's memory: the checksums and the key are then believed. */
  verify?: boolean;
}

/** Reads a record and checks everything that can be checked without knowing what was asked for. */
export function decodeRecord(bytes: Uint8Array, options: DecodeOptions = {}): Decoded {
  const fault = shapeFault(bytes) ?? (options.verify === false ? undefined : contentFault(bytes));
  if (fault !== undefined) return { ok: false, reason: fault };
  const info = infoOf(bytes);
  const headerBytes = headerBytesOf(info.tokenCount);
  return { ok: true, record: { ...info, tokens: tokensOf(bytes), payload: bytes.subarray(headerBytes) } };
}

function tokensOf(bytes: Uint8Array): Uint32Array {
  const count = new DataView(bytes.buffer, bytes.byteOffset).getUint32(84, true);
  return new Uint32Array(bytes.slice(FIXED_BYTES, FIXED_BYTES + 4 * count).buffer);
}

/** Magic, version and lengths: enough to read the fields without leaving the buffer. */
function shapeFault(bytes: Uint8Array): MissReason | undefined {
  if (bytes.length < FIXED_BYTES + CHECKSUM_BYTES) return "short";
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(0, true) !== RECORD_MAGIC) return "magic";
  if (view.getUint8(4) !== FORMAT_VERSION) return "version";
  const tokenCount = view.getUint32(84, true);
  if (tokenCount > MAX_RECORD_TOKENS) return "header";
  const headerBytes = view.getUint32(8, true);
  if (headerBytes !== headerBytesOf(tokenCount)) return "header";
  if (bytes.length !== headerBytes + view.getUint32(12, true)) return "short";
  return undefined;
}

/** Both checksums, the fields' ranges, and whether the content hashes to the key. */
function contentFault(bytes: Uint8Array): MissReason | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const headerBytes = view.getUint32(8, true);
  const end = headerBytes - CHECKSUM_BYTES;
  if (!sameBytes(checksum(bytes.subarray(0, end)), bytes.subarray(end, headerBytes))) return "header";
  if (KINDS[view.getUint8(6) - 1] === undefined) return "header";
  const [encoding, coarsest] = [view.getUint8(7), view.getUint8(5)].map(encodingOf);
  if (encoding === undefined || coarsest === undefined) return "header";
  if (coarseness(coarsest) < coarseness(encoding)) return "header";
  const expected = bytes.subarray(PAYLOAD_CHECKSUM_AT, PAYLOAD_CHECKSUM_AT + CHECKSUM_BYTES);
  if (!sameBytes(checksum(bytes.subarray(headerBytes)), expected)) return "payload";
  const info = infoOf(bytes);
  return recordKey(info.kind, info.parentKey, tokensOf(bytes)) === info.key ? undefined : "key";
}

/** What the asker knows about the record it wants; each given field is compared. */
export interface Expected {
  key: Key;
  fingerprint?: Key;
  tokens?: ArrayLike<number>;
  /** Milliseconds since 1970, to judge expiry. */
  nowMs: number;
}

/** Whether a sound record is the one that was asked for. */
export function mismatchOf(record: StoredRecord, expected: Expected): MissReason | undefined {
  if (record.key !== expected.key) return "key";
  if (expected.fingerprint !== undefined && record.fingerprint !== expected.fingerprint) return "fingerprint";
  if (expected.tokens !== undefined && !sameTokens(record.tokens, expected.tokens)) return "tokens";
  return isExpired(record, expected.nowMs) ? "expired" : undefined;
}

export function isExpired(info: Pick<RecordInfo, "expiresAtMs">, nowMs: number): boolean {
  return info.expiresAtMs !== 0 && info.expiresAtMs <= nowMs;
}

function sameTokens(a: Uint32Array, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** How coarse an encoding is; a store accepts those up to its own setting. */
export function coarseness(encoding: Encoding): number {
  return ENCODINGS.indexOf(encoding);
}

/** The coarser of two encodings; one that is absent is "raw". */
export function coarserOf(a: Encoding = "raw", b: Encoding = "raw"): Encoding {
  return coarseness(a) < coarseness(b) ? b : a;
}

/** The byte that stands for an encoding or a kind in segment logs; 0 is none. */
export const encodingCode = (encoding: Encoding): number => ENCODINGS.indexOf(encoding) + 1;
export const encodingOf = (code: number): Encoding | undefined => ENCODINGS[code - 1];
export const kindCode = (kind: RecordKind): number => KINDS.indexOf(kind) + 1;
export const kindOf = (code: number): RecordKind | undefined => KINDS[code - 1];
