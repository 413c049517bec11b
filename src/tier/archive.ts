/**
 * A prefix as one file: a checked header and the records one after the other, each in the record format, so that an app
 * can ship its system prompt's KV as a static asset. Pure.
 * Its checksums find damage, not forgery: import only what you would also run as code.
 *
 *     0 magic u32  4 version u32  8 count u32  12 reserved u32  16 checksum of the rest [16]
 *    32 count times: length u32, padding to 16, record, padding to 16
 */
import { TidepoolError } from "../errors.ts";
import { CHECKSUM_BYTES, checksum, sameBytes } from "./checksum.ts";
import { recordKey, rootKey, type Key } from "./keys.ts";
import { decodeRecord, type MissReason, type RecordDraft, type StoredRecord } from "./record.ts";

const MAGIC = 0x52415054; // "TPAR"
const VERSION = 1;
const HEADER_BYTES = 32;
const LENGTH_BYTES = 16;

export interface ArchiveContent {
  /** In the archive's order, keyed anew for the importing namespace. */
  drafts: RecordDraft[];
  /** Records that failed a check, by reason. */
  rejected: Partial<Record<MissReason, number>>;
}

const padded = (bytes: number): number => 16 * Math.ceil(bytes / 16);

export function encodeArchive(records: readonly Uint8Array[]): Uint8Array {
  const total = records.reduce((sum, record) => sum + LENGTH_BYTES + padded(record.length), HEADER_BYTES);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setUint32(8, records.length, true);
  let at = HEADER_BYTES;
  for (const record of records) {
    view.setUint32(at, record.length, true);
    bytes.set(record, at + LENGTH_BYTES);
    at += LENGTH_BYTES + padded(record.length);
  }
  bytes.set(checksum(bytes.subarray(HEADER_BYTES)), HEADER_BYTES - CHECKSUM_BYTES);
  return bytes;
}

/**
 * Reads an archive. Blocks are chained anew from `namespace`'s root, so an asset made in one namespace serves another.
 * Throws TidepoolError "invalid_file" if it is no archive, of another version, or damaged as a whole.
 */
export function decodeArchive(bytes: Uint8Array, namespace: string): ArchiveContent {
  const count = archiveCount(bytes);
  const content: ArchiveContent = { drafts: [], rejected: {} };
  const moved = new Map<Key, Key>();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = HEADER_BYTES;
  for (let i = 0; i < count && at + LENGTH_BYTES <= bytes.length; i++) {
    const length = view.getUint32(at, true);
    const start = at + LENGTH_BYTES;
    const decoded = decodeRecord(bytes.subarray(start, start + length));
    if (decoded.ok) content.drafts.push(rekeyed(decoded.record, namespace, moved));
    else content.rejected[decoded.reason] = (content.rejected[decoded.reason] ?? 0) + 1;
    at = start + padded(length);
  }
  return content;
}

function archiveCount(bytes: Uint8Array): number {
  const fail = (why: string): never => {
    throw new TidepoolError("invalid_file", `not a usable KV archive: ${why}`);
  };
  if (bytes.length < HEADER_BYTES) fail(`${bytes.length} bytes, expected at least ${HEADER_BYTES}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(0, true) !== MAGIC) fail("its first four bytes are not TPAR");
  if (view.getUint32(4, true) !== VERSION) fail(`version ${view.getUint32(4, true)}, expected ${VERSION}`);
  const expected = bytes.subarray(HEADER_BYTES - CHECKSUM_BYTES, HEADER_BYTES);
  if (!sameBytes(checksum(bytes.subarray(HEADER_BYTES)), expected)) fail("its checksum does not match");
  return view.getUint32(8, true);
}

/** A record as a draft in another namespace. `moved` remembers the new keys of the blocks before it. */
function rekeyed(record: StoredRecord, namespace: string, moved: Map<Key, Key>): RecordDraft {
  const known = moved.get(record.parentKey);
  const isFirst = record.blockIndex === 0;
  const parentKey = known ?? (isFirst ? rootKey(record.fingerprint, namespace) : record.parentKey);
  moved.set(record.key, recordKey(record.kind, parentKey, record.tokens));
  const { kind, fingerprint, blockIndex, tokens, payload, createdAtMs, expiresAtMs, rebuildCost } = record;
  return {
    kind,
    parentKey,
    fingerprint,
    namespace,
    blockIndex,
    tokens,
    payload,
    createdAtMs,
    expiresAtMs,
    rebuildCost,
  };
}
