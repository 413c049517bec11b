/**
 * What one tier of the store holds: records' infos in order of last use, their sum of bytes, and who should go next.
 * Pure. It knows nothing of where bytes lie.
 */
import type { Key } from "./keys.ts";
import type { RecordInfo } from "./record.ts";

export type TierName = "ram" | "disk";

/**
 * Chooses the record that a full tier gives up. `entries` come in order of last use, oldest first, without those that are
 * protected. Undefined leaves the choice to the default.
 */
export type ChooseVictim = (entries: Iterable<RecordInfo>, tier: TierName) => Key | undefined;

export class TierIndex {
  bytes = 0;
  private readonly entries = new Map<Key, RecordInfo>();
  private readonly children = new Map<Key, Set<Key>>();

  get size(): number {
    return this.entries.size;
  }

  has(key: Key): boolean {
    return this.entries.has(key);
  }

  get(key: Key): RecordInfo | undefined {
    return this.entries.get(key);
  }

  /** The records that stand right behind `parentKey`. */
  childrenOf(parentKey: Key): RecordInfo[] {
    return [...(this.children.get(parentKey) ?? [])].map((key) => this.entries.get(key) as RecordInfo);
  }

  /** In order of last use, oldest first. */
  values(): IterableIterator<RecordInfo> {
    return this.entries.values();
  }

  /** Adds a record as the last used; one that is there already is replaced. */
  set(info: RecordInfo): void {
    this.delete(info.key);
    this.entries.set(info.key, info);
    this.bytes += info.bytes;
    const siblings = this.children.get(info.parentKey);
    if (siblings === undefined) this.children.set(info.parentKey, new Set([info.key]));
    else siblings.add(info.key);
  }

  delete(key: Key): boolean {
    const info = this.entries.get(key);
    if (info === undefined) return false;
    this.entries.delete(key);
    this.bytes -= info.bytes;
    const siblings = this.children.get(info.parentKey);
    siblings?.delete(key);
    if (siblings?.size === 0) this.children.delete(info.parentKey);
    return true;
  }

  clear(): void {
    this.entries.clear();
    this.children.clear();
    this.bytes = 0;
  }

  /** Marks a record as just used. */
  touch(key: Key): void {
    const info = this.entries.get(key);
    if (info === undefined) return;
    this.entries.delete(key);
    this.entries.set(key, info);
  }

  /**
   * The record to give up: the policy's choice, else the least recently used one, or rather the far end of its chain,
   * because a block without the blocks before it is of no use. Nothing of `keep` is chosen.
   */
  victim(tier: TierName, choose: ChooseVictim | undefined, keep: ReadonlySet<Key>): Key | undefined {
    const chosen = choose?.(this.free(keep), tier);
    if (chosen !== undefined && this.entries.has(chosen) && !keep.has(chosen)) return chosen;
    for (const info of this.free(keep)) return this.farEnd(info.key, keep);
    return undefined;
  }

  private *free(keep: ReadonlySet<Key>): Generator<RecordInfo> {
    for (const info of this.entries.values()) if (!keep.has(info.key)) yield info;
  }

  private farEnd(start: Key, keep: ReadonlySet<Key>): Key {
    let key = start;
    for (;;) {
      const next = [...(this.children.get(key) ?? [])].find((child) => !keep.has(child));
      if (next === undefined) return key;
      key = next;
    }
  }
}
