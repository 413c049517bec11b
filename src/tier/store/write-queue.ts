/**
 * Records on their way to the disk. Bounded by bytes: when it is full, the record that is cheapest to compute again and
 * that no other queued record builds on is dropped and counted, so that spilling never makes a decode step wait.
 * It writes nothing itself; the store takes batches from it.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";

/** Records in the queue at most, whatever their size: bounds the search for the cheapest. */
const MAX_QUEUED_RECORDS = 4096;

export interface Queued {
  info: RecordInfo;
  record: Uint8Array;
}

export class WriteQueue {
  bytes = 0;
  dropped = 0;
  maxBytes: number;
  private readonly waiting = new Map<Key, Queued>();
  private readonly underWay = new Map<Key, Queued>();
  private readonly children = new Map<Key, number>();

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Records waiting or under way. */
  get size(): number {
    return this.waiting.size + this.underWay.size;
  }

  get waitingCount(): number {
    return this.waiting.size;
  }

  has(key: Key): boolean {
    return this.waiting.has(key) || this.underWay.has(key);
  }

  get(key: Key): Uint8Array | undefined {
    return (this.waiting.get(key) ?? this.underWay.get(key))?.record;
  }

  infos(): RecordInfo[] {
    return [...this.waiting.values(), ...this.underWay.values()].map(({ info }) => info);
  }

  /** Queues a record and returns what had to be dropped for it, perhaps the record itself. */
  push(item: Queued): Queued[] {
    if (this.has(item.info.key)) return [];
    this.add(item);
    const dropped: Queued[] = [];
    while (this.bytes > this.maxBytes || this.waiting.size > MAX_QUEUED_RECORDS) {
      const cheapest = this.cheapest();
      if (cheapest === undefined) break;
      this.take(cheapest.info.key);
      dropped.push(cheapest);
    }
    this.dropped += dropped.length;
    return dropped;
  }

  /** Moves the records queued first, up to `maxBytes` but at least one, from waiting to under way. */
  takeBatch(maxBytes: number): Queued[] {
    const batch: Queued[] = [];
    let bytes = 0;
    for (const item of this.waiting.values()) {
      if (batch.length > 0 && bytes + item.record.length > maxBytes) break;
      batch.push(item);
      bytes += item.record.length;
    }
    for (const item of batch) {
      this.take(item.info.key);
      this.underWay.set(item.info.key, item);
      this.bytes += item.record.length; // still held in memory
    }
    return batch;
  }

  /** Ends a batch, written or not. */
  settle(batch: readonly Queued[]): void {
    for (const item of batch) {
      if (this.underWay.delete(item.info.key)) this.bytes -= item.record.length;
    }
  }

  /** Forgets waiting records; those under way are beyond recall. */
  remove(matches: (info: RecordInfo) => boolean): void {
    for (const { info } of [...this.waiting.values()]) if (matches(info)) this.take(info.key);
  }

  private add(item: Queued): void {
    this.waiting.set(item.info.key, item);
    this.bytes += item.record.length;
    this.count(item.info.parentKey, 1);
  }

  private take(key: Key): void {
    const item = this.waiting.get(key);
    if (item === undefined) return;
    this.waiting.delete(key);
    this.bytes -= item.record.length;
    this.count(item.info.parentKey, -1);
  }

  private count(parent: Key, change: number): void {
    const count = (this.children.get(parent) ?? 0) + change;
    if (count === 0) this.children.delete(parent);
    else this.children.set(parent, count);
  }

  private cheapest(): Queued | undefined {
    let best: Queued | undefined;
    for (const item of this.waiting.values()) {
      if (this.children.has(item.info.key)) continue;
      if (best === undefined || item.info.rebuildCost < best.info.rebuildCost) best = item;
    }
    return best;
  }
}
