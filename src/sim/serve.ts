/**
 * Serves a trace in simulated time: the engine's own Scheduler, with its prefix cache and its pools, driven by arrivals
 * from the trace and by a cost model of its steps (timing.ts). Requests overlap here: they wait for each other, share
 * decode steps, push each other out, and as many prompts are under way as in an engine. It contains no cache, no policy and no queue of its own; it has no lower tiers, and
 * the GPU is a number of milliseconds.
 */
import type { Clock } from "../base.ts";
import { assert, systemClock } from "../base.ts";
import { BlockPool } from "../cache/blocks.ts";
import { StateSlotPool } from "../cache/state-slot-pool.ts";
import { flopsBetween } from "../shape/cost.ts";
import { createPrefixCache } from "../cache/policy/create.ts";
import type { PrefixCache } from "../cache/prefix.ts";
import type { AlphaTuner } from "../cache/policy/alpha-tuner.ts";
import { TidepoolError } from "../errors.ts";
import { PROMPTS_UNDER_WAY } from "../schedule/options.ts";
import type { Request } from "../schedule/request.ts";
import type { Plan } from "../schedule/scheduler.ts";
import { Scheduler } from "../schedule/scheduler.ts";
import { serveOptions, trace as traceRule } from "./arguments.ts";
import type { ReplayProgress, ReplayRow } from "./replay.ts";
import { capacityName } from "./replay.ts";
import type { Timing } from "./timing.ts";
import { percentilesOf, prefillMs, timingFor, type Percentiles } from "./timing.ts";
import { tokenCount, tokensOf } from "./tokens.ts";
import type { Trace } from "./trace.ts";
import type { ServeOptions } from "./settings.ts";
export type { ServeOptions } from "./settings.ts";

/** The outcome of each request, by its index in the trace; NaN for rejected requests. */
export interface Served {
  ttftMs: Float64Array;
  /** From the arrival to the start of the request's first step. */
  queueMs: Float64Array;
  hitTokens: Float64Array;
}

/** The result of `serve`: that of a replay, with times. */
export interface ServeRow extends ReplayRow {
  ttftMs: Percentiles;
  queueMs: Percentiles;
  /** Requests that are larger than the pool. */
  rejected: number;
  served: Served;
}

/**
 * The most tokens, of prompts and answers together, that a served trace may have.
 *
 * @example
 * ```ts
 * console.log(tokenCount(trace) <= maxServedTokens); // true
 * ```
 */
export const maxServedTokens = 1 << 25;

const defaults = { blockTokens: 32, chunkTokens: 2048, seats: 256, snapshotShare: 0.5 };
/** Steps between two progress reports. */
const progressEvery = 256;

/**
 * Serves a whole trace in simulated time with the engine's own scheduler.
 *
 * @example
 * ```ts
 * const { ttftMs, tokenHitRate } = serve(trace, { policy: "marconi", capacity: { blocks: 1000 }, cost });
 * console.log(tokenHitRate > 0, ttftMs.p50 <= ttftMs.p99); // true true
 * ```
 */
