/**
 * A world for runs of the scheduler without bytes: a GPU that knows which token comes next, tiers that hold blocks by content,
 * lose some and answer late; and what an onlooker who knows none of the scheduler's insides can check of each plan.
 */
import { expect } from "vitest";
import type { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { BACKGROUND_PATIENCE } from "../../src/schedule/queue/place.ts";
import { MAX_PREFETCHED } from "../../src/schedule/queue/prefetch.ts";
import type { Request, RequestSpec } from "../../src/schedule/request.ts";
import type { RestoreTerms } from "../../src/schedule/restore/restore.ts";
import {
  Scheduler,
  type FullBlock,
  type LowerTiers,
  type Move,
  type Plan,
  type SchedulerOptions,
  type Sequence,
} from "../../src/schedule/scheduler.ts";
import { nextToken } from "./fake-model.ts";

/** Holds blocks by content. */
export class NaiveTiers implements LowerTiers {
  readonly loading: Move[] = [];
  /** Requests whose blocks were asked for, since the scheduler was last asked for loads, and in all. */
  readonly asked = new Set<Request>();
  askedCount = 0;
  private readonly held = new Set<number>();
  private readonly random: Random;
  private readonly blockTokens: number;
  private clockMs = 0;
  mode: RestoreTerms["mode"];

  constructor(random: Random, blockTokens: number) {
    this.random = random;
    this.blockTokens = blockTokens;
    this.mode = random.pick(["load", "compute", "both", "auto"]);
  }

  storedBlocks({ tokens }: Sequence, from: number): number {
    const keys = this.keysOf(tokens).slice(from);
    const missing = keys.findIndex((key) => !this.held.has(key));
    return missing < 0 ? keys.length : missing;
  }

  restoreTerms(_request: Sequence, _from: number, blocks: number): RestoreTerms {
    const loadMs = Array.from({ length: blocks }, () => 2);
    return { mode: this.mode, loadMs, computeMs: () => 3, nowMs: () => this.clockMs++ };
  }

  /** Only of requests that wait, of what is held, each time once. */
  prefetch(request: Request, from: number, blocks: number): void {
    expect(request.status).toBe("waiting");
    expect(blocks).toBeGreaterThan(0);
    expect(blocks).toBeLessThanOrEqual(this.storedBlocks(request, from));
    expect(this.asked.has(request)).toBe(false);
    this.asked.add(request);
    this.askedCount++;
  }

  spill(blocks: readonly FullBlock[]): void {
    for (const { sequence, block } of blocks) this.held.add(this.keysOf(sequence.tokens)[block] as number);
  }

  /** Ends a load, one time in four without bytes; forgets something now and then. */
  endOne(scheduler: Scheduler): boolean {
    const { random, loading, held } = this;
    const [some] = held;
    if (some !== undefined && random.below(8) === 0) held.delete(some);
    if (loading.length === 0) return false;
    const [move] = loading.splice(random.below(loading.length), 1) as [Move];
    scheduler.moved(move, random.below(4) > 0 ? random.pick(["ram", "disk"] as const) : undefined);
    return true;
  }

  /** A hash for each full block, of all tokens up to its end. */
  private keysOf(tokens: readonly number[]): number[] {
    const keys: number[] = [];
    let hash = 7;
    tokens.forEach((token, at) => {
      hash = (Math.imul(hash, 16_777_619) ^ token) >>> 0;
      if ((at + 1) % this.blockTokens === 0) keys.push(hash);
    });
    return keys;
  }
}

/** What an onlooker remembers of a request. */
interface Watched {
  request: Request;
  arrival: number;
  /** Tokens of others that arrived later, computed while this one could have been; and its own. */
  overtaken: number;
  own: number;
  /** Requests whose prompts were under way when it became due, or while it could not go on. */
  excused: Set<Request> | undefined;
  wasDecoding: boolean;
  wasWaiting: boolean;
}

export class NaiveWorld {
  readonly scheduler: Scheduler;
  readonly tiers: NaiveTiers;
  readonly inFlight: { plan: Plan; samples: number[][] }[] = [];
  readonly watched: Watched[] = [];
  readonly seen = { overtaken: 0, due: 0, preempted: 0, prefetched: 0, background: 0, onBehalf: 0 };
  private readonly random: Random;

  constructor(random: Random, more: Partial<SchedulerOptions> = {}, slots = 40 + random.below(60)) {
    this.random = random;
    const blockTokens = random.pick([1, 2, 4]);
    this.tiers = new NaiveTiers(random, blockTokens);
    const pool = new BlockPool(Math.ceil(slots / blockTokens));
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens, cost, pool });
    this.scheduler = new Scheduler(cache, pool, {
      ...{ blockTokens, chunkTokens: 1 + random.below(12), seats: 1 + random.below(5), lower: this.tiers },
      promptsUnderWay: 1 + random.below(4),
      ...more,
    });
  }

  submit(spec: RequestSpec): Request {
    const request = this.scheduler.submit(spec);
    const arrival = this.watched.length;
    this.watched.push({
      ...{ request, arrival, overtaken: 0, own: 0, excused: undefined, wasDecoding: false, wasWaiting: true },
    });
    return request;
  }

  /** Up to two steps in flight, as the loop has; false: nothing can go on. */
  step(): boolean {
    const { scheduler, inFlight, tiers, random } = this;
    while (inFlight.length < 2) {
      const due = this.dueNow();
      const plan = scheduler.next();
      this.checkBegun(due);
      this.countPreempted();
      tiers.asked.clear();
      tiers.loading.push(...scheduler.takeMoves());
      if (tiers.asked.size > MAX_PREFETCHED) throw new Error(`${tiers.asked.size} requests are prefetched`);
      if (!plan) break;
      this.watch(plan, due);
      inFlight.push({ plan, samples: this.run(plan) });
      tiers.spill(plan.completes);
    }
    const ended = random.below(3) === 0 && tiers.endOne(scheduler);
    const oldest = inFlight.shift();
    if (oldest) scheduler.commit(oldest.plan, oldest.samples);
    else if (!ended && !tiers.endOne(scheduler)) return false;
    scheduler.check();
    return true;
  }

  /** The device is lost, or a step fails: the steps in flight are void. */
  lose(): void {
    const oldest = this.inFlight[0];
    this.inFlight.length = 0;
    if (oldest && this.random.below(2) === 0)
      for (const request of this.scheduler.stepFailed(oldest.plan)) this.scheduler.abort(request, "error");
    else this.scheduler.restart();
    this.scheduler.check();
  }

  /** What the bound says, for each request: tokens by which it was overtaken, and how many it may have been at most. */
  checkAges(): void {
    const { chunkTokens } = this.scheduler.options;
    for (const { request, overtaken, own } of this.watched) {
      const patience = request.promptLength + (request.priority === "background" ? BACKGROUND_PATIENCE : 0);
      const most = patience + own + chunkTokens;
      if (overtaken > most)
        throw new Error(`request ${request.id}: overtaken by ${overtaken} of ${most} tokens`);
      if (overtaken > 0) this.seen.overtaken++;
      if (request.priority === "background") this.seen.background++;
    }
    this.seen.prefetched += this.tiers.askedCount;
  }

  private run({ spans }: Plan): number[][] {
    return spans.map(({ request, samples }) =>
      samples > 0 ? [nextToken([...request.tokens, request.computed])] : [],
    );
  }

  private dueNow(): Watched[] {
    const { waiting, prefilling } = this.scheduler.load();
    const due = new Set([...waiting, ...prefilling].filter(({ isDue }) => isDue).map(({ id }) => id));
    const started = new Set(prefilling.map(({ id }) => id));
    for (const each of this.watched) {
      each.wasWaiting = each.request.status === "waiting";
      if (!due.has(each.request.id)) each.excused = undefined;
      else if (!each.excused) {
        this.seen.due++;
        const underWay = this.watched.filter(({ request }) => started.has(request.id));
        each.excused = new Set(underWay.map(({ request }) => request));
      }
    }
    return this.watched.filter(({ request }) => due.has(request.id));
  }

  /** Whoever is due and waits goes before all that came later, also while it waits for another's prefix. */
  private checkBegun(due: readonly Watched[]): void {
    for (const each of this.watched) {
      const isBegun = each.wasWaiting && each.request.status !== "waiting" && each.request.status !== "done";
      const first = due.find(
        ({ request, arrival, wasWaiting }) =>
          wasWaiting && arrival < each.arrival && request.status === "waiting" && request.pending === 0,
      );
      if (isBegun && first)
        throw new Error(`request ${first.request.id} was due, and request ${each.request.id} began`);
    }
  }

  private watch(plan: Plan, due: readonly Watched[]): void {
    if (plan.phase !== "prefill") return;
    const from = new Map(plan.spans.map((span) => [span.request, span.from]));
    for (const { request, count } of plan.spans) {
      const runner = this.watched.find((each) => each.request === request) as Watched;
      runner.own += count;
      for (const each of due) if (!from.has(each.request)) this.checkTurn(each, runner, from);
      for (const each of this.watched) this.age(each, runner, count, from);
    }
  }

  /** While one is due and could go on, a request that came later begins no prompt, nor goes on unless it had begun before. */
  private checkTurn(each: Watched, runner: Watched, from: ReadonlyMap<Request, number>): void {
    const { request, excused } = each;
    if (runner.arrival <= each.arrival || excused?.has(runner.request)) return;
    const isFree = request.status === "waiting" ? request.pending === 0 : request.status === "prefilling";
    if (!isFree || request.restore || this.isBlocked(each, from)) {
      excused?.add(runner.request);
      return;
    }
    throw new Error(`request ${request.id} was due, and request ${runner.request.id} went before it`);
  }

  private age(each: Watched, runner: Watched, count: number, from: ReadonlyMap<Request, number>): void {
    const { request } = each;
    if (runner.arrival <= each.arrival || each === runner) return;
    if (request.status !== "waiting" && request.status !== "prefilling") return;
    if (request.pending > 0 || request.restore || each.excused?.has(runner.request)) return;
    if (this.isBlocked(each, from)) this.seen.onBehalf++;
    else each.overtaken += count;
  }

  /** Whether one waits for what another computes. @param from where chunks of the step begin */
  private isBlocked({ request }: Watched, from: ReadonlyMap<Request, number>): boolean {
    if (request.status !== "waiting" || request.storage === "off") return false;
    return this.watched.some(({ request: other }) => {
      const computed = from.get(other) ?? (other.status === "prefilling" ? other.computed : Infinity);
      return other.storage !== "off" && shared(other, request) > computed;
    });
  }

  private countPreempted(): void {
    for (const each of this.watched) {
      if (each.wasDecoding && each.request.status === "waiting") this.seen.preempted++;
      each.wasDecoding = each.request.status === "decoding";
    }
  }
}

function shared(a: Request, b: Request): number {
  const most = Math.min(a.tokens.length, b.tokens.length - 1);
  let count = 0;
  while (count < most && a.tokens[count] === b.tokens[count]) count++;
  return count;
}
