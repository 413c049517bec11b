/**
 * Who runs next. Pure and synchronous: submit / next / commit / abort, and out comes a plan for each step. It knows
 * tokens and blocks; text, GPU, clock and randomness are elsewhere, so the same object runs in engine, tests and replay.
 *
 * Steps may be planned before earlier ones are committed: positions are known, only the tokens are not. A stop found
 * late makes the surplus samples of the steps in flight void; blocks and seats freed meanwhile are safe to reuse,
 * because the GPU runs steps in the order of their plans.
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import type { BlockPool } from "../cache/blocks.ts";
import { decodeRows, type DecodeRow } from "./decode.ts";
import { PrefillQueue } from "./prefill.ts";
import { Request, type FinishReason, type RequestSpec } from "./request.ts";

/** A run of one prompt's positions [start, start + count); `sample`: the last chunk, whose last row is sampled. */
export interface PrefillPlan {
  kind: "prefill";
  request: Request;
  start: number;
  count: number;
  sample: boolean;
}

/** One token for each of several requests. */
export interface DecodePlan {
  kind: "decode";
  rows: DecodeRow[];
}

export type Plan = PrefillPlan | DecodePlan;

export interface SchedulerOptions {
  blockTokens: number;
  /** Prompt tokens a prefill step at most. */
  chunkTokens: number;
  /** Requests that may run at once. */
  seats: number;
}

/** What a commit found out about one request. */
export interface Outcome {
  request: Request;
  /** The accepted token, or undefined where the sample was a stop token or void. */
  token: number | undefined;
  /** Index of the sample in the step's read-back. */
  sampleIndex: number;
  finished: FinishReason | undefined;
}

export class Scheduler {
  readonly options: SchedulerOptions;
  private readonly blocks: BlockPool;
  private readonly waiting = new PrefillQueue();
  private running: Request[] = [];
  private prefilling: Request | undefined;
  private readonly freeSeats: number[];
  private readonly lent = new Set<number>();
  private lastKind: Plan["kind"] = "decode";

  constructor(blocks: BlockPool, options: SchedulerOptions) {
    this.blocks = blocks;
    this.options = options;
    this.freeSeats = Array.from({ length: options.seats }, (_, seat) => options.seats - 1 - seat);
  }

  /** Requests that are not done. */
  get activeCount(): number {
    return this.waiting.length + this.running.length + (this.prefilling ? 1 : 0);
  }

  /** Blocks that running requests hold. */
  get usedBlocks(): number {
    return this.blocks.inUseCount;
  }

  /** Tokens that one request alone could hold in the pool. */
  get capacityTokens(): number {
    return this.blocks.slotCount * this.options.blockTokens;
  }

  submit(spec: RequestSpec): Request {
    assert(spec.prompt.length > 0, "a request needs at least one prompt token");
    assert(spec.maxNewTokens > 0, "a request needs at least one new token");
    assert(
      spec.prompt.length + spec.maxNewTokens <= this.capacityTokens + 1,
      "a request is larger than the pool",
    );
    const request = new Request(spec);
    this.waiting.push(request);
    return request;
  }

  /** The next step, or undefined where nothing can run until something in flight is committed. */
  next(): Plan | undefined {
    const plan =
      this.lastKind === "prefill"
        ? (this.nextDecode() ?? this.nextPrefill())
        : (this.nextPrefill() ?? this.nextDecode());
    if (plan) this.lastKind = plan.kind;
    return plan;
  }

  /** Takes in what a step sampled, in the order of its rows; a prefill chunk without a sample gives none. */
  commit(plan: Plan, sampled: readonly number[]): Outcome[] {
    if (plan.kind === "prefill") return plan.sample ? this.commitRows([plan.request], sampled) : [];
    return this.commitRows(
      plan.rows.map((row) => row.request),
      sampled,
    );
  }

  /** Ends a request from outside; its blocks are free at once. Does nothing where it is done already. */
  abort(request: Request, reason: FinishReason = "aborted"): void {
    if (request.state !== "done") this.finish(request, reason);
  }

  /**
   * Lends blocks for `tokens` positions to work outside the queues (scoring).
   * @throws TidepoolError `out_of_memory` where running requests hold too many.
   */
  borrow(tokens: number): number[] {
    const count = this.blocksFor(tokens);
    const slots = this.blocks.allocate(count);
    if (!slots) {
      const message = `${count} KV blocks are needed and ${this.blocks.freeCount} are free while other requests run`;
      throw new TidepoolError("out_of_memory", message);
    }
    for (const slot of slots) this.lent.add(slot);
    return slots;
  }

  giveBack(slots: readonly number[]): void {
    for (const slot of slots) {
      assert(this.lent.delete(slot), `slot ${slot} was not lent`);
      this.blocks.release(slot);
    }
  }

