/**
 * The idle work on segments: taking over what dead writers left, removing what holds nothing, and copying the living part
 * of half-empty segments forward. Every function runs inside SegmentBackend.maintain() and is bounded.
 * New copies are synced before old files go, so a crash in between leaves two copies and loses none.
 */
import type { FileSize } from "./backend.ts";
import { decodeRecord } from "../record/record.ts";
import { physicalBytes, type Location, type Segment } from "./segment-index.ts";
import type { SegmentBackend } from "./segments.ts";
import { parseSegmentFile, writerOfFile } from "./segment-log.ts";

/** Locks tried in one step. */
export const MAX_ADOPTIONS = 64;
/** Bytes copied between two commits: bounds memory. */
export const COPY_BATCH_BYTES = 4 * 2 ** 20;
/** A sealed segment below this share of the full size is small; so many small ones are merged. */
const SMALL_SHARE = 1 / 8;
const MAX_SMALL_SEGMENTS = 8;

/**
 * Takes the locks of writers that have died, so that their segments can be looked after. One that died before it wrote
 * anything may have left a lock file, which goes in the same way.
 */
export async function adoptWriters(backend: SegmentBackend, files: readonly FileSize[]): Promise<void> {
  const strangers = new Set<string>();
  for (const { name } of files) {
    const writer = writerOfFile(name);
    if (writer !== undefined && !backend.locks.has(writer)) strangers.add(writer);
  }
  for (const writer of [...strangers].slice(0, MAX_ADOPTIONS)) {
    const lock = await backend.medium.lock(writer);
    if (lock !== undefined) backend.locks.set(writer, lock);
  }
}

/** Removes owned segments without a live record, and files that only a crash can have left. */
export async function sweep(backend: SegmentBackend, files: readonly FileSize[]): Promise<void> {
  const dataBytes = new Map<string, number>();
  for (const file of files) {
    const parsed = parseSegmentFile(file.name);
    if (parsed?.part !== "data") continue;
    dataBytes.set(parsed.segment, file.bytes);
    const stray = backend.locks.has(parsed.writer) && !backend.index.segments.has(parsed.segment);
    if (stray) await backend.medium.remove(file.name);
  }
  for (const segment of ownedSealed(backend)) {
    killTruncated(backend, segment, dataBytes.get(segment.name) ?? 0);
    if (backend.index.isUseless(segment)) await backend.dropFiles(segment);
  }
}

function killTruncated(backend: SegmentBackend, segment: Segment, dataBytes: number): void {
  for (const location of [...segment.live.values()]) {
    if (location.offset + location.info.bytes <= dataBytes) continue;
    backend.index.kill(location);
    backend.index.badEntries++;
  }
}

function ownedSealed(backend: SegmentBackend): Segment[] {
  return [...backend.index.segments.values()].filter((segment) => segment.owned && !segment.open);
}

/** Compacts the most wasteful segment over the given share, or merges small ones; at most one segment a step. */
export async function compactOne(
  backend: SegmentBackend,
  wasteShare: number,
): Promise<{ bytesCopied: number; more: boolean }> {
  const candidates = compactable(backend, wasteShare);
  const segment = candidates[0];
  if (segment === undefined) return { bytesCopied: 0, more: false };
  const bytesCopied = await copyForward(backend, segment);
  if (segment.owned) await backend.dropFiles(segment); // else another has taken it over meanwhile
  return { bytesCopied, more: candidates.length > 1 };
}

function compactable(backend: SegmentBackend, wasteShare: number): Segment[] {
  const sealed = ownedSealed(backend);
  const wasteful = sealed.filter(
    (segment) => segment.tainted || backend.index.isWasteful(segment, wasteShare),
  );
  if (wasteful.length > 0) {
    return wasteful.sort((a, b) => backend.index.wasteOf(b) - backend.index.wasteOf(a));
  }
  const small = sealed.filter((segment) => physicalBytes(segment) < backend.segmentBytes * SMALL_SHARE);
  small.sort((a, b) => physicalBytes(a) - physicalBytes(b));
  return small.slice(0, Math.max(0, small.length - MAX_SMALL_SEGMENTS + 1));
}

/** Copies a segment's sound records and needed tombstones to the end of the log. A bad record is left behind. */
async function copyForward(backend: SegmentBackend, segment: Segment): Promise<number> {
  const copied: Location[] = [];
  let bytesCopied = 0;
  for (const batch of batches([...segment.live.values()], Math.min(COPY_BATCH_BYTES, backend.segmentBytes))) {
    const records: Uint8Array[] = [];
    for (const location of batch) {
      const bytes = await soundBytes(backend, location);
      if (bytes === undefined) continue;
      records.push(bytes);
      copied.push(location);
      bytesCopied += bytes.length;
    }
    if (records.length > 0) await backend.commit(records);
  }
  await forgetAgain(backend, segment, copied);
  await backend.bury(backend.index.neededTombstones(segment));
  return bytesCopied;
}

/** Another tab may have forgotten a record while it was being copied: then its copy is forgotten too. */
async function forgetAgain(backend: SegmentBackend, segment: Segment, copied: Location[]): Promise<void> {
  await backend.scan();
  const dead = copied.filter((location) => !segment.live.has(location.entryIndex));
  const copies = dead.flatMap(({ info }) => backend.index.find(info.key));
  for (const copy of copies) backend.index.kill(copy);
  await backend.bury(copies.map((target) => ({ key: target.info.key, target })));
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

async function soundBytes(backend: SegmentBackend, location: Location): Promise<Uint8Array | undefined> {
  const bytes = await backend.readAt(location);
  const decoded = bytes === undefined ? undefined : decodeRecord(bytes);
  if (decoded?.ok === true && decoded.record.key === location.info.key) return bytes;
  backend.index.kill(location);
  backend.index.badEntries++;
  return undefined;
}

/** Gives back the locks of adopted writers of whom nothing is left. */
export async function releaseIdleWriters(backend: SegmentBackend): Promise<void> {
  const busy = new Set([...backend.index.segments.values()].map((segment) => segment.writer));
  for (const [writer, lock] of [...backend.locks]) {
    if (writer === backend.writer || busy.has(writer)) continue;
    backend.locks.delete(writer);
    await lock.release();
  }
}
