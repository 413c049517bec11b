/** The store's numbers by tier. Counting happens in store.ts and its rooms. */
import type { BackendUsage } from "../disk/backend.ts";
import type { DiskTier } from "../tiers/disk-tier.ts";
import { newCounts, type TierStats } from "../tiers/tier-counts.ts";
import type { TierName } from "../tiers/tier-index.ts";
import type { Tier } from "./store-parts.ts";

/** Of a tier that has to be waited for. */
export interface AsyncTierStats extends TierStats, BackendUsage {
  state: "none" | DiskTier["state"];
}

/** Of one tier of the list, with its name; `state` and what is on the medium if it has to be waited for. */
export type NamedTierStats = { name: TierName } & (
  ({ kind: "sync" } & TierStats) | ({ kind: "async" } & AsyncTierStats)
);

export interface StoreStats {
  /** All tiers, the fastest first. */
  tiers: NamedTierStats[];
  /** The same of the two usual tiers; zeros if there is no such tier. */
  ram: TierStats;
  disk: AsyncTierStats;
  queue: { bytes: number; records: number; dropped: number };
}

const NO_TIER: AsyncTierStats = {
  ...{ bytes: 0, records: 0, budgetBytes: 0, ...newCounts() },
  ...{ state: "none", bytesOnMedium: 0, segments: 0, badEntries: 0 },
};

export async function tierStats(tier: Tier): Promise<NamedTierStats> {
  const { name, index, counts, budgetBytes } = tier;
  const held = { bytes: index.bytes, records: index.size, budgetBytes };
  const common = { name, ...held, ...counts, misses: { ...counts.misses } };
  return tier.kind === "sync"
    ? { ...common, kind: "sync" }
    : { ...common, kind: "async", state: tier.state, ...(await tier.usage()) };
}

/** The numbers of a store without tiers. */
export function noStats(): StoreStats {
  return { ...{ tiers: [], ram: NO_TIER, disk: NO_TIER }, queue: { bytes: 0, records: 0, dropped: 0 } };
}

/** The numbers of the tier of this name, in the form of the usual two. */
export function statsOf(tiers: readonly NamedTierStats[], name: TierName): AsyncTierStats {
  const {
    name: _name,
    kind: _kind,
    ...stats
  } = tiers.find((tier) => tier.name === name) ?? { name, kind: "sync" };
  return { ...NO_TIER, ...stats };
}
