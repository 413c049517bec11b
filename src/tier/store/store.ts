/**
 * The store: records in an ordered list of tiers (tiers/tier-list.ts), usually RAM and a disk, each within a budget of bytes, looked
 * up by key. put() never waits: asynchronous tiers are written behind, from bounded queues. get() looks in the tiers in
 * order, and checks what it finds in asynchronous ones; whatever fails a check is a miss with a reason, and is dropped.
 * Without an asynchronous tier, or after losing it, the store goes on with the others and tells so once. What a tier in
 * memory evicts is in a slower one or on its way there: only the slowest forgets.
 *
 * This file puts, moves and closes, and is the door to the rooms: writers.ts, lookup.ts, reader.ts, remover.ts and
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
import { statsOf, tierStats, type AsyncTierStats, type StoreStats } from "./store-stats.ts";
import type { MissCounts } from "../tiers/tier-counts.ts";
import type { TierName } from "../tiers/tier-index.ts";
import { Maintenance } from "./maintenance.ts";
import type { RamTier } from "../tiers/ram-tier.ts";
import type { WriteBehind } from "./write-behind.ts";
import { Writers } from "./writers.ts";
import type { Queued } from "./write-queue.ts";

export type { StoredTiers } from "./lookup.ts";
export { MAX_READS_IN_FLIGHT, MAX_READS_WAITING } from "./reader.ts";
export { WRITE_BATCH_BYTES } from "./write-behind.ts";

export class TierStore {
  private readonly parts: StoreParts;
  private readonly writers: Writers;
  private readonly lookup: Lookup;
  private readonly remover: Remover;
  private readonly maintenance: Maintenance;
  private readonly reader: Reader;

  /** Opens a store. A tier that cannot be opened is a notice, not an error. */
  static async open(options: StoreOptions): Promise<TierStore> {
    const store = new TierStore(options);
    await Promise.all(store.parts.far.map((tier) => tier.open()));
    store.maintenance.start();
    return store;
  }

  private constructor(options: StoreOptions) {
    this.parts = new StoreParts(options, {
      onEvicted: (tier, evicted) => this.onEvicted(tier, evicted),
      onHint: (message) => this.maintenance.onHint(message),
    });
    this.writers = new Writers(this.parts);
    this.remover = new Remover(this.parts, this.writers);
    this.maintenance = new Maintenance(this.parts, this.writers, this.remover);
    this.reader = new Reader(this.parts, this.writers, this.remover, this.maintenance);
    this.lookup = new Lookup(this.parts, this.writers, (tier, key) => this.reader.miss(tier, "expired", key));
  }

  /** Whether a record so coarse, or computed from one so coarse, is served here. */
  accepts(info: Pick<RecordInfo, "coarsest">): boolean {
    return this.parts.accepts(info);
  }

  /** Milliseconds since 1970, by the store's clock. */
  nowEpochMs(): number {
    return this.parts.nowEpochMs();
  }

  /** The tiers by name, the fastest first. */
  get tierNames(): TierName[] {
    return this.parts.tiers.map(({ name }) => name);
  }

  /** What an asynchronous tier is in; "none" if there is no such tier. */
  stateOf(name: TierName): AsyncTierStats["state"] {
    return this.parts.far.find((tier) => tier.name === name)?.state ?? "none";
  }

  /** Whether records can be stored where they outlive the process. */
  get isLasting(): boolean {
    return this.writers.all.some(({ isOpen }) => isOpen);
  }

  /** Whether a tier is in this process's memory. */
  isInMemory(name: TierName): boolean {
    return this.parts.tier(name)?.kind === "sync";
  }

  /** What the tiers in memory may hold together. */
  get memoryBytes(): number {
    return this.parts.near.reduce((sum, { budgetBytes }) => sum + budgetBytes, 0);
  }

  /** The slowest tier that can be stored to now: of all, or of those in memory. */
  slowest(where: "memory" | "anywhere"): TierName {
    const { near, tiers } = this.parts;
    const usable =
      where === "memory" ? near : tiers.filter((tier) => tier.kind === "sync" || tier.state === "open");
    return (usable.at(-1) ?? this.parts.first).name;
  }

  // ---- putting ----

  /**
   * Stores a record in memory and in all asynchronous tiers down to `lowest`, which is the slowest unless it is given: in those
   * that have the records before it in its chain, or get them now. Never waits and never fails: under pressure a queue drops
   * the record that is cheapest to rebuild. The payload is copied, unless it has room for its header.
   */
  put(draft: PutDraft, lowest: TierName = this.tierNames.at(-1) as TierName): PutOutcome {
    if (this.parts.closed) return "refused";
    const key = recordKey(draft.kind, draft.parentKey, draft.tokens);
    const writers = this.writers.within(lowest);
    const known = this.parts.peekNear(key);
    if (known !== undefined && this.parts.accepts(known.info)) {
      for (const { index } of this.parts.near) index.touch(key);
      if (writers.length === 0 || Writers.haveAll(writers, key)) return "known";
      return this.putEncoded(known.record, writers);
    }
    if (known === undefined && Writers.haveAll(writers, key)) return "known";
    return this.putEncoded(this.encode(draft, key), writers);
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

  private putEncoded(record: Uint8Array, writers: readonly WriteBehind[]): PutOutcome {
    const info = infoOf(record);
    const isNear = this.parts.putNear({ info, record });
    for (const writer of writers) {
      if (isNear) writer.wanted.add(info.key);
      writer.enqueue({ info, record });
    }
    if (isNear || this.writers.isQueued(info.key)) return "stored";
    this.parts.first.counts.drops++;
    return "refused";
  }

  /** A record that memory evicts goes to the next tier in memory, or from the last to those where it is wanted. */
  private onEvicted(tier: RamTier, evicted: Queued): void {
    const { near } = this.parts;
    const isNear = this.parts.putNear(evicted, near.slice(near.indexOf(tier) + 1));
    if (!isNear) this.writers.release(evicted);
    if (isNear || this.writers.isBound(evicted.info.key)) tier.counts.demotions++;
    else tier.counts.drops++;
  }

  /** Waits until all that was put is where it belongs, but no longer than `timeoutMs`. Says how many records are left. */
  drain(timeoutMs: number): Promise<{ left: number }> {
    return this.writers.drain(timeoutMs);
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

  /** Which tiers have a usable record of this key, the fastest first. Without side effects, also on the order of use. */
  tiersOf(key: Key): TierName[] {
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

  /** Brings a record into memory; false if it is nowhere. */
  async promote(key: Key): Promise<boolean> {
    return this.parts.isNear(key) || (await this.get(key)).hit;
  }

  /**
   * Sends a record that memory has on to the asynchronous tiers, behind those before it: for a request that may store there
   * what another one has computed. Whether one of them has it, or will.
   */
  persist(key: Key): boolean {
    const item = this.parts.peekNear(key);
    if (item !== undefined && this.parts.accepts(item.info)) return this.writers.enqueueAll(item);
    return this.writers.isBound(key);
  }

  /**
   * Frees a record's place in the fastest tier in memory that has it, once a slower tier has it or will; false if it is not in
   * memory, not meant for a slower tier, or would be lost.
   */
  demote(key: Key): boolean {
    const { near } = this.parts;
    const tier = near.find(({ index }) => index.has(key));
    const item = tier?.peek(key);
    if (tier === undefined || item === undefined) return false;
    const isNear = this.parts.putNear(item, near.slice(near.indexOf(tier) + 1));
    if (!isNear && !this.isHandedOn(item)) return false;
    tier.delete(key);
    if (!isNear) this.writers.unwant(key);
    tier.counts.demotions++;
    return true;
  }

  /** Whether an asynchronous tier has a record of memory, or will: those that want it are sent it. */
  private isHandedOn(item: Queued): boolean {
    for (const writer of this.writers.all) if (writer.wanted.has(item.info.key)) writer.enqueue(item);
    return this.writers.isBound(item.info.key);
  }

  /** Forgets records in all tiers; false if a tier may bring them back after a restart. */
  drop(keys: readonly Key[]): Promise<boolean> {
    return this.remover.drop(keys);
  }

  /** Forgets everything, or a namespace's or a model's records, and gives their room back. */
  clear(filter: Filter = {}): Promise<{ complete: boolean }> {
    return this.remover.clear(filter);
  }

  // ---- looking after ----

  /** One step of idle work: reopens lost tiers, drops what has expired, compacts. Says whether there is more. */
  maintain(): Promise<boolean> {
    return this.maintenance.maintain();
  }

  /** Reads and checks every record of the asynchronous tiers, and drops the bad ones. */
  verify(): Promise<{ checked: number; bad: Partial<MissCounts> }> {
    return this.maintenance.verify();
  }

  async stats(): Promise<StoreStats> {
    const tiers = await Promise.all(this.parts.tiers.map(tierStats));
    return {
      tiers,
      ...{ ram: statsOf(tiers, "ram"), disk: statsOf(tiers, "disk") },
      queue: this.writers.totals,
    };
  }

  /** Sets budgets: of a tier under its name and "Bytes", such as `ramBytes`, and of each queue. */
  async setBudgets(budgets: Readonly<Record<`${TierName}Bytes`, number>>): Promise<void> {
    for (const [name, bytes] of Object.entries(budgets)) {
      if (name === "queueBytes") this.writers.maxBytes = bytes;
      else await this.parts.tier(name.slice(0, -"Bytes".length))?.setMaxBytes(bytes);
    }
  }

  /** Drains the queues for at most `drainMs`, and gives everything back. */
  async close(drainMs = 5000): Promise<{ left: number }> {
    if (this.parts.closed) return { left: 0 };
    this.parts.closed = true;
    const drained = await this.drain(drainMs);
    this.maintenance.stop();
    this.parts.hints.close();
    await Promise.all(this.parts.far.map((tier) => tier.close()));
    return drained;
  }
}
