/**
 * The recurrent states of running requests: where each starts, at which tokens it is saved, and which slots that takes.
 * Who runs is the scheduler's business; what is worth saving and what goes for it, the cache's. Pure.
 */
import { assert } from "../base.ts";
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease, NewSnapshot, PrefixCache } from "../cache/prefix.ts";
import type { Copy, LowerTiers, Save, States } from "./plan.ts";
import type { Request } from "./request.ts";
import { SeatState } from "./seat-state.ts";

export interface SnapshotParts {
  cache: PrefixCache;
  /** KV slots, the cache's. */
  blocks: BlockPool;
  blockTokens: number;
  states: States;
  lower: LowerTiers | undefined;
}

export class Snapshots {
  private readonly cache: PrefixCache;
  private readonly blocks: BlockPool;
  private readonly blockTokens: number;
  private readonly states: States;
  private readonly lower: LowerTiers | undefined;

  constructor({ cache, blocks, blockTokens, states, lower }: SnapshotParts) {
    this.cache = cache;
    this.blocks = blocks;
    this.blockTokens = blockTokens;
    this.states = states;
    this.lower = lower;
  }

  /** Where the work on a loan has its recurrent state, and the block to copy before it begins. One loan at a time may use
   * it: there is one pair of slots. */
  loan(lease: Lease, seat: number): { state: SeatState; copyBlock: Copy | undefined } {
    const state = new SeatState(seat);
    state.start(lease.tokens, lease.snapshot && this.stateSlot(lease.snapshot.slot));
    return { state, copyBlock: this.begunBlock(lease, lease.tokens) };
  }

  /** Where a request that takes its seat reads and writes its state, and where on the way it is saved: also at
   * `branches`, where those that wait go on without it. */
  start(request: Request, lease: Lease, branches: readonly number[]): void {
    request.seatState = new SeatState(request.seat as number);
    const { snapshot, tokens } = lease;
    request.seatState.start(tokens, snapshot && this.stateSlot(snapshot.slot));
    if (request.keep === "off") return;
    const { lower, blockTokens } = this;
    const stored = lower ? lower.storedBlocks(request, 0) * blockTokens : 0; // seen before, in another session
    lease.rawTokens = Math.max(lease.rawTokens, Math.min(stored, request.tokens.length - 1));
    request.snapshotsAt = this.cache.snapshotPositions(Int32Array.from(request.tokens), lease, branches);
  }

  /** A snapshot's slot in the state pool. */
  stateSlot(snapshotSlot: number): number {
    return this.states.firstSnapshotSlot + snapshotSlot;
  }

  /** Where the request runs its first step from a snapshot inside a block: the copy of that block which it needs. The
   * snapshot's slots may be used for something else by steps after this one. */
  startedFrom(request: Request, start: number): Copy | undefined {
    const { lease } = request;
    if (!lease || lease.copied) return undefined;
    const copy = this.begunBlock(lease, start);
    this.cache.snapshotCopied(lease);
    return copy;
  }

  /** The state behind token `at`, from which a request is about to start, where others have kept it from the disk. */
  owed(request: Request, at: number): Save | undefined {
    const { lease } = request;
    if (!lease?.snapshot || lease.copied || !this.lower?.owesState?.(request, at)) return undefined;
    const slot = this.stateSlot(lease.snapshot.slot);
    const { tail } = lease.snapshot;
    const state = { from: slot, to: slot };
    return { sequence: request, at, state, copyBlock: undefined, tail: tail < 0 ? undefined : tail };
  }

  private begunBlock({ snapshot, table }: Lease, start: number): Copy | undefined {
    if (!snapshot || snapshot.tail < 0) return undefined;
    return { from: snapshot.tail, to: table[Math.floor(start / this.blockTokens)] as number };
  }

  /** Slots for the snapshot that is wanted where a prompt has just been computed to. */
  here(request: Request): NewSnapshot | undefined {
    if (!request.snapshotsAt.includes(request.computed)) return undefined;
    const taken = this.cache.snapshotSlots(request.computed);
    return taken && { ...taken, why: this.cache.policy.name === "vllm" ? "interval" : "branch" };
  }

  saveOf(request: Request, { at, slot, tail }: NewSnapshot): Save {
    const from = request.seatState?.latest(at);
    assert(from?.at === at, `a snapshot at token ${at}, and the state is at ${from?.at ?? "none"}`);
    const begun = request.slots[Math.floor(at / this.blockTokens)] as number;
    return {
      sequence: request,
      at,
      state: { from: from.slot, to: this.stateSlot(slot) },
      copyBlock: tail < 0 || tail === begun ? undefined : { from: begun, to: tail },
      tail: tail < 0 ? undefined : tail,
    };
  }

  /** Slots for a snapshot of the last state of a request that ends: the block that was begun there need not be copied. */
  last(request: Request): NewSnapshot | undefined {
    const { lease, seatState } = request;
    const latest = seatState?.latest(request.tokens.length);
    if (!latest || !lease || request.keep === "off") return undefined;
    const { at } = latest;
    const { blockTokens } = this;
    if (at % blockTokens === 0) return this.cache.snapshotSlots(at);
    const tail = lease.table[Math.floor(at / blockTokens)] as number;
    if (this.blocks.isKept(tail)) return undefined;
    const slot = this.cache.snapshotSlot();
    if (slot === undefined) return undefined;
    this.blocks.retain(tail);
    return { at, slot, tail, why: "end" };
  }
}
