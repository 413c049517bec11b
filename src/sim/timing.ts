/**
 * How long the steps of a simulated server take, and what that makes of the times to first token. A cost model in a few
 * stated numbers; it measures nothing and knows no cache.
 */
import type { Cost } from "../shape/cost.ts";
import { flopsBetween } from "../shape/cost.ts";
import type { Trace } from "./trace.ts";

/** A server that does one step at a time. */
export interface Timing {
  /** Prompt tokens a second at the beginning of a prompt; a token further back costs more, as its FLOPs do. */
  prefillTokensPerSecond: number;
  /** A decode step: this long, and so much longer for each request in it. */
  decodeStepMs: number;
  decodeRowMs: number;
}

const decodeStepMs = 20;
const decodeRowMs = 0.05;
/** So busy is the server of `timingFor` with the prompts of a trace when it has no cache. */
const busyShare = 0.8;
/** For traces whose requests all arrive at once. */
const plainTokensPerSecond = 10_000;

/** A server on which the trace makes sense: without a cache it would be busy four fifths of the time. */
export function timingFor(trace: Trace): Timing {
  const { requests } = trace;
  const tokens = requests.reduce((sum, request) => sum + request.inputTokens, 0);
  const seconds = durationMs(trace) / 1000;
  const rate = seconds > 0 ? tokens / seconds / busyShare : plainTokensPerSecond;
  return { prefillTokensPerSecond: Number(rate.toPrecision(2)), decodeStepMs, decodeRowMs };
}

/** From the first arrival to the last. */
export function durationMs({ requests }: Trace): number {
  return (requests.at(-1)?.timestampMs ?? 0) - (requests[0]?.timestampMs ?? 0);
}

/** Milliseconds of computing the prompt's tokens [from, to). */
export function prefillMs(timing: Timing, cost: Cost, from: number, to: number): number {
  const flopsPerMs = (timing.prefillTokensPerSecond * cost.flopsLinear) / 1000;
  return flopsBetween(cost, from, to) / flopsPerMs;
}

/** Prompts in order of arrival before one server that does nothing else: the wait, then the tokens that the cache does not
 * have. The last token of a prompt is always computed. */
export class PromptQueue {
  private readonly timing: Timing;
  private readonly cost: Cost;
  private freeAtMs = 0;

  constructor(timing: Timing, cost: Cost) {
    this.timing = timing;
    this.cost = cost;
  }

  /** Milliseconds from the arrival of a prompt to its first token. */
  ttftMs(arrivalMs: number, inputTokens: number, hitTokens: number): number {
    const from = Math.max(0, Math.min(hitTokens, inputTokens - 1));
    const startMs = Math.max(arrivalMs, this.freeAtMs);
    this.freeAtMs = startMs + prefillMs(this.timing, this.cost, from, inputTokens);
    return this.freeAtMs - arrivalMs;
  }
}

/** The value below which a share of `sorted` (ascending) lies: nearest rank. NaN where there is none. */
export function quantile(sorted: Float64Array, share: number): number {
  const rank = Math.ceil(share * sorted.length);
  return sorted[Math.min(sorted.length, Math.max(1, rank)) - 1] ?? NaN;
}

/** The median and two of the slow end. */
export interface Percentiles {
  p50: number;
  p90: number;
  p99: number;
}

/** By nearest rank; NaN where there are no values. */
export function percentilesOf(values: Float64Array): Percentiles {
  const sorted = values.slice().sort();
  return { p50: quantile(sorted, 0.5), p90: quantile(sorted, 0.9), p99: quantile(sorted, 0.99) };
}
