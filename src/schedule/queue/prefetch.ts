/**
 * What waiting requests will need from lower tiers is told to them while the requests wait: of the next few, each once. Which
 * bytes are moved where is the tiers' business. Pure.
 */
import type { LowerTiers } from "../plan.ts";
import type { Request } from "../request.ts";
import type { PrefillQueue } from "./prefill-queue.ts";

/** Waiting requests for which stored blocks are fetched at once. */
export const MAX_PREFETCHED = 4;

export interface PrefetchParts {
  lower: LowerTiers | undefined;
  queue: PrefillQueue;
  /** Whether only a stored state makes stored blocks useful. */
  withStates: boolean;
  /** Tokens of a request that the GPU has. */
  onGpu(request: Request): number;
  blockTokens: number;
}

export class Prefetch {
  private readonly parts: PrefetchParts;
  /** Changes of the queue that have been seen. */
  private seen = 0;

  constructor(parts: PrefetchParts) {
    this.parts = parts;
  }

  /** Tells the lower tiers what has not been told yet. */
  tell(): void {
    const { lower, queue } = this.parts;
    if (!lower?.prefetch || this.seen === queue.changes) return;
    this.seen = queue.changes;
    for (const request of queue.firsts(MAX_PREFETCHED)) {
      const place = queue.placeOf(request);
      if (place.isPrefetched || request.storage === "off") continue;
      place.isPrefetched = true;
      this.tellOf(request, lower);
    }
  }

  private tellOf(request: Request, lower: LowerTiers): void {
    const { blockTokens, withStates, onGpu } = this.parts;
    const known = onGpu(request);
    const last = request.tokens.length - 1;
    const from = Math.floor(known / blockTokens);
    if (withStates) {
      const at = lower.storedState?.(request, known, last);
      if (at !== undefined) lower.prefetch?.(request, from, Math.floor(at / blockTokens) - from, at);
      return;
    }
    const blocks = Math.min(lower.storedBlocks(request, from), Math.floor(last / blockTokens) - from);
    if (blocks > 0) lower.prefetch?.(request, from, blocks);
  }
}
