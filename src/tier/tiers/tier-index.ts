/**
 * What one tier of the store holds: records' infos in order of last use, their sum of bytes, and who should go next.
 * Pure. It knows nothing of where bytes lie.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";

/** What a tier is called in lists, numbers and events; the names are those of the store's list of tiers (tier-list.ts). */
export type TierName = string;

/**
 * Chooses the record that a full tier gives up. `entries` come in order of last use, oldest first, without those that are
 * protected. Undefined leaves the choice to the default.
 */
export type ChooseVictim = (entries: Iterable<RecordInfo>, tier: TierName) => Key | undefined;

/** Whether a record stands at its chain's root: its first block, or a snapshot before the end of that. */
export function isFirst({ blockIndex }: RecordInfo): boolean {
  return blockIndex === 0;
}

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
   * The record to give up: the far end of the chain of the policy's choice, else of the least recently used one, because a
   * block without the blocks before it is of no use. Nothing of `keep` is chosen.
   */
  victim(tier: TierName, choose: ChooseVictim | undefined, keep: ReadonlySet<Key>): Key | undefined {
    const chosen = choose?.(this.free(keep), tier);
    if (chosen !== undefined && this.entries.has(chosen) && !keep.has(chosen))
      return this.farEnd(chosen, keep);
    for (const info of this.free(keep)) return this.farEnd(info.key, keep);
    return undefined;
  }

  /** Whether the record that this one stands behind is here, or none is needed. */
  isLinked(info: RecordInfo): boolean {
    return isFirst(info) || this.entries.has(info.parentKey);
  }

  /** Adds to `keys` all records that stand before `info`. */
  addAncestors(info: RecordInfo, keys: Set<Key>): void {
    let parent = this.entries.get(info.parentKey);
    while (parent !== undefined && !keys.has(parent.key)) {
      keys.add(parent.key);
      parent = this.entries.get(parent.parentKey);
    }
  }

  /** Records to which no chain leads from its first block, because one before them is missing. */
  orphans(): Key[] {
    const reached = new Set<Key>();
    for (const info of this.entries.values()) if (isFirst(info)) reached.add(info.key);
    for (const key of reached) for (const child of this.children.get(key) ?? []) reached.add(child);
    return [...this.entries.keys()].filter((key) => !reached.has(key));
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
