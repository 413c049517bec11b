/**
 * Mooncake's Conductor (Algorithm 1): which prefill instance gets a request, and whether the missing part of the best
 * cached prefix is copied to it first. It sees the instances as numbers; it copies nothing, and rejects nothing.
 */
import type { Random } from "../../base.ts";

export const selectionNames = ["random", "load", "cache-aware", "kvcache"] as const;
export type Selection = (typeof selectionNames)[number];

/** A prefill instance, with respect to one request. */
export interface InstanceView {
  /** The longest prefix that it will have when the request's turn comes, in tokens. */
  prefixTokens: number;
  /** The longest prefix that others can copy from it now. */
  sharableTokens: number;
  /** What is queued there. */
  queueMs: number;
  /** Copies from it that are under way. */
  linkMs: number;
}

export interface Choice {
  instance: number;
  /** Tokens that need not be computed. */
  prefixTokens: number;
  /** Where the prefix is copied from, if it is. */
  source: number | undefined;
  /** As predicted, from now on. */
  ttftMs: number;
}

export interface ConductorCost {
  prefillMs(tokens: number, from: number): number;
  transferMs(tokens: number): number;
}

/**
 * The best prefix is copied where it is this many times as long as the local one; below that the rest is computed. Mooncake
 * publishes no value ("tuned by hand").
 */
export const BALANCING_THRESHOLD = 1.5;

export class Conductor {
  private readonly selection: Selection;
  private readonly cost: ConductorCost;
  private readonly random: Random;
  private readonly threshold: number;

  constructor(selection: Selection, cost: ConductorCost, random: Random, threshold = BALANCING_THRESHOLD) {
    this.selection = selection;
    this.cost = cost;
    this.random = random;
    this.threshold = threshold;
  }

  choose(inputTokens: number, views: readonly InstanceView[]): Choice {
    switch (this.selection) {
      case "random":
        return this.local(inputTokens, views, this.random.below(views.length));
      case "load":
        return this.local(inputTokens, views, this.leastLoaded(views));
      case "cache-aware":
        return soonest(views.map((_, i) => this.local(inputTokens, views, i)));
      case "kvcache":
        return soonest(views.map((_, i) => this.withBestPrefix(inputTokens, views, i)));
    }
  }

  private local(inputTokens: number, views: readonly InstanceView[], instance: number): Choice {
    const { prefixTokens, queueMs } = views[instance]!;
    const ttftMs = queueMs + this.cost.prefillMs(inputTokens - prefixTokens, prefixTokens);
    return { instance, prefixTokens, source: undefined, ttftMs };
  }

  /** One of those with the shortest queue, whichever. */
  private leastLoaded(views: readonly InstanceView[]): number {
    const least = Math.min(...views.map(({ queueMs }) => queueMs));
    return this.random.pick([...views.keys()].filter((i) => views[i]!.queueMs === least));
  }

  private withBestPrefix(inputTokens: number, views: readonly InstanceView[], instance: number): Choice {
    const { prefixTokens, queueMs } = views[instance]!;
    const source = holderOf(views, instance);
    const best = source === undefined ? 0 : views[source]!.sharableTokens;
    if (source === undefined || best <= this.threshold * prefixTokens)
      return this.local(inputTokens, views, instance);
    const transferMs = views[source]!.linkMs + this.cost.transferMs(best - prefixTokens);
    const ttftMs = transferMs + queueMs + this.cost.prefillMs(inputTokens - best, best);
    return { instance, prefixTokens: best, source, ttftMs };
  }
}

/** Who has the longest prefix to copy, beside the instance itself; of equals the one that copies least. */
function holderOf(views: readonly InstanceView[], instance: number): number | undefined {
  let best: number | undefined;
  views.forEach((view, i) => {
    if (i === instance || view.sharableTokens === 0) return;
    const known = best === undefined ? undefined : views[best]!;
    if (
      known === undefined ||
      view.sharableTokens > known.sharableTokens ||
      (view.sharableTokens === known.sharableTokens && view.linkMs < known.linkMs)
    )
      best = i;
  });
  return best;
}

/** The first of the soonest. */
function soonest(choices: readonly Choice[]): Choice {
  return choices.reduce((best, choice) => (choice.ttftMs < best.ttftMs ? choice : best));
}
