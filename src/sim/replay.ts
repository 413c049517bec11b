/**
 * Replays a trace against the very objects of cache/, sequentially (one request finishes before the next begins), and
 * counts what was reused. It contains no cache and no policy of its own, and measures no GPU.
 */
import { systemClock } from "../base.ts";
import { flopsBetween, scaleCost } from "../shape/cost.ts";
import { createPrefixCache } from "../cache/policy/create.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import { replayOptions, trace as traceRule } from "./arguments.ts";
import { sequencesOf } from "./sequences.ts";
import type { Sequences } from "./sequences.ts";
import type { Trace } from "./trace.ts";
import type { ReplayOptions } from "./settings.ts";
export type { Replayed, ReplayOptions } from "./settings.ts";

/** The result of a replay: one policy at one capacity. */
export interface ReplayRow {
  policy: PolicyName;
  /** The requested capacity: bytes, "blocks:N" or "inf". */
  capacity: number | string;
  requests: number;
  /** Blocks found in the cache, as a share of all blocks of the input. */
  blockHitRate: number;
  /** Input tokens that skipped prefill, as a share of all input tokens. */
  tokenHitRate: number;
  flopsSaved: number;
  bytesPeak: number;
  snapshotsTaken: number;
  /** Leaves removed or cut, and snapshots dropped. */
  evictions: number;
  /** The policy's weight at the end; null if the policy has none. */
  alpha: number | null;
  /** Wall-clock time of the replay. */
  seconds: number;
}

/** How many requests of the trace are done. */
export interface ReplayProgress {
  done: number;
  total: number;
}

const defaultBlockTokens = 32;
/** Requests between two progress reports. */
const progressEvery = 64;

/**
 * Replays a whole trace, one request after another, and counts what the cache saves.
 * @throws TidepoolError `invalid_argument`, with the option's name
 *
 * @example
 * ```ts
 * const lru = replay(trace, { policy: "lru", capacity: { blocks: 200 }, cost });
 * const marconi = replay(trace, { policy: "marconi", capacity: { blocks: 200 }, cost });
 * console.log(marconi.tokenHitRate > lru.tokenHitRate); // true
 * ```
 */
export function replay(trace: Trace, options: ReplayOptions): ReplayRow {
  const steps = replaySteps(trace, options);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/**
 * Replays a trace in slices and yields progress between them, so that a worker can report, pause or cancel (with `return()`).
 *
 * @example
 * ```ts
 * const steps = replaySteps(trace, { policy: "marconi", capacity: { blocks: 200 }, cost });
 * let step = steps.next();
 * for (; !step.done; step = steps.next()) console.log(`${step.value.done} of ${step.value.total}`);
 * console.log(step.value.policy); // marconi
 * ```
 */
export function* replaySteps(given: Trace, asked: ReplayOptions): Generator<ReplayProgress, ReplayRow> {
  const trace = traceRule.read(given, "trace");
  const options = replayOptions.read(asked, "");
  const clock = options.clock ?? systemClock;
  const startMs = clock.nowMs();
  const cost = scaleCost(options.cost, trace.symbolTokens);
  const unitTokens = trace.symbolTokens > 1 ? 1 : (options.blockTokens ?? defaultBlockTokens);
  const sequences = sequencesOf(trace);
  const { cache, tuner } = createPrefixCache({
    policy: options.policy,
    blockTokens: 1,
    cost,
    capacityBytes: bytesOf(options.capacity, unitTokens * cost.bytesPerToken),
    snapshotEvery: unitTokens,
    keepsViews: sequences.isKept,
    ...(options.alpha === undefined ? {} : { alpha: options.alpha }),
    ...(options.policy === "offline" ? { future: () => futureOf(trace, sequences) } : {}),
  });
  const sums = { tokens: 0, tokenHits: 0, blocks: 0, blockHits: 0, flopsSaved: 0 };
  for (const [i, request] of trace.requests.entries()) {
    if (i % progressEvery === 0) yield { done: i, total: trace.requests.length };
    const sequence = sequences.at(i);
    const matched = cache.serve(sequence, request.inputSymbols);
    tuner?.record(sequence, request.inputSymbols);
    tuner?.work();
    const hit = Math.min(matched * trace.symbolTokens, request.inputTokens);
    sums.tokens += request.inputTokens;
    sums.tokenHits += hit;
    sums.blocks += Math.ceil(request.inputSymbols / unitTokens);
    sums.blockHits += Math.floor(matched / unitTokens);
    sums.flopsSaved += flopsBetween(options.cost, 0, hit);
    options.observe?.({ index: i, hitTokens: hit, evictions: cache.stats.evictions });
  }
  return {
    policy: options.policy,
    capacity: capacityName(options.capacity),
    requests: trace.requests.length,
    blockHitRate: ratio(sums.blockHits, sums.blocks),
    tokenHitRate: ratio(sums.tokenHits, sums.tokens),
    flopsSaved: sums.flopsSaved,
    bytesPeak: cache.stats.bytesPeak,
    snapshotsTaken: cache.stats.snapshotsTaken,
    evictions: cache.stats.evictions,
    alpha: cache.policy.alpha ?? null,
    seconds: (clock.nowMs() - startMs) / 1000,
  };
}

function* futureOf(
  trace: Trace,
  sequences: Sequences,
): Generator<{ sequence: Int32Array; inputTokens: number }> {
  for (const [i, request] of trace.requests.entries()) {
    yield { sequence: sequences.at(i), inputTokens: request.inputSymbols };
  }
}

function bytesOf(capacity: ReplayOptions["capacity"], bytesPerBlock: number): number {
  if (capacity === "inf") return Infinity;
  return "bytes" in capacity ? capacity.bytes : capacity.blocks * bytesPerBlock;
}

export function capacityName(capacity: ReplayOptions["capacity"]): number | string {
  if (capacity === "inf") return "inf";
  return "bytes" in capacity ? capacity.bytes : `blocks:${capacity.blocks}`;
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
