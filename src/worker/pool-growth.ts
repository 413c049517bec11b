/**
 * When the KV pool and the state pool grow and how far: by doubling, when requests need slots that are not free and cached
 * ones would have to go, up to the limit of the load options. If the GPU's memory does not suffice, a pool stays as it is,
 * and that is reported once. The moving of bytes is gpu/pool.ts's and gpu/state-pool.ts's, the accounts are the scheduler's.
 */
import { bytesText } from "../model/memory.ts";
import type { Runner } from "../model/runner.ts";
import type { Request } from "../schedule/request.ts";
import type { Scheduler } from "../schedule/scheduler.ts";
import type { Notice } from "../wire/protocol.ts";

export interface PoolGrowthHooks {
  /** The runner in use. */
  runner(): Runner;
  grown(): void;
  /** No more can be had. `stuck`: requests that can never run. */
  stopped(notice: Notice, stuck: readonly Request[]): void;
  /** What the pool holds was perhaps not moved. */
  failed(error: unknown): void;
}

/** Slots that are missing, by pool. */
export interface Missing {
  blocks: number;
  states: number;
}

type Kind = keyof Missing;

/** A pool as growth sees it. */
interface Growing {
  slots: number;
  maxSlots: number;
  grow(slots: number): Promise<{ moved: Promise<void> } | undefined>;
  grown(slots: number): void;
}

export class PoolGrowth {
  private readonly scheduler: Scheduler;
  private readonly hooks: PoolGrowthHooks;
  private growing: Promise<void> | undefined;
  private readonly ended = new Set<Kind>();

  constructor(scheduler: Scheduler, hooks: PoolGrowthHooks) {
    this.scheduler = scheduler;
    this.hooks = hooks;
  }

  /** Grows by what is missing at least, or until the limit; undefined if there is nothing to wait for. */
  makeRoom(missing: Missing): Promise<void> | undefined {
    if (this.growing) return this.growing;
    const kinds = (["blocks", "states"] as const).filter((kind) => this.mayGrow(kind, missing[kind]));
    if (kinds.length === 0) return undefined;
    const done = this.growAll(kinds, missing).catch((error: unknown) => this.hooks.failed(error));
    this.growing = done.finally(() => (this.growing = undefined));
    return this.growing;
  }

  /** Other pools are there, which may grow. */
  restart(): void {
    this.ended.clear();
  }

  private mayGrow(kind: Kind, missing: number): boolean {
    if (this.ended.has(kind) || missing <= 0) return false;
    const { slots, maxSlots } = this.poolOf(kind, this.hooks.runner());
    return slots < maxSlots;
  }

  /** One after the other: each binds the programs anew to what the other pool has. */
  private async growAll(kinds: readonly Kind[], missing: Missing): Promise<void> {
    for (const kind of kinds) await this.grow(kind, missing[kind]);
  }

  private async grow(kind: Kind, missing: number): Promise<void> {
    const runner = this.hooks.runner();
    const pool = this.poolOf(kind, runner);
    const { slots, maxSlots } = pool;
    const least = Math.min(slots + missing, maxSlots);
    const wanted = Math.min(Math.max(2 * slots, least), maxSlots);
    for (const total of new Set([wanted, least])) {
      const growth = await pool.grow(total);
      if (!growth) continue;
      pool.grown(total - slots);
      this.hooks.grown();
      return growth.moved;
    }
    this.ended.add(kind);
    if (kind === "blocks") this.hooks.stopped(blocksNotice(runner, least), this.scheduler.stopGrowing());
    else this.hooks.stopped(statesNotice(runner, least), []);
  }

  private poolOf(kind: Kind, runner: Runner): Growing {
    if (kind === "blocks") {
      return {
        ...{ slots: runner.pool.slots, maxSlots: runner.maxBlocks },
        grow: (slots) => runner.grow(slots),
        grown: (slots) => this.scheduler.grown(slots),
      };
    }
    return {
      ...{ slots: runner.states.slots, maxSlots: runner.plan.states.maxSlots },
      grow: (slots) => runner.growStates(slots),
      grown: (slots) => this.scheduler.statesGrown(slots),
    };
  }
}

function blocksNotice({ pool, options }: Runner, wanted: number): Notice {
  const has = `${pool.slots * options.blockTokens} tokens (${bytesText(pool.bytes)})`;
  const asked = `${wanted * options.blockTokens} tokens (${bytesText(wanted * pool.slotBytes)})`;
  return {
    code: "pool_full",
    message: `the GPU's memory does not suffice for a KV pool of ${asked}: it stays at ${has}; longer requests end there, and cached prefixes are evicted sooner`,
  };
}

function statesNotice({ states, pool: { tails } }: Runner, wanted: number): Notice {
  const has = `${states.slots} (${bytesText(states.bytes)})`;
  const asked = `${wanted} recurrent states (${bytesText(wanted * states.slotBytes)})${tails ? " with their last blocks in exact form" : ""}`;
  return {
    code: "pool_full",
    message: `the GPU's memory does not suffice for a pool of ${asked}: it stays at ${has}; snapshots are evicted for running requests, and fewer of these may run at once`,
  };
}