export function serve(trace: Trace, options: ServeOptions): ServeRow {
  const steps = serveSteps(trace, options);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/**
 * Serves a trace in slices and yields progress between them.
 * @throws TidepoolError `invalid_argument` for the policy `offline`, which cannot handle overlapping requests, for a trace above
 * `maxServedTokens`, and for a capacity below one block
 *
 * @example
 * ```ts
 * const steps = serveSteps(trace, { policy: "lru", capacity: { blocks: 1000 }, cost });
 * let step = steps.next();
 * while (!step.done) step = steps.next(); // a worker would post step.value
 * console.log(step.value.requests === trace.requests.length); // true
 * ```
 */
export function* serveSteps(given: Trace, asked: ServeOptions): Generator<ReplayProgress, ServeRow> {
  const trace = traceRule.read(given, "trace");
  const options = serveOptions.read(asked, "");
  checkServable(trace, options);
  const clock: Clock = options.clock ?? systemClock;
  const startMs = clock.nowMs();
  const run = new Run(trace, options);
  for (let steps = 0; run.step(); steps++) {
    if (steps % progressEvery === 0) yield { done: run.doneCount, total: trace.requests.length };
  }
  return run.row((clock.nowMs() - startMs) / 1000);
}

function checkServable(trace: Trace, { policy }: Pick<ServeOptions, "policy">): void {
  if (policy === "offline") {
    const reason = "knows requests one after another, not how they overlap";
    throw new TidepoolError("invalid_argument", `the policy offline cannot be served: it ${reason}`);
  }
  const tokens = tokenCount(trace);
  if (tokens > maxServedTokens) {
    const message = `${trace.name} has ${tokens} tokens; at most ${maxServedTokens} are served in simulated time`;
    throw new TidepoolError("invalid_argument", message);
  }
}

class Run {
  private readonly trace: Trace;
  private readonly options: ServeOptions & typeof defaults & { timing: Timing };
  private readonly cache: PrefixCache;
  private readonly tuner: AlphaTuner | undefined;
  private readonly scheduler: Scheduler;
  private readonly served: Served;
  /** Output tokens of the requests that run, by id, which is the index in the trace. */
  private readonly outputs = new Map<number, Int32Array>();
  private readonly rejected = new Set<number>();
  private nowMs = 0;
  private nextArrival = 0;
  doneCount = 0;

  constructor(trace: Trace, options: ServeOptions) {
    this.trace = trace;
    this.options = { ...defaults, timing: timingFor(trace), ...options };
    const { blocks, snapshots } = poolsOf(trace, this.options);
    const { policy, cost, blockTokens, chunkTokens, seats, alpha } = this.options;
    const { cache, tuner } = createPrefixCache({
      ...{ policy, cost, blockTokens, pool: blocks, snapshotEvery: blockTokens },
      ...(snapshots && { snapshotPool: snapshots }),
      ...(alpha !== undefined && { alpha }),
      tunerBytes:
        blocks.slotCount * blockTokens * cost.bytesPerToken +
        (snapshots?.maxSnapshots ?? 0) * cost.bytesPerSnapshot,
    });
    this.cache = cache;
    this.tuner = tuner;
    const states = { save: () => undefined };
    this.scheduler = new Scheduler(cache, blocks, {
      ...{ blockTokens, chunkTokens, seats, promptsUnderWay: PROMPTS_UNDER_WAY },
      ...(snapshots && { states }),
    });
    const each = (): Float64Array => new Float64Array(trace.requests.length).fill(NaN);
    this.served = { ttftMs: each(), queueMs: each(), hitTokens: each() };
  }

  /** Carries out the next step, or waits for the next arrival; false where everything is done. */
  step(): boolean {
    this.submitArrived();
    const plan = this.scheduler.next();
    if (plan === undefined) return this.waitForArrival();
    this.noteStart(plan);
    this.nowMs += this.stepMs(plan);
    const accepted = plan.spans.map(({ request, samples }) => (samples === 0 ? [] : [this.sample(request)]));
    for (const { request, finished } of this.scheduler.commit(plan, accepted)) {
      if (Number.isNaN(this.served.ttftMs[request.id])) this.noteFirstToken(request);
      if (finished !== undefined) this.finish(request);
    }
    return true;
  }

  row(seconds: number): ServeRow {
    const { policy, capacity } = this.options;
    const accepted = this.trace.requests.map((_, i) => i).filter((i) => !this.rejected.has(i));
    const of = (values: Float64Array): Float64Array => Float64Array.from(accepted, (i) => values[i]!);
    return {
      ...{ policy, capacity: capacityName(capacity), requests: this.trace.requests.length },
      ...this.hits(accepted),
      bytesPeak: this.cache.stats.bytesPeak,
      snapshotsTaken: this.cache.stats.snapshotsTaken,
      evictions: this.cache.stats.evictions,
      alpha: this.cache.policy.alpha ?? null,
      seconds,
      ttftMs: percentilesOf(of(this.served.ttftMs)),
      queueMs: percentilesOf(of(this.served.queueMs)),
      rejected: this.rejected.size,
      served: this.served,
    };
  }

  private hits(accepted: readonly number[]): Pick<ReplayRow, "blockHitRate" | "tokenHitRate" | "flopsSaved"> {
    const { cost, blockTokens } = this.options;
    const sums = { tokens: 0, tokenHits: 0, blocks: 0, blockHits: 0, flopsSaved: 0 };
    for (const i of accepted) {
      const { inputTokens } = this.trace.requests[i]!;
      const hit = this.served.hitTokens[i]!;
      sums.tokens += inputTokens;
      sums.tokenHits += hit;
      sums.blocks += Math.ceil(inputTokens / blockTokens);
      sums.blockHits += Math.floor(hit / blockTokens);
      sums.flopsSaved += flopsBetween(cost, 0, hit);
    }
    return {
      blockHitRate: sums.blocks === 0 ? 0 : sums.blockHits / sums.blocks,
      tokenHitRate: sums.tokens === 0 ? 0 : sums.tokenHits / sums.tokens,
      flopsSaved: sums.flopsSaved,
    };
  }

  private submitArrived(): void {
    for (; this.nextArrival < this.trace.requests.length; this.nextArrival++) {
      const { timestampMs } = this.trace.requests[this.nextArrival]!;
      if (timestampMs > this.nowMs) return;
      this.submit(this.nextArrival);
    }
  }

  private submit(id: number): void {
    const request = this.trace.requests[id]!;
    const { inputTokens, outputTokens } = request;
    const maxNewTokens = Math.max(1, outputTokens); // a prompt without an answer still gets its first token
    if (inputTokens === 0 || inputTokens + maxNewTokens > this.scheduler.capacityTokens + 1) {
      this.rejected.add(id);
      this.doneCount++;
      return;
    }
    const tokens = tokensOf(this.trace, id, inputTokens + maxNewTokens);
    this.outputs.set(id, tokens.subarray(inputTokens));
    const prompt = [...tokens.subarray(0, inputTokens)];
    this.scheduler.submit({ id, prompt, maxNewTokens, stopIds: noStops });
  }

  private waitForArrival(): boolean {
    const next = this.trace.requests[this.nextArrival];
    if (next !== undefined) this.nowMs = next.timestampMs;
    else assert(this.scheduler.activeCount === 0, `${this.scheduler.activeCount} requests can never run`);
    return next !== undefined;
  }

  private stepMs(plan: Plan): number {
    const { timing, cost } = this.options;
    if (plan.phase === "decode") return timing.decodeStepMs + timing.decodeRowMs * plan.spans.length;
    return plan.spans.reduce((ms, { from, count }) => ms + prefillMs(timing, cost, from, from + count), 0);
  }

  private noteStart(plan: Plan): void {
    if (plan.phase !== "prefill") return;
    for (const { request } of plan.spans) {
      const { id, cachedTokens = 0 } = request;
      if (!Number.isNaN(this.served.queueMs[id])) continue;
      this.served.queueMs[id] = this.nowMs - this.trace.requests[id]!.timestampMs;
      this.served.hitTokens[id] = cachedTokens;
    }
  }

  private noteFirstToken(request: Request): void {
    this.served.ttftMs[request.id] = this.nowMs - this.trace.requests[request.id]!.timestampMs;
  }

  /** What the trace says that the model answered. */
  private sample(request: Request): number {
    return this.outputs.get(request.id)?.[request.generatedCount] ?? 0;
  }

  private finish(request: Request): void {
    this.outputs.delete(request.id);
    this.doneCount++;
    this.tuner?.record(Int32Array.from(request.tokens), request.promptLength);
    this.tuner?.work();
  }
}

const noStops: ReadonlySet<number> = new Set();

/** The capacity as slots; without a limit, as many as the whole trace could need. */
function poolsOf(
  trace: Trace,
  options: ServeOptions & typeof defaults,
): { blocks: BlockPool; snapshots: StateSlotPool | undefined } {
  const { cost, blockTokens, capacity, snapshotShare, seats } = options;
  const bytesPerBlock = blockTokens * cost.bytesPerToken;
  const isRecurrent = cost.bytesPerSnapshot > 0;
  const most = Math.ceil(tokenCount(trace) / blockTokens) + 2 * trace.requests.length;
  const bytes =
    capacity === "inf" ? Infinity : "bytes" in capacity ? capacity.bytes : capacity.blocks * bytesPerBlock;
  const forBlocks = isRecurrent ? bytes * (1 - snapshotShare) : bytes;
  const blocks = Math.min(most, Math.floor(forBlocks / bytesPerBlock));
  if (blocks < 1) {
    throw new TidepoolError("invalid_argument", `a capacity of ${bytes} bytes has no room for a block`);
  }
  if (!isRecurrent) return { blocks: new BlockPool(blocks), snapshots: undefined };
  const snapshots = Math.min(most, Math.floor((bytes * snapshotShare) / cost.bytesPerSnapshot));
  return { blocks: new BlockPool(blocks), snapshots: new StateSlotPool(2 * seats + snapshots, snapshots) };
}
