/**
 * Writes records to the disk behind their putting: takes batches from the bounded queue, one at a time, and gives up what
 * waits when there is no disk any more. What it gives up RAM may still hold. It decides nothing about what is wanted.
 *
 * A chain on the disk has no holes: a record is queued behind those before it, which RAM may have, and not at all if one
 * of them is nowhere to be had. Written in that order, a chain that a crash cuts short is a shorter chain.
 */
import { background } from "../../base.ts";
import type { DiskTier } from "./disk-tier.ts";
import type { Key } from "../record/keys.ts";
import { isExpired, type RecordInfo } from "../record/record.ts";
import type { StoreParts } from "./store-parts.ts";
import { isFirst } from "./tier-index.ts";
import { within } from "../disk/timer.ts";
import { WriteQueue, type Queued } from "./write-queue.ts";

const DEFAULT_QUEUE_BYTES = 64 * 2 ** 20;
/** Bytes written in one go: one pair of syncs for each. */
export const WRITE_BATCH_BYTES = 16 * 2 ** 20;

export class WriteBehind {
  readonly queue: WriteQueue;
  /** The end of the batch under way. */
  writing: Promise<void> = Promise.resolve();
  private readonly parts: StoreParts;
  private pumping: Promise<void> | undefined;

  constructor(parts: StoreParts) {
    this.parts = parts;
    this.queue = new WriteQueue(parts.options.queueBytes ?? DEFAULT_QUEUE_BYTES);
  }

  /** Whether an acceptable copy is on the disk or on its way. */
  isDiskBound(key: Key): boolean {
    const info = this.parts.disk?.index.get(key);
    return this.queue.has(key) || (info !== undefined && this.parts.accepts(info));
  }

  /** Queues a record behind what its chain still lacks on the disk. Whether the disk has it now, or will. */
  enqueue(item: Queued): boolean {
    if (this.parts.disk?.state !== "open") return false;
    if (this.isDiskBound(item.info.key)) return true;
    for (const link of this.chainTo(item)) if (!this.push(link)) break;
    this.kick();
    return this.isDiskBound(item.info.key);
  }

  /** A record and those before it that the disk lacks, first things first; nothing if one of them is not in RAM either. */
  private chainTo(item: Queued): Queued[] {
    const chain = [item];
    for (let { info } = item; !isFirst(info) && !this.isDiskBound(info.parentKey);) {
      const parent = this.parts.ram.peek(info.parentKey);
      if (parent === undefined || !this.isLasting(parent.info)) return [];
      chain.push(parent);
      ({ info } = parent);
    }
    return chain.reverse();
  }

  private isLasting(info: RecordInfo): boolean {
    return this.parts.accepts(info) && !isExpired(info, this.parts.nowEpochMs());
  }

  /** Whether there was room for it in the queue. */
  private push(item: Queued): boolean {
    if (this.parts.ram.index.has(item.info.key)) this.parts.wantsDisk.add(item.info.key);
    for (const { info } of this.queue.push(item)) {
      if (!this.parts.ram.index.has(info.key)) this.parts.counts.ram.drops++;
    }
    return this.queue.has(item.info.key);
  }

  private kick(): void {
    if (this.pumping !== undefined || this.queue.waitingCount === 0) return;
    this.pumping = this.pump().finally(() => {
      this.pumping = undefined;
      this.kick(); // for what was queued between the pump's last look and now
    });
    background(this.pumping, "writing behind");
  }

  private async pump(): Promise<void> {
    while (this.queue.waitingCount > 0 && this.parts.disk?.state === "open") {
      const batch = this.queue.takeBatch(Math.min(WRITE_BATCH_BYTES, this.parts.disk.limitBytes));
      const settle = (): void => this.queue.settle(batch);
      this.writing = this.writeBatch(this.parts.disk, batch).finally(settle);
      await this.writing;
    }
    if (this.parts.disk?.state !== "open") this.dropQueue();
  }

  /** Without a disk nothing waits for it: RAM keeps what it holds, the rest is given up. */
  private dropQueue(): void {
    this.parts.counts.ram.drops += this.queue
      .infos()
      .filter(({ key }) => !this.parts.ram.index.has(key)).length;
    this.queue.remove(() => true);
  }

  private async writeBatch(disk: DiskTier, batch: readonly Queued[]): Promise<void> {
    const fresh = batch.filter(({ info }) => !this.isStored(disk, info.key));
    const coarser = fresh.filter(({ info }) => disk.index.has(info.key)).map(({ info }) => info.key);
    if (coarser.length > 0) await disk.remove(coarser);
    if (fresh.length === 0) return;
    const evicted = disk.evicted;
    const written = new Set(await disk.write(fresh));
    this.parts.counts.disk.drops += disk.evicted - evicted;
    this.parts.counts.disk.demotions += written.size;
    const lost = fresh.filter((item) => !written.has(item) && !this.parts.ram.index.has(item.info.key));
    this.parts.counts.ram.drops += lost.length;
    if (written.size > 0) this.parts.hints.post({ type: "changed" });
  }

  private isStored(disk: DiskTier, key: Key): boolean {
    const info = disk.index.get(key);
    return info !== undefined && this.parts.accepts(info);
  }

  /** Waits until all that was put is on the disk, but no longer than `timeoutMs`. Says how many records are left. */
  async drain(timeoutMs: number): Promise<{ left: number }> {
    const emptied = async (): Promise<void> => {
      this.kick();
      while (this.pumping !== undefined) await this.pumping;
    };
    await within(this.parts.timer, timeoutMs, "drain", emptied()).catch(() => undefined); // what is left is told
    return { left: this.queue.size };
  }
}
