/**
 * Puts what sequences have computed where others find it: into the prefix cache, and by way of the scheduler into the lower
 * tiers. It decides neither what is worth keeping (cache/policy) nor when a step is planned (scheduler.ts).
 */
import type { Lease, NewSnapshot, PrefixCache } from "../cache/prefix.ts";
import type { FullBlock, LowerTiers, Save, Sequence, States } from "./plan.ts";
import type { Request } from "./request.ts";
import type { Restore } from "./restore/restore.ts";
import type { Snapshots } from "./snapshots.ts";
import type { SlotTickets } from "./tickets.ts";

export interface PublisherParts {
  cache: PrefixCache;
  blockTokens: number;
  lower: LowerTiers | undefined;
  states: States | undefined;
  snapshots: Snapshots | undefined;
  /** Where there are several queues. */
  slotTickets: SlotTickets | undefined;
}

/** What is new in the cache. */
export interface Published {
  completes: FullBlock[];
  saves: Save[];
}

export class Publisher {
  private readonly parts: PublisherParts;

  constructor(parts: PublisherParts) {
    this.parts = parts;
  }

  /** Makes findable what submitted steps have computed of a request's accepted tokens. */
  publish(request: Request, snapshot?: NewSnapshot): Published {
    if (request.storage === "off" || !request.lease) return { completes: [], saves: [] };
    const { cache, snapshots } = this.parts;
    const valid = Math.min(request.computed, request.tokens.length);
    const tokens = Int32Array.from(request.tokens.slice(0, valid));
    const { owned, placed } = cache.insert(request.lease, tokens, snapshot ? [snapshot] : []);
    if (request.ticket) this.parts.slotTickets?.wrote(owned, request.ticket);
    const completes = this.blocksToSend(request, request.slots, valid, owned, request.restore);
    const saves = placed.flatMap((each) => snapshots?.saveOf(request, each) ?? []);
    const fresh = new Set(owned);
    for (const { block, slot } of completes) if (fresh.has(slot)) request.ownBlocks.add(block);
    for (const { at } of saves) request.ownStates.add(at);
    return { completes, saves };
  }

  /** The same, and sends it down: outside a plan, before slots are given back. */
  publishAndSpill(request: Request, snapshot?: NewSnapshot): void {
    const { completes, saves } = this.publish(request, snapshot);
    if (completes.length > 0) this.parts.lower?.spill(completes);
    if (saves.length > 0) this.parts.states?.save(saves);
  }

  /** Keeps the first `done` tokens of a loan as far as that may be. */
  publishLoan(lease: Lease, sequence: Sequence, done: number): void {
    if (sequence.storage === "off") return;
    const { owned } = this.parts.cache.insert(lease, Int32Array.from(sequence.tokens.slice(0, done)));
    this.parts.lower?.spill(this.blocksToSend(sequence, lease.table, done, owned));
  }

  /** Blocks for the lower tiers: those that the tree has just taken over, and those that it had but the disk lacks. */
  private blocksToSend(
    sequence: Sequence,
    table: readonly number[],
    valid: number,
    owned: readonly number[],
    restore?: Restore,
  ): FullBlock[] {
    const { lower, blockTokens } = this.parts;
    const owed = lower?.owed?.(sequence, Math.floor(valid / blockTokens)) ?? [];
    return fullBlocks(sequence, table, { owned, owed }, restore);
  }
}

/** The blocks of a table whose slots the tree has just taken over (those that were loaded are known below), or are owed. */
function fullBlocks(
  sequence: Sequence,
  table: readonly number[],
  { owned, owed }: { owned: readonly number[]; owed: readonly number[] },
  restore?: Restore,
): FullBlock[] {
  const fresh = new Set(owned);
  const missing = new Set(owed);
  return table
    .map((slot, block): FullBlock => ({ sequence, block, slot }))
    .filter(
      ({ slot, block }) => missing.has(block) || (fresh.has(slot) && restore?.isLoaded(block) !== true),
    );
}
