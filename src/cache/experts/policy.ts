/**
 * Which expert loses its slot to another: the interface of all policies, and the three simple ones. A policy sees entries and
 * is told of uses; it moves nothing.
 */
import type { EvictionPolicy } from "../policy/policy.ts";
import type { ExpertClass, ExpertEntry, ExpertGuess, ExpertPhase, ExpertUse } from "./entry.ts";

export const expertPolicyNames = ["lru", "lfu", "static", "moe-infinity", "promoe"] as const;
export type ExpertPolicyName = (typeof expertPolicyNames)[number];

/** What a policy itself predicts for a layer. */
export interface LayerGuesses {
  layer: number;
  guesses: ExpertGuess[];
}

export interface ExpertPolicy extends EvictionPolicy<ExpertEntry> {
  readonly name: ExpertPolicyName;
  /** @param forLayer the layer that needs the slot */
  victim(now: number, fits: (entry: ExpertEntry) => boolean, forLayer?: number): ExpertEntry | undefined;
  /** A step begins. */
  begin?(phase: ExpertPhase): void;
  /** A layer's router has chosen; what the policy predicts for layers behind it. */
  chose?(layer: number, uses: readonly ExpertUse[]): LayerGuesses[];
}

/** The first of the entries that fit, in an order. */
export function firstOf(
  entries: Iterable<ExpertEntry>,
  fits: (entry: ExpertEntry) => boolean,
  compare: (a: ExpertEntry, b: ExpertEntry) => number,
): ExpertEntry | undefined {
  let best: ExpertEntry | undefined;
  for (const entry of entries)
    if (fits(entry) && (best === undefined || compare(entry, best) < 0)) best = entry;
  return best;
}

/** A policy that evicts the least recently used or fetched of the entries in slots. */
abstract class RecencyPolicy implements ExpertPolicy {
  abstract readonly name: ExpertPolicyName;
  /** In the order of their last use. */
  protected readonly inSlots = new Set<ExpertEntry>();

  touch(entry: ExpertEntry, now: number): void {
    entry.lastAccess = now;
    if (this.inSlots.delete(entry)) this.inSlots.add(entry);
  }

  changed(entry: ExpertEntry): void {
    this.inSlots.add(entry);
  }

  removed(entry: ExpertEntry): void {
    this.inSlots.delete(entry);
  }

  victim(_now: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    for (const entry of this.inSlots) if (fits(entry)) return entry;
    return undefined;
  }
}

/** The least recently used expert goes; a prefetch counts as a use. */
export class LruExperts extends RecencyPolicy {
  readonly name = "lru";
}

/** The least often used expert goes, old uses counting less; of equals the least recently used. */
export class LfuExperts extends RecencyPolicy {
  readonly name = "lfu";

  override victim(_now: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    return firstOf(this.inSlots, fits, (a, b) => a.heat - b.heat || a.lastAccess - b.lastAccess);
  }
}

/** The experts that come first (those of a warm start, if there is one) stay for ever, in all slots but those that one token
 * needs in a layer; the others pass through these. */
export class StaticExperts extends RecencyPolicy {
  readonly name = "static";
  private readonly fixed: Set<ExpertEntry>[];
  private readonly fixedSlots: readonly number[];

  constructor(classes: readonly ExpertClass[], chosen: number) {
    super();
    this.fixed = classes.map(() => new Set());
    this.fixedSlots = classes.map(({ slots }) => slots - chosen);
  }

  override changed(entry: ExpertEntry): void {
    super.changed(entry);
    const fixed = this.fixed[entry.classIndex]!;
    if (fixed.size < this.fixedSlots[entry.classIndex]!) fixed.add(entry);
  }

  override removed(entry: ExpertEntry): void {
    super.removed(entry);
    this.fixed[entry.classIndex]!.delete(entry);
  }

  override victim(now: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    return super.victim(now, (entry) => !this.fixed[entry.classIndex]!.has(entry) && fits(entry));
  }
}
