/**
 * The store: records in RAM and on disk, each within a budget of bytes, looked up by key. put() never waits: the disk is
 * written behind, from a bounded queue. get() looks in RAM, then on the disk, and checks what it finds there; whatever
 * fails a check is a miss with a reason, and is dropped. Without a disk, or after losing it, the store goes on in RAM and
 * tells so once. Only the last tier forgets: what RAM evicts is on the disk or on its way there.
 *
 * This file puts, moves and closes, and is the door to the rooms: write-behind.ts, lookup.ts, reader.ts, remover.ts and
 * maintenance.ts, which share store-parts.ts. It knows nothing of GPU slots, prefix trees or models: keys and bytes only
 * (cache/ and worker/ know the rest).
 */
import { Remover } from "./remover.ts";
import { recordKey, type Key } from "../record/keys.ts";
import { quantiseKv } from "../record/kv-quant.ts";
import { Lookup, type StoredTiers } from "./lookup.ts";
import { Reader } from "./reader.ts";
import { coarserOf, encodeRecord, infoOf, type Encoding, type RecordInfo } from "../record/record.ts";
import type { Asked, Filter, GetResult, PutDraft, PutOutcome, StoreOptions } from "./store-options.ts";
import { halveState } from "../record/state-half.ts";
import { StoreParts } from "./store-parts.ts";
import { tierStats, type MissCounts, type StoreStats } from "./store-stats.ts";
import type { TierName } from "./tier-index.ts";
import { Maintenance } from "./maintenance.ts";
import { WriteBehind } from "./write-behind.ts";
import type { Queued } from "./write-queue.ts";

export type { StoredTiers } from "./lookup.ts";
export { MAX_READS_IN_FLIGHT, MAX_READS_WAITING } from "./reader.ts";
export { WRITE_BATCH_BYTES } from "./write-behind.ts";

export class TierStore {
  private readonly parts: StoreParts;
  private readonly behind: WriteBehind;
  private readonly lookup: Lookup;
  private readonly remover: Remover;
  private readonly maintenance: Maintenance;
  private readonly reader: Reader;

  /** Opens a store. A disk that cannot be opened is a notice, not an error. */
  static async open(options: StoreOptions): Promise<TierStore> {
    const store = new TierStore(options);
    await store.parts.disk?.open();
    store.maintenance.start();
    return store;
  }

  private constructor(options: StoreOptions) {
    this.parts = new StoreParts(options, {
      onRamEvicted: (evicted) => this.onRamEvicted(evicted),
      onHint: (message) => this.maintenance.onHint(message),
    });
    this.behind = new WriteBehind(this.parts);
    this.remover = new Remover(this.parts, this.behind);
    this.maintenance = new Maintenance(this.parts, this.behind, this.remover);
    this.reader = new Reader(this.parts, this.behind, this.remover, this.maintenance);
    this.lookup = new Lookup(this.parts, this.behind, (tier, key) => this.reader.miss(tier, "expired", key));
  }

  /** Whether a record so coarse, or computed from one so coarse, is served here. */
  accepts(info: Pick<RecordInfo, "coarsest">): boolean {
    return this.parts.accepts(info);
  }

  /** Milliseconds since 1970, by the store's clock. */
  nowEpochMs(): number {
    return this.parts.nowEpochMs();
  }

  get diskState(): StoreStats["disk"]["state"] {
    return this.parts.disk?.state ?? "none";
  }

  // ---- putting ----

  /**
   * Stores a record in RAM and, unless `lowest` is "ram", on disk, if the records before it in its chain are there, on
   * their way, or in RAM. Never waits and never fails: under pressure the queue
   * drops the record that is cheapest to rebuild. The payload is copied, unless it has room for its header.
   */
  put(draft: PutDraft, lowest: TierName = "disk"): PutOutcome {
    if (this.parts.closed) return "refused";
    const key = recordKey(draft.kind, draft.parentKey, draft.tokens);
    const known = this.parts.ram.index.get(key);
    if (known !== undefined && this.parts.accepts(known)) {
      this.parts.ram.index.touch(key);
      if (lowest === "ram" || this.behind.isDiskBound(key)) return "known";
      return this.putEncoded(this.parts.ram.get(key) as Uint8Array, lowest);
    }
    if (lowest === "disk" && known === undefined && this.behind.isDiskBound(key)) return "known";
    return this.putEncoded(this.encode(draft, key), lowest);
  }

