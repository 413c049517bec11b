/**
 * The writing behind of all asynchronous tiers of a store: one queue for each (write-behind.ts). Asks and tells all of them at
 * once; what one of them lacks the others may have.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";
import type { StoreParts } from "./store-parts.ts";
import type { TierName } from "../tiers/tier-index.ts";
import { WriteBehind } from "./write-behind.ts";
import type { Queued } from "./write-queue.ts";

export class Writers {
  readonly all: readonly WriteBehind[];
  private readonly parts: StoreParts;

  constructor(parts: StoreParts) {
    this.parts = parts;
    this.all = parts.far.map((tier) => new WriteBehind(parts, tier));
  }

  /** The writers of the tiers down to `lowest`. */
  within(lowest: TierName): readonly WriteBehind[] {
    return this.all.filter(({ tier }) => this.parts.isWithin(tier, lowest));
  }

  /** Whether a tier that can be written to has an acceptable copy, or will. */
  isBound(key: Key): boolean {
    return this.all.some((writer) => writer.isBound(key));
  }

  /** Whether every one of `writers` that can be written to has an acceptable copy, or will; false if none can. */
  static haveAll(writers: readonly WriteBehind[], key: Key): boolean {
    const open = writers.filter(({ isOpen }) => isOpen);
    return open.length > 0 && open.every((writer) => writer.isBound(key));
  }

  isQueued(key: Key): boolean {
    return this.all.some(({ queue }) => queue.has(key));
  }

  /** The bytes of a record on its way. */
  queued(key: Key): Uint8Array | undefined {
    return this.all.find(({ queue }) => queue.has(key))?.queue.get(key);
  }

  infos(): RecordInfo[] {
    return this.all.flatMap(({ queue }) => queue.infos());
  }

  /** Sends a record to every tier that asked for it when memory lets it go. */
  release(item: Queued): void {
    for (const writer of this.all) if (writer.wanted.delete(item.info.key)) writer.enqueue(item);
  }

  /** Sends a record to all tiers. Whether one of them has it, or will. */
  enqueueAll(item: Queued): boolean {
    return this.all.map((writer) => writer.enqueue(item)).some(Boolean);
  }

  /** Forgets what waits and what is wanted. */
  remove(matches: (info: RecordInfo) => boolean): void {
    for (const { queue } of this.all) queue.remove(matches);
  }

  unwant(key: Key): void {
    for (const { wanted } of this.all) wanted.delete(key);
  }

  /** The ends of the batches under way. */
  async written(): Promise<void> {
    await Promise.all(this.all.map(({ writing }) => writing));
  }

  async drain(timeoutMs: number): Promise<{ left: number }> {
    const all = await Promise.all(this.all.map((writer) => writer.drain(timeoutMs)));
    return { left: all.reduce((sum, { left }) => sum + left, 0) };
  }

  set maxBytes(bytes: number) {
    for (const { queue } of this.all) queue.maxBytes = bytes;
  }

  get totals(): { bytes: number; records: number; dropped: number } {
    const sum = (of: (writer: WriteBehind) => number): number =>
      this.all.reduce((total, writer) => total + of(writer), 0);
    return {
      bytes: sum(({ queue }) => queue.bytes),
      records: sum(({ queue }) => queue.size),
      dropped: sum(({ queue }) => queue.dropped),
    };
  }
}
