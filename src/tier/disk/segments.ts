/**
 * A Backend on a Medium: records packed into segments, so that a small model's blocks do not become thousands of files.
 *
 * Each writer (a tab, a worker, a process) appends to segments of its own and holds its own lock while it lives. A segment
 * is two files: `.data` with whole records end to end, and `.trail` with one fixed-size entry for each (segment-log.ts). A batch
 * is written data first and synced, then its log entries and synced: the entry is the commit mark.
 * - Crash before the entries: bytes in `.data` that nobody points to; they go when the segment is compacted or dropped.
 * - Torn entry: fails its checksum and is stepped over. A crashed segment is never appended to again.
 * - Failed append (disk full, error): the segment is sealed at once, and the next append begins a new one.
 * - Forgetting is a tombstone that names one entry of one segment, so the order in which logs are read does not matter.
 * - A dead writer's lock can be taken (maintain); its segments then belong to whoever holds it, to compact or drop.
 * - A writer that slept for long may have lost its lock, and its segments with it: after each write it looks whether it holds
 *   the lock still, and if not writes again as another. What it acknowledges has been written by an owner.
 * The list is rebuilt from the segment logs at open: 128 bytes a record, two files a segment; nothing of `.data` is read.
 *
 * It does not judge records: read() returns bytes, and the store checks them. No log, no repair.
 */
import { assert, background } from "../../base.ts";
import {
  MediumError,
  type Appender,
  type Backend,
  type BackendUsage,
  type Delta,
  type FileSize,
  type MaintainResult,
  type Medium,
  type Lock,
} from "./backend.ts";
import { adoptWriters, compactOne, releaseIdleWriters, sweep } from "./compaction.ts";
import { bytesToHex, type Key } from "../record/keys.ts";
import { Progress, watched } from "./progress.ts";
import { infoOf } from "../record/record.ts";
import { physicalBytes, SegmentIndex, type Location, type Segment, type Tombstone } from "./segment-index.ts";
import {
  decodeLogEntry,
  encodeRecordEntry,
  encodeTombstone,
  parseSegmentFile,
  segmentName,
  LOG_ENTRY_BYTES,
} from "./segment-log.ts";

const DEFAULT_SEGMENT_BYTES = 32 * 2 ** 20;
/** More of a log than this is not read: over a million records in one segment is no segment of ours. */
const MAX_LOG_BYTES = 2 ** 27;

/** Writers that one append is tried as: a lock is lost in the middle of it only if the process sleeps there. */
const MAX_WRITERS = 3;

const randomWriter = (): string => bytesToHex(crypto.getRandomValues(new Uint8Array(8)));

export interface SegmentOptions {
  /** A segment is sealed when the next record would make it longer. A longer record has a segment to itself. */
  segmentBytes?: number;
  /** 16 hexadecimal digits; random by default. */
  writer?: string;
  /** For tests of the tests only. */
  hooks?: { logFirst?: boolean };
}

/** What has been written, and where. */
interface Committed {
  segment: Segment;
  entries: Uint8Array[];
}

/** Whether a write gave what it wrote, and not its error. */
const isCommitted = (value: unknown): value is Committed => !(value instanceof Error);

/** The segment being appended to. */
interface Current {
  segment: Segment;
  data: Appender;
  log: Appender;
}

export class SegmentBackend implements Backend {
  readonly name: string;
  /** Its finished steps are progress. */
  readonly medium: Medium;
  readonly progress = new Progress();
  /** Another after this one's lock was lost. */
  writer: string;
  readonly segmentBytes: number;
  readonly index = new SegmentIndex();
  /** Locks held: this writer's and those of adopted writers. */
  readonly locks = new Map<string, Lock>();

  /** For reads, which wait for nobody: that they go on says nothing about a writer that hangs. */
  private readonly unwatched: Medium;
  private readonly logFirst: boolean;
  private current: Current | undefined;
  private unburied: Tombstone[] = [];
  private nextNumber = 0;
  private state: "new" | "open" | "closed" = "new";
  private last: Promise<unknown> = Promise.resolve();

  constructor(medium: Medium, options: SegmentOptions = {}) {
    this.medium = watched(medium, this.progress);
    this.unwatched = medium;
    this.name = medium.name;
    this.segmentBytes = options.segmentBytes ?? DEFAULT_SEGMENT_BYTES;
    this.writer = options.writer ?? randomWriter();
    this.logFirst = options.hooks?.logFirst ?? false;
    assert(this.segmentBytes > 0 && this.segmentBytes < 2 ** 31, `segmentBytes ${this.segmentBytes}`);
  }

