/**
 * A prefix as one file: the prompt's token ids and the records of its blocks and states, so that an app can ship its
 * system prompt's KV as a static asset. Pure.
 *
 * What an archive says of keys and order is recomputed from the token ids that it declares, so that it can bring nothing
 * for any other prompt. That keys and values are those which the model computes for this prompt cannot be seen from them:
 * import only what you would also run as code, or what is signed by whom you trust (archive-signing.ts), or compute some
 * of it again (worker/cache/spot-check.ts).
 *
 *     0 magic u32  4 version u32  8 count u32  12 blockTokens u32  16 fingerprint [16]  32 tokenCount u32  36 zeros [12]
 *    48 signature (archive-signing.ts)  144 checksum of the content [16]  160 checksum of bytes 0 to 160 [16]
 *   176 token ids u32 [tokenCount], padding to 16
 *       count times: length u32, padding to 16, record, padding to 16; the blocks in order, then the states
 */
import { ARCHIVE_HEADER_BYTES, SIGNATURE_END, SIGNED_HEAD_BYTES } from "../../archive-signing.ts";
import { assert } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { insteadOf } from "../../file-kind.ts";
import { CHECKSUM_BYTES, checksum, sameBytes } from "./checksum.ts";
import { ChainReader, type Prefix } from "./chain-reader.ts";
import { bytesToHex, hexToBytes } from "./keys.ts";
import { MAX_RECORD_TOKENS, type StoredRecord } from "./record.ts";

const MAGIC = 0x52415054; // "TPAR"
const VERSION = 2;
const LENGTH_BYTES = 16;
const CONTENT_CHECKSUM_AT = SIGNATURE_END;
const HEAD_CHECKSUM_AT = CONTENT_CHECKSUM_AT + CHECKSUM_BYTES;

/** An archive's prompt is no longer. */
const MAX_ARCHIVE_TOKENS = MAX_RECORD_TOKENS;
const MAX_BLOCK_TOKENS = 4096;
/** States in one archive, at most. */
export const MAX_ARCHIVE_STATES = 16;

/** The records are keyed by the chain of the namespace "", whatever namespace they came from. */
export interface ArchiveContent extends Prefix {
  blocks: StoredRecord[];
  states: StoredRecord[];
}

const padded = (bytes: number): number => 16 * Math.ceil(bytes / 16);

export function encodeArchive(prefix: Prefix, records: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const { fingerprint, blockTokens, tokens } = prefix;
  const recordsAt = ARCHIVE_HEADER_BYTES + padded(4 * tokens.length);
  const total = records.reduce((sum, record) => sum + LENGTH_BYTES + padded(record.length), recordsAt);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  [MAGIC, VERSION, records.length, blockTokens].forEach((field, i) => view.setUint32(4 * i, field, true));
  bytes.set(hexToBytes(fingerprint), 16);
  view.setUint32(32, tokens.length, true);
  bytes.set(new Uint8Array(Uint32Array.from(tokens).buffer), ARCHIVE_HEADER_BYTES);
  let at = recordsAt;
  for (const record of records) {
    view.setUint32(at, record.length, true);
    bytes.set(record, at + LENGTH_BYTES);
    at += LENGTH_BYTES + padded(record.length);
  }
  bytes.set(checksum(bytes.subarray(ARCHIVE_HEADER_BYTES)), CONTENT_CHECKSUM_AT);
  bytes.set(checksum(headOf(bytes)), HEAD_CHECKSUM_AT);
  return bytes;
}

/** What the head's checksum is of: everything before it but the signature, which is put in later and proves itself. */
function headOf(bytes: Uint8Array): Uint8Array {
  const head = bytes.slice(0, HEAD_CHECKSUM_AT);
  head.fill(0, SIGNED_HEAD_BYTES, SIGNATURE_END);
  return head;
}

/**
 * Reads an archive whole, or not at all.
 * @throws TidepoolError `invalid_file` naming the field or record if it is no archive, of another version, damaged, or holds
 * anything but one chain of sound records of the prompt that it declares.
 */
