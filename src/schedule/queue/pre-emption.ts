/**
 * Who gives way when a request that decodes needs a block and none is free, and what becomes of what it has computed. Full
 * blocks were copied to the lower tiers when they became full, and the restore that brings it back chooses between
 * loading and computing them; its recurrent state is worth saving only where loading is faster. Pure; the costs are handed in.
 */
import type { Request } from "../request.ts";

/** What it takes to get back what gave way. */
export interface GiveWayCosts {
  /** Computing the first `tokens` tokens of a prompt. */
  recomputeMs(tokens: number): number;
  /** Loading blocks from the nearest lower tier; Infinity: there is none. */
  reloadMs(blocks: number): number;
}

export class Preemption {
  private readonly costs: GiveWayCosts | undefined;
  private readonly blockTokens: number;

  /** @param costs without them the latest to arrive gives way, and every state is sent down */
  constructor(costs: GiveWayCosts | undefined, blockTokens: number) {
    this.costs = costs;
    this.blockTokens = blockTokens;
  }

  /**
   * Who gives way to `request`: background before interactive, a prompt before a request whose tokens somebody reads, the one that
   * loses least, the latest to arrive. None of a higher priority, and of its own never the oldest, so that this one moves on.
   * @param decoding the others that decode, oldest first, without those whose next step is planned
   */
  victimFor(
    request: Request,
    prefilling: readonly Request[],
    decoding: readonly Request[],
  ): Request | undefined {
    const isBackground = (other: Request): boolean => other.priority === "background";
    for (const others of [prefilling.filter(isBackground), decoding.filter(isBackground)])
      if (others.length > 0) return this.leastLost(others);
    if (isBackground(request)) return undefined;
    const oldest = Math.min(...[request, ...prefilling, ...decoding].map(({ id }) => id));
    const mayGo = ({ id }: Request): boolean => id !== oldest;
    return this.leastLost(prefilling.filter(mayGo)) ?? this.leastLost(decoding.filter(mayGo));
  }

  /** Whether the recurrent state of a request is worth its way down and back. */
  isSentDown(request: Request): boolean {
    if (!this.costs || request.storage === "off") return request.storage !== "off";
    return this.reloadMs(request) < this.costs.recomputeMs(request.computed);
  }

  private leastLost(others: readonly Request[]): Request | undefined {
    const { costs } = this;
    if (!costs) return others.at(-1);
    let least: { request: Request; lostMs: number } | undefined;
    for (const request of others) {
      const lostMs = Math.min(costs.recomputeMs(request.computed), this.reloadMs(request));
      if (!least || lostMs <= least.lostMs) least = { request, lostMs };
    }
    return least?.request;
  }

  private reloadMs({ computed, storage }: Request): number {
    if (!this.costs || storage === "off") return Infinity;
    return this.costs.reloadMs(Math.floor(computed / this.blockTokens));
  }
}
