/**
 * What a process knows of all segments: which records are live where, which entries are dead, and what has changed since
 * its owner was last told. In memory only, rebuilt from the segment logs at start.
 * It reads and writes nothing; segments.ts does.
 */
import { noDelta, type Delta } from "./backend.ts";
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";
import { LOG_ENTRY_BYTES, writerOf, type Target, type LogEntry } from "./segment-log.ts";

/** Where one copy of a record lies. */
export interface Location extends Target {
  offset: number;
  info: RecordInfo;
}

/** An entry that was forgotten, and whose it was. */
export interface Tombstone {
  key: Key;
  target: Target;
}

export interface Segment {
  name: string;
  writer: string;
  /** Whether this process holds the writer's lock: its own segments and adopted ones. Only these are compacted. */
  owned: boolean;
  /** Whether this process is still appending to it. */
  open: boolean;
  /** Whether an append of this process failed in it: what it then holds beyond `entries` is uncertain. */
  tainted: boolean;
  /** Entries of the log that have been read. */
  entries: number;
  dataBytes: number;
  logBytes: number;
  live: Map<number, Location>;
  liveBytes: number;
  tombstones: Tombstone[];
}

export class SegmentIndex {
  readonly segments = new Map<string, Segment>();
  badEntries = 0;

  private readonly locations = new Map<Key, Location[]>();
  /** Dead entries by segment. Tombstones may be read before the log that they point into. */
  private readonly dead = new Map<string, Set<number>>();
  private readonly uncertain = new Map<Key, Target[]>();
  private readonly added = new Map<Key, RecordInfo>();
  private readonly removed = new Set<Key>();

  segment(name: string): Segment {
    const known = this.segments.get(name);
    if (known !== undefined) return known;
    const fresh: Segment = {
      name,
      writer: writerOf(name),
      owned: false,
      open: false,
      tainted: false,
      entries: 0,
      dataBytes: 0,
      logBytes: 0,
      live: new Map(),
      liveBytes: 0,
      tombstones: [],
    };
    this.segments.set(name, fresh);
    return fresh;
  }

  find(key: Key): readonly Location[] {
    return this.locations.get(key) ?? [];
  }

  /** Takes in entry `entryIndex` of a segment's log. */
  take(segment: Segment, entryIndex: number, entry: LogEntry): void {
    if (entry.type === "tombstone") {
      segment.tombstones.push({ key: entry.key, target: entry.target });
      this.kill(entry.target);
    } else if (this.dead.get(segment.name)?.has(entryIndex) !== true) {
      this.addLocation(segment, {
        segment: segment.name,
        entryIndex,
        offset: entry.offset,
        info: entry.info,
      });
    }
  }

  private addLocation(segment: Segment, location: Location): void {
    segment.live.set(location.entryIndex, location);
    segment.liveBytes += location.info.bytes;
    const { key } = location.info;
    const others = this.locations.get(key);
    if (others !== undefined) {
      others.unshift(location); // the newest copy is tried first
      return;
    }
    this.locations.set(key, [location]);
    this.removed.delete(key);
    this.added.set(key, location.info);
  }

  /** Marks an entry dead, for ever; its segment need not be known yet. */
  kill(target: Target): void {
    let marks = this.dead.get(target.segment);
    if (marks === undefined) this.dead.set(target.segment, (marks = new Set()));
    marks.add(target.entryIndex);
    const location = this.segments.get(target.segment)?.live.get(target.entryIndex);
    if (location !== undefined) this.dropLocation(location);
  }

  private dropLocation(location: Location): void {
    const segment = this.segments.get(location.segment);
    if (segment?.live.delete(location.entryIndex) === true) segment.liveBytes -= location.info.bytes;
    const { key } = location.info;
    const rest = this.find(key).filter((other) => other !== location);
    if (rest.length > 0) {
      this.locations.set(key, rest);
      return;
    }
    if (!this.locations.delete(key)) return;
    this.added.delete(key);
    this.removed.add(key);
  }

  /** Forgets a segment whose files are gone. */
  dropSegment(name: string): void {
    const segment = this.segments.get(name);
    if (segment === undefined) return;
    for (const location of [...segment.live.values()]) this.dropLocation(location);
    this.segments.delete(name);
    this.dead.delete(name);
    for (const [key, targets] of this.uncertain) {
      if (targets.every((target) => !this.segments.has(target.segment))) this.uncertain.delete(key);
    }
  }

  /** The tombstones that still have something to hide: their target's files exist. */
  neededTombstones(segment: Segment): Tombstone[] {
    return segment.tombstones.filter(
      ({ target }) => target.segment !== segment.name && this.segments.has(target.segment),
    );
  }

  /**
   * The segments that must go for this one to go, in order: what its tombstones hide goes first, or it would be back.
   * Empty if one of them is not ours to drop.
   */
  droppableWith(segment: Segment): Segment[] {
    const order = new Set<Segment>();
    const visit = (each: Segment, path: readonly Segment[]): boolean => {
      if (order.has(each) || path.includes(each)) return true;
      if (!each.owned || !this.segments.has(each.name)) return false;
      const targets = this.neededTombstones(each).map(({ target }) => this.segments.get(target.segment));
      const ok = targets.every((target) => target !== undefined && visit(target, [...path, each]));
      order.add(each);
      return ok;
    };
    return visit(segment, []) ? [...order] : [];
  }

  /** Bytes on the medium that hold nothing wanted. */
  wasteOf(segment: Segment): number {
    const entries = segment.live.size + this.neededTombstones(segment).length;
    return physicalBytes(segment) - segment.liveBytes - entries * LOG_ENTRY_BYTES;
  }

  isWasteful(segment: Segment, wasteShare: number): boolean {
    return this.wasteOf(segment) > wasteShare * physicalBytes(segment);
  }

  /** Remembers that entries may or may not have been written, so that forgetting their keys covers them. */
  taint(segment: Segment, keys: readonly Key[]): void {
    segment.tainted = true;
    keys.forEach((key, i) => {
      const target = { segment: segment.name, entryIndex: segment.entries + i };
      this.uncertain.set(key, [...(this.uncertain.get(key) ?? []), target]);
    });
  }

  /** Everything that has to be buried to forget a key. Entries counted here are held for dead from now on. */
  killAll(key: Key): Target[] {
    const doubtful = (this.uncertain.get(key) ?? []).filter((target) => this.segments.has(target.segment));
    this.uncertain.delete(key);
    const targets: Target[] = [...this.find(key), ...doubtful];
    for (const target of targets) this.kill(target);
    return targets;
  }

  isUseless(segment: Segment): boolean {
    return segment.live.size === 0 && this.neededTombstones(segment).length === 0;
  }

  takeDelta(): Delta {
    const delta = noDelta();
    delta.added.push(...this.added.values());
    delta.removed.push(...this.removed);
    this.added.clear();
    this.removed.clear();
    return delta;
  }
}

export function physicalBytes(segment: Segment): number {
  return segment.dataBytes + segment.logBytes;
}
