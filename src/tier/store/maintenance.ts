/**
 * Looks after a store when nobody asks: sees what other tabs and processes did, drops what has expired, reopens a lost
 * disk, compacts, and checks every record when it is told to.
 */
import { background } from "../../base.ts";
import type { Remover } from "./remover.ts";
import type { Key } from "../record/keys.ts";
import { matcher, type TabHint } from "./tab-hints.ts";
import { decodeRecord, isExpired, type RecordInfo } from "../record/record.ts";
import { ROTTEN, type StoreParts } from "./store-parts.ts";
import type { MissCounts } from "./store-stats.ts";
import type { WriteBehind } from "./write-behind.ts";

/** Hints from other tabs within this time are answered by one look at the disk. */
const HINT_DELAY_MS = 20;

export class Maintenance {
  private readonly parts: StoreParts;
  private readonly behind: WriteBehind;
  private readonly remover: Remover;
  private refreshing: Promise<boolean> | undefined;
  private refreshedAtMs = -Infinity;
  private readonly cancelTimers = new Set<() => void>();

  constructor(parts: StoreParts, behind: WriteBehind, remover: Remover) {
    this.parts = parts;
    this.behind = behind;
    this.remover = remover;
  }

  /** The disk has just been opened: the lists are new, and idle work begins. */
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
    return (await this.parts.disk?.refresh()) ?? false;
  }

  async refreshIfStale(): Promise<boolean> {
    const ageMs = this.parts.clock.nowMs() - this.refreshedAtMs;
    return ageMs >= (this.parts.options.refreshAfterMs ?? 1000) && (await this.refresh());
  }

  onHint(message: TabHint): void {
    const late = message.type === "cleared" ? this.forgetForOthers(matcher(message.filter)) : [];
    this.later(HINT_DELAY_MS, async () => {
      await this.behind.writing;
      await this.refresh();
      if (late.length > 0) await this.remover.drop(late);
    });
  }

  /** Forgets what another tab has cleared. Returns the records whose writing can only be undone once it is over. */
  private forgetForOthers(matches: (info: RecordInfo) => boolean): Key[] {
    this.remover.forgetNear(matches);
    return this.behind.queue
      .infos()
      .filter(matches)
      .map((info) => info.key);
  }

  /**
   * One step of idle work: reopens a lost disk, drops what has expired and what no chain leads to any more, compacts. Says
   * whether there is more.
   */
  async maintain(): Promise<boolean> {
    if (this.parts.closed || this.parts.disk === undefined) return false;
    await this.parts.disk.reopenIfDue();
    const nowMs = this.parts.nowEpochMs();
    const infos = [...this.parts.ram.index.values(), ...this.parts.disk.index.values()];
    const expired = infos.filter((info) => isExpired(info, nowMs));
    if (expired.length > 0) await this.remover.drop([...new Set(expired.map((info) => info.key))]);
    const isMoreToSweep = await this.parts.disk.sweep();
    return (await this.parts.disk.maintain()) === "more" || isMoreToSweep;
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

  /** Reads and checks every record on the disk, and drops the bad ones. */
  async verify(): Promise<{ checked: number; bad: Partial<MissCounts> }> {
    const bad: Partial<MissCounts> = {};
    const disk = this.parts.disk;
    let checked = 0;
    for (const { key } of [...(disk?.index.values() ?? [])]) {
      if (!disk?.index.has(key)) continue; // evicted or cleared since the list was made
      checked++;
      const bytes = await disk?.read(key);
      const found = bytes instanceof Uint8Array ? decodeRecord(bytes) : { ok: false as const, reason: bytes };
      const reason = found.ok ? (found.record.key === key ? undefined : "key") : (found.reason ?? "closed");
      if (reason === undefined) continue;
      bad[reason] = (bad[reason] ?? 0) + 1;
      if (ROTTEN.has(reason)) await this.remover.drop([key]);
    }
    return { checked, bad };
  }
}
