/**
 * Finds Marconi's alpha. Each value of a grid has a shadow cache: a tree without KV, of the real cache's budget, that
 * serves the recorded requests a little later, in idle time. Their recent savings, weighted so that old requests fade,
 * decide which alpha the real cache uses; one other than 0 must beat 0 clearly.
 *
 * This is Marconi's replay of a recent window, with three differences, because the published tuner (one replay from an
 * empty tree, once, adopting the maximum) can hurt: the shadows carry on where the last window ended, so that no window
 * begins cold; the choice is renewed for ever; and the grid is fine near 0. It reads no clock: the caller says when
 * there is time, and how much.
 */
import type { Cost } from "../../shape/cost.ts";
import { flopsBetween } from "../../shape/cost.ts";
import type { CacheListener } from "../events.ts";
import { MarconiPolicy } from "./marconi.ts";
import { PrefixCache } from "../prefix.ts";

export const alphaGrid = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2] as const;

export interface TunerOptions {
  cost: Cost;
  blockTokens: number;
  capacityBytes: number;
  /** As in PrefixOptions. Default: false. */
  keepsViews?: boolean;
  /** The real cache's policy, whose alpha is set. */
  policy: MarconiPolicy;
  /** Requests over which a request's weight in the choice falls to 1/e. */
  windowRequests?: number;
  /** Requests between two choices. */
  periodRequests?: number;
  /** How much more than alpha = 0 another value must have saved (0.02 is two per cent), and more than the current one. */
  gainOverZero?: number;
  gainOverCurrent?: number;
}

/** Recorded requests that wait for idle time; beyond it the oldest are dropped and counted. */
const MAX_QUEUED = 512;

interface Shadow {
  alpha: number;
  cache: PrefixCache;
  /** FLOPs saved, faded. */
  saved: number;
  /** Requests of the queue that this shadow has served. */
  served: number;
}

export class AlphaTuner {
  /** Requests that were never replayed because the queue was full. */
  dropped = 0;
  /** How often alpha was changed. */
  changes = 0;
  /** Told of each change. */
  listener: CacheListener | undefined;
  private readonly options: Required<TunerOptions>;
  private readonly shadows: Shadow[];
  private queue: { sequence: Int32Array; inputTokens: number }[] = [];
  private sinceChoice = 0;

  constructor(options: TunerOptions) {
    this.options = {
      keepsViews: false,
      windowRequests: 100,
      periodRequests: 16,
      gainOverZero: 0.02,
      gainOverCurrent: 0.01,
      ...options,
    };
    this.shadows = alphaGrid.map((alpha) => {
      const { cost, blockTokens, capacityBytes, keepsViews } = this.options;
      const cache = new PrefixCache({
        cost,
        blockTokens,
        capacityBytes,
        keepsViews,
        policy: new MarconiPolicy(cost, alpha),
      });
      return { alpha, cache, saved: 0, served: 0 };
    });
  }

  /** Remembers a finished request: its input and output, and how many of them are input. The array must not change. */
  record(sequence: Int32Array, inputTokens: number): void {
    if (this.queue.length === MAX_QUEUED) {
      this.queue.shift();
      for (const shadow of this.shadows) shadow.served = Math.max(0, shadow.served - 1);
      this.dropped++;
    }
    this.queue.push({ sequence, inputTokens });
  }

  /** Lets shadows serve up to `budget` recorded requests (one request in one shadow counts 1); returns whether some are
   * left. */
  work(budget = Infinity): boolean {
    for (let done = 0; this.queue.length > 0; done++) {
      if (done >= budget) return true;
      const shadow = this.shadows.find((candidate) => candidate.served === 0);
      if (shadow === undefined) this.finishRequest();
      else this.serve(shadow);
    }
    return false;
  }

  private serve(shadow: Shadow): void {
    const { sequence, inputTokens } = this.queue[shadow.served++]!;
    const hit = shadow.cache.serve(sequence, inputTokens);
    const kept = 1 - 1 / this.options.windowRequests;
    shadow.saved = shadow.saved * kept + flopsBetween(this.options.cost, 0, hit);
  }

  /** All shadows have served the oldest request. */
  private finishRequest(): void {
    this.queue.shift();
    for (const shadow of this.shadows) shadow.served--;
    if (++this.sinceChoice < this.options.periodRequests) return;
    this.sinceChoice = 0;
    this.choose();
  }

  private choose(): void {
    const zero = this.shadows[0]!;
    const current = this.shadows.find((shadow) => shadow.alpha === this.options.policy.alpha) ?? zero;
    let best = this.shadows.reduce((a, b) => (b.saved > a.saved ? b : a));
    if (best.saved <= zero.saved * (1 + this.options.gainOverZero)) best = zero;
    else if (current !== zero && best.saved <= current.saved * (1 + this.options.gainOverCurrent)) return;
    if (best === current) return;
    this.options.policy.alpha = best.alpha;
    this.changes++;
    const none = { tokens: 0, at: 0, blocks: 0, bytes: 0 };
    this.listener?.({ kind: "alpha", why: "saves-more", ...none, alpha: best.alpha });
  }
}