export function decodeArchive(bytes: Uint8Array): ArchiveContent {
  const { prefix, count } = readHead(bytes);
  const content: ArchiveContent = { ...prefix, blocks: [], states: [] };
  const reader = new ChainReader(prefix);
  const most = reader.keys.length + MAX_ARCHIVE_STATES;
  if (count > most) fail(`it counts ${count} records, expected at most ${most} for its prompt`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = ARCHIVE_HEADER_BYTES + padded(4 * prefix.tokens.length);
  for (let i = 0; i < count; i++) {
    const start = at + LENGTH_BYTES;
    const length = start <= bytes.length ? view.getUint32(at, true) : Infinity;
    if (start + length > bytes.length) fail(`record ${i} ends behind the file's ${bytes.length} bytes`);
    take(content, reader, bytes.subarray(start, start + length), i);
    at = start + padded(length);
  }
  if (at !== bytes.length) fail(`its records end at ${at} of ${bytes.length} bytes`);
  checkCovered(content);
  return content;
}

function readHead(bytes: Uint8Array): { prefix: Prefix; count: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4 || view.getUint32(0, true) !== MAGIC)
    fail(`it ${insteadOf("an archive of keys and values, which begins with TPAR", bytes)}`);
  if (bytes.length < ARCHIVE_HEADER_BYTES)
    fail(`${bytes.length} bytes, expected at least ${ARCHIVE_HEADER_BYTES}`);
  if (view.getUint32(4, true) !== VERSION) fail(`version ${view.getUint32(4, true)}, expected ${VERSION}`);
  checkSum(bytes, headOf(bytes), HEAD_CHECKSUM_AT, "header");
  checkSum(bytes, bytes.subarray(ARCHIVE_HEADER_BYTES), CONTENT_CHECKSUM_AT, "content");
  const [count, blockTokens, tokenCount] = [8, 12, 32].map((at) => view.getUint32(at, true));
  assert(
    count !== undefined && blockTokens !== undefined && tokenCount !== undefined,
    "three fields were read",
  );
  if (blockTokens < 1 || blockTokens > MAX_BLOCK_TOKENS)
    fail(`blocks of ${blockTokens} tokens, expected 1 to ${MAX_BLOCK_TOKENS}`);
  const end = ARCHIVE_HEADER_BYTES + 4 * tokenCount;
  if (tokenCount > MAX_ARCHIVE_TOKENS || end > bytes.length)
    fail(`a prompt of ${tokenCount} tokens in ${bytes.length} bytes, expected at most ${MAX_ARCHIVE_TOKENS}`);
  const tokens = new Uint32Array(bytes.slice(ARCHIVE_HEADER_BYTES, end).buffer);
  return { prefix: { fingerprint: bytesToHex(bytes.subarray(16, 32)), blockTokens, tokens }, count };
}

function checkSum(bytes: Uint8Array, of: Uint8Array, at: number, what: string): void {
  if (!sameBytes(checksum(of), bytes.subarray(at, at + CHECKSUM_BYTES)))
    fail(`the checksum of its ${what} does not match`);
}

/** Takes one record in if it is the next of the declared prompt's chain. */
function take(content: ArchiveContent, reader: ChainReader, bytes: Uint8Array, index: number): void {
  const taken = reader.take(bytes);
  if (!("why" in taken)) (taken.kind === "block" ? content.blocks : content.states).push(taken);
  else if (taken.isDamaged) fail(`record ${index} fails its check (${taken.why})`);
  else fail(`record ${index} is not of the prompt that it declares: ${taken.why}`);
}

function checkCovered({ blockTokens, tokens, blocks, states }: ArchiveContent): void {
  const ends = states.map(({ blockIndex, tokenCount }) => blockIndex * blockTokens + tokenCount);
  const end = Math.max(blocks.length * blockTokens, ...ends);
  if (end !== tokens.length) fail(`it declares ${tokens.length} tokens and has records of ${end}`);
}

function fail(why: string): never {
  throw new TidepoolError("invalid_file", `not a usable KV archive: ${why}`);
}
