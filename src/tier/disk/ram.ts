/**
 * Records in memory: the RAM tier's bytes, and a Backend where there is no disk. It keeps what it is given by reference
 * and copies nothing; budgets and order of eviction are the store's (tier-index.ts, store.ts).
 */
import { noDelta, type Backend, type BackendUsage, type Delta, type MaintainResult } from "./backend.ts";
import type { Key } from "../record/keys.ts";
import { infoOf } from "../record/record.ts";

export class RamBackend implements Backend {
  readonly name = "ram";
  private readonly records = new Map<Key, Uint8Array>();

  /** The bytes, at once. */
  peek(key: Key): Uint8Array | undefined {
    return this.records.get(key);
  }

  set(key: Key, record: Uint8Array): void {
    this.records.set(key, record);
  }

  delete(key: Key): boolean {
    return this.records.delete(key);
  }

  open(): Promise<Delta> {
    return Promise.resolve({ added: [...this.records.values()].map(infoOf), removed: [] });
  }

  append(records: readonly Uint8Array[]): Promise<Delta> {
    const delta = noDelta();
    for (const record of records) {
      const info = infoOf(record);
      if (!this.records.has(info.key)) delta.added.push(info);
      this.records.set(info.key, record);
    }
    return Promise.resolve(delta);
  }

  read(key: Key): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.peek(key));
  }

  remove(keys: readonly Key[]): Promise<Delta> {
    return Promise.resolve({ added: [], removed: [...new Set(keys)].filter((key) => this.delete(key)) });
  }

  refresh(): Promise<Delta> {
    return Promise.resolve(noDelta());
  }

  maintain(): Promise<MaintainResult> {
    return Promise.resolve({ ...noDelta(), bytesCopied: 0, more: false });
  }

  /** Drops the records that were stored longest ago. */
  async reclaim(bytes: number): Promise<Delta> {
    const keys: Key[] = [];
    let freed = 0;
    for (const [key, record] of this.records) {
      if (freed >= bytes) break;
      freed += record.length;
      keys.push(key);
    }
    return this.remove(keys);
  }

  usage(): Promise<BackendUsage> {
    let bytesOnMedium = 0;
    for (const record of this.records.values()) bytesOnMedium += record.length;
    return Promise.resolve({ bytesOnMedium, segments: 0, badEntries: 0 });
  }

  close(): Promise<void> {
    this.records.clear();
    return Promise.resolve();
  }
}
