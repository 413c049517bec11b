/**
 * What the rooms of one store share: its tiers, the clocks, and which records it serves. Who puts, writes behind, looks,
 * reads and forgets are store.ts, write-behind.ts, lookup.ts, reader.ts, remover.ts and maintenance.ts.
 */
import { systemClock, type Clock } from "../../base.ts";
import { DiskTier } from "../tiers/disk-tier.ts";
import type { Key } from "../record/keys.ts";
import { openTabHints, type TabHints, type TabHint } from "./tab-hints.ts";
import { RamTier } from "../tiers/ram-tier.ts";
import { coarseness, type Encoding, type MissReason, type RecordInfo } from "../record/record.ts";
import type { StoreOptions } from "./store-options.ts";
import { systemTimer, type Timer } from "../disk/timer.ts";
import type { TierName } from "../tiers/tier-index.ts";
import { checkTiers, usualTiers, type AsyncTierSpec, type SyncTierSpec } from "../tiers/tier-list.ts";
import type { Queued } from "./write-queue.ts";

/** Reasons after which a stored record will never be good again. */
export const ROTTEN: ReadonlySet<MissReason> = new Set([
  "short",
  "magic",
  "version",
  "header",
  "payload",
  "key",
  "expired",
]);

export type Tier = RamTier | DiskTier;

export interface PartsHooks {
  onEvicted(tier: RamTier, evicted: Queued): void;
  onHint(message: TabHint): void;
}

export class StoreParts {
  readonly options: StoreOptions;
  readonly clock: Clock;
  readonly timer: Timer;
  /** All tiers, the fastest first. */
  readonly tiers: readonly Tier[];
  /** Those in memory, and those that have to be waited for. */
  readonly near: readonly RamTier[];
  readonly far: readonly DiskTier[];
  readonly hints: TabHints;
  closed = false;
  private readonly hooks: PartsHooks;

  constructor(options: StoreOptions, hooks: PartsHooks) {
    this.options = options;
    this.hooks = hooks;
    this.clock = options.clock ?? systemClock;
    this.timer = options.timer ?? systemTimer;
    const specs = checkTiers(options.tiers ?? usualTiers(options));
    this.tiers = specs.map((spec) => (spec.kind === "sync" ? this.makeNear(spec) : this.makeFar(spec)));
    this.near = this.tiers.filter((tier) => tier.kind === "sync");
    this.far = this.tiers.filter((tier) => tier.kind === "async");
    const channel = options.hintsChannel;
    const silent: TabHints = { post: () => undefined, close: () => undefined };
    this.hints = channel === undefined ? silent : openTabHints(channel, (message) => hooks.onHint(message));
  }

  private makeNear({ name, maxBytes }: SyncTierSpec): RamTier {
    const onEvict = (tier: RamTier, evicted: Queued): void => this.hooks.onEvicted(tier, evicted);
    return new RamTier({ name, maxBytes, choose: this.options.choose, onEvict });
  }

  private makeFar({ name, maxBytes, make }: AsyncTierSpec): DiskTier {
    return new DiskTier({
      ...{ name, make, maxBytes },
      ioTimeoutMs: this.options.ioTimeoutMs ?? 10_000,
      reopenDelayMs: this.options.reopenDelayMs ?? 30_000,
      choose: this.options.choose,
      timer: this.timer,
      clock: this.clock,
      onNotice: (code, message) => this.options.onNotice?.(code, message),
    });
  }

  /** The fastest tier, in whose name records count that are in memory on their way to a slower one. */
  get first(): RamTier {
    return this.near[0] as RamTier;
  }

  tier(name: TierName): Tier | undefined {
    return this.tiers.find((tier) => tier.name === name);
  }

  /** Whether `tier` is `lowest` or faster than that. */
  isWithin(tier: Tier, lowest: TierName): boolean {
    return this.tiers.indexOf(tier) <= this.tiers.findIndex(({ name }) => name === lowest);
  }

  /** Whether a tier in memory has the record. */
  isNear(key: Key): boolean {
    return this.near.some(({ index }) => index.has(key));
  }

  /** A record that a tier in memory has. Without side effects on the order of use. */
  peekNear(key: Key): Queued | undefined {
    return this.near.find(({ index }) => index.has(key))?.peek(key);
  }

  /** Puts a record into the fastest of `tiers` that takes it. Whether one did. */
  putNear({ info, record }: Queued, tiers: readonly RamTier[] = this.near): boolean {
    return tiers.some((tier) => tier.set(info, record));
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
