/**
 * Which records are where, by the lists as they are: in RAM, on their way to the disk, or there. Nothing is read from a
 * disk and nothing waited for.
 */
import type { Key } from "../record/keys.ts";
import { infoOf, isExpired, type RecordInfo } from "../record/record.ts";
import type { StoreParts } from "./store-parts.ts";
import type { TierName } from "./tier-index.ts";
import type { WriteBehind } from "./write-behind.ts";

/** A record, and who has it. */
export interface StoredTiers {
  info: RecordInfo;
  tiers: { ram: boolean; disk: boolean };
}

export class Lookup {
  private readonly parts: StoreParts;
  private readonly behind: WriteBehind;
  /** Told of a record that was looked for and has expired. */
  private readonly onExpired: (tier: TierName, key: Key) => void;

  constructor(parts: StoreParts, behind: WriteBehind, onExpired: (tier: TierName, key: Key) => void) {
    this.parts = parts;
    this.behind = behind;
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
      this.parts.ram.index.touch(key);
      this.parts.disk?.index.touch(key);
    }
    return tiers;
  }

  /** Which tiers have a usable record of this key. Without side effects, also on the order of use. */
  tiersOf(key: Key): { ram: boolean; disk: boolean } {
    const nowMs = this.parts.nowEpochMs();
    const usable = (info: RecordInfo | undefined): boolean =>
      info !== undefined && this.parts.accepts(info) && !isExpired(info, nowMs);
    const ram = usable(this.parts.ram.index.get(key)) || usable(this.queuedInfo(key));
    return { ram, disk: usable(this.parts.disk?.index.get(key)) };
  }

  /** The usable records right behind `parentKey`, with their tiers, newest first. Without side effects. */
  childrenOf(parentKey: Key): StoredTiers[] {
    const infos = new Map<Key, RecordInfo>();
    for (const index of [this.parts.ram.index, ...(this.parts.disk ? [this.parts.disk.index] : [])]) {
      for (const info of index.childrenOf(parentKey)) infos.set(info.key, info);
    }
    return [...infos.values()]
      .map((info) => ({ info, tiers: this.tiersOf(info.key) }))
      .filter(({ tiers }) => tiers.ram || tiers.disk)
      .sort((a, b) => b.info.createdAtMs - a.info.createdAtMs);
  }

  /** How many tokens behind the block `parentKey` the snapshots stand that some tier has, ascending. */
  snapshotTails(parentKey: Key): number[] {
    const infos = [this.parts.ram.index, ...(this.parts.disk ? [this.parts.disk.index] : [])].flatMap(
      (index) => index.childrenOf(parentKey),
    );
    const tails = infos.filter(({ kind }) => kind === "snapshot").map(({ tokenCount }) => tokenCount);
    return [...new Set(tails)].sort((a, b) => a - b);
  }

  private tierOf(key: Key): TierName | undefined {
    const { ram, disk } = this.tiersOf(key);
    if (ram) return "ram";
    return disk ? "disk" : undefined;
  }

  private queuedInfo(key: Key): RecordInfo | undefined {
    const record = this.behind.queue.get(key);
    return record === undefined ? undefined : infoOf(record);
  }

  /** All records, with the tiers that hold them. */
  list(): (RecordInfo & { tiers: TierName[] })[] {
    const infos = new Map<Key, RecordInfo>();
    for (const info of [
      ...(this.parts.disk?.index.values() ?? []),
      ...this.behind.queue.infos(),
      ...this.parts.ram.index.values(),
    ]) {
      infos.set(info.key, info);
    }
    return [...infos.values()].map((info) => {
      const tiers: TierName[] = [];
      if (this.parts.ram.index.has(info.key) || this.behind.queue.has(info.key)) tiers.push("ram");
      if (this.parts.disk?.index.has(info.key) === true) tiers.push("disk");
      return { ...info, tiers };
    });
  }

  private tellIfExpired(key: Key): void {
    const info = this.parts.ram.index.get(key) ?? this.queuedInfo(key) ?? this.parts.disk?.index.get(key);
    if (info === undefined || !isExpired(info, this.parts.nowEpochMs())) return;
    this.onExpired(this.parts.disk?.index.get(key) === info ? "disk" : "ram", key);
  }
}
