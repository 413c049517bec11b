/**
 * Which expert loses its slot to another: the interface, and what all policies share. A policy sees entries and is told of
 * uses; it moves nothing and knows no capacity.
 */
import type { EvictionPolicy } from "../policy/policy.ts";
import type { ExpertEntry } from "./entry.ts";

export const expertPolicyNames = ["lru"] as const;
export type ExpertPolicyName = (typeof expertPolicyNames)[number];

export interface ExpertPolicy extends EvictionPolicy<ExpertEntry> {
  readonly name: ExpertPolicyName;
  /** @param forLayer the layer that needs the slot */
  victim(now: number, fits: (entry: ExpertEntry) => boolean, forLayer?: number): ExpertEntry | undefined;
}

/** A policy that evicts the entry with the smallest key, of those in slots. */
abstract class KeyedPolicy implements ExpertPolicy {
  abstract readonly name: ExpertPolicyName;
  private readonly inSlots = new Set<ExpertEntry>();

  protected abstract keyOf(entry: ExpertEntry): number;

  touch(entry: ExpertEntry, now: number, _why: "match" | "insert"): void {
    entry.lastAccess = now;
  }

  changed(entry: ExpertEntry): void {
    this.inSlots.add(entry);
  }

  removed(entry: ExpertEntry): void {
    this.inSlots.delete(entry);
  }

  victim(_now: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    let best: ExpertEntry | undefined;
    let least = Infinity;
    for (const entry of this.inSlots) {
      if (!fits(entry)) continue;
      const key = this.keyOf(entry);
      if (best !== undefined && key >= least) continue;
      best = entry;
      least = key;
    }
    return best;
  }
}

/** The least recently used expert goes; a prefetch counts as a use. */
export class LruExperts extends KeyedPolicy {
  readonly name = "lru";

  protected keyOf(entry: ExpertEntry): number {
    return entry.lastAccess;
  }
}
