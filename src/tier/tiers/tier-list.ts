/**
 * Which tiers a store has: an ordered list of plain data, the fastest first. To add a tier, add an entry here; store, lookup,
 * reader, write-behind, maintenance, numbers, events and the tree go through the list and know no tier by name. How the two
 * kinds behave is in ram-tier.ts and disk-tier.ts.
 */
import { assert } from "../../base.ts";
import type { Backend } from "../disk/backend.ts";
import type { TierName } from "./tier-index.ts";

/** A tier in this process's memory. It is gone with the process. */
export interface SyncTierSpec {
  kind: "sync";
  name: TierName;
  maxBytes: number;
}

/** A tier that has to be waited for and outlives the process: written behind, checked when it is read. */
export interface AsyncTierSpec {
  kind: "async";
  name: TierName;
  maxBytes: number;
  /** Makes its backend, not open yet; called again to reopen after a loss. */
  make: () => Backend | Promise<Backend>;
}

export type TierSpec = SyncTierSpec | AsyncTierSpec;

/** What the usual tiers follow from. */
export interface UsualBudgets {
  /** Budget of the RAM tier. Default: 0. */
  ramBytes?: number;
  /** Budget of the disk tier; no effect without `disk`. */
  diskBytes?: number;
  /** Makes the disk's backend, as in `AsyncTierSpec.make`. Without it there is no disk tier. */
  disk?: () => Backend | Promise<Backend>;
}

/** The list of a store that is opened without one of its own. */
export function usualTiers({ ramBytes = 0, diskBytes = 0, disk }: UsualBudgets): TierSpec[] {
  return [
    { kind: "sync", name: "ram", maxBytes: ramBytes },
    ...(disk ? [{ kind: "async", name: "disk", maxBytes: diskBytes, make: disk } as const] : []),
  ];
}

/** Refuses a list that no store can work with: putting never waits, so that the first tier must be synchronous. */
export function checkTiers(specs: readonly TierSpec[]): readonly TierSpec[] {
  assert(specs[0]?.kind === "sync", "the first tier of a store must be synchronous");
  const names = specs.map(({ name }) => name);
  assert(new Set(names).size === names.length, `tiers of a store must differ in name: ${names.join(", ")}`);
  return specs;
}