  private encode(draft: PutDraft, key: Key): Uint8Array {
    const createdAtMs = draft.createdAtMs ?? this.parts.nowEpochMs();
    const plain = { ...draft, createdAtMs, coarsest: coarserOf(this.parts.encoding, draft.coarsest) };
    const small = this.shrunk(draft);
    // Values that do not fit are kept as they are.
    return encodeRecord(small ? { ...plain, ...small, hasHeaderRoom: false } : plain, key);
  }

  /** The payload in fewer bits, if this store keeps its kind so. */
  private shrunk(draft: PutDraft): { payload: Uint8Array; encoding: Encoding } | undefined {
    const { atRestBits, atRestStateBits } = this.parts.options;
    const { kind, payload, layout, stateBytes } = draft;
    if (kind === "snapshot") {
      const half = atRestStateBits && stateBytes ? halveState(payload, stateBytes) : undefined;
      return half && { payload: half, encoding: "half" };
    }
    const quantised = atRestBits && layout ? quantiseKv(payload, layout, atRestBits) : undefined;
    return quantised && { payload: quantised, encoding: atRestBits === 8 ? "kivi8" : "kivi4" };
  }

  private putEncoded(record: Uint8Array, lowest: TierName): PutOutcome {
    const info = infoOf(record);
    const toDisk = lowest === "disk" && this.parts.disk !== undefined;
    const inRam = this.parts.ram.set(info, record);
    if (toDisk && inRam) this.parts.wantsDisk.add(info.key);
    if (toDisk) this.behind.enqueue({ info, record });
    if (inRam || this.behind.queue.has(info.key)) return "stored";
    this.parts.counts.ram.drops++;
    return "refused";
  }

  /** A record that RAM has evicted goes to the disk if it is wanted there and has not got there yet. */
  private onRamEvicted(evicted: Queued): void {
    const { key } = evicted.info;
    if (this.parts.wantsDisk.delete(key)) this.behind.enqueue(evicted);
    if (this.behind.isDiskBound(key)) this.parts.counts.ram.demotions++;
    else this.parts.counts.ram.drops++;
  }

  /** Waits until all that was put is on the disk, but no longer than `timeoutMs`. Says how many records are left. */
  drain(timeoutMs: number): Promise<{ left: number }> {
    return this.behind.drain(timeoutMs);
  }

  // ---- looking and getting ----

  /** The record of this key, checked. Fields of `asked` are compared with what is found. */
  get(key: Key, asked: Asked = {}): Promise<GetResult> {
    return this.reader.get(key, asked);
  }

  /**
   * The tiers of the longest prefix of `keys` that is there, by the lists as they are. Without side effects except that
   * the prefix counts as used, and that a record that has expired behind it is a miss, counted and dropped.
   */
  has(keys: readonly Key[]): TierName[] {
    return this.lookup.has(keys);
  }

  /** Which tiers have a usable record of this key. Without side effects, also on the order of use. */
  tiersOf(key: Key): { ram: boolean; disk: boolean } {
    return this.lookup.tiersOf(key);
  }

  /** The usable records right behind `parentKey`, with their tiers, newest first. Without side effects. */
  childrenOf(parentKey: Key): StoredTiers[] {
    return this.lookup.childrenOf(parentKey);
  }

  /** How many tokens behind the block `parentKey` the snapshots stand that some tier has, ascending. */
  snapshotTails(parentKey: Key): number[] {
    return this.lookup.snapshotTails(parentKey);
  }

