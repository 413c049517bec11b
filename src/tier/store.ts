/**
 * The store: records in RAM and on disk, each within a budget of bytes, looked up by key. put() never waits: the disk is
 * written behind, from a bounded queue. get() looks in RAM, then on the disk, and checks what it finds there; whatever
 * fails a check is a miss with a reason, and is dropped. Without a disk, or after losing it, the store goes on in RAM and
 * tells so once. Only the last tier forgets: what RAM evicts is on the disk or on its way there.
 *
 * It knows nothing of GPU slots, prefix trees or models: keys and bytes only (cache/ and worker/ know the rest).
 */
import { background, systemClock, type Clock } from "../base.ts";
import { decodeArchive, encodeArchive } from "./archive.ts";
import type { Backend } from "./backend.ts";
import { DiskTier } from "./disk-tier.ts";
import { namespaceHashOf, recordKey, type Key } from "./keys.ts";
import { dequantiseKv, quantiseKv } from "./kv-quant.ts";
import { Limiter } from "./limiter.ts";
import { matcher, openNews, type ClearFilter, type News, type NewsMessage } from "./news.ts";
import { RamTier } from "./ram-tier.ts";
import {
  coarseness,
  decodeRecord,
  encodeRecord,
  infoOf,
  isExpired,
  mismatchOf,
  type Encoding,
  type Expected,
  type MissReason,
  type RecordInfo,
  type StoredRecord,
} from "./record.ts";
import type {
  Asked,
  Filter,
  GetResult,
  ImportResult,
  PutDraft,
  PutOutcome,
  StoreOptions,
} from "./store-options.ts";
import { newCounts, tierStats, type MissCounts, type StoreStats } from "./store-stats.ts";
import type { TierName } from "./tier-index.ts";
import { systemTimer, within, type Timer } from "./timer.ts";
import { WriteQueue, type Queued } from "./write-queue.ts";

const DEFAULT_QUEUE_BYTES = 64 * 2 ** 20;
/** Bytes written in one go: one pair of syncs for each. */
export const WRITE_BATCH_BYTES = 16 * 2 ** 20;
export const MAX_READS_IN_FLIGHT = 16;
export const MAX_READS_WAITING = 4096;
/** How often clear() looks whether another tab has brought something back. */
const CLEAR_ROUNDS = 3;
/** Idle steps after a clear, at most. */
const MAX_IDLE_STEPS = 1000;
/** News from other tabs within this time are answered by one look at the disk. */
const NEWS_DELAY_MS = 20;

/** A record, and who has it. */
export interface StoredTiers {
  info: RecordInfo;
  tiers: { ram: boolean; disk: boolean };
}

export class TierStore {
  private readonly options: StoreOptions;
  private readonly clock: Clock;
  private readonly timer: Timer;
  private readonly ram: RamTier;
  private readonly disk: DiskTier | undefined;
  private readonly queue: WriteQueue;
  private readonly news: News;
  private readonly reads = new Limiter(MAX_READS_IN_FLIGHT, MAX_READS_WAITING);
  private readonly reading = new Map<Key, Promise<Uint8Array | MissReason>>();
  private readonly counts = { ram: newCounts(), disk: newCounts() };
  private readonly wantsDisk = new Set<Key>();
  private pumping: Promise<void> | undefined;
  private writing: Promise<void> = Promise.resolve();
  private refreshing: Promise<boolean> | undefined;
  private refreshedAtMs = -Infinity;
  private cancelTimers = new Set<() => void>();
  private closed = false;

  /** Opens a store. A disk that cannot be opened is a notice, not an error. */
  static async open(options: StoreOptions): Promise<TierStore> {
    const store = new TierStore(options);
    await store.disk?.open();
    store.refreshedAtMs = store.clock.nowMs();
    store.scheduleMaintenance();
    return store;
  }