  async open(): Promise<Delta> {
    assert(this.state === "new", "a SegmentBackend opens once");
    await this.takeOwnLock();
    this.state = "open";
    return this.refresh();
  }

  private async takeOwnLock(): Promise<void> {
    const lock = await this.medium.lock(this.writer);
    assert(lock !== undefined, "a fresh writer's lock is free");
    this.locks.set(this.writer, lock);
  }

  append(records: readonly Uint8Array[]): Promise<Delta> {
    return this.exclusive(async () => {
      for (const group of this.split(records)) await this.commit(group);
      return this.index.takeDelta();
    });
  }

  /** Never waits for writers: a record that has moved meanwhile is looked for once more. */
  async read(key: Key): Promise<Uint8Array | undefined> {
    this.mustBeOpen();
    const first = await this.readAny(key);
    if (first !== undefined || this.index.find(key).length === 0) return first;
    await this.exclusive(() => this.scan());
    return this.readAny(key);
  }

  remove(keys: readonly Key[]): Promise<Delta> {
    return this.exclusive(async () => {
      await this.bury(keys.flatMap((key) => this.index.killAll(key).map((target) => ({ key, target }))));
      return this.index.takeDelta();
    });
  }

  refresh(): Promise<Delta> {
    return this.exclusive(async () => {
      await this.scan();
      return this.index.takeDelta();
    });
  }

  maintain(wasteShare = 0.5): Promise<MaintainResult> {
    return this.exclusive(async () => {
      await this.checkLocks();
      await adoptWriters(this, await this.scan());
      await this.sealIfWasteful(wasteShare);
      await this.bury([]);
      await sweep(this, await this.scan());
      const { bytesCopied, more } = await compactOne(this, wasteShare);
      await releaseIdleWriters(this);
      return { ...this.index.takeDelta(), bytesCopied, more };
    });
  }

  reclaim(bytes: number): Promise<Delta> {
    return this.exclusive(async () => {
      await this.seal();
      const leastFirst = [...this.index.segments.values()].sort((a, b) => a.liveBytes - b.liveBytes);
      let freed = 0;
      for (const segment of leastFirst) {
        if (freed >= bytes) break;
        for (const each of this.index.droppableWith(segment)) {
          freed += physicalBytes(each);
          await this.dropFiles(each);
        }
      }
      return this.index.takeDelta();
    });
  }

  usage(): Promise<BackendUsage> {
    const segments = [...this.index.segments.values()];
    const bytesOnMedium = segments.reduce((sum, segment) => sum + physicalBytes(segment), 0);
    const { badEntries } = this.index;
    return Promise.resolve({ bytesOnMedium, segments: segments.length, badEntries });
  }

  async close(): Promise<void> {
    if (this.state !== "open") return;
    try {
      await this.exclusive(async () => {
        await this.seal();
        for (const segment of [...this.index.segments.values()]) {
          if (segment.owned && this.index.isUseless(segment)) await this.dropFiles(segment);
        }
      });
    } finally {
      this.state = "closed";
      for (const lock of this.locks.values()) await lock.release();
      this.locks.clear();
      await this.medium.close();
    }
  }

  // ---- for compaction.ts, inside exclusive() ----

  /**
   * Appends records that fit into one segment, and makes them known once it is certain that they count: whoever took this
   * writer's segments over while the process slept does not look at them again, so they are written again by another writer.
   */
  async commit(records: readonly Uint8Array[]): Promise<void> {
    await this.asOwner(() => this.commitOnce(records));
  }

  private async commitOnce(records: readonly Uint8Array[]): Promise<Committed> {
    const total = records.reduce((sum, record) => sum + record.length, 0);
    const current = await this.writable(total);
    const entries: Uint8Array[] = [];
    let offset = current.segment.dataBytes;
    for (const record of records) {
      entries.push(encodeRecordEntry(record, offset));
      offset += record.length;
    }
    current.segment.dataBytes = offset;
    const keys = records.map((record) => infoOf(record).key);
    await this.orAbandon(keys, () => this.write(current, records, entries));
    return { segment: current.segment, entries };
  }

  /** Does `write` as a writer that still holds its lock afterwards, and takes what it wrote into the index. */
  private async asOwner(write: () => Promise<Committed>): Promise<void> {
    for (let attempt = 0; attempt < MAX_WRITERS; attempt++) {
      const written = await write().catch((error: unknown) => error);
      const isOwner = (await this.locks.get(this.writer)?.isHeld()) === true;
      if (!isOwner) {
        await this.becomeAnother();
        continue;
      }
      if (!isCommitted(written)) throw written;
      this.takeEntries(written.segment, written.entries);
      return;
    }
    throw new MediumError("io", `${this.name}: lost its lock ${MAX_WRITERS} times in a row`);
  }

