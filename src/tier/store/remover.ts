/**
 * Forgets records, by key or by what they are of, in every tier and on their way. Other tabs are told of a clear; what they
 * do about it is maintenance.ts.
 */
import type { DiskTier } from "./disk-tier.ts";
import { namespaceHashOf, type Key } from "../record/keys.ts";
import { matcher, type ClearFilter } from "./tab-hints.ts";
import type { RecordInfo } from "../record/record.ts";
import type { Filter } from "./store-options.ts";
import type { StoreParts } from "./store-parts.ts";
import type { WriteBehind } from "./write-behind.ts";

/** How often clear() looks whether another tab has brought something back. */
const CLEAR_ROUNDS = 3;
/** Idle steps after a clear, at most. */
const MAX_IDLE_STEPS = 1000;

export class Remover {
  private readonly parts: StoreParts;
  private readonly behind: WriteBehind;

  constructor(parts: StoreParts, behind: WriteBehind) {
    this.parts = parts;
    this.behind = behind;
  }

  /** Forgets records in all tiers; false if the disk may bring them back after a restart. */
  async drop(keys: readonly Key[]): Promise<boolean> {
    const set = new Set(keys);
    this.forgetNear((info) => set.has(info.key));
    return this.parts.disk === undefined || this.parts.disk.remove(keys);
  }

  /** Forgets everything, or a namespace's or a model's records, and gives the disk's room back. */
  async clear(filter: Filter = {}): Promise<{ complete: boolean }> {
    const wanted: ClearFilter = {};
    if (filter.namespace !== undefined) wanted.namespaceHash = namespaceHashOf(filter.namespace);
    if (filter.fingerprint !== undefined) wanted.fingerprint = filter.fingerprint;
    const matches = matcher(wanted);
    this.forgetNear(matches);
    if (this.parts.disk === undefined) return { complete: true };
    if (this.behind.queue.infos().some(matches)) await this.behind.writing; // what is under way cannot be called back
    this.parts.hints.post({ type: "cleared", filter: wanted });
    const forgotten = await this.clearDisk(this.parts.disk, matches);
    return { complete: (await this.maintainFully(this.parts.disk)) && forgotten };
  }

  private async maintainFully(disk: DiskTier): Promise<boolean> {
    for (let step = 0; step < MAX_IDLE_STEPS; step++) {
      const outcome = await disk.maintain();
      if (outcome !== "more") return outcome === "done";
    }
    return false;
  }

  private async clearDisk(disk: DiskTier, matches: (info: RecordInfo) => boolean): Promise<boolean> {
    for (let round = 0; round < CLEAR_ROUNDS; round++) {
      if (!(await disk.refresh())) return false;
      const keys = [...disk.index.values()].filter(matches).map((info) => info.key);
      if (keys.length === 0) return true;
      if (!(await disk.remove(keys))) return false;
    }
    return ![...disk.index.values()].some(matches);
  }

  /** Forgets matching records in RAM and in the queue. */
  forgetNear(matches: (info: RecordInfo) => boolean): void {
    this.behind.queue.remove(matches);
    for (const info of [...this.parts.ram.index.values()]) {
      if (!matches(info)) continue;
      this.parts.ram.delete(info.key);
      this.parts.wantsDisk.delete(info.key);
    }
  }
}
