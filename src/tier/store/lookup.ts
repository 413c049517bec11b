/**
 * Which records are where, by the lists as they are: in memory, on their way to a slower tier, or there. Nothing is read
 * and nothing waited for.
 */
import type { Key } from "../record/keys.ts";
import { infoOf, isExpired, type RecordInfo } from "../record/record.ts";
import type { StoreParts } from "./store-parts.ts";
import type { TierName } from "../tiers/tier-index.ts";
import type { Tier } from "./store-parts.ts";
import type { Writers } from "./writers.ts";

/** A record, and the tiers that have it, the fastest first. */
export interface StoredTiers {
  info: RecordInfo;
  tiers: TierName[];
}

export class Lookup {
  private readonly parts: StoreParts;
  private readonly writers: Writers;
  /** Told of a record that was looked for and has expired. */
  private readonly onExpired: (tier: Tier, key: Key) => void;

  constructor(parts: StoreParts, writers: Writers, onExpired: (tier: Tier, key: Key) => void) {
    this.parts = parts;
    this.writers = writers;
    this.onExpired = onExpired;
  }

  /**
   * The tiers of the longest prefix of `keys` that is there, by the lists as they are. Without side effects except that
   * the prefix counts as used, and that a record that has expired behind it is a miss, counted and dropped.
   */
  has(keys: readonly Key[]): TierName[] {
    const tiers: TierName[] = [];
    for (const key of keys) {
      const tier = this.tierOf(key);
      if (tier === undefined) {
        this.tellIfExpired(key);
        break;
      }
      tiers.push(tier);
    }
    for (const key of keys.slice(0, tiers.length)) {
      for (const { index } of this.parts.tiers) index.touch(key);
    }
    return tiers;
  }

  /** Which tiers have a usable record of this key. Without side effects, also on the order of use. */
  tiersOf(key: Key): TierName[] {
    const nowMs = this.parts.nowEpochMs();
    const usable = (info: RecordInfo | undefined): boolean =>
      info !== undefined && this.parts.accepts(info) && !isExpired(info, nowMs);
    const names = this.parts.tiers.filter(({ index }) => usable(index.get(key))).map(({ name }) => name);
    const { name } = this.parts.first;
    return names[0] !== name && usable(this.queuedInfo(key)) ? [name, ...names] : names;
  }

  /** The usable records right behind `parentKey`, with their tiers, newest first. Without side effects. */
  childrenOf(parentKey: Key): StoredTiers[] {
    const infos = new Map<Key, RecordInfo>();
    for (const { index } of this.parts.tiers) {
      for (const info of index.childrenOf(parentKey)) infos.set(info.key, info);
    }
    return [...infos.values()]
      .map((info) => ({ info, tiers: this.tiersOf(info.key) }))
      .filter(({ tiers }) => tiers.length > 0)
      .sort((a, b) => b.info.createdAtMs - a.info.createdAtMs);
  }

  /** How many tokens behind the block `parentKey` the snapshots stand that some tier has, ascending. */
  snapshotTails(parentKey: Key): number[] {
    const infos = this.parts.tiers.flatMap(({ index }) => index.childrenOf(parentKey));
    const tails = infos.filter(({ kind }) => kind === "snapshot").map(({ tokenCount }) => tokenCount);
    return [...new Set(tails)].sort((a, b) => a - b);
  }

  private tierOf(key: Key): TierName | undefined {
    return this.tiersOf(key)[0];
  }

  private queuedInfo(key: Key): RecordInfo | undefined {
    const record = this.writers.queued(key);
    return record === undefined ? undefined : infoOf(record);
  }

  /** All records, with the tiers that hold them. */
  list(): (RecordInfo & { tiers: TierName[] })[] {
    const infos = new Map<Key, RecordInfo>();
    const { far, near, tiers, first } = this.parts;
    const [behind, ahead] = [far, near].map((some) => some.flatMap(({ index }) => [...index.values()]));
    for (const info of [...(behind ?? []), ...this.writers.infos(), ...(ahead ?? [])])
      infos.set(info.key, info);
    const has = ({ index, name }: Tier, key: Key): boolean =>
      index.has(key) || (name === first.name && this.writers.isQueued(key));
    return [...infos.values()].map((info) => ({
      ...info,
      tiers: tiers.filter((tier) => has(tier, info.key)).map(({ name }) => name),
    }));
  }

  private tellIfExpired(key: Key): void {
    const { tiers, near, first } = this.parts;
    const holder =
      near.find(({ index }) => index.has(key)) ?? (this.writers.isQueued(key) ? first : undefined);
    const tier = holder ?? tiers.find(({ index }) => index.has(key));
    const info = tier?.index.get(key) ?? this.queuedInfo(key);
    if (tier !== undefined && info !== undefined && isExpired(info, this.parts.nowEpochMs()))
      this.onExpired(tier, key);
  }
}