  /** Goes on as a new writer. The segments of the old one are others' now, and are read as theirs. */
  private async becomeAnother(): Promise<void> {
    await this.seal().catch(() => undefined); // its files may be gone
    this.disown(this.writer);
    this.writer = randomWriter();
    await this.takeOwnLock();
  }

  private disown(writer: string): void {
    const lock = this.locks.get(writer);
    this.locks.delete(writer);
    if (lock) background(lock.release(), "giving a lost lock back");
    for (const segment of this.index.segments.values()) if (segment.writer === writer) segment.owned = false;
  }

  /** Finds out which adopted writers others have taken over while this process slept. */
  private async checkLocks(): Promise<void> {
    for (const [writer, lock] of [...this.locks]) {
      if (await lock.isHeld()) continue;
      if (writer === this.writer) await this.becomeAnother();
      else this.disown(writer);
    }
  }

  /**
   * Writes tombstones for entries that the index already holds for dead, and those that could not be written before: an
   * entry is not forgotten for good until this has succeeded.
   */
  async bury(tombstones: readonly Tombstone[]): Promise<void> {
    this.unburied.push(...tombstones);
    this.unburied = this.unburied.filter(({ target }) => this.index.segments.has(target.segment));
    if (this.unburied.length === 0) return;
    const entries = this.unburied.map(({ key, target }) => encodeTombstone(key, target));
    await this.asOwner(async () => {
      const current = await this.writable(0);
      await this.orAbandon([], async () => {
        await current.log.append(entries);
        await current.log.sync();
      });
      return { segment: current.segment, entries };
    });
    this.unburied = [];
  }

  /** Removes a segment's files, log first, so that no entry points to missing data. */
  async dropFiles(segment: Segment): Promise<void> {
    if (this.current?.segment === segment) await this.seal();
    await this.medium.remove(`${segment.name}.trail`);
    await this.medium.remove(`${segment.name}.data`);
    this.index.dropSegment(segment.name);
  }

  async readAt(location: Location, medium = this.medium): Promise<Uint8Array | undefined> {
    try {
      return await medium.read(`${location.segment}.data`, location.offset, location.info.bytes);
    } catch (error) {
      if (error instanceof MediumError && error.fault === "gone") return undefined;
      throw error;
    }
  }

  /** Reads what is new in all logs and forgets segments that are gone. Returns the listing it went by. */
  async scan(): Promise<FileSize[]> {
    const files = await this.medium.list();
    const logs = new Set<string>();
    for (const file of files) {
      const parsed = parseSegmentFile(file.name);
      if (parsed === undefined) continue;
      if (parsed.part === "trail") logs.add(parsed.segment);
      if (parsed.part === "trail") await this.scanLog(parsed.segment, file.bytes);
    }
    for (const { name, bytes } of files) {
      const parsed = parseSegmentFile(name);
      const known = parsed?.part === "data" ? this.index.segments.get(parsed.segment) : undefined;
      if (known !== undefined && !known.open) known.dataBytes = bytes;
    }
    for (const name of [...this.index.segments.keys()]) {
      if (!logs.has(name)) await this.forget(name);
    }
    return files;
  }

  // ---- inside ----

  private async forget(name: string): Promise<void> {
    if (this.current?.segment.name === name) await this.seal();
    this.index.dropSegment(name);
  }

  private async scanLog(name: string, logBytes: number): Promise<void> {
    const segment = this.index.segment(name);
    if (segment.open || segment.tainted) return; // all that counts of it is known
    segment.owned = this.locks.has(segment.writer);
    segment.logBytes = logBytes;
    const from = segment.entries * LOG_ENTRY_BYTES;
    const length = Math.min(logBytes, MAX_LOG_BYTES) - from;
    if (length < LOG_ENTRY_BYTES) return;
    try {
      this.parseLog(segment, await this.medium.read(`${name}.trail`, from, length));
    } catch (error) {
      if (!(error instanceof MediumError) || error.fault !== "gone") throw error;
      this.index.dropSegment(name); // removed since the listing
    }
  }

  /**
   * Takes in a log's new entries. Damaged ones are stepped over, except at the end of a living writer's log: there
   * they may be half written, and are looked at again next time.
   */
  private parseLog(segment: Segment, bytes: Uint8Array): void {
    const count = Math.floor(bytes.length / LOG_ENTRY_BYTES);
    let passed = 0;
    let bad = 0;
    for (let i = 0; i < count; i++) {
      const entry = decodeLogEntry(bytes.subarray(i * LOG_ENTRY_BYTES, (i + 1) * LOG_ENTRY_BYTES));
      if (entry === undefined) {
        bad++;
        continue;
      }
      this.index.take(segment, segment.entries + i, entry);
      this.index.badEntries += bad;
      bad = 0;
      passed = i + 1;
    }
    if (segment.owned) this.index.badEntries += bad;
    segment.entries += segment.owned ? count : passed;
  }