  /** The conservation check: every slot is free, cached or in use, and in use by exactly the requests that say so. */
  check(): void {
    this.blocks.check();
    const users = new Map<number, number>([...this.lent].map((slot) => [slot, 1]));
    for (const request of [...this.running, ...(this.prefilling ? [this.prefilling] : [])]) {
      for (const slot of request.slots) users.set(slot, (users.get(slot) ?? 0) + 1);
    }
    assert(
      users.size === this.blocks.inUseCount,
      `${users.size} slots in block tables, ${this.blocks.inUseCount} in use`,
    );
    for (const [slot, count] of users) {
      assert(
        this.blocks.usersOf(slot) === count,
        `slot ${slot}: ${count} tables, ${this.blocks.usersOf(slot)} references`,
      );
    }
  }

  private nextPrefill(): PrefillPlan | undefined {
    const request = this.prefilling ?? this.startPrefill();
    if (!request) return undefined;
    const start = request.computed;
    const count = Math.min(this.options.chunkTokens, request.tokens.length - start);
    this.ensureBlocks(request, start + count);
    request.computed += count;
    const sample = request.computed === request.tokens.length;
    if (sample) this.startDecoding(request);
    return { kind: "prefill", request, start, count, sample };
  }

  /** Begins the prompt of the first waiting request that finds a seat, and blocks for all of it. */
  private startPrefill(): Request | undefined {
    const request = this.waiting.head();
    if (!request || this.freeSeats.length === 0) return undefined;
    if (this.blocksFor(request.tokens.length) > this.blocks.freeCount) return undefined;
    this.waiting.remove(request);
    request.seat = this.freeSeats.pop() as number;
    request.state = "prefilling";
    request.computed = 0;
    this.prefilling = request;
    this.ensureBlocks(request, request.tokens.length);
    return request;
  }

  private startDecoding(request: Request): void {
    this.prefilling = undefined;
    request.state = "decoding";
    request.pending++;
    this.running.push(request);
    this.running.sort((a, b) => a.id - b.id);
  }

  private nextDecode(): DecodePlan | undefined {
    const { blockTokens, seats } = this.options;
    const rows = decodeRows(
      this.running,
      blockTokens,
      seats,
      () => this.blocks.allocateOne() ?? this.takeFromPrefill(),
      (request) => this.preempt(request),
    );
    if (rows.length === 0) return undefined;
    for (const { request } of rows) {
      request.computed++;
      request.pending++;
    }
    return { kind: "decode", rows };
  }

  /** A decoding request goes before one whose prompt is under way: that one gives its blocks back and waits. */
  private takeFromPrefill(): number | undefined {
    if (!this.prefilling) return undefined;
    this.preempt(this.prefilling);
    return this.blocks.allocateOne();
  }

  private commitRows(requests: readonly Request[], sampled: readonly number[]): Outcome[] {
    assert(requests.length === sampled.length, `${sampled.length} samples for ${requests.length} rows`);
    return requests.map((request, sampleIndex) => ({
      sampleIndex,
      ...this.commitOne(request, sampled[sampleIndex] as number),
    }));
  }

  private commitOne(request: Request, token: number): Omit<Outcome, "sampleIndex"> {
    request.pending--;
    if (request.state === "done") return { request, token: undefined, finished: undefined };
    if (request.stopIds.has(token)) {
      this.finish(request, "stop");
      return { request, token: undefined, finished: "stop" };
    }
    request.tokens.push(token);
    const finished = request.generatedCount >= request.maxNewTokens ? "length" : undefined;
    if (finished) this.finish(request, finished);
    return { request, token, finished };
  }

  private finish(request: Request, reason: FinishReason): void {
    request.finishReason = reason;
    this.leave(request);
    this.waiting.remove(request);
    request.state = "done";
  }

  /** Gives a running request's blocks and seat back and lets it wait for another prefill. */
  private preempt(request: Request): void {
    this.leave(request);
    request.state = "waiting";
    this.waiting.pushFront(request);
  }

  private leave(request: Request): void {
    for (const slot of request.slots) this.blocks.release(slot);
    request.slots = [];
    request.computed = 0;
    if (request.seat !== undefined) this.freeSeats.push(request.seat);
    request.seat = undefined;
    this.running = this.running.filter((other) => other !== request);
    if (this.prefilling === request) this.prefilling = undefined;
  }

  private ensureBlocks(request: Request, tokens: number): void {
    const missing = this.blocksFor(tokens) - request.slots.length;
    if (missing <= 0) return;
    const slots = this.blocks.allocate(missing);
    assert(slots, `no ${missing} blocks for request ${request.id}, whose admission counted on them`);
    request.slots.push(...slots);
  }

  private blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.options.blockTokens);
  }
}
