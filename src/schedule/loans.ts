/**
 * Blocks and recurrent states lent to work outside the queues (scoring, a check of what the cache holds). It knows neither
 * what is computed in them nor when.
 */
import { assert } from "../base.ts";
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease, PrefixCache } from "../cache/prefix.ts";
import { TidepoolError } from "../errors.ts";
import { leaseBlocks } from "./lease-blocks.ts";
import type { Copy, LowerTiers, Sequence } from "./plan.ts";
import type { Publisher } from "./publish.ts";
import type { StorageScope } from "./request.ts";
import type { SeatState } from "./seat-state.ts";
import type { Snapshots } from "./snapshots.ts";

export interface LoansParts {
  cache: PrefixCache;
  blocks: BlockPool;
  blockTokens: number;
  lower: LowerTiers | undefined;
  snapshots: Snapshots | undefined;
  publisher: Publisher;
  /** Slots have become free. */
  freed(): void;
}

export class Loans {
  private readonly parts: LoansParts;
  private readonly lent = new Map<Lease, Sequence>();

  constructor(parts: LoansParts) {
    this.parts = parts;
  }

  /** Those that are not given back. */
  get leases(): Lease[] {
    return [...this.lent.keys()];
  }

  /** Blocks that a loan needs beyond those that are free. */
  missing(tokens: readonly number[], reusable: number): number {
    const { cache, blocks } = this.parts;
    const known = cache.match(Int32Array.from(tokens), reusable).blocks.length;
    return Math.max(0, this.blocksFor(tokens) - known - blocks.freeCount);
  }

  /**
   * Lends blocks for `tokens`, with what the cache knows of their first `reusable` unless they are kept nowhere, and may
   * not be looked for either.
   * @throws TidepoolError `out_of_memory` if running requests hold too many.
   */
  borrow(tokens: readonly number[], reusable: number, storage: StorageScope): Lease {
    const { cache, blocks, lower } = this.parts;
    const limit = storage === "off" ? 0 : reusable;
    const needed = this.blocksFor(tokens);
    const lease = leaseBlocks(cache, blocks, { tokens, limit, blocks: needed });
    if (!lease) {
      const message = `${needed} KV blocks are needed and ${blocks.freeCount} are free while other requests run`;
      throw new TidepoolError("out_of_memory", message);
    }
    const sequence = { tokens, storage };
    lower?.begin?.(sequence);
    this.lent.set(lease, sequence);
    return lease;
  }

  /**
   * Where the work on a loan has its recurrent state until it is given back, and the block to copy before it begins.
   * Undefined in models without recurrent layers.
   * @throws TidepoolError `out_of_memory` if running requests hold too many.
   */
  state(lease: Lease): { state: SeatState; copyBlock: Copy | undefined } | undefined {
    const { snapshots } = this.parts;
    if (!snapshots) return undefined;
    const loan = snapshots.loan(lease);
    if (loan) return loan;
    throw new TidepoolError("out_of_memory", "no recurrent state is free while other requests run");
  }

  /** Takes a loan back; what was computed in it, the first `done` tokens, is kept in the cache as far as it may be. */
  giveBack(lease: Lease, done: number): void {
    if (lease.released) return; // what it was computed on is gone
    const sequence = this.lent.get(lease);
    assert(sequence, "a lease that was not lent is given back");
    this.parts.publisher.publishLoan(lease, sequence, done);
    this.end(lease);
  }

  /** Ends those whose blocks are void; what was computed in them is not kept. */
  endIf(isVoid: (lease: Lease) => boolean): void {
    for (const lease of this.leases.filter(isVoid)) this.end(lease);
  }

  private end(lease: Lease): void {
    this.lent.delete(lease);
    this.parts.snapshots?.endLoan(lease);
    this.parts.cache.release(lease);
    this.parts.freed();
  }

  private blocksFor(tokens: readonly number[]): number {
    return Math.ceil(tokens.length / this.parts.blockTokens);
  }
}
