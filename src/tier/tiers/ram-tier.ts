/**
 * A tier in this process's memory: encoded records within a budget. Synchronous, so that putting a record never waits.
 * What it evicts is handed to its owner, who decides whether the record still has to go to a slower tier.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";
import { RamBackend } from "../disk/ram.ts";
import { newCounts } from "./tier-counts.ts";
import { TierIndex, type ChooseVictim, type TierName } from "./tier-index.ts";
import type { Queued } from "../store/write-queue.ts";

export interface RamTierOptions {
  name: TierName;
  maxBytes: number;
  choose: ChooseVictim | undefined;
  onEvict: (tier: RamTier, evicted: Queued) => void;
}

export class RamTier {
  readonly kind = "sync";
  readonly name: TierName;
  readonly counts = newCounts();
  readonly index = new TierIndex();
  private readonly backend = new RamBackend();
  private readonly options: RamTierOptions;
  private maxBytes: number;

  constructor(options: RamTierOptions) {
    this.options = options;
    this.name = options.name;
    this.maxBytes = options.maxBytes;
  }

  get budgetBytes(): number {
    return this.maxBytes;
  }

  /** The bytes of a record, which are used by that. */
  get(key: Key): Uint8Array | undefined {
    this.index.touch(key);
    return this.backend.peek(key);
  }

  /** A record with its bytes. Without side effects on the order of use. */
  peek(key: Key): Queued | undefined {
    const info = this.index.get(key);
    const record = this.backend.peek(key);
    return info === undefined || record === undefined ? undefined : { info, record };
  }

  /** Keeps a record, evicting others; false if it alone is over the budget. */
  set(info: RecordInfo, record: Uint8Array): boolean {
    if (record.length > this.maxBytes) return false;
    this.index.set(info);
    this.backend.set(info.key, record);
    this.evictTo(this.maxBytes, new Set([info.key])); // the newcomer is not the one to go
    return true;
  }

  delete(key: Key): boolean {
    this.backend.delete(key);
    return this.index.delete(key);
  }

  setMaxBytes(maxBytes: number): void {
    this.maxBytes = maxBytes;
    this.evictTo(maxBytes, new Set());
  }

  private evictTo(bytes: number, keep: ReadonlySet<Key>): void {
    while (this.index.bytes > bytes) {
      const key = this.index.victim(this.name, this.options.choose, keep);
      if (key === undefined) return;
      const info = this.index.get(key) as RecordInfo;
      const record = this.backend.peek(key) as Uint8Array;
      this.delete(key);
      this.options.onEvict(this, { info, record });
    }
  }
}