  private async readAny(key: Key): Promise<Uint8Array | undefined> {
    for (const location of [...this.index.find(key)]) {
      const bytes = await this.readAt(location, this.unwatched);
      if (bytes !== undefined) return bytes;
    }
    return undefined;
  }

  /**
   * Groups records so that each group fits into one segment: all of them together where a new segment would hold them,
   * since each group costs two syncs.
   */
  private split(records: readonly Uint8Array[]): Uint8Array[][] {
    if (records.length === 0) return [];
    if (records.reduce((sum, record) => sum + record.length, 0) <= this.segmentBytes) return [[...records]];
    const groups: Uint8Array[][] = [];
    let room = this.current === undefined ? 0 : this.segmentBytes - this.current.segment.dataBytes;
    for (const record of records) {
      const group = groups.at(-1);
      if (group === undefined || record.length > room) {
        groups.push([record]);
        if (record.length > room) room = this.segmentBytes;
      } else group.push(record);
      room -= record.length;
    }
    return groups;
  }

  private async write(
    current: Current,
    records: readonly Uint8Array[],
    entries: Uint8Array[],
  ): Promise<void> {
    const writeData = async (): Promise<void> => {
      await current.data.append(records);
      await current.data.sync();
    };
    const writeLog = async (): Promise<void> => {
      await current.log.append(entries);
      await current.log.sync();
    };
    for (const step of this.logFirst ? [writeLog, writeData] : [writeData, writeLog]) await step();
  }

  private takeEntries(segment: Segment, entries: readonly Uint8Array[]): void {
    for (const bytes of entries) {
      const entry = decodeLogEntry(bytes);
      assert(entry !== undefined, "a log entry decodes");
      this.index.take(segment, segment.entries++, entry);
      segment.logBytes += LOG_ENTRY_BYTES;
    }
  }

  /** The open segment, or a new one if `bytes` more would make it too long. */
  private async writable(bytes: number): Promise<Current> {
    this.mustBeOpen();
    const full = (segment: Segment): boolean =>
      segment.dataBytes > 0 && segment.dataBytes + bytes > this.segmentBytes;
    if (this.current !== undefined && full(this.current.segment)) await this.seal();
    this.current ??= await this.begin();
    return this.current;
  }

  private async begin(): Promise<Current> {
    const name = segmentName(this.writer, this.nextNumber++);
    const data = await this.medium.create(`${name}.data`);
    let log: Appender;
    try {
      log = await this.medium.create(`${name}.trail`);
    } catch (error) {
      await data.close();
      throw error; // the lone data file is a stray for sweep()
    }
    const segment = this.index.segment(name);
    segment.owned = true;
    segment.open = true;
    return { segment, data, log };
  }

  /** Ends the open segment: nothing is ever appended to it again. */
  private async seal(): Promise<void> {
    const current = this.current;
    if (current === undefined) return;
    this.current = undefined;
    current.segment.open = false;
    try {
      await current.data.close();
    } finally {
      await current.log.close();
    }
  }

  /**
   * After a failed write nobody knows what is in the file: the segment is sealed and tainted. Records of `keys` in it are
   * not listed, but covered when they are forgotten, until compaction replaces the segment.
   */
  private async orAbandon(keys: readonly Key[], work: () => Promise<void>): Promise<void> {
    const segment = this.current?.segment;
    try {
      await work();
    } catch (error) {
      if (segment !== undefined) this.index.taint(segment, keys);
      await this.seal().catch(() => undefined); // the first failure is the one worth telling
      throw error;
    }
  }

  private async sealIfWasteful(wasteShare: number): Promise<void> {
    const segment = this.current?.segment;
    if (segment !== undefined && this.index.isWasteful(segment, wasteShare)) await this.seal();
  }

  private mustBeOpen(): void {
    if (this.state !== "open") throw new MediumError("closed", `${this.name}: the backend is ${this.state}`);
  }

  /** Runs work that changes files, one at a time, in the order asked for. */
  private exclusive<T>(work: () => Promise<T>): Promise<T> {
    const run = this.last.then(() => {
      this.mustBeOpen();
      return work();
    });
    this.last = run.catch(() => undefined);
    return run;
  }
}
