/** The numbers of one tier. Counting happens in the rooms of the store. */
import { MISS_REASONS, type MissReason } from "../record/record.ts";

export type MissCounts = Record<MissReason, number>;

export interface TierStats {
  bytes: number;
  records: number;
  budgetBytes: number;
  hits: number;
  misses: MissCounts;
  /** Records that came into this tier from a slower one, or left it for a faster one. */
  promotions: number;
  /** Records that left this tier for a slower one, or came in from a faster one. */
  demotions: number;
  /** Records that this tier gave up and no slower one holds. */
  drops: number;
}

export type Counts = Pick<TierStats, "hits" | "misses" | "promotions" | "demotions" | "drops">;

export function newCounts(): Counts {
  const misses = Object.fromEntries(MISS_REASONS.map((reason) => [reason, 0])) as MissCounts;
  return { hits: 0, misses, promotions: 0, demotions: 0, drops: 0 };
}
