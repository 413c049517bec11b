/**
 * Brings records: from memory, from their way to a slower tier, then from the slower tiers in order, checked. Whatever fails
 * a check is a miss with a reason, and is dropped there. What a slower tier had goes into the faster ones. Reads of
 * asynchronous tiers are bounded in number, and one serves all who ask for it at the same time.
 */
import { background } from "../../base.ts";
import type { DiskTier } from "../tiers/disk-tier.ts";
import type { Remover } from "./remover.ts";
import type { Key } from "../record/keys.ts";
import { dequantiseKv } from "../record/kv-quant.ts";
import { Limiter } from "../disk/limiter.ts";
import {
  decodeRecord,
  infoOf,
  mismatchOf,
  type Expected,
  type MissReason,
  type StoredRecord,
} from "../record/record.ts";
import { wholeState } from "../record/state-half.ts";
import type { Asked, GetResult } from "./store-options.ts";
import { ROTTEN, type StoreParts } from "./store-parts.ts";
import type { RamTier } from "../tiers/ram-tier.ts";
import type { Tier } from "./store-parts.ts";
import type { Maintenance } from "./maintenance.ts";
import type { Writers } from "./writers.ts";

export const MAX_READS_IN_FLIGHT = 16;
export const MAX_READS_WAITING = 4096;

type Miss = Extract<GetResult, { hit: false }>;

/** Bytes in memory, and the tier that they count as. */
interface Near {
  tier: RamTier;
  bytes: Uint8Array;
}

export class Reader {
  private readonly parts: StoreParts;
  private readonly writers: Writers;
  private readonly remover: Remover;
  private readonly maintenance: Maintenance;
  private readonly reads = new Limiter(MAX_READS_IN_FLIGHT, MAX_READS_WAITING);
  private readonly reading = new Map<string, Promise<Uint8Array | MissReason>>();

  constructor(parts: StoreParts, writers: Writers, remover: Remover, maintenance: Maintenance) {
    this.parts = parts;
    this.writers = writers;
    this.remover = remover;
    this.maintenance = maintenance;
  }

  /** The record of this key, checked. Fields of `asked` are compared with what is found. */
  async get(key: Key, asked: Asked = {}): Promise<GetResult> {
    if (this.parts.closed) return { hit: false, reason: "closed" };
    const expected: Expected = { ...asked, key, nowMs: this.parts.nowEpochMs() };
    const near = this.findNear(key);
    if (near !== undefined) {
      const found = this.judge(near.bytes, expected, true);
      if (typeof found !== "string") return this.nearHit(near, found);
      const isElsewhere = this.parts.far.some(({ index }) => index.has(key));
      if (found !== "encoding" || !isElsewhere) return this.miss(near.tier, found, key);
    }
    for (const { counts } of this.parts.near) counts.misses.absent++;
    return this.getFar(expected);
  }

  /** Where memory has the bytes, which are used by that: a tier, or a queue, which counts as the first tier. */
  private findNear(key: Key): Near | undefined {
    const { near, first } = this.parts;
    const tier = near.find(({ index }) => index.has(key)) ?? first;
    const bytes = tier.get(key) ?? this.writers.queued(key);
    return bytes && { tier, bytes };
  }

  private nearHit({ tier, bytes }: Near, found: StoredRecord): GetResult {
    if (tier !== this.parts.first) this.promoteNear(tier, bytes);
    return this.hit(tier, found);
  }

  private async getFar(expected: Expected): Promise<GetResult> {
    let result: Miss = { hit: false, reason: "absent" };
    for (const tier of this.parts.far) {
      const found = await this.getFrom(tier, expected);
      if (found.hit) return found;
      if (result.reason === "absent") result = found; // what was there and no good says more than that it was not there
    }
    return result;
  }

  private async getFrom(tier: DiskTier, expected: Expected): Promise<GetResult> {
    const { key } = expected;
    if (!tier.index.has(key)) await this.maintenance.refreshIfStale();
    const info = tier.index.get(key);
    if (info === undefined) return this.miss(tier, "absent", key);
    if (!this.parts.accepts(info)) return this.miss(tier, "encoding", key);
    tier.index.touch(key);
    const bytes = await this.readOnce(tier, key);
    if (typeof bytes === "string") return this.miss(tier, bytes, key);
    const found = this.judge(bytes, expected, false);
    if (typeof found === "string") return this.miss(tier, found, key);
    if (!tier.index.has(key)) return this.miss(tier, "gone", key); // cleared while it was read
    this.promoteFar(tier, bytes);
    return this.hit(tier, found);
  }

  /** Reads a record once for all who ask for it at the same time. */
  private async readOnce(tier: DiskTier, key: Key): Promise<Uint8Array | MissReason> {
    const place = `${tier.name} ${key}`;
    let pending = this.reading.get(place);
    if (pending === undefined) {
      pending = this.reads.run(() => tier.read(key)).then((bytes) => bytes ?? "busy");
      this.reading.set(place, pending);
    }
    try {
      return await pending;
    } finally {
      if (this.reading.get(place) === pending) this.reading.delete(place);
    }
  }

  /** Decodes and checks; `trusted` bytes never left this process's memory. */
  private judge(bytes: Uint8Array, expected: Expected, trusted: boolean): StoredRecord | MissReason {
    const verify = !trusted && this.parts.options.hooks?.trustRecords !== true;
    const decoded = decodeRecord(bytes, { verify });
    if (!decoded.ok) return decoded.reason;
    const { record } = decoded;
    const mismatch = mismatchOf(record, expected);
    if (mismatch !== undefined) return mismatch;
    if (!this.parts.accepts(record)) return "encoding";
    if (record.encoding === "raw") return record;
    const payload = record.encoding === "half" ? wholeState(record.payload) : dequantiseKv(record.payload);
    return payload === undefined ? "payload" : { ...record, payload };
  }

  /** From one tier in memory into a faster one: a record is in one of them at a time. */
  private promoteNear(tier: RamTier, bytes: Uint8Array): void {
    const { near } = this.parts;
    const item = { info: infoOf(bytes), record: bytes };
    tier.delete(item.info.key);
    if (!this.parts.putNear(item, near.slice(0, near.indexOf(tier)))) tier.set(item.info, bytes);
    else this.countPromotion(tier);
  }

  /** From an asynchronous tier into memory, and to those that are faster than it. */
  private promoteFar(tier: DiskTier, bytes: Uint8Array): void {
    const item = { info: infoOf(bytes), record: bytes };
    if (this.parts.putNear(item)) this.countPromotion(tier);
    for (const writer of this.writers.all) {
      if (writer.tier === tier) break;
      writer.enqueue(item);
    }
  }

  private countPromotion(from: Tier): void {
    from.counts.promotions++;
    this.parts.first.counts.promotions++;
  }

  private hit({ name, counts }: Tier, record: StoredRecord): GetResult {
    counts.hits++;
    return { hit: true, tier: name, record };
  }

  /** Counts a miss, and drops a record that will never be good again: one that has expired everywhere, others there. */
  miss(tier: Tier, reason: MissReason, key: Key): Miss {
    tier.counts.misses[reason]++;
    if (ROTTEN.has(reason))
      background(this.remover.dropRotten(tier, reason, key), "dropping a record that failed a check");
    return { hit: false, reason };
  }
}
