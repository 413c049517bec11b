/**
 * How long the steps of a simulated server take, and what that makes of the times to first token. A cost model in a few
 * stated numbers; it measures nothing and knows no cache.
 */
import type { Cost } from "../shape/cost.ts";
import { flopsBetween } from "../shape/cost.ts";
import type { Trace } from "./trace.ts";
import type { Timing } from "./settings.ts";
export type { Timing } from "./settings.ts";

const decodeStepMs = 20;
const decodeRowMs = 0.05;
/** So busy is the server of `timingFor` with the prompts of a trace when it has no cache. */
const busyShare = 0.8;
/** For traces whose requests all arrive at once. */
const plainTokensPerSecond = 10_000;

/**
 * A server whose speed suits the trace: without a cache, prompts would keep it busy four fifths of the time.
 *
 * @example
 * ```ts
 * const { prefillTokensPerSecond } = timingFor(trace);
 * console.log(prefillTokensPerSecond > 0); // true
 * ```
 */
export function timingFor(trace: Trace): Timing {
  const { requests } = trace;
  const tokens = requests.reduce((sum, request) => sum + request.inputTokens, 0);
  const seconds = durationMs(trace) / 1000;
  const rate = seconds > 0 ? tokens / seconds / busyShare : plainTokensPerSecond;
  return { prefillTokensPerSecond: Number(rate.toPrecision(2)), decodeStepMs, decodeRowMs };
}

/**
 * The time from the first arrival to the last.
 *
 * @example
 * ```ts
 * console.log(durationMs(trace) > 0); // true
 * ```
 */
export function durationMs({ requests }: Trace): number {
  return (requests.at(-1)?.timestampMs ?? 0) - (requests[0]?.timestampMs ?? 0);
}

/**
 * How many milliseconds the prompt's tokens [from, to) take.
 *
 * @example
 * ```ts
 * const timing = timingFor(trace);
 * console.log(prefillMs(timing, cost, 0, 1000) > prefillMs(timing, cost, 500, 1000)); // true
 * ```
 */
export function prefillMs(timing: Timing, cost: Cost, from: number, to: number): number {
  const flopsPerMs = (timing.prefillTokensPerSecond * cost.flopsLinear) / 1000;
  return flopsBetween(cost, from, to) / flopsPerMs;
}

/**
 * A queue of prompts before a server that does nothing else. A prompt waits for those before it, then its tokens that the cache
 * lacks are computed; its last token is always computed.
 *
 * @example
 * ```ts
 * const queue = new PromptQueue(timingFor(trace), cost);
 * const first = queue.ttftMs(0, 1000, 0);
 * console.log(queue.ttftMs(0, 1000, 0) > first); // true
 * ```
 */
export class PromptQueue {
  private readonly timing: Timing;
  private readonly cost: Cost;
  private freeAtMs = 0;

  constructor(timing: Timing, cost: Cost) {
    this.timing = timing;
    this.cost = cost;
  }

  /**
   * Adds a prompt, and returns the milliseconds from its arrival to its first token.
   *
   * @example
   * ```ts
   * const queue = new PromptQueue(timingFor(trace), cost);
   * const computed = queue.ttftMs(0, 1000, 0);
   * const cached = queue.ttftMs(60_000, 1000, 900);
   * console.log(cached < computed); // true
   * ```
   */
  ttftMs(arrivalMs: number, inputTokens: number, hitTokens: number): number {
    const from = Math.max(0, Math.min(hitTokens, inputTokens - 1));
    const startMs = Math.max(arrivalMs, this.freeAtMs);
    this.freeAtMs = startMs + prefillMs(this.timing, this.cost, from, inputTokens);
    return this.freeAtMs - arrivalMs;
  }
}

/**
 * The value of ascending numbers at a share of them, by nearest rank; NaN if there are no numbers.
 *
 * @example
 * ```ts
 * console.log(quantile(Float64Array.of(1, 2, 3, 4), 0.5)); // 2
 * ```
 */
export function quantile(sorted: Float64Array, share: number): number {
  const rank = Math.ceil(share * sorted.length);
  return sorted[Math.min(sorted.length, Math.max(1, rank)) - 1] ?? NaN;
}

/** The median, and two percentiles of the slow end. */
export interface Percentiles {
  p50: number;
  p90: number;
  p99: number;
}

/**
 * The percentiles of numbers in any order, by nearest rank; NaN if there are no numbers.
 *
 * @example
 * ```ts
 * console.log(percentilesOf(Float64Array.of(3, 1, 2))); // { p50: 2, p90: 3, p99: 3 }
 * ```
 */
export function percentilesOf(values: Float64Array): Percentiles {
  const sorted = values.slice().sort();
  return { p50: quantile(sorted, 0.5), p90: quantile(sorted, 0.9), p99: quantile(sorted, 0.99) };
}
