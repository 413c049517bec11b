/**
 * Writes records to one asynchronous tier behind their putting: takes batches from the bounded queue, one at a time, and gives
 * up what waits when the tier is lost. What it gives up memory may still hold. It decides nothing about what is wanted.
 *
 * A chain in such a tier has no holes: a record is queued behind those before it, which memory may have, and not at all if
 * one of them is nowhere to be had. Written in that order, a chain that a crash cuts short is a shorter chain.
 */
import { background } from "../../base.ts";
import type { DiskTier } from "../tiers/disk-tier.ts";
import type { Key } from "../record/keys.ts";
import { isExpired, type RecordInfo } from "../record/record.ts";
import type { StoreParts } from "./store-parts.ts";
import { isFirst } from "../tiers/tier-index.ts";
import { within } from "../disk/timer.ts";
import { WriteQueue, type Queued } from "./write-queue.ts";

const DEFAULT_QUEUE_BYTES = 64 * 2 ** 20;
/** Bytes written in one go: one pair of syncs for each. */
export const WRITE_BATCH_BYTES = 16 * 2 ** 20;

export class WriteBehind {
  readonly tier: DiskTier;
  readonly queue: WriteQueue;
  /** Records in memory that are to be in this tier when memory lets them go. */
  readonly wanted = new Set<Key>();
  /** The end of the batch under way. */
  writing: Promise<void> = Promise.resolve();
  private readonly parts: StoreParts;
  private pumping: Promise<void> | undefined;

  constructor(parts: StoreParts, tier: DiskTier) {
    this.parts = parts;
    this.tier = tier;
    this.queue = new WriteQueue(parts.options.queueBytes ?? DEFAULT_QUEUE_BYTES);
  }

  get isOpen(): boolean {
    return this.tier.state === "open";
  }

  /** Whether an acceptable copy is in the tier or on its way. */
  isBound(key: Key): boolean {
    const info = this.tier.index.get(key);
    return this.queue.has(key) || (info !== undefined && this.parts.accepts(info));
  }

  /** Queues a record behind what its chain still lacks in the tier. Whether the tier has it now, or will. */
  enqueue(item: Queued): boolean {
    if (!this.isOpen) return false;
    if (this.isBound(item.info.key)) return true;
    for (const link of this.chainTo(item)) if (!this.push(link)) break;
    this.kick();
    return this.isBound(item.info.key);
  }

  /** A record and those before it that the tier lacks, first things first; nothing if one of them is not in memory either. */
  private chainTo(item: Queued): Queued[] {
    const chain = [item];
    for (let { info } = item; !isFirst(info) && !this.isBound(info.parentKey);) {
      const parent = this.parts.peekNear(info.parentKey);
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
    if (this.parts.isNear(item.info.key)) this.wanted.add(item.info.key);
    for (const { info } of this.queue.push(item)) this.countIfLost(info.key);
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
    while (this.queue.waitingCount > 0 && this.isOpen) {
      const batch = this.queue.takeBatch(Math.min(WRITE_BATCH_BYTES, this.tier.limitBytes));
      const settle = (): void => this.queue.settle(batch);
      this.writing = this.writeBatch(batch).finally(settle);
      await this.writing;
    }
    if (!this.isOpen) this.dropQueue();
  }

  /** Nothing waits for a lost tier: memory keeps what it holds, the rest is given up. */
  private dropQueue(): void {
    const infos = this.queue.infos();
    this.queue.remove(() => true);
    for (const { key } of infos) this.countIfLost(key);
  }

  /** Counts a record as dropped if it did not get here and no other tier has it. */
  private countIfLost(key: Key): void {
    if (!this.isHeldElsewhere(key)) this.parts.first.counts.drops++;
  }

  private isHeldElsewhere(key: Key): boolean {
    return this.parts.isNear(key) || this.parts.far.some((tier) => tier !== this.tier && tier.index.has(key));
  }

  private async writeBatch(batch: readonly Queued[]): Promise<void> {
    const { tier } = this;
    const fresh = batch.filter(({ info }) => !this.isStored(info.key));
    const coarser = fresh.filter(({ info }) => tier.index.has(info.key)).map(({ info }) => info.key);
    if (coarser.length > 0) await tier.remove(coarser);
    if (fresh.length === 0) return;
    const evicted = tier.evicted;
    const written = new Set(await tier.write(fresh));
    tier.counts.drops += tier.evicted - evicted;
    tier.counts.demotions += written.size;
    for (const item of fresh) if (!written.has(item)) this.countIfLost(item.info.key);
    if (written.size > 0) this.parts.hints.post({ type: "changed" });
  }

  private isStored(key: Key): boolean {
    const info = this.tier.index.get(key);
    return info !== undefined && this.parts.accepts(info);
  }

  /** Waits until all that was put is in the tier, but no longer than `timeoutMs`. Says how many records are left. */
  async drain(timeoutMs: number): Promise<{ left: number }> {
    const emptied = async (): Promise<void> => {
      this.kick();
      while (this.pumping !== undefined) await this.pumping;
    };
    await within(this.parts.timer, timeoutMs, "drain", emptied()).catch(() => undefined); // what is left is told
    return { left: this.queue.size };
  }
}
