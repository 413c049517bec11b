/**
 * A decode instance in simulated time: one batch, in which every request gets a token each step. Requests join between two
 * steps, if the memory has room for all that they will need; until then they wait. It rejects none.
 */
import type { EventQueue } from "./events.ts";
import type { ClusterCost } from "./hardware.ts";
import type { Job } from "./job.ts";

/** A request that runs or waits to. */
export interface Running {
  job: Job;
  /** When its KV was there. */
  startedMs: number;
  contextTokens: number;
  leftTokens: number;
  /** The index of its first step's end among the instance's. */
  firstStep: number;
}

export interface DecodeOwner {
  /** @param startedMs when it came here @param gapsMs between its tokens */
  finished(job: Job, startedMs: number, gapsMs: Float64Array): void;
}

export class DecodeInstance {
  private readonly batch: Running[] = [];
  private readonly waiting: Running[] = [];
  private readonly events: EventQueue;
  private readonly cost: ClusterCost;
  private readonly owner: DecodeOwner;
  /** When each step ended. */
  private readonly ends: number[] = [];
  private isStepping = false;
  private reservedTokens = 0;
  private contextTokens = 0;
  private waitingTokens = 0;

  constructor(events: EventQueue, cost: ClusterCost, owner: DecodeOwner) {
    this.events = events;
    this.cost = cost;
    this.owner = owner;
  }

  get length(): number {
    return this.batch.length + this.waiting.length;
  }

  get isIdle(): boolean {
    return this.length === 0 && this.reservedTokens === 0 && this.contextTokens === 0;
  }

  get all(): Running[] {
    return [...this.batch, ...this.waiting];
  }

  /** What a step would take with all that are here, and with others. */
  stepMs(others = 0, theirTokens = 0): number {
    const context = this.contextTokens + this.waitingTokens + theirTokens;
    return this.cost.decodeMs(this.length + others, context);
  }

  /** Takes a request whose KV will be there at a time to come. */
  push(job: Job, startedMs: number): void {
    const contextTokens = job.inputTokens + 1;
    const leftTokens = job.outputTokens - 1;
    if (leftTokens === 0) return this.owner.finished(job, startedMs, new Float64Array(0));
    this.waiting.push({ job, startedMs, contextTokens, leftTokens, firstStep: -1 });
    this.waitingTokens += contextTokens;
    this.events.at(startedMs, () => {
      if (!this.isStepping) this.step();
    });
  }

  private step(): void {
    this.join();
    this.isStepping = this.batch.length > 0;
    if (!this.isStepping) return;
    const ms = this.cost.decodeMs(this.batch.length, this.contextTokens);
    this.events.at(this.events.nowMs + ms, () => {
      this.ends.push(this.events.nowMs);
      this.advance();
      this.step();
    });
  }

  private join(): void {
    const here = this.waiting.filter(({ startedMs }) => startedMs <= this.events.nowMs);
    for (const next of here) {
      const needed = this.reservedTokens + neededTokens(next.job);
      if (needed > this.cost.decodeCapacityTokens) return;
      this.waiting.splice(this.waiting.indexOf(next), 1);
      next.firstStep = this.ends.length;
      this.reservedTokens = needed;
      this.waitingTokens -= next.contextTokens;
      this.contextTokens += next.contextTokens;
      this.batch.push(next);
    }
  }

  /** Everyone in the batch gets a token. */
  private advance(): void {
    const { batch } = this;
    let kept = 0;
    this.contextTokens += batch.length;
    for (const running of batch) {
      running.contextTokens++;
      if (--running.leftTokens > 0) batch[kept++] = running;
      else this.finish(running);
    }
    batch.length = kept;
  }

  private finish({ job, startedMs, contextTokens, firstStep }: Running): void {
    this.contextTokens -= contextTokens;
    this.reservedTokens -= neededTokens(job);
    const gaps = new Float64Array(this.ends.length - firstStep);
    for (let i = 0, before = job.firstTokenMs; i < gaps.length; i++) {
      gaps[i] = this.ends[firstStep + i]! - before;
      before = this.ends[firstStep + i]!;
    }
    this.owner.finished(job, startedMs, gaps);
  }
}

/** In the end its KV is that of all tokens but the last. */
export function neededTokens({
  inputTokens,
  outputTokens,
}: Pick<Job, "inputTokens" | "outputTokens">): number {
  return inputTokens + outputTokens;
}
