/**
 * A prefill instance in simulated time: prompts one after another in order of arrival, with a prefix cache that is the
 * engine's own. It chooses no requests and rejects none: its owner is asked before a prompt starts.
 */
import { assert } from "../../base.ts";
import type { Lease, PrefixCache } from "../../cache/prefix.ts";
import type { InstanceView } from "./conductor.ts";
import type { EventQueue } from "./events.ts";
import type { ClusterCost } from "./hardware.ts";
import type { Job } from "./job.ts";

export interface PrefillOwner {
  /** A prompt's turn has come; false: it is not to be computed after all. */
  starts(job: Job): boolean;
  ended(job: Job, run: PromptRun): void;
}

/** A prompt's time on an instance. */
export interface PromptRun {
  instance: number;
  startMs: number;
  /** Tokens that were not computed. */
  hitTokens: number;
}

export interface PrefillParts {
  cache: PrefixCache;
  /** Tokens of a symbol of the cache's tree. */
  symbolTokens: number;
  events: EventQueue;
  cost: ClusterCost;
  owner: PrefillOwner;
}

export class PrefillInstance {
  private readonly index: number;
  private readonly parts: PrefillParts;
  private readonly queue: Job[] = [];
  private queuedMs = 0;
  private running: Job | undefined;
  private freeAtMs = 0;
  private linkFreeMs = 0;
  private leases = 0;

  constructor(index: number, parts: PrefillParts) {
    this.index = index;
    this.parts = parts;
  }

  /** Prompts that wait or run. */
  get length(): number {
    return this.queue.length + (this.running ? 1 : 0);
  }

  /** Nothing waits, runs, or is held in its cache. */
  get isIdle(): boolean {
    return this.length === 0 && this.leases === 0;
  }

  get cache(): PrefixCache {
    return this.parts.cache;
  }

  view(symbols: Int32Array, inputTokens: number): InstanceView {
    const { nowMs } = this.parts.events;
    const cached = this.parts.cache.match(symbols).tokens;
    const queued = [this.running, ...this.queue].map((job) =>
      job ? sharedSymbols(job.symbols, symbols) : 0,
    );
    return {
      prefixTokens: this.tokensOf(Math.max(cached, ...queued), inputTokens),
      sharableTokens: this.tokensOf(cached, inputTokens),
      queueMs: this.queueMs,
      linkMs: Math.max(0, this.linkFreeMs - nowMs),
    };
  }

  /** What is left of the running prompt, and what is expected of those that wait. */
  get queueMs(): number {
    return Math.max(0, this.freeAtMs - this.parts.events.nowMs) + this.queuedMs;
  }

  /** The longest time to first token that is expected of a prompt here; 0 if there is none. */
  get maxTtftMs(): number {
    const jobs = this.running ? [this.running, ...this.queue] : this.queue;
    return jobs.reduce((most, job) => Math.max(most, job.expectedEndMs - job.arrivedMs), 0);
  }

  /** Takes a prompt. @param source where its first `prefixTokens` tokens are copied from meanwhile */
  push(job: Job, prefixTokens: number, source: PrefillInstance | undefined): void {
    const { symbolTokens } = this.parts;
    job.lease = this.acquire(job.symbols);
    this.queue.push(job);
    this.queuedMs += job.estimateMs;
    job.isReady = source === undefined;
    if (source) this.copy(job, source, Math.ceil(prefixTokens / symbolTokens));
    this.start();
  }

  /** The copy stays here: this is how prefixes that many ask for spread. */
  private copy(job: Job, source: PrefillInstance, symbolCount: number): void {
    const { events, cost, symbolTokens } = this.parts;
    const prefix = job.symbols.subarray(0, symbolCount);
    const lease = source.acquire(prefix);
    const here = Math.min(this.parts.cache.match(prefix).tokens, symbolCount);
    const tokens = (Math.min(lease.tokens, symbolCount) - here) * symbolTokens;
    source.linkFreeMs = Math.max(source.linkFreeMs, events.nowMs) + cost.transferMs(Math.max(0, tokens));
    events.at(source.linkFreeMs, () => {
      source.release(lease);
      this.parts.cache.insert(job.lease!, prefix);
      job.isReady = true;
      this.start();
    });
  }

  private start(): void {
    const { events, cost, owner, cache } = this.parts;
    while (this.running === undefined && this.queue[0]?.isReady === true) {
      const job = this.queue.shift()!;
      this.queuedMs = this.queue.length === 0 ? 0 : this.queuedMs - job.estimateMs;
      if (!owner.starts(job)) {
        this.drop(job);
        continue;
      }
      const hitTokens = this.tokensOf(cache.match(job.symbols).tokens, job.inputTokens);
      const startMs = events.nowMs;
      this.running = job;
      this.freeAtMs = startMs + cost.prefillMs(job.inputTokens - hitTokens, hitTokens);
      job.expectedEndMs = this.freeAtMs;
      events.at(this.freeAtMs, () => this.end(job, { instance: this.index, startMs, hitTokens }));
    }
  }

  private end(job: Job, run: PromptRun): void {
    assert(this.running === job, `prompt ${job.id} ends while another runs`);
    this.running = undefined;
    this.parts.cache.insert(job.lease!, job.symbols);
    this.drop(job);
    this.parts.owner.ended(job, run);
    this.start();
  }

  private drop(job: Job): void {
    this.release(job.lease!);
    job.lease = undefined;
  }

  private acquire(symbols: Int32Array): Lease {
    this.leases++;
    return this.cache.acquire(symbols);
  }

  private release(lease: Lease): void {
    this.leases--;
    this.cache.release(lease);
  }

  /** The last token of a prompt is always computed. */
  private tokensOf(symbols: number, inputTokens: number): number {
    return Math.min(symbols * this.parts.symbolTokens, inputTokens - 1);
  }
}

function sharedSymbols(a: Int32Array, b: Int32Array): number {
  const most = Math.min(a.length, b.length);
  let shared = 0;
  while (shared < most && a[shared] === b[shared]) shared++;
  return shared;
}
