/**
 * The recurrent states of running requests: where each starts, at which tokens it is saved, and which slots that takes.
 * Who runs is the scheduler's business; what is worth saving and what goes for it, the cache's. Pure.
 */
import { assert } from "../base.ts";
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease, NewSnapshot, PrefixCache } from "../cache/prefix.ts";
import type { StateSlotPool } from "../cache/state-slot-pool.ts";
import type { Copy, LowerTiers, Save } from "./plan.ts";
import type { Request } from "./request.ts";
import { SeatState } from "./seat-state.ts";

export interface SnapshotParts {
  cache: PrefixCache;
  /** KV slots, the cache's. */
  blocks: BlockPool;
  blockTokens: number;
  lower: LowerTiers | undefined;
  /** State slots of a running sequence: one more than steps that may be taken back. */
  ringSlots: number;
}

export class Snapshots {
  private readonly cache: PrefixCache;
  private readonly blocks: BlockPool;
  private readonly blockTokens: number;
  private readonly lower: LowerTiers | undefined;
  private readonly ringSlots: number;
  /** The books of the state pool. */
  private readonly slots: StateSlotPool;
  /** States of loans. */
  private readonly loans = new Map<Lease, SeatState>();

  constructor({ cache, blocks, blockTokens, lower, ringSlots }: SnapshotParts) {
    assert(cache.snapshots, "recurrent states need a cache with state slots");
    this.slots = cache.snapshots;
    this.cache = cache;
    this.blocks = blocks;
    this.blockTokens = blockTokens;
    this.lower = lower;
    this.ringSlots = ringSlots;
  }

  /** Slots beyond the unused ones that `sequences` more, and so many more snapshots, want. */
  missing(sequences: number, snapshots: number): number {
    const { snapshotRoom, unusedCount } = this.slots;
    return Math.max(0, this.ringSlots * sequences + Math.min(snapshots, snapshotRoom) - unusedCount);
  }

  /** The pool has grown by that many slots. */
  grown(slots: number): void {
    this.slots.grow(slots);
  }

  /** Where the work on a loan has its recurrent state, and the block to copy before it begins; undefined if running
   * sequences hold too many slots. */
  loan(lease: Lease): { state: SeatState; copyBlock: Copy | undefined } | undefined {
    assert(!this.loans.has(lease), "a loan takes its state twice");
    const state = this.take(lease);
    if (!state) return undefined;
    this.loans.set(lease, state);
    return { state, copyBlock: this.partialBlock(lease, lease.tokens) };
  }

  /** Takes back what `loan` has given, if it has. */
  endLoan(lease: Lease): void {
    const state = this.loans.get(lease);
    if (state) this.cache.dropStates(state.ring);
    this.loans.delete(lease);
  }

  /** The state of a sequence that goes on from its lease; undefined if no slots can be had for it. */
  take({ tokens, snapshot }: Lease): SeatState | undefined {
    const ring = this.cache.takeStates(this.ringSlots);
    if (!ring) return undefined;
    const state = new SeatState(ring);
    state.start(tokens, snapshot?.slot);
    return state;
  }

  /** Takes back the slots of a request that leaves its seat. */
  leave(request: Request): void {
    if (request.seatState) this.cache.dropStates(request.seatState.ring);
    request.seatState = undefined;
  }

  /** The conservation check: each slot in use is held by exactly the requests and leases that say so. */
  check(requests: readonly Request[], leases: readonly Lease[]): void {
    const states = [...requests.map(({ seatState }) => seatState), ...this.loans.values()];
    const running = states.flatMap((state) => state?.ring ?? []);
    const read = leases.flatMap(({ copied, snapshot }) => (copied || !snapshot ? [] : [snapshot.slot]));
    const loading = requests.flatMap(({ restore }) => restore?.snapshot?.slot ?? []);
    const { runningCount, inUseCount } = this.slots;
    assert(running.length === runningCount, `${runningCount} state slots run, ${running.length} are held`);
    const held = new Set([...running, ...read, ...loading]).size;
    assert(held === inUseCount, `${held} state slots are held, ${inUseCount} are in use`);
  }

  /** Where on its way the state of a request is saved that takes its seat: also at `branches`, where those that wait go on
   * without it. */
  start(request: Request, lease: Lease, branches: readonly number[]): void {
    if (request.storage === "off") return;
    const { lower, blockTokens } = this;
    const stored = lower ? lower.storedBlocks(request, 0) * blockTokens : 0; // seen before, in another session
    lease.rawTokens = Math.max(lease.rawTokens, Math.min(stored, request.tokens.length - 1));
    request.snapshotsAt = this.cache.snapshotPositions(Int32Array.from(request.tokens), lease, branches);
  }

  /** Where the request runs its first step from a snapshot inside a block: the copy of that block which it needs. The
   * snapshot's slots may be used for something else by steps after this one. */
  startedFrom(request: Request, start: number): Copy | undefined {
    const { lease } = request;
    if (!lease || lease.copied) return undefined;
    const copy = this.partialBlock(lease, start);
    this.cache.snapshotCopied(lease);
    return copy;
  }

  /** The state behind token `at`, from which a request is about to start, where others have kept it from the disk. */
  owed(request: Request, at: number): Save | undefined {
    const { lease } = request;
    if (!lease?.snapshot || lease.copied || !this.lower?.owesState?.(request, at)) return undefined;
    const { slot, tail } = lease.snapshot;
    const state = { from: slot, to: slot };
    return { sequence: request, at, state, copyBlock: undefined, tail: tail < 0 ? undefined : tail };
  }

  private partialBlock({ snapshot, table }: Lease, start: number): Copy | undefined {
    if (!snapshot || snapshot.tail < 0) return undefined;
    return { from: snapshot.tail, to: table[Math.floor(start / this.blockTokens)] as number };
  }

  /** Slots for the snapshot that is wanted where a prompt has just been computed to. */
  here(request: Request): NewSnapshot | undefined {
    if (!request.snapshotsAt.includes(request.computed)) return undefined;
    const taken = this.cache.snapshotSlots(request.computed);
    return taken && { ...taken, why: this.cache.policy.snapshotReason };
  }

  saveOf(request: Request, { at, slot, tail }: NewSnapshot): Save {
    const from = request.seatState?.latest(at);
    assert(from?.at === at, `a snapshot at token ${at}, and the state is at ${from?.at ?? "none"}`);
    const partial = request.slots[Math.floor(at / this.blockTokens)] as number;
    return {
      sequence: request,
      at,
      state: { from: from.slot, to: slot },
      copyBlock: tail < 0 || tail === partial ? undefined : { from: partial, to: tail },
      tail: tail < 0 ? undefined : tail,
    };
  }

  /** Slots for a snapshot of the last state of a request that ends: the partial block there need not be copied. */
  last(request: Request): NewSnapshot | undefined {
    const { lease, seatState } = request;
    const latest = seatState?.latest(request.tokens.length);
    if (!latest || !lease || request.storage === "off") return undefined;
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
