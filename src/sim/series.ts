/**
 * What a replay was like while it went on, in few enough numbers to draw: the distribution of predicted times to first
 * token, and evictions over the time of the trace. It observes a replay or reads what was served; it simulates nothing.
 */
import type { Cost } from "../shape/cost.ts";
import type { Replayed } from "./replay.ts";
import type { Served } from "./serve.ts";
import { PromptQueue, durationMs, quantile, type Timing } from "./timing.ts";
import type { Trace } from "./trace.ts";

/** Points of the distribution: 0, 0.5, 1, ... 100 per cent. */
export const quantileShares: readonly number[] = Array.from({ length: 201 }, (_, i) => i / 200);
/** Points in time: the trace's duration in equal parts, both ends included. */
export const timePoints = 121;

/** What a replay looked like over time and over requests, as rows of numbers to draw. */
export interface ReplaySeries {
  /** Predicted time to first token at `quantileShares`, in milliseconds. */
  ttftMs: Float64Array;
  /** Evictions since the beginning, at `timePoints` equally far apart. */
  evictions: Float64Array;
}

/** Collects the series of one replay: hand `observe` to it. */
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

  /** Told of each request as it is replayed. */
  readonly observe = ({ index, hitTokens, evictions }: Replayed): void => {
    const { timestampMs, inputTokens } = this.trace.requests[index]!;
    this.ttftMs[index] = this.queue.ttftMs(timestampMs, inputTokens, hitTokens);
    const sinceMs = timestampMs - this.trace.requests[0]!.timestampMs;
    const point = this.pointMs > 0 ? Math.ceil(sinceMs / this.pointMs) : timePoints - 1;
    this.evictions[Math.min(point, timePoints - 1)] = evictions;
  };

  /** What was collected so far. */
  series(): ReplaySeries {
    const evictions = this.evictions.slice();
    for (let i = 1; i < evictions.length; i++) evictions[i] = Math.max(evictions[i]!, evictions[i - 1]!);
    return { ttftMs: quantilesOf(this.ttftMs), evictions };
  }
}

/** The distribution of what was served; requests that were rejected are not in it. */
export function servedQuantiles({ ttftMs }: Served): Float64Array {
  return quantilesOf(ttftMs.filter((value) => !Number.isNaN(value)));
}

function quantilesOf(values: Float64Array): Float64Array {
  const sorted = values.slice().sort();
  return Float64Array.from(quantileShares, (share) => quantile(sorted, share));
}
