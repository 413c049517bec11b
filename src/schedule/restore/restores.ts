/**
 * The restores of prompts that are being prefilled: each looks for its stored blocks when it starts, moves on over what
 * has been loaded, and gives back what it took for it. Which block is loaded and which computed is each restore's choice
 * (restore.ts); who runs is the scheduler's.
 */
import type { BlockPool } from "../../cache/blocks.ts";
import type { Lease, PrefixCache } from "../../cache/prefix.ts";
import type { LowerTiers, Move } from "../plan.ts";
import type { LowerTier, Request } from "../request.ts";
import { BlockRestore } from "./block-restore.ts";
import { StateRestore } from "./state-restore.ts";

export interface RestoresParts {
  cache: PrefixCache;
  blocks: BlockPool;
  blockTokens: number;
  lower: LowerTiers | undefined;
  /** Whether the model has recurrent layers. */
  withStates: boolean;
  /** Makes findable what a request has in place. */
  publish(request: Request): void;
}

export class Restores {
  private readonly parts: RestoresParts;

  constructor(parts: RestoresParts) {
    this.parts = parts;
  }

  /** Looks for the blocks after those on the GPU in the lower tiers; the last token is always computed. */
  start(request: Request): void {
    const { lower, blockTokens, withStates } = this.parts;
    if (!lower || request.storage === "off") return;
    if (withStates) {
      this.startState(request, lower);
      return;
    }
    const from = request.computed / blockTokens;
    const most = Math.floor((request.tokens.length - 1) / blockTokens) - from;
    const stored = most > 0 ? Math.min(most, lower.storedBlocks(request, from)) : 0;
    if (stored === 0) return;
    request.restore = new BlockRestore(lower.restoreTerms(request, from, stored), from);
  }

  private startState(request: Request, lower: LowerTiers): void {
    const { blockTokens, cache } = this.parts;
    const at = lower.storedState?.(request, request.computed, request.tokens.length - 1);
    if (at === undefined) return;
    const from = Math.floor(request.computed / blockTokens);
    const terms = lower.restoreTerms(request, from, Math.floor(at / blockTokens) - from);
    if (!StateRestore.pays(terms)) return;
    const snapshot = cache.snapshotSlots(at);
    if (snapshot) request.restore = new StateRestore(terms, from, { ...snapshot, why: "restored" });
  }

  /** Loads to start now; each must be answered by `moved`. */
  movesOf(request: Request): Move[] {
    const { restore } = request;
    const moves: Move[] = [];
    if (!restore) return moves;
    for (let block = restore.nextLoad(); block !== undefined; block = restore.nextLoad()) {
      const snapshot = restore.snapshotAt(block);
      const slot = request.slots[block] ?? -1;
      moves.push({ request, restore, block, slot, ...(snapshot && { snapshot }) });
    }
    return moves;
  }

  /** Whether a load's slot is still meant for it; if not, its bytes must not be written. */
  isWanted({ request, restore, block }: Move): boolean {
    return request.status === "prefilling" && request.restore === restore && restore.isWanted(block);
  }

  /** A load has ended: the bytes are in the slot (`tier` says from where), or there were none and they are computed. */
  moved(move: Move, tier: LowerTier | undefined): void {
    const { request, restore, block } = move;
    const isCounted = !restore.snapshot && this.isWanted(move) && request.generatedCount === 0;
    restore.loaded(block, tier);
    if (tier !== undefined && isCounted) request.countLoaded(tier, this.parts.blockTokens);
  }

  /** Moves on over what has been loaded. */
  advance(request: Request): void {
    const { restore } = request;
    if (restore instanceof StateRestore) this.advanceState(request, restore);
    else if (restore) this.skipLoaded(request);
  }

  private skipLoaded(request: Request): void {
    const { blockTokens } = this.parts;
    const before = request.computed;
    while (
      request.computed % blockTokens === 0 &&
      request.restore?.isLoaded(request.computed / blockTokens) === true
    ) {
      request.computed += blockTokens;
    }
    if (request.computed > before) this.parts.publish(request);
  }

  private advanceState(request: Request, restore: StateRestore): void {
    if (restore.givenUp || request.computed >= restore.snapshot.at) this.drop(request);
    else if (restore.complete) this.startFromLoaded(request, restore);
  }

  /** Everything is in place: the request goes on from the state that was loaded. */
  private startFromLoaded(request: Request, restore: StateRestore): void {
    const { cache, blockTokens } = this.parts;
    const { snapshot, mode } = restore;
    const lease = request.lease as Lease;
    const loaded = restore.loadedTokens(request.computed, blockTokens);
    if (request.generatedCount === 0) request.loadedTokens = { ...request.loadedTokens, ...loaded };
    cache.startFrom(lease, snapshot);
    request.computed = snapshot.at;
    request.seatState?.start(snapshot.at, snapshot.slot);
    request.snapshotsAt = request.snapshotsAt.filter((at) => at > snapshot.at);
    cache.insert(lease, Int32Array.from(request.tokens.slice(0, snapshot.at)), [snapshot]);
    request.restoredBy ??= mode;
    request.restore = undefined;
  }

  /** How many of the next `count` tokens may be computed now: whole blocks that are not being loaded; 0: wait. */
  claim(request: Request, count: number): number {
    const { restore, computed } = request;
    if (!restore) return count;
    const { blockTokens } = this.parts;
    const block = Math.floor(computed / blockTokens);
    const mayCompute = restore.claim(block, Math.ceil((computed + count) / blockTokens) - block);
    return Math.max(0, Math.min(count, (block + mayCompute) * blockTokens - computed));
  }

  /** What was to be loaded is computed; the slots of its state are given back. */
  drop(request: Request): void {
    const { cache, blocks } = this.parts;
    const snapshot = request.restore?.snapshot;
    request.restore = undefined;
    if (!snapshot) return;
    cache.dropSnapshotSlot(snapshot.slot);
    if (snapshot.tail >= 0) blocks.release(snapshot.tail);
  }
}