  private constructor(options: StoreOptions) {
    this.options = options;
    this.clock = options.clock ?? systemClock;
    this.timer = options.timer ?? systemTimer;
    this.ram = new RamTier(options.ramBytes, options.choose, (evicted) => this.onRamEvicted(evicted));
    this.queue = new WriteQueue(options.queueBytes ?? DEFAULT_QUEUE_BYTES);
    this.disk = options.disk === undefined ? undefined : this.makeDisk(options.disk);
    const channel = options.newsChannel;
    const silent: News = { post: () => undefined, close: () => undefined };
    this.news = channel === undefined ? silent : openNews(channel, (message) => this.onNews(message));
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

  get diskState(): StoreStats["disk"]["state"] {
    return this.disk?.state ?? "none";
  }

  // ---- putting ----

  /**
   * Stores a record in RAM and, unless `lowest` is "ram", on disk. Never waits and never fails: under pressure the queue
   * drops the record that is cheapest to rebuild. The payload is copied, unless it has room for its header.
   */
  put(draft: PutDraft, lowest: TierName = "disk"): PutOutcome {
    if (this.closed) return "refused";
    const key = recordKey(draft.kind, draft.parentKey, draft.tokens);
    const known = this.ram.index.get(key);
    if (known !== undefined && this.accepts(known)) {
      this.ram.index.touch(key);
      if (lowest === "ram" || this.isDiskBound(key)) return "known";
      return this.putEncoded(this.ram.get(key) as Uint8Array, lowest);
    }
    if (lowest === "disk" && known === undefined && this.isDiskBound(key)) return "known";
    return this.putEncoded(this.encode(draft, key), lowest);
  }

  private encode(draft: PutDraft, key: Key): Uint8Array {
    const bits = this.options.atRestBits;
    const createdAtMs = draft.createdAtMs ?? this.nowEpochMs();
    const plain = { ...draft, createdAtMs };
    if (bits === undefined || draft.layout === undefined || draft.kind !== "block")
      return encodeRecord(plain, key);
    const payload = quantiseKv(draft.payload, draft.layout, bits);
    if (payload === undefined) return encodeRecord(plain, key); // values that do not fit are kept as they are
    const encoding = bits === 8 ? "kivi8" : "kivi4";
    return encodeRecord({ ...plain, payload, hasHeaderRoom: false, encoding }, key);
  }

  private putEncoded(record: Uint8Array, lowest: TierName): PutOutcome {
    const info = infoOf(record);
    const toDisk = lowest === "disk" && this.disk !== undefined;
    const inRam = this.ram.set(info, record);
    if (toDisk && inRam) this.wantsDisk.add(info.key);
    if (toDisk) this.enqueue({ info, record });
    if (inRam || this.queue.has(info.key)) return "stored";
    this.counts.ram.drops++;
    return "refused";
  }

  /** Whether an acceptable copy is on the disk or on its way. */
  private isDiskBound(key: Key): boolean {
    const info = this.disk?.index.get(key);
    return this.queue.has(key) || (info !== undefined && this.accepts(info));
  }

  private enqueue(item: Queued): void {
    if (this.disk?.state !== "open" || this.isDiskBound(item.info.key)) return;
    for (const { info } of this.queue.push(item)) {
      if (!this.ram.index.has(info.key)) this.counts.ram.drops++;
    }
    this.kick();
  }

  /** A record that RAM has evicted goes to the disk if it is wanted there and has not got there yet. */
  private onRamEvicted(evicted: Queued): void {
    const { key } = evicted.info;
    if (this.wantsDisk.delete(key)) this.enqueue(evicted);
    if (this.isDiskBound(key)) this.counts.ram.demotions++;
    else this.counts.ram.drops++;
  }

  // ---- writing behind ----

  private kick(): void {
    if (this.pumping !== undefined || this.queue.waitingCount === 0) return;
    this.pumping = this.pump().finally(() => {
      this.pumping = undefined;
      this.kick(); // for what was queued between the pump's last look and now
    });
    background(this.pumping, "writing behind");
  }

  private async pump(): Promise<void> {
    while (this.queue.waitingCount > 0 && this.disk?.state === "open") {
      const batch = this.queue.takeBatch(Math.min(WRITE_BATCH_BYTES, this.disk.limitBytes));
      const settle = (): void => this.queue.settle(batch);
      this.writing = this.writeBatch(this.disk, batch).finally(settle);
      await this.writing;
    }
    if (this.disk?.state !== "open") this.dropQueue();
  }

  /** Without a disk nothing waits for it: RAM keeps what it holds, the rest is given up. */
  private dropQueue(): void {
    this.counts.ram.drops += this.queue.infos().filter(({ key }) => !this.ram.index.has(key)).length;
    this.queue.remove(() => true);
  }

  private async writeBatch(disk: DiskTier, batch: readonly Queued[]): Promise<void> {
    const fresh = batch.filter(({ info }) => !this.isStored(disk, info.key));
    const coarser = fresh.filter(({ info }) => disk.index.has(info.key)).map(({ info }) => info.key);
    if (coarser.length > 0) await disk.remove(coarser);
    if (fresh.length === 0) return;
    const records = fresh.map(({ record }) => record);
    const evicted = disk.evicted;
    const outcome = await disk.write(records, new Set(fresh.map(({ info }) => info.key)));
    this.counts.disk.drops += disk.evicted - evicted;
    if (outcome === "written") {
      this.counts.disk.demotions += fresh.length;
      this.news.post({ type: "changed" });
    } else {
      this.counts.ram.drops += fresh.filter(({ info }) => !this.ram.index.has(info.key)).length;
    }
  }

  private isStored(disk: DiskTier, key: Key): boolean {
    const info = disk.index.get(key);
    return info !== undefined && this.accepts(info);
  }

  /** Waits until all that was put is on the disk, but no longer than `timeoutMs`. Says how many records are left. */
  async drain(timeoutMs: number): Promise<{ left: number }> {
    const emptied = async (): Promise<void> => {
      this.kick();
      while (this.pumping !== undefined) await this.pumping;
    };
    await within(this.timer, timeoutMs, "drain", emptied()).catch(() => undefined); // what is left is told
    return { left: this.queue.size };
  }

  // ---- getting ----

  /** The record of this key, checked. Fields of `asked` are compared with what is found. */
  async get(key: Key, asked: Asked = {}): Promise<GetResult> {
    if (this.closed) return { hit: false, reason: "closed" };
    const expected: Expected = { ...asked, key, nowMs: this.nowEpochMs() };
    const near = this.ram.get(key) ?? this.queue.get(key);
    if (near !== undefined) {
      const found = this.judge(near, expected, true);
      if (typeof found !== "string") return this.hit("ram", found);
      if (found !== "encoding" || !this.disk?.index.has(key)) return this.miss("ram", found, key);
    }
    this.counts.ram.misses.absent++;
    return this.disk === undefined ? { hit: false, reason: "absent" } : this.getFromDisk(this.disk, expected);
  }

  private async getFromDisk(disk: DiskTier, expected: Expected): Promise<GetResult> {
    const { key } = expected;
    if (!disk.index.has(key)) await this.refreshIfStale();
    const info = disk.index.get(key);
    if (info === undefined) return this.miss("disk", "absent", key);
    if (!this.accepts(info)) return this.miss("disk", "encoding", key);
    disk.index.touch(key);
    const bytes = await this.readOnce(disk, key);
    if (typeof bytes === "string") return this.miss("disk", bytes, key);
    const found = this.judge(bytes, expected, false);
    if (typeof found === "string") return this.miss("disk", found, key);
    if (!disk.index.has(key)) return this.miss("disk", "gone", key); // cleared while it was read
    this.promoteBytes(bytes);
    return this.hit("disk", found);
  }

  /** Reads a record once for all who ask for it at the same time. */
  private async readOnce(disk: DiskTier, key: Key): Promise<Uint8Array | MissReason> {
    let pending = this.reading.get(key);
    if (pending === undefined) {
      pending = this.reads.run(() => disk.read(key)).then((bytes) => bytes ?? "busy");
      this.reading.set(key, pending);
    }
    try {
      return await pending;
    } finally {
      if (this.reading.get(key) === pending) this.reading.delete(key);
    }
  }

  /** Decodes and checks; `trusted` bytes never left this process's memory. */
  private judge(bytes: Uint8Array, expected: Expected, trusted: boolean): StoredRecord | MissReason {
    const verify = !trusted && this.options.hooks?.trustRecords !== true;
    const decoded = decodeRecord(bytes, { verify });
    if (!decoded.ok) return decoded.reason;
    const { record } = decoded;
    const mismatch = mismatchOf(record, expected);
    if (mismatch !== undefined) return mismatch;
    if (!this.accepts(record)) return "encoding";
    if (record.encoding === "raw") return record;
    const payload = dequantiseKv(record.payload);
    return payload === undefined ? "payload" : { ...record, payload };
  }

  private promoteBytes(bytes: Uint8Array): void {
    if (this.ram.set(infoOf(bytes), bytes)) {
      this.counts.ram.promotions++;
      this.counts.disk.promotions++;
    }
  }

  private hit(tier: TierName, record: StoredRecord): GetResult {
    this.counts[tier].hits++;
    return { hit: true, tier, record };
  }

  /** Counts a miss, and drops a record that will never be good again. */
  private miss(tier: TierName, reason: MissReason, key: Key): GetResult {
    this.counts[tier].misses[reason]++;
    if (ROTTEN.has(reason)) background(this.drop([key]), "dropping a record that failed a check");
    return { hit: false, reason };
  }

  /** Whether this store serves records stored so coarsely. */
  private accepts(info: RecordInfo): boolean {
    const { atRestBits } = this.options;
    const coarsest: Encoding = atRestBits === undefined ? "raw" : atRestBits === 8 ? "kivi8" : "kivi4";
    return coarseness(info.encoding) <= coarseness(coarsest);
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
        this.dropIfExpired(key);
        break;
      }
      tiers.push(tier);
    }
    for (const key of keys.slice(0, tiers.length)) {
      this.ram.index.touch(key);
      this.disk?.index.touch(key);
    }
    return tiers;
  }

  /** Which tiers have a usable record of this key. Without side effects, also on the order of use. */
  tiersOf(key: Key): { ram: boolean; disk: boolean } {
    const nowMs = this.nowEpochMs();
    const usable = (info: RecordInfo | undefined): boolean =>
      info !== undefined && this.accepts(info) && !isExpired(info, nowMs);
    const ram = usable(this.ram.index.get(key)) || usable(this.queuedInfo(key));
    return { ram, disk: usable(this.disk?.index.get(key)) };
  }

  /** The usable records right behind `parentKey`, with their tiers, newest first. Without side effects. */
  childrenOf(parentKey: Key): StoredTiers[] {
    const infos = new Map<Key, RecordInfo>();
    for (const index of [this.ram.index, ...(this.disk ? [this.disk.index] : [])]) {
      for (const info of index.childrenOf(parentKey)) infos.set(info.key, info);
    }
    return [...infos.values()]
      .map((info) => ({ info, tiers: this.tiersOf(info.key) }))
      .filter(({ tiers }) => tiers.ram || tiers.disk)
      .sort((a, b) => b.info.createdAtMs - a.info.createdAtMs);
  }

  /** How many tokens behind the block `parentKey` the snapshots stand that some tier has, ascending. */
  snapshotTails(parentKey: Key): number[] {
    const infos = [this.ram.index, ...(this.disk ? [this.disk.index] : [])].flatMap((index) =>
      index.childrenOf(parentKey),
    );
    const tails = infos.filter(({ kind }) => kind === "snapshot").map(({ tokenCount }) => tokenCount);
    return [...new Set(tails)].sort((a, b) => a - b);
  }

  /** has(), after a look at what other writers did if the lists are old and the prefix is incomplete. */
  async match(keys: readonly Key[]): Promise<TierName[]> {
    const tiers = this.has(keys);
    if (tiers.length === keys.length || !(await this.refreshIfStale())) return tiers;
    return this.has(keys);
  }

  private dropIfExpired(key: Key): void {
    const info = this.ram.index.get(key) ?? this.queuedInfo(key) ?? this.disk?.index.get(key);
    if (info === undefined || !isExpired(info, this.nowEpochMs())) return;
    this.miss(this.disk?.index.get(key) === info ? "disk" : "ram", "expired", key);
  }

  private queuedInfo(key: Key): RecordInfo | undefined {
    const record = this.queue.get(key);
    return record === undefined ? undefined : infoOf(record);
  }

  private tierOf(key: Key): TierName | undefined {
    const nowMs = this.nowEpochMs();
    const usable = (info: RecordInfo | undefined): boolean =>
      info !== undefined && this.accepts(info) && !isExpired(info, nowMs);
    if (usable(this.ram.index.get(key)) || usable(this.queuedInfo(key))) return "ram";
    return usable(this.disk?.index.get(key)) ? "disk" : undefined;
  }

  /** Looks for what other tabs and processes did. */
  refresh(): Promise<boolean> {
    this.refreshing ??= this.refreshNow().finally(() => {
      this.refreshing = undefined;
    });
    return this.refreshing;
  }

  private async refreshNow(): Promise<boolean> {
    this.refreshedAtMs = this.clock.nowMs();
    return (await this.disk?.refresh()) ?? false;
  }

  private async refreshIfStale(): Promise<boolean> {
    const ageMs = this.clock.nowMs() - this.refreshedAtMs;
    return ageMs >= (this.options.refreshAfterMs ?? 1000) && (await this.refresh());
  }

  private onNews(message: NewsMessage): void {
    const late = message.type === "cleared" ? this.forgetForOthers(matcher(message.filter)) : [];
    this.later(NEWS_DELAY_MS, async () => {
      await this.writing;
      await this.refresh();
      if (late.length > 0) await this.drop(late);
    });
  }

  /** Forgets what another tab has cleared. Returns the records whose writing can only be undone once it is over. */
  private forgetForOthers(matches: (info: RecordInfo) => boolean): Key[] {
    this.forgetNear(matches);
    return this.queue
      .infos()
      .filter(matches)
      .map((info) => info.key);
  }

  // ---- moving, dropping, clearing ----

  /** Brings a record from disk to RAM; false if it is in neither. */
  async promote(key: Key): Promise<boolean> {
    return this.ram.index.has(key) || (await this.get(key)).hit;
  }

  /** Frees a record's RAM once it is on the disk or on its way there; false if it is not in RAM or would be lost. */
  demote(key: Key): boolean {
    const info = this.ram.index.get(key);
    const record = this.ram.get(key);
    if (info === undefined || record === undefined) return false;
    this.enqueue({ info, record });
    if (!this.isDiskBound(key)) return false;
    this.ram.delete(key);
    this.wantsDisk.delete(key);
    this.counts.ram.demotions++;
    return true;
  }

  /** Forgets records in all tiers; false if the disk may bring them back after a restart. */
  async drop(keys: readonly Key[]): Promise<boolean> {
    const set = new Set(keys);
    this.forgetNear((info) => set.has(info.key));
    return this.disk === undefined || this.disk.remove(keys);
  }

  /** Forgets everything, or a namespace's or a model's records, and gives the disk's room back. */
  async clear(filter: Filter = {}): Promise<{ complete: boolean }> {
    const wanted: ClearFilter = {};
    if (filter.namespace !== undefined) wanted.namespaceHash = namespaceHashOf(filter.namespace);
    if (filter.fingerprint !== undefined) wanted.fingerprint = filter.fingerprint;
    const matches = matcher(wanted);
    this.forgetNear(matches);
    if (this.disk === undefined) return { complete: true };
    if (this.queue.infos().some(matches)) await this.writing; // what is under way cannot be called back
    this.news.post({ type: "cleared", filter: wanted });
    const forgotten = await this.clearDisk(this.disk, matches);
    return { complete: (await this.maintainFully(this.disk)) && forgotten };
  }

  private async maintainFully(disk: DiskTier): Promise<boolean> {
    for (let step = 0; step < MAX_IDLE_STEPS; step++) {
      const outcome = await disk.maintain();
      if (outcome !== "more") return outcome === "done";
    }
    return false;
  }

  private async clearDisk(disk: DiskTier, matches: (info: RecordInfo) => boolean): Promise<boolean> {
    for (let round = 0; round < CLEAR_ROUNDS; round++) {
      if (!(await disk.refresh())) return false;
      const keys = [...disk.index.values()].filter(matches).map((info) => info.key);
      if (keys.length === 0) return true;
      if (!(await disk.remove(keys))) return false;
    }
    return ![...disk.index.values()].some(matches);
  }

  /** Forgets matching records in RAM and in the queue. */
  private forgetNear(matches: (info: RecordInfo) => boolean): void {
    this.queue.remove(matches);
    for (const info of [...this.ram.index.values()]) {
      if (!matches(info)) continue;
      this.ram.delete(info.key);
      this.wantsDisk.delete(info.key);
    }
  }

  // ---- looking after ----

  /** One step of idle work: reopens a lost disk, drops what has expired, compacts. Says whether there is more. */
  async maintain(): Promise<boolean> {
    if (this.closed || this.disk === undefined) return false;
    await this.disk.reopenIfDue();
    const nowMs = this.nowEpochMs();
    const infos = [...this.ram.index.values(), ...this.disk.index.values()];
    const expired = infos.filter((info) => isExpired(info, nowMs));
    if (expired.length > 0) await this.drop([...new Set(expired.map((info) => info.key))]);
    return (await this.disk.maintain()) === "more";
  }

  private scheduleMaintenance(): void {
    const everyMs = this.options.maintainEveryMs ?? 0;
    if (everyMs === 0) return;
    this.later(everyMs, async () => {
      await this.maintain();
      this.scheduleMaintenance();
    });
  }

  private later(ms: number, work: () => Promise<void>): void {
    if (this.closed) return;
    const cancel = this.timer.after(ms, () => {
      this.cancelTimers.delete(cancel);
      if (!this.closed) background(work(), "idle work of the store");
    });
    this.cancelTimers.add(cancel);
  }

  /** Reads and checks every record on the disk, and drops the bad ones. */
  async verify(): Promise<{ checked: number; bad: Partial<MissCounts> }> {
    const bad: Partial<MissCounts> = {};
    const disk = this.disk;
    const infos = [...(disk?.index.values() ?? [])];
    for (const { key } of infos) {
      const bytes = await disk?.read(key);
      const found = bytes instanceof Uint8Array ? decodeRecord(bytes) : { ok: false as const, reason: bytes };
      const reason = found.ok ? (found.record.key === key ? undefined : "key") : (found.reason ?? "closed");
      if (reason === undefined) continue;
      bad[reason] = (bad[reason] ?? 0) + 1;
      if (ROTTEN.has(reason)) await this.drop([key]);
    }
    return { checked: infos.length, bad };
  }

  /** All records, with the tiers that hold them. */
  list(): (RecordInfo & { tiers: TierName[] })[] {
    const infos = new Map<Key, RecordInfo>();
    for (const info of [
      ...(this.disk?.index.values() ?? []),
      ...this.queue.infos(),
      ...this.ram.index.values(),
    ]) {
      infos.set(info.key, info);
    }
    return [...infos.values()].map((info) => {
      const tiers: TierName[] = [];
      if (this.ram.index.has(info.key) || this.queue.has(info.key)) tiers.push("ram");
      if (this.disk?.index.has(info.key) === true) tiers.push("disk");
      return { ...info, tiers };
    });
  }

  async stats(): Promise<StoreStats> {
    const usage = (await this.disk?.usage()) ?? { bytesOnMedium: 0, segments: 0, badEntries: 0 };
    const disk = tierStats(this.disk, this.counts.disk);
    return {
      ram: tierStats(this.ram, this.counts.ram),
      disk: { ...disk, state: this.disk?.state ?? "none", ...usage },
      queue: { bytes: this.queue.bytes, records: this.queue.size, dropped: this.queue.dropped },
    };
  }

  async setBudgets(budgets: { ramBytes?: number; diskBytes?: number; queueBytes?: number }): Promise<void> {
    if (budgets.queueBytes !== undefined) this.queue.maxBytes = budgets.queueBytes;
    if (budgets.ramBytes !== undefined) this.ram.setMaxBytes(budgets.ramBytes);
    if (budgets.diskBytes !== undefined) await this.disk?.setMaxBytes(budgets.diskBytes);
  }

  // ---- whole prefixes as files ----

  /** The records of `keys` as one file; `missing` are those that are nowhere to be had. */
  async exportRecords(keys: readonly Key[]): Promise<{ archive: Uint8Array; missing: Key[] }> {
    const records: Uint8Array[] = [];
    const missing: Key[] = [];
    for (const key of keys) {
      const found = await this.get(key);
      if (!found.hit) missing.push(key);
      else records.push(encodeRecord({ ...found.record, namespace: "", encoding: "raw" }));
    }
    return { archive: encodeArchive(records), missing };
  }

  /** Stores the records of an archive, each checked, under `namespace`. Throws TidepoolError if it is no archive. */
  importRecords(archive: Uint8Array, options: { namespace?: string; lowest?: TierName } = {}): ImportResult {
    const { drafts, rejected } = decodeArchive(archive, options.namespace ?? "");
    const keys: Key[] = [];
    for (const draft of drafts) {
      if (this.put(draft, options.lowest) !== "refused") {
        keys.push(recordKey(draft.kind, draft.parentKey, draft.tokens));
      }
    }
    return { keys, rejected };
  }

  /** Drains the queue for at most `drainMs`, and gives everything back. */
  async close(drainMs = 5000): Promise<{ left: number }> {
    if (this.closed) return { left: 0 };
    this.closed = true;
    const drained = await this.drain(drainMs);
    for (const cancel of this.cancelTimers) cancel();
    this.news.close();
    await this.disk?.close();
    return drained;
  }

  private nowEpochMs(): number {
    return this.options.nowEpochMs?.() ?? Date.now();
  }
}

/** Reasons after which a record on disk will never be good again. */
const ROTTEN: ReadonlySet<MissReason> = new Set([
  "short",
  "magic",
  "version",
  "header",
  "payload",
  "key",
  "expired",
]);
