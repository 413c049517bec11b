/** The store's numbers by tier. Counting happens in store.ts. */
import type { DiskTier } from "./disk-tier.ts";
import type { RamTier } from "./ram-tier.ts";
import { MISS_REASONS, type MissReason } from "../record/record.ts";

export type MissCounts = Record<MissReason, number>;

export interface TierStats {
  bytes: number;
  records: number;
  budgetBytes: number;
  hits: number;
  misses: MissCounts;
  /** Records that came into this tier from the one below (RAM), or left it for the one above (disk). */
  promotions: number;
  /** Records that left this tier for the one below (RAM), or came in from above (disk). */
  demotions: number;
  /** Records that this tier gave up and no lower one holds. */
  drops: number;
}

export interface StoreStats {
  ram: TierStats;
  disk: TierStats & {
    state: "none" | DiskTier["state"];
    bytesOnMedium: number;
    segments: number;
    badEntries: number;
  };
  queue: { bytes: number; records: number; dropped: number };
}

export type Counts = Pick<TierStats, "hits" | "misses" | "promotions" | "demotions" | "drops">;

export function newCounts(): Counts {
  const misses = Object.fromEntries(MISS_REASONS.map((reason) => [reason, 0])) as MissCounts;
  return { hits: 0, misses, promotions: 0, demotions: 0, drops: 0 };
}

export function tierStats(tier: RamTier | DiskTier | undefined, counts: Counts): TierStats {
  const held = { bytes: tier?.index.bytes ?? 0, records: tier?.index.size ?? 0 };
  return { ...held, budgetBytes: tier?.budgetBytes ?? 0, ...counts, misses: { ...counts.misses } };
}
