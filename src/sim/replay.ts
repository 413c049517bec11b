/**
 * Replays a trace against the very objects of cache/, sequentially (one request finishes before the next begins), and
 * counts what was reused. It contains no cache and no policy of its own, and measures no GPU.
 */
import type { Clock } from "../base.ts";
import { systemClock } from "../base.ts";
import type { Cost } from "../shape/cost.ts";
import { flopsBetween, scaleCost } from "../shape/cost.ts";
import { createPrefixCache } from "../cache/policy/create.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import { replayOptions, trace as traceRule } from "./arguments.ts";
import { sequencesOf } from "./sequences.ts";
import type { Sequences } from "./sequences.ts";
import type { Trace } from "./trace.ts";

/** What is replayed with: a policy at a capacity. */
export interface ReplayOptions {
  policy: PolicyName;
  /** Bytes, or blocks of the model's KV, or no limit. */
  capacity: { bytes: number } | { blocks: number } | "inf";
  /** Costs per token. */
  cost: Cost;
  /** Tokens in a block: `vllm`'s snapshots and the block hit rate of token traces. In a block trace one symbol of the
   * tree is one trace block, and this is not used. Default 32. */
  blockTokens?: number;
  /** A fixed weight for `marconi` in place of the tuned one. */
  alpha?: number;
  /** Measures `seconds`. */
  clock?: Clock;
  /** Told of every request once it has been served. */
  observe?: (request: Replayed) => void;
}

/** What became of one request of the trace. */
export interface Replayed {
  /** In the trace. */
  index: number;
  /** Input tokens that skipped prefill. */
  hitTokens: number;
  /** Victims taken since the replay began. */
  evictions: number;
}

/** One line of the result. */
export interface ReplayRow {
  policy: PolicyName;
  /** Bytes, "blocks:N" or "inf", as asked for. */
  capacity: number | string;
  requests: number;
  /** Blocks of the longest resident prefix over all block references. */
  blockHitRate: number;
  /** Tokens that skipped prefill over input tokens. */
  tokenHitRate: number;
  flopsSaved: number;
  bytesPeak: number;
  snapshotsTaken: number;
  /** Victims taken: leaves removed or cut, snapshots dropped. */
  evictions: number;
  /** The weight in use at the end; null for policies without one. */
  alpha: number | null;
  /** Wall-clock time of the replay. */
  seconds: number;
}

/** Requests done, of all. */
export interface ReplayProgress {
  done: number;
  total: number;
}

const defaultBlockTokens = 32;
/** Requests between two progress reports. */
const progressEvery = 64;

/** Replays the whole trace at once. Throws `invalid_argument` naming the option that cannot be. */
export function replay(trace: Trace, options: ReplayOptions): ReplayRow {
  const steps = replaySteps(trace, options);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** Replays in slices: yields progress between them, so that a worker can report, pause or cancel (by `return()`). */
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
