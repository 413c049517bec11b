/**
 * When the KV pool grows and how far: by doubling, when requests need blocks that are not free and cached ones would have
 * to go, up to the limit of the load options. Where the GPU's memory does not suffice it stays as it is, and says so once.
 * The moving of bytes is gpu/pool.ts's, the accounts are the scheduler's.
 */
import { bytesText } from "../model/memory.ts";
import type { Runner } from "../model/runner.ts";
import type { Request } from "../schedule/request.ts";
import type { Scheduler } from "../schedule/scheduler.ts";
import type { Notice } from "./protocol.ts";

export interface GrowthHooks {
  /** The runner in use. */
  runner(): Runner;
  grown(): void;
  /** No more can be had. `stuck`: requests that can never run. */
  stopped(notice: Notice, stuck: readonly Request[]): void;
  /** What the pool holds was perhaps not moved. */
  failed(error: unknown): void;
}

export class Growth {
  private readonly scheduler: Scheduler;
  private readonly hooks: GrowthHooks;
  private growing: Promise<void> | undefined;
  private ended = false;

  constructor(scheduler: Scheduler, hooks: GrowthHooks) {
    this.scheduler = scheduler;
    this.hooks = hooks;
  }

  /** Grows by `missing` blocks at least, or until the limit; undefined where there is nothing to wait for. */
  makeRoom(missing: number): Promise<void> | undefined {
    if (this.growing) return this.growing;
    const { pool, maxBlocks } = this.hooks.runner();
    if (this.ended || missing <= 0 || pool.slots >= maxBlocks) return undefined;
    const done = this.grow(missing).catch((error: unknown) => this.hooks.failed(error));
    this.growing = done.finally(() => (this.growing = undefined));
    return this.growing;
  }

  private async grow(missing: number): Promise<void> {
    const runner = this.hooks.runner();
    const { slots } = runner.pool;
    const least = Math.min(slots + missing, runner.maxBlocks);
    const wanted = Math.min(Math.max(2 * slots, least), runner.maxBlocks);
    for (const blocks of new Set([wanted, least])) {
      const growth = await runner.grow(blocks);
      if (!growth) continue;
      this.scheduler.grown(blocks - slots);
      this.hooks.grown();
      return growth.moved;
    }
    this.ended = true;
    this.hooks.stopped(stoppedNotice(runner, least), this.scheduler.stopGrowing());
  }
}

function stoppedNotice({ pool, options }: Runner, wanted: number): Notice {
  const has = `${pool.slots * options.blockTokens} tokens (${bytesText(pool.bytes)})`;
  const asked = `${wanted * options.blockTokens} tokens (${bytesText(wanted * pool.slotBytes)})`;
  return {
    code: "pool_full",
    message: `the GPU's memory does not suffice for a KV pool of ${asked}: it stays at ${has}; longer requests end there, and cached prefixes are evicted sooner`,
  };
}
