/**
 * Forgets records, by key or by what they are of, in every tier and on their way. Other tabs are told of a clear; what they
 * do about it is maintenance.ts.
 */
import type { DiskTier } from "../tiers/disk-tier.ts";
import { namespaceHashOf, type Key } from "../record/keys.ts";
import { matcher, type ClearFilter } from "./tab-hints.ts";
import type { MissReason, RecordInfo } from "../record/record.ts";
import type { Filter } from "./store-options.ts";
import type { StoreParts } from "./store-parts.ts";
import type { Tier } from "./store-parts.ts";
import type { Writers } from "./writers.ts";

/** How often clear() looks whether another tab has brought something back. */
const CLEAR_ROUNDS = 3;
/** Idle steps after a clear, at most. */
const MAX_IDLE_STEPS = 1000;

export class Remover {
  private readonly parts: StoreParts;
  private readonly writers: Writers;

  constructor(parts: StoreParts, writers: Writers) {
    this.parts = parts;
    this.writers = writers;
  }

  /** Forgets records in all tiers; false if one of them may bring them back after a restart. */
  async drop(keys: readonly Key[]): Promise<boolean> {
    const set = new Set(keys);
    this.forgetNear((info) => set.has(info.key));
    const removed = await Promise.all(this.parts.far.map((tier) => tier.remove(keys)));
    return removed.every(Boolean);
  }

  /** Forgets a record that failed a check in one tier: there, or, if it has expired, everywhere. */
  async dropRotten(tier: Tier, reason: MissReason, key: Key): Promise<void> {
    if (tier.kind === "sync" || reason === "expired") await this.drop([key]);
    else await tier.remove([key]);
  }

  /** Forgets everything, or a namespace's or a model's records, and gives their room back. */
  async clear(filter: Filter = {}): Promise<{ complete: boolean }> {
    const wanted: ClearFilter = {};
    if (filter.namespace !== undefined) wanted.namespaceHash = namespaceHashOf(filter.namespace);
    if (filter.fingerprint !== undefined) wanted.fingerprint = filter.fingerprint;
    const matches = matcher(wanted);
    this.forgetNear(matches);
    if (this.parts.far.length === 0) return { complete: true };
    if (this.writers.infos().some(matches)) await this.writers.written(); // what is under way cannot be called back
    this.parts.hints.post({ type: "cleared", filter: wanted });
    const done = await Promise.all(this.parts.far.map((tier) => this.clearTier(tier, matches)));
    return { complete: done.every(Boolean) };
  }

  private async clearTier(tier: DiskTier, matches: (info: RecordInfo) => boolean): Promise<boolean> {
    const forgotten = await this.clearRecords(tier, matches);
    return (await this.maintainFully(tier)) && forgotten;
  }

  private async maintainFully(tier: DiskTier): Promise<boolean> {
    for (let step = 0; step < MAX_IDLE_STEPS; step++) {
      const outcome = await tier.maintain();
      if (outcome !== "more") return outcome === "done";
    }
    return false;
  }

  private async clearRecords(tier: DiskTier, matches: (info: RecordInfo) => boolean): Promise<boolean> {
    for (let round = 0; round < CLEAR_ROUNDS; round++) {
      if (!(await tier.refresh())) return false;
      const keys = [...tier.index.values()].filter(matches).map((info) => info.key);
      if (keys.length === 0) return true;
      if (!(await tier.remove(keys))) return false;
    }
    return ![...tier.index.values()].some(matches);
  }

  /** Forgets matching records in memory and in the queues. */
  forgetNear(matches: (info: RecordInfo) => boolean): void {
    this.writers.remove(matches);
    for (const tier of this.parts.near) {
      for (const info of [...tier.index.values()]) {
        if (!matches(info)) continue;
        tier.delete(info.key);
        this.writers.unwant(info.key);
      }
    }
  }
}
