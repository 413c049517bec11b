/**
 * Brings records: from RAM, from their way to the disk, then from the disk, checked. Whatever fails a check is a miss with a
 * reason, and is dropped. Reads of the disk are bounded in number, and one serves all who ask for it at the same time.
 */
import { background } from "../../base.ts";
import type { DiskTier } from "./disk-tier.ts";
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
import type { TierName } from "./tier-index.ts";
import type { Maintenance } from "./maintenance.ts";
import type { WriteBehind } from "./write-behind.ts";

export const MAX_READS_IN_FLIGHT = 16;
export const MAX_READS_WAITING = 4096;

export class Reader {
  private readonly parts: StoreParts;
  private readonly behind: WriteBehind;
  private readonly remover: Remover;
  private readonly maintenance: Maintenance;
  private readonly reads = new Limiter(MAX_READS_IN_FLIGHT, MAX_READS_WAITING);
  private readonly reading = new Map<Key, Promise<Uint8Array | MissReason>>();

  constructor(parts: StoreParts, behind: WriteBehind, remover: Remover, maintenance: Maintenance) {
    this.parts = parts;
    this.behind = behind;
    this.remover = remover;
    this.maintenance = maintenance;
  }

  /** The record of this key, checked. Fields of `asked` are compared with what is found. */
  async get(key: Key, asked: Asked = {}): Promise<GetResult> {
    if (this.parts.closed) return { hit: false, reason: "closed" };
    const expected: Expected = { ...asked, key, nowMs: this.parts.nowEpochMs() };
    const near = this.parts.ram.get(key) ?? this.behind.queue.get(key);
    if (near !== undefined) {
      const found = this.judge(near, expected, true);
      if (typeof found !== "string") return this.hit("ram", found);
      if (found !== "encoding" || !this.parts.disk?.index.has(key)) return this.miss("ram", found, key);
    }
    this.parts.counts.ram.misses.absent++;
    return this.parts.disk === undefined
      ? { hit: false, reason: "absent" }
      : this.getFromDisk(this.parts.disk, expected);
  }

  private async getFromDisk(disk: DiskTier, expected: Expected): Promise<GetResult> {
    const { key } = expected;
    if (!disk.index.has(key)) await this.maintenance.refreshIfStale();
    const info = disk.index.get(key);
    if (info === undefined) return this.miss("disk", "absent", key);
    if (!this.parts.accepts(info)) return this.miss("disk", "encoding", key);
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

  private promoteBytes(bytes: Uint8Array): void {
    if (this.parts.ram.set(infoOf(bytes), bytes)) {
      this.parts.counts.ram.promotions++;
      this.parts.counts.disk.promotions++;
    }
  }

  private hit(tier: TierName, record: StoredRecord): GetResult {
    this.parts.counts[tier].hits++;
    return { hit: true, tier, record };
  }

  /** Counts a miss, and drops a record that will never be good again. */
  miss(tier: TierName, reason: MissReason, key: Key): GetResult {
    this.parts.counts[tier].misses[reason]++;
    if (ROTTEN.has(reason)) background(this.remover.drop([key]), "dropping a record that failed a check");
    return { hit: false, reason };
  }
}
