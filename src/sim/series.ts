/**
 * What a replay was like while it went on, in few enough numbers to draw: the distribution of predicted times to first
 * token, and evictions over the time of the trace. It observes a replay or reads what was served; it simulates nothing.
 */
import type { Cost } from "../shape/cost.ts";
import type { Replayed } from "./replay.ts";
import type { Served } from "./serve.ts";
import { PromptQueue, durationMs, quantile, type Timing } from "./timing.ts";
import type { Trace } from "./trace.ts";

/**
 * The shares at which a distribution is given: 0, 0.005, 0.01, ... 1.
 *
 * @example
 * ```ts
 * console.log(quantileShares.length, quantileShares[100]); // 201 0.5
 * ```
 */
export const quantileShares: readonly number[] = Array.from({ length: 201 }, (_, i) => i / 200);
/**
 * How many points in time a series has: the trace's duration in equal parts, including both ends.
 *
 * @example
 * ```ts
 * console.log(`a point every ${durationMs(trace) / (timePoints - 1)} ms`);
 * ```
 */
export const timePoints = 121;

/** The course of a replay over time and over requests, as numbers to draw. */
export interface ReplaySeries {
  /** Predicted time to first token at each of `quantileShares`, in milliseconds. */
  ttftMs: Float64Array;
  /** Evictions since the beginning, at `timePoints` points in equal distances. */
  evictions: Float64Array;
}

/**
 * Collects the series of one replay, to which its `observe` is passed.
 *
 * @example
 * ```ts
 * const collector = new SeriesCollector(trace, timingFor(trace), cost);
 * replay(trace, { policy: "lru", capacity: { blocks: 200 }, cost, observe: collector.observe });
 * const { ttftMs, evictions } = collector.series();
 * console.log(ttftMs.length === quantileShares.length, evictions.length === timePoints); // true true
 * ```
 */
export class SeriesCollector {
  private readonly trace: Trace;
  private readonly queue: PromptQueue;
  private readonly ttftMs: Float64Array;
  private readonly evictions = new Float64Array(timePoints);
  private readonly pointMs: number;

  constructor(trace: Trace, timing: Timing, cost: Cost) {
    this.trace = trace;
    this.queue = new PromptQueue(timing, cost);
    this.ttftMs = new Float64Array(trace.requests.length);
    this.pointMs = durationMs(trace) / (timePoints - 1);
  }

  /**
   * Takes in the outcome of one request; the `observe` option of a replay.
   *
   * @example
   * ```ts
   * const collector = new SeriesCollector(trace, timingFor(trace), cost);
   * collector.observe({ index: 0, hitTokens: 0, evictions: 0 });
   * ```
   */
  readonly observe = ({ index, hitTokens, evictions }: Replayed): void => {
    const { timestampMs, inputTokens } = this.trace.requests[index]!;
    this.ttftMs[index] = this.queue.ttftMs(timestampMs, inputTokens, hitTokens);
    const sinceMs = timestampMs - this.trace.requests[0]!.timestampMs;
    const point = this.pointMs > 0 ? Math.ceil(sinceMs / this.pointMs) : timePoints - 1;
    this.evictions[Math.min(point, timePoints - 1)] = evictions;
  };

  /**
   * The series of the requests seen so far.
   *
   * @example
   * ```ts
   * const collector = new SeriesCollector(trace, timingFor(trace), cost);
   * replay(trace, { policy: "lru", capacity: { blocks: 200 }, cost, observe: collector.observe });
   * console.log(`median: ${collector.series().ttftMs[quantileShares.indexOf(0.5)]} ms to the first token`);
   * ```
   */
  series(): ReplaySeries {
    const evictions = this.evictions.slice();
    for (let i = 1; i < evictions.length; i++) evictions[i] = Math.max(evictions[i]!, evictions[i - 1]!);
    return { ttftMs: quantilesOf(this.ttftMs), evictions };
  }
}

/**
 * The distribution of the times to first token of served requests, at `quantileShares`; rejected requests are left out.
 *
 * @example
 * ```ts
 * const { served } = serve(trace, { policy: "marconi", capacity: { blocks: 1000 }, cost });
 * console.log(servedQuantiles(served).length === quantileShares.length); // true
 * ```
 */
export function servedQuantiles({ ttftMs }: Served): Float64Array {
  return quantilesOf(ttftMs.filter((value) => !Number.isNaN(value)));
}

function quantilesOf(values: Float64Array): Float64Array {
  const sorted = values.slice().sort();
  return Float64Array.from(quantileShares, (share) => quantile(sorted, share));
}
