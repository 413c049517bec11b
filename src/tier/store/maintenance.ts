/**
 * Looks after a store when nobody asks: sees what other tabs and processes did, drops what has expired, reopens lost
 * tiers, compacts, and checks every record when it is told to.
 */
import { background } from "../../base.ts";
import type { Remover } from "./remover.ts";
import type { Key } from "../record/keys.ts";
import { matcher, type TabHint } from "./tab-hints.ts";
import { decodeRecord, isExpired, type MissReason, type RecordInfo } from "../record/record.ts";
import { ROTTEN, type StoreParts } from "./store-parts.ts";
import type { MissCounts } from "../tiers/tier-counts.ts";
import type { DiskTier } from "../tiers/disk-tier.ts";
import type { Writers } from "./writers.ts";

/** Hints from other tabs within this time are answered by one look at the tiers. */
const HINT_DELAY_MS = 20;

export class Maintenance {
  private readonly parts: StoreParts;
  private readonly writers: Writers;
  private readonly remover: Remover;
  private refreshing: Promise<boolean> | undefined;
  private refreshedAtMs = -Infinity;
  private readonly cancelTimers = new Set<() => void>();

  constructor(parts: StoreParts, writers: Writers, remover: Remover) {
    this.parts = parts;
    this.writers = writers;
    this.remover = remover;
  }

  /** The tiers have just been opened: the lists are new, and idle work begins. */
  start(): void {
    this.refreshedAtMs = this.parts.clock.nowMs();
    this.scheduleMaintenance();
  }

  /** Calls off all work that waits for its time. */
  stop(): void {
    for (const cancel of this.cancelTimers) cancel();
  }

  /** Looks for what other tabs and processes did. */
  refresh(): Promise<boolean> {
    this.refreshing ??= this.refreshNow().finally(() => {
      this.refreshing = undefined;
    });
    return this.refreshing;
  }

  private async refreshNow(): Promise<boolean> {
    this.refreshedAtMs = this.parts.clock.nowMs();
    const seen = await Promise.all(this.parts.far.map((tier) => tier.refresh()));
    return seen.some(Boolean);
  }

  async refreshIfStale(): Promise<boolean> {
    const ageMs = this.parts.clock.nowMs() - this.refreshedAtMs;
    return ageMs >= (this.parts.options.refreshAfterMs ?? 1000) && (await this.refresh());
  }

  onHint(message: TabHint): void {
    const late = message.type === "cleared" ? this.forgetForOthers(matcher(message.filter)) : [];
    this.later(HINT_DELAY_MS, async () => {
      await this.writers.written();
      await this.refresh();
      if (late.length > 0) await this.remover.drop(late);
    });
  }

  /** Forgets what another tab has cleared. Returns the records whose writing can only be undone once it is over. */
  private forgetForOthers(matches: (info: RecordInfo) => boolean): Key[] {
    this.remover.forgetNear(matches);
    return this.writers
      .infos()
      .filter(matches)
      .map((info) => info.key);
  }

  /**
   * One step of idle work: reopens lost tiers, drops what has expired and what no chain leads to any more, compacts. Says
   * whether there is more.
   */
  async maintain(): Promise<boolean> {
    const { closed, far, tiers } = this.parts;
    if (closed || far.length === 0) return false;
    await Promise.all(far.map((tier) => tier.reopenIfDue()));
    const nowMs = this.parts.nowEpochMs();
    const infos = tiers.flatMap(({ index }) => [...index.values()]);
    const expired = infos.filter((info) => isExpired(info, nowMs));
    if (expired.length > 0) await this.remover.drop([...new Set(expired.map((info) => info.key))]);
    const isMore = await Promise.all(far.map((tier) => this.tidy(tier)));
    return isMore.some(Boolean);
  }

  private async tidy(tier: DiskTier): Promise<boolean> {
    const isMoreToSweep = await tier.sweep();
    return (await tier.maintain()) === "more" || isMoreToSweep;
  }

  scheduleMaintenance(): void {
    const everyMs = this.parts.options.maintainEveryMs ?? 0;
    if (everyMs === 0) return;
    this.later(everyMs, async () => {
      await this.maintain();
      this.scheduleMaintenance();
    });
  }

  private later(ms: number, work: () => Promise<void>): void {
    if (this.parts.closed) return;
    const cancel = this.parts.timer.after(ms, () => {
      this.cancelTimers.delete(cancel);
      if (!this.parts.closed) background(work(), "idle work of the store");
    });
    this.cancelTimers.add(cancel);
  }

  /** Reads and checks every record of the asynchronous tiers, and drops the bad ones. */
  async verify(): Promise<{ checked: number; bad: Partial<MissCounts> }> {
    const bad: Partial<MissCounts> = {};
    let checked = 0;
    for (const tier of this.parts.far) {
      for (const { key } of [...tier.index.values()]) {
        if (!tier.index.has(key)) continue; // evicted or cleared since the list was made
        checked++;
        const reason = await this.faultOf(tier, key);
        if (reason === undefined) continue;
        bad[reason] = (bad[reason] ?? 0) + 1;
        if (ROTTEN.has(reason)) await this.remover.dropRotten(tier, reason, key);
      }
    }
    return { checked, bad };
  }

  private async faultOf(tier: DiskTier, key: Key): Promise<MissReason | undefined> {
    const bytes = await tier.read(key);
    if (!(bytes instanceof Uint8Array)) return bytes;
    const found = decodeRecord(bytes);
    if (!found.ok) return found.reason;
    return found.record.key === key ? undefined : "key";
  }
}
