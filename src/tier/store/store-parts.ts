/**
 * What the rooms of one store share: its tiers, their counts, the clocks, and which records it serves. Who puts, writes
 * behind, looks, reads and forgets are store.ts, write-behind.ts, lookup.ts, reader.ts, remover.ts and maintenance.ts.
 */
import { systemClock, type Clock } from "../../base.ts";
import type { Backend } from "../disk/backend.ts";
import { DiskTier } from "./disk-tier.ts";
import type { Key } from "../record/keys.ts";
import { openTabHints, type TabHints, type TabHint } from "./tab-hints.ts";
import { RamTier } from "./ram-tier.ts";
import { coarseness, type Encoding, type MissReason, type RecordInfo } from "../record/record.ts";
import type { StoreOptions } from "./store-options.ts";
import { newCounts } from "./store-stats.ts";
import { systemTimer, type Timer } from "../disk/timer.ts";
import type { Queued } from "./write-queue.ts";

/** Reasons after which a record on disk will never be good again. */
export const ROTTEN: ReadonlySet<MissReason> = new Set([
  "short",
  "magic",
  "version",
  "header",
  "payload",
  "key",
  "expired",
]);

export interface PartsHooks {
  onRamEvicted(evicted: Queued): void;
  onHint(message: TabHint): void;
}

export class StoreParts {
  readonly options: StoreOptions;
  readonly clock: Clock;
  readonly timer: Timer;
  readonly ram: RamTier;
  readonly disk: DiskTier | undefined;
  readonly hints: TabHints;
  readonly counts = { ram: newCounts(), disk: newCounts() };
  /** Records in RAM that are to be on the disk when RAM lets them go. */
  readonly wantsDisk = new Set<Key>();
  closed = false;

  constructor(options: StoreOptions, hooks: PartsHooks) {
    this.options = options;
    this.clock = options.clock ?? systemClock;
    this.timer = options.timer ?? systemTimer;
    this.ram = new RamTier(options.ramBytes, options.choose, (evicted) => hooks.onRamEvicted(evicted));
    this.disk = options.disk === undefined ? undefined : this.makeDisk(options.disk);
    const channel = options.hintsChannel;
    const silent: TabHints = { post: () => undefined, close: () => undefined };
    this.hints = channel === undefined ? silent : openTabHints(channel, (message) => hooks.onHint(message));
  }

  private makeDisk(make: () => Backend | Promise<Backend>): DiskTier {
    return new DiskTier({
      make,
      maxBytes: this.options.diskBytes ?? 0,
      ioTimeoutMs: this.options.ioTimeoutMs ?? 10_000,
      reopenDelayMs: this.options.reopenDelayMs ?? 30_000,
      choose: this.options.choose,
      timer: this.timer,
      clock: this.clock,
      onNotice: (code, message) => this.options.onNotice?.(code, message),
    });
  }

  /**
   * How coarse this store's records are, and so everything that is computed here: whatever it is given may have been
   * computed from blocks that came back from it.
   */
  get encoding(): Encoding {
    const { atRestBits, atRestStateBits } = this.options;
    if (atRestBits !== undefined) return atRestBits === 8 ? "kivi8" : "kivi4";
    return atRestStateBits === undefined ? "raw" : "half";
  }

  /** Whether this store serves a record: neither it nor what it was computed from is coarser than its own. */
  accepts({ coarsest }: Pick<RecordInfo, "coarsest">): boolean {
    return coarseness(coarsest) <= coarseness(this.encoding);
  }

  nowEpochMs(): number {
    return this.options.nowEpochMs?.() ?? Date.now();
  }
}
