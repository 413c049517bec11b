/**
 * The idle work on segments: taking over what dead writers left, removing what holds nothing, and copying the living part
 * of half-empty segments forward. Every function runs inside maintain() of segments.ts and is bounded.
 * New copies are synced before old files go, so a crash in between leaves two copies and loses none.
 */
import type { FileSize, Lock, Medium } from "./backend.ts";
import { decodeRecord } from "../record/record.ts";
import {
  physicalBytes,
  type Location,
  type Segment,
  type SegmentIndex,
  type Tombstone,
} from "./segment-index.ts";
import { parseSegmentFile, writerOfFile } from "./segment-log.ts";

/** What is looked after: segments on a medium, those of this writer and of dead ones whose locks it took. */
export interface Segments {
  readonly medium: Medium;
  readonly index: SegmentIndex;
  readonly locks: Map<string, Lock>;
  readonly writer: string;
  readonly segmentBytes: number;
  scan(): Promise<FileSize[]>;
  commit(records: readonly Uint8Array[]): Promise<void>;
  bury(tombstones: readonly Tombstone[]): Promise<void>;
  dropFiles(segment: Segment): Promise<void>;
  readAt(location: Location): Promise<Uint8Array | undefined>;
}

/** Locks tried in one step. */
const MAX_ADOPTIONS = 64;
/** Bytes copied between two commits: bounds memory. */
const COPY_BATCH_BYTES = 4 * 2 ** 20;
/** A sealed segment below this share of the full size is small; so many small ones are merged. */
const SMALL_SHARE = 1 / 8;
const MAX_SMALL_SEGMENTS = 8;

/**
 * Takes the locks of writers that have died, so that their segments can be looked after. One that died before it wrote
 * anything may have left a lock file, which goes in the same way.
 */
export async function adoptWriters(segments: Segments, files: readonly FileSize[]): Promise<void> {
  const strangers = new Set<string>();
  for (const { name } of files) {
    const writer = writerOfFile(name);
    if (writer !== undefined && !segments.locks.has(writer)) strangers.add(writer);
  }
  for (const writer of [...strangers].slice(0, MAX_ADOPTIONS)) {
    const lock = await segments.medium.lock(writer);
    if (lock !== undefined) segments.locks.set(writer, lock);
  }
}

/** Removes owned segments without a live record, and files that only a crash can have left. */
export async function sweep(segments: Segments, files: readonly FileSize[]): Promise<void> {
  const dataBytes = new Map<string, number>();
  for (const file of files) {
    const parsed = parseSegmentFile(file.name);
    if (parsed?.part !== "data") continue;
    dataBytes.set(parsed.segment, file.bytes);
    const stray = segments.locks.has(parsed.writer) && !segments.index.segments.has(parsed.segment);
    if (stray) await segments.medium.remove(file.name);
  }
  for (const segment of ownedSealed(segments)) {
    killTruncated(segments, segment, dataBytes.get(segment.name) ?? 0);
    if (segments.index.isUseless(segment)) await segments.dropFiles(segment);
  }
}

function killTruncated(segments: Segments, segment: Segment, dataBytes: number): void {
  for (const location of [...segment.live.values()]) {
    if (location.offset + location.info.bytes <= dataBytes) continue;
    segments.index.kill(location);
    segments.index.badEntries++;
  }
}

function ownedSealed(segments: Segments): Segment[] {
  return [...segments.index.segments.values()].filter((segment) => segment.owned && !segment.open);
}

/** Compacts the most wasteful segment over the given share, or merges small ones; at most one segment a step. */
export async function compactOne(
  segments: Segments,
  wasteShare: number,
): Promise<{ bytesCopied: number; more: boolean }> {
  const candidates = compactable(segments, wasteShare);
  const segment = candidates[0];
  if (segment === undefined) return { bytesCopied: 0, more: false };
  const bytesCopied = await copyForward(segments, segment);
  if (segment.owned) await segments.dropFiles(segment); // else another has taken it over meanwhile
  return { bytesCopied, more: candidates.length > 1 };
}

function compactable(segments: Segments, wasteShare: number): Segment[] {
  const sealed = ownedSealed(segments);
  const wasteful = sealed.filter(
    (segment) => segment.tainted || segments.index.isWasteful(segment, wasteShare),
  );
  if (wasteful.length > 0) {
    return wasteful.sort((a, b) => segments.index.wasteOf(b) - segments.index.wasteOf(a));
  }
  const small = sealed.filter((segment) => physicalBytes(segment) < segments.segmentBytes * SMALL_SHARE);
  small.sort((a, b) => physicalBytes(a) - physicalBytes(b));
  return small.slice(0, Math.max(0, small.length - MAX_SMALL_SEGMENTS + 1));
}

/** Copies a segment's sound records and needed tombstones to the end of the log. A bad record is left behind. */
async function copyForward(segments: Segments, segment: Segment): Promise<number> {
  const copied: Location[] = [];
  let bytesCopied = 0;
  for (const batch of batches(
    [...segment.live.values()],
    Math.min(COPY_BATCH_BYTES, segments.segmentBytes),
  )) {
    const records: Uint8Array[] = [];
    for (const location of batch) {
      const bytes = await soundBytes(segments, location);
      if (bytes === undefined) continue;
      records.push(bytes);
      copied.push(location);
      bytesCopied += bytes.length;
    }
    if (records.length > 0) await segments.commit(records);
  }
  await forgetAgain(segments, segment, copied);
  await segments.bury(segments.index.neededTombstones(segment));
  return bytesCopied;
}

/** Another tab may have forgotten a record while it was being copied: then its copy is forgotten too. */
async function forgetAgain(segments: Segments, segment: Segment, copied: Location[]): Promise<void> {
  await segments.scan();
  const dead = copied.filter((location) => !segment.live.has(location.entryIndex));
  const copies = dead.flatMap(({ info }) => segments.index.find(info.key));
  for (const copy of copies) segments.index.kill(copy);
  await segments.bury(copies.map((target) => ({ key: target.info.key, target })));
}

function batches(locations: readonly Location[], limitBytes: number): Location[][] {
  const groups: Location[][] = [];
  let room = 0;
  for (const location of locations) {
    if (groups.length === 0 || location.info.bytes > room) {
      groups.push([]);
      room = limitBytes;
    }
    groups.at(-1)?.push(location);
    room -= location.info.bytes;
  }
  return groups;
}

async function soundBytes(segments: Segments, location: Location): Promise<Uint8Array | undefined> {
  const bytes = await segments.readAt(location);
  const decoded = bytes === undefined ? undefined : decodeRecord(bytes);
  if (decoded?.ok === true && decoded.record.key === location.info.key) return bytes;
  segments.index.kill(location);
  segments.index.badEntries++;
  return undefined;
}

/** Gives back the locks of adopted writers of whom nothing is left. */
export async function releaseIdleWriters(segments: Segments): Promise<void> {
  const busy = new Set([...segments.index.segments.values()].map((segment) => segment.writer));
  for (const [writer, lock] of [...segments.locks]) {
    if (writer === segments.writer || busy.has(writer)) continue;
    segments.locks.delete(writer);
    await lock.release();
  }
}