  /** has(), after a look at what other writers did if the lists are old and the prefix is incomplete. */
  async match(keys: readonly Key[]): Promise<TierName[]> {
    const tiers = this.has(keys);
    if (tiers.length === keys.length || !(await this.maintenance.refreshIfStale())) return tiers;
    return this.has(keys);
  }

  /** All records, with the tiers that hold them. */
  list(): (RecordInfo & { tiers: TierName[] })[] {
    return this.lookup.list();
  }

  /** Looks for what other tabs and processes did. */
  refresh(): Promise<boolean> {
    return this.maintenance.refresh();
  }

  // ---- moving, dropping, clearing ----

  /** Brings a record from disk to RAM; false if it is in neither. */
  async promote(key: Key): Promise<boolean> {
    return this.parts.ram.index.has(key) || (await this.get(key)).hit;
  }

  /**
   * Sends a record that RAM has on to the disk, behind those before it: for a request that may store there what another one
   * has computed. Whether the disk has it, or will.
   */
  persist(key: Key): boolean {
    if (this.behind.isDiskBound(key)) return true;
    const item = this.parts.ram.peek(key);
    return item !== undefined && this.parts.accepts(item.info) && this.behind.enqueue(item);
  }

  /**
   * Frees a record's RAM once it is on the disk or on its way there; false if it is not in RAM, not meant for the disk, or
   * would be lost.
   */
  demote(key: Key): boolean {
    const item = this.parts.ram.peek(key);
    if (item === undefined) return false;
    if (this.parts.wantsDisk.has(key)) this.behind.enqueue(item);
    if (!this.behind.isDiskBound(key)) return false;
    this.parts.ram.delete(key);
    this.parts.wantsDisk.delete(key);
    this.parts.counts.ram.demotions++;
    return true;
  }

  /** Forgets records in all tiers; false if the disk may bring them back after a restart. */
  drop(keys: readonly Key[]): Promise<boolean> {
    return this.remover.drop(keys);
  }

  /** Forgets everything, or a namespace's or a model's records, and gives the disk's room back. */
  clear(filter: Filter = {}): Promise<{ complete: boolean }> {
    return this.remover.clear(filter);
  }

  // ---- looking after ----

  /** One step of idle work: reopens a lost disk, drops what has expired, compacts. Says whether there is more. */
  maintain(): Promise<boolean> {
    return this.maintenance.maintain();
  }

  /** Reads and checks every record on the disk, and drops the bad ones. */
  verify(): Promise<{ checked: number; bad: Partial<MissCounts> }> {
    return this.maintenance.verify();
  }

  async stats(): Promise<StoreStats> {
    const usage = (await this.parts.disk?.usage()) ?? { bytesOnMedium: 0, segments: 0, badEntries: 0 };
    const disk = tierStats(this.parts.disk, this.parts.counts.disk);
    return {
      ram: tierStats(this.parts.ram, this.parts.counts.ram),
      disk: { ...disk, state: this.parts.disk?.state ?? "none", ...usage },
      queue: {
        bytes: this.behind.queue.bytes,
        records: this.behind.queue.size,
        dropped: this.behind.queue.dropped,
      },
    };
  }

  async setBudgets(budgets: { ramBytes?: number; diskBytes?: number; queueBytes?: number }): Promise<void> {
    if (budgets.queueBytes !== undefined) this.behind.queue.maxBytes = budgets.queueBytes;
    if (budgets.ramBytes !== undefined) this.parts.ram.setMaxBytes(budgets.ramBytes);
    if (budgets.diskBytes !== undefined) await this.parts.disk?.setMaxBytes(budgets.diskBytes);
  }

  /** Drains the queue for at most `drainMs`, and gives everything back. */
  async close(drainMs = 5000): Promise<{ left: number }> {
    if (this.parts.closed) return { left: 0 };
    this.parts.closed = true;
    const drained = await this.drain(drainMs);
    this.maintenance.stop();
    this.parts.hints.close();
    await this.parts.disk?.close();
    return drained;
  }
}
