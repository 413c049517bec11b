/**
 * Who runs next. Pure and synchronous: submit / next / commit / abort, and out comes a plan for each step. It knows
 * tokens and blocks; text, GPU, clock and randomness are elsewhere, so the same object runs in engine, tests and replay.
 *
 * Steps may be planned before earlier ones are committed: positions are known, only the tokens are not. A stop found
 * late makes the surplus samples of the steps in flight void; blocks and seats freed meanwhile are safe to reuse,
 * because the GPU runs steps in the order of their plans. For the same reason a prompt's blocks are published in the
 * prefix cache as soon as the step that computes them is planned: the next request's steps run after it. Prompts are
 * prefilled one at a time, so of two requests with the same new prefix the second finds what the first has computed,
 * also where the first was aborted half-way.
 */
import { assert } from "../base.ts";
import type { Lease, NewSnapshot, PrefixCache } from "../cache/prefix.ts";
import { TidepoolError } from "../errors.ts";
import type { BlockPool } from "../cache/blocks.ts";
import { decodeRows, type DecodeRow } from "./decode.ts";
import { PrefillQueue } from "./prefill.ts";
import { Request, type FinishReason, type Keep, type LowerTier, type RequestSpec } from "./request.ts";
import { Restore, type RestoreTerms } from "./restore.ts";
import { SeatState, type StateSlots } from "./seat-state.ts";
import { StateRestore } from "./state-restore.ts";

/** A run of one prompt's positions [start, start + count); `sample`: the last chunk, whose last row is sampled. */
export interface PrefillPlan {
  kind: "prefill";
  request: Request;
  start: number;
  count: number;
  sample: boolean;
  /** Blocks that this step completes, for the lower tiers, and states to save, once it has been submitted. */
  completes: readonly FullBlock[];
  saves: readonly Save[];
  /** Where its recurrent state is read and written, in models that have one. */
  state?: StateSlots;
  /** A slot of the KV pool to copy before the step: the block that was begun where a snapshot was taken. */
  copyBlock?: Copy;
}

/** Copies slot `from` of a pool over slot `to`. */
export interface Copy {
  from: number;
  to: number;
}

/** A state to be saved, and sent to the lower tiers, behind the steps submitted so far. */
export interface Save {
  sequence: Sequence;
  /** Tokens that it covers. */
  at: number;
  /** In the state pool. */
  state: Copy;
  /** In the KV pool: the begun block, where it has to be copied. */
  copyBlock: Copy | undefined;
  /** The KV slot that has the begun block then. */
  tail: number | undefined;
}

/** One token for each of several requests. */
export interface DecodePlan {
  kind: "decode";
  rows: DecodeRow[];
}

export type Plan = PrefillPlan | DecodePlan;

/** Tokens from the first on; grows at its end only. */
export interface Sequence {
  readonly tokens: readonly number[];
  readonly keep: Keep;
  /** What is stored of it expires so long after it was computed. Default: the keeper's. */
  readonly maxAgeMs?: number | undefined;
}

/** Bytes of one block, or of a snapshot, to be brought from a lower tier into slots. */
export interface Move {
  request: Request;
  restore: Restore | StateRestore;
  /** Index in the request's block table. */
  block: number;
  slot: number;
  /** Instead of the block: the state of the first `at` tokens into a slot of the state pool, and the block that was begun
   * there into KV slot `tail` (-1: none was). */
  snapshot?: NewSnapshot;
}

/** A block that is complete and that lower tiers should have. */
export interface FullBlock {
  sequence: Sequence;
  block: number;
  slot: number;
}

/** The lower tiers as the scheduler sees them. */
export interface LowerTiers {
  /** Consecutive blocks of a request's tokens, from block `from` on, that they hold. */
  storedBlocks(request: Request, from: number): number;
  /** How to get `blocks` of them back, from block `from` on. */
  restoreTerms(request: Request, from: number, blocks: number): RestoreTerms;
  /** The furthest stored snapshot of a request's state behind token `after`, not behind `limit`, with all blocks before it
   * from that of token `after` on in store. */
  storedState?(request: Request, after: number, limit: number): number | undefined;
  /** Blocks that submitted steps have completed. Their slots may be reused by the very next plan: copy them at once. */
  spill(blocks: readonly FullBlock[]): void;
}

/** The state pool as the scheduler sees it. */
export interface States {
  /** Where the cache's snapshot slots begin. */
  firstSnapshotSlot: number;
  /** Saves states of requests that end. Their slots may be used by the very next plan: copy them at once. */
  save(saves: readonly Save[]): void;
}

export interface SchedulerOptions {
  blockTokens: number;
  /** Prompt tokens a prefill step at most. */
  chunkTokens: number;
  /** Requests that may run at once. */
  seats: number;
  /** Default: there are none. */
  lower?: LowerTiers;
  /** In models with recurrent layers. */
  states?: States;
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
  private readonly cache: PrefixCache;
  private readonly blocks: BlockPool;
  private readonly waiting = new PrefillQueue();
  private running: Request[] = [];
  private prefilling: Request | undefined;
  private readonly freeSeats: number[];
  private readonly lent = new Set<Lease>();
  /** The first waiting request found no room, and nothing has been freed since. */
  private full = false;
  private lastKind: Plan["kind"] = "decode";

  /** @param blocks the pool of `cache` */
  constructor(cache: PrefixCache, blocks: BlockPool, options: SchedulerOptions) {
    this.cache = cache;
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

  /** Loads to start now; each must be answered by `moved`. */
  takeMoves(): Move[] {
    const request = this.prefilling;
    const restore = request?.restore;
    const moves: Move[] = [];
    if (!request || !restore) return moves;
    for (let block = restore.nextLoad(); block !== undefined; block = restore.nextLoad()) {
      const isState = restore instanceof StateRestore && block === restore.to;
      const { at, slot, tail } = isState ? restore.snapshot : { at: 0, slot: -1, tail: -1 };
      const snapshot = isState ? { at, slot: this.stateSlot(slot), tail } : undefined;
      moves.push({
        request,
        restore,
        block,
        slot: request.slots[block] ?? -1,
        ...(snapshot && { snapshot }),
      });
    }
    return moves;
  }

  /** Whether a load's slot is still meant for it; if not, its bytes must not be written. */
  isWanted(move: Move): boolean {
    const isRunning = move.request === this.prefilling && move.request.restore === move.restore;
    return isRunning && move.restore.isWanted(move.block);
  }

  /** A load has ended: the bytes are in the slot (`tier` says from where), or there were none and they are computed. */
  moved(move: Move, tier: LowerTier | undefined): void {
    const { request, restore, block } = move;
    const isWanted = this.isWanted(move);
    if (restore instanceof StateRestore) {
      restore.loaded(block, tier);
      return;
    }
    restore.loaded(block, tier !== undefined);
    if (!isWanted) return;
    const first = request.generatedCount === 0;
    if (tier !== undefined && first) request.loadedTokens[tier] += this.options.blockTokens;
  }

  /** Takes in what a step sampled, in the order of its rows; a prefill chunk without a sample gives none. */
  commit(plan: Plan, sampled: readonly number[]): Outcome[] {
    if (plan.kind === "prefill") {
      if (plan.request.restore instanceof Restore) plan.request.restore.ran();
      return plan.sample ? this.commitRows([plan.request], sampled) : [];
    }
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
   * Lends blocks for `tokens` to work outside the queues (scoring), with what the cache knows of their first `reusable`.
   * @throws TidepoolError `out_of_memory` where running requests hold too many.
   */
  borrow(tokens: readonly number[], reusable: number): Lease {
    const lease = this.cache.acquire(Int32Array.from(tokens), reusable);
    const missing = this.blocksFor(tokens.length) - lease.table.length;
    if (missing > 0 && !this.cache.extend(lease, missing)) {
      this.cache.release(lease);
      const message = `${missing} KV blocks are needed and ${this.blocks.freeCount} are free while other requests run`;
      throw new TidepoolError("out_of_memory", message);
    }
    this.lent.add(lease);
    return lease;
  }

  /** Where the work on a loan has its recurrent state, and the block to copy before it begins. One loan at a time may use
   * it: there is one pair of slots. Undefined in models without recurrent layers. */
  loanState(lease: Lease): { state: SeatState; copyBlock: Copy | undefined } | undefined {
    if (!this.options.states) return undefined;
    const state = new SeatState(this.options.seats);
    state.start(lease.tokens, lease.snapshot && this.stateSlot(lease.snapshot.slot));
    return { state, copyBlock: this.begunBlock(lease, lease.tokens) };
  }

  /** Takes a loan back; what was computed in it, `tokens` from the first on, is kept in the cache. */
  giveBack(lease: Lease, tokens: readonly number[]): void {
    assert(this.lent.delete(lease), "a lease that was not lent is given back");
    const { owned } = this.cache.insert(lease, Int32Array.from(tokens));
    this.options.lower?.spill(fullBlocks({ tokens, keep: "disk" }, lease.table, owned));
    this.cache.release(lease);
    this.full = false;
  }

  /** After a failed step: nothing in the cache can be trusted, so everything that nobody holds is forgotten. */
  forget(): void {
    this.cache.clear();
  }

  /** The conservation check: every slot is free, cached or in use, and in use by exactly the requests that say so. */
  check(): void {
    this.cache.check();
    const users = new Map<number, number>();
    for (const slot of this.heldSlots()) users.set(slot, (users.get(slot) ?? 0) + 1);
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

  /** Block tables, and begun blocks of snapshots that are copied from, or loaded to, soon. */
  private heldSlots(): number[] {
    const requests = [...this.running, ...(this.prefilling ? [this.prefilling] : [])];
    const leases = [...requests.flatMap(({ lease }) => (lease ? [lease] : [])), ...this.lent];
    const begun = leases.map(({ copied, snapshot }) => (copied ? -1 : (snapshot?.tail ?? -1)));
    const loading = requests.map(({ restore }) =>
      restore instanceof StateRestore ? restore.snapshot.tail : -1,
    );
    return [...leases.flatMap(({ table }) => table), ...[...begun, ...loading].filter((slot) => slot >= 0)];
  }

  private nextPrefill(): PrefillPlan | undefined {
    const request = this.prefilling ?? this.startPrefill();
    if (!request) return undefined;
    this.skipLoaded(request);
    const start = request.computed;
    const count = this.chunkAt(request);
    if (count === 0) return undefined;
    request.computed += count;
    if (request.restore instanceof StateRestore)
      request.restore.passed(Math.floor(request.computed / this.options.blockTokens));
    const state = request.seatState?.step(request.computed);
    const copyBlock = this.startedFrom(request, start);
    const { completes, saves } = this.publish(request, this.snapshotHere(request));
    const sample = request.computed === request.tokens.length;
    if (sample) this.startDecoding(request);
    const extra = { ...(state && { state }), ...(copyBlock && { copyBlock }) };
    return { kind: "prefill", request, start, count, sample, completes, saves, ...extra };
  }

  /** Where the request runs its first step from a snapshot inside a block: the copy of that block which it needs. The
   * snapshot's slots may be used for something else by steps after this one. */
  private startedFrom(request: Request, start: number): Copy | undefined {
    const { lease } = request;
    if (!lease || lease.copied) return undefined;
    const copy = this.begunBlock(lease, start);
    this.cache.snapshotCopied(lease);
    return copy;
  }

  private begunBlock({ snapshot, table }: Lease, start: number): Copy | undefined {
    if (!snapshot || snapshot.tail < 0) return undefined;
    return { from: snapshot.tail, to: table[Math.floor(start / this.options.blockTokens)] as number };
  }

  /** Slots for the snapshot that is wanted where a prompt has just been computed to. */
  private snapshotHere(request: Request): NewSnapshot | undefined {
    if (!request.snapshotsAt.includes(request.computed)) return undefined;
    const taken = this.cache.snapshotSlots(request.computed);
    return taken && { ...taken, why: this.cache.policy.name === "vllm" ? "interval" : "branch" };
  }

  /** Begins the prompt of the first waiting request that finds a seat, and blocks for all of it. */
  private startPrefill(): Request | undefined {
    const request = this.waiting.head();
    if (!request || this.freeSeats.length === 0 || this.full) return undefined;
    const lease = this.leaseFor(request);
    if (!lease) {
      this.full = true;
      return undefined;
    }
    this.waiting.remove(request);
    request.lease = lease;
    request.cachedTokens ??= lease.tokens;
    request.computed = lease.tokens;
    request.seat = this.freeSeats.pop() as number;
    request.state = "prefilling";
    this.prefilling = request;
    this.startState(request, lease);
    this.startRestore(request);
    return request;
  }

  private startState(request: Request, lease: Lease): void {
    request.snapshotsAt = [];
    if (!this.options.states) return;
    request.seatState = new SeatState(request.seat as number);
    const { snapshot, tokens } = lease;
    request.seatState.start(tokens, snapshot && this.stateSlot(snapshot.slot));
    if (request.keep === "off") return;
    const { lower, blockTokens } = this.options;
    const stored = lower ? lower.storedBlocks(request, 0) * blockTokens : 0; // seen before, in another session
    lease.rawTokens = Math.max(lease.rawTokens, Math.min(stored, request.tokens.length - 1));
    request.snapshotsAt = this.cache.snapshotPositions(Int32Array.from(request.tokens), lease);
  }

  private stateSlot(snapshotSlot: number): number {
    return (this.options.states?.firstSnapshotSlot ?? 0) + snapshotSlot;
  }

  /** Looks for the blocks after those on the GPU in the lower tiers; the last token is always computed. */
  private startRestore(request: Request): void {
    const { lower, blockTokens } = this.options;
    if (!lower || request.keep === "off") return;
    if (this.options.states) {
      this.startStateRestore(request, lower);
      return;
    }
    const from = request.computed / blockTokens;
    const most = Math.floor((request.tokens.length - 1) / blockTokens) - from;
    const stored = most > 0 ? Math.min(most, lower.storedBlocks(request, from)) : 0;
    if (stored === 0) return;
    request.restore = new Restore(lower.restoreTerms(request, from, stored), from);
  }

  private startStateRestore(request: Request, lower: LowerTiers): void {
    const { blockTokens } = this.options;
    const at = lower.storedState?.(request, request.computed, request.tokens.length - 1);
    if (at === undefined) return;
    const from = Math.floor(request.computed / blockTokens);
    const terms = lower.restoreTerms(request, from, Math.floor(at / blockTokens) - from);
    if (!StateRestore.pays(terms)) return;
    const snapshot = this.cache.snapshotSlots(at);
    if (snapshot) request.restore = new StateRestore(terms, from, { ...snapshot, why: "restored" });
  }

  /** Everything is in place: the request goes on from the state that was loaded. */
  private startFromLoaded(request: Request, restore: StateRestore): void {
    const { snapshot, mode } = restore;
    const lease = request.lease as Lease;
    const loaded = restore.loadedTokens(request.computed, this.options.blockTokens);
    if (request.generatedCount === 0) Object.assign(request.loadedTokens, loaded);
    this.cache.startFrom(lease, snapshot);
    request.computed = snapshot.at;
    request.seatState?.start(snapshot.at, this.stateSlot(snapshot.slot));
    request.snapshotsAt = request.snapshotsAt.filter((at) => at > snapshot.at);
    this.cache.insert(lease, Int32Array.from(request.tokens.slice(0, snapshot.at)), [snapshot]);
    request.restoredBy ??= mode;
    request.restore = undefined;
  }

  /** What was to be loaded is computed; its slots are given back. */
  private dropStateRestore(request: Request, { snapshot }: StateRestore): void {
    this.cache.dropSnapshotSlot(snapshot.slot);
    if (snapshot.tail >= 0) this.blocks.release(snapshot.tail);
    request.restore = undefined;
  }

  /** Moves on over blocks that have been loaded. */
  private skipLoaded(request: Request): void {
    const { restore } = request;
    if (restore instanceof StateRestore) {
      if (restore.givenUp || request.computed >= restore.snapshot.at) this.dropStateRestore(request, restore);
      else if (restore.complete) this.startFromLoaded(request, restore);
      return;
    }
    const { blockTokens } = this.options;
    const before = request.computed;
    while (
      restore &&
      request.computed % blockTokens === 0 &&
      restore.isLoaded(request.computed / blockTokens)
    ) {
      request.computed += blockTokens;
    }
    if (request.computed > before) this.publish(request);
  }

  /** Tokens of the next chunk: whole blocks that are not being loaded, or what is left of the prompt; 0: wait. */
  private chunkAt(request: Request): number {
    const { chunkTokens, blockTokens } = this.options;
    const { computed } = request;
    const stop = request.snapshotsAt.find((at) => at > computed) ?? request.tokens.length;
    const left = Math.min(chunkTokens, stop - computed);
    const { restore } = request;
    const block = Math.floor(computed / blockTokens);
    if (!restore || (restore instanceof Restore && block >= restore.to)) return left;
    const blocks = Math.ceil((computed + left) / blockTokens) - block;
    const mayCompute = restore.claim(block, blocks);
    return Math.max(0, Math.min(left, (block + mayCompute) * blockTokens - computed));
  }

  /** What the cache has of a request's tokens (never the last one, whose logits are wanted), and blocks for the rest. */
  private leaseFor(request: Request): Lease | undefined {
    const { tokens } = request;
    const limit = request.keep !== "off" ? tokens.length - 1 : 0;
    const lease = this.cache.acquire(Int32Array.from(tokens), limit, request.id);
    const missing = this.blocksFor(tokens.length) - lease.table.length;
    if (missing <= 0 || this.cache.extend(lease, missing)) return lease;
    this.cache.release(lease);
    return undefined;
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
      (request) => this.addBlock(request),
      (request) => this.preempt(request),
    );
    if (rows.length === 0) return undefined;
    for (const row of rows) {
      const { request } = row;
      request.computed++;
      request.pending++;
      if (request.seatState) row.state = request.seatState.step(request.computed);
    }
    return { kind: "decode", rows };
  }

  /** Puts what a request has computed of accepted tokens where others find it: gives the blocks and states that are new
   * there. */
  private publish(request: Request, snapshot?: NewSnapshot): Published {
    if (request.keep === "off" || !request.lease) return { completes: [], saves: [] };
    const valid = Math.min(request.computed, request.tokens.length);
    const tokens = Int32Array.from(request.tokens.slice(0, valid));
    const { owned, placed } = this.cache.insert(request.lease, tokens, snapshot ? [snapshot] : []);
    return {
      completes: fullBlocks(request, request.slots, owned, request.restore),
      saves: placed.map((each) => this.saveOf(request, each)),
    };
  }

  private saveOf(request: Request, { at, slot, tail }: NewSnapshot): Save {
    const from = request.seatState?.latest(at);
    assert(from?.at === at, `a snapshot at token ${at}, and the state is at ${from?.at ?? "none"}`);
    const begun = request.slots[Math.floor(at / this.options.blockTokens)] as number;
    return {
      sequence: request,
      at,
      state: { from: from.slot, to: this.stateSlot(slot) },
      copyBlock: tail < 0 || tail === begun ? undefined : { from: begun, to: tail },
      tail: tail < 0 ? undefined : tail,
    };
  }

  /** Slots for a snapshot of the last state of a request that ends: the block that was begun there need not be copied. */
  private lastSnapshot(request: Request): NewSnapshot | undefined {
    const { lease, seatState } = request;
    const latest = seatState?.latest(request.tokens.length);
    if (!latest || !lease || request.keep === "off") return undefined;
    const { at } = latest;
    const { blockTokens } = this.options;
    if (at % blockTokens === 0) return this.cache.snapshotSlots(at);
    const tail = lease.table[Math.floor(at / blockTokens)] as number;
    if (this.blocks.isKept(tail)) return undefined;
    const slot = this.cache.snapshotSlot();
    if (slot === undefined) return undefined;
    this.blocks.retain(tail);
    return { at, slot, tail, why: "end" };
  }

  /** Publishes what submitted steps have computed, before its slots are given back. */
  private publishAndSpill(request: Request, snapshot?: NewSnapshot): void {
    const { completes, saves } = this.publish(request, snapshot);
    if (completes.length > 0) this.options.lower?.spill(completes);
    if (saves.length > 0) this.options.states?.save(saves);
  }

  /** A decoding request goes before one whose prompt is under way: that one gives its blocks back and waits. */
  private addBlock(request: Request): boolean {
    assert(request.lease, `request ${request.id} decodes without blocks`);
    if (this.cache.extend(request.lease, 1)) return true;
    if (!this.prefilling) return false;
    this.preempt(this.prefilling);
    return this.cache.extend(request.lease, 1);
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
    if (request.tokens.length % this.options.blockTokens === 1) this.publishAndSpill(request); // a block is complete
    const finished = request.generatedCount >= request.maxNewTokens ? "length" : undefined;
    if (finished) this.finish(request, finished);
    return { request, token, finished };
  }

  private finish(request: Request, reason: FinishReason): void {
    request.finishReason = reason;
    if (reason !== "error") this.publishAndSpill(request, this.lastSnapshot(request));
    this.leave(request);
    this.waiting.remove(request);
    request.state = "done";
  }

  /** Gives a running request's blocks and seat back and lets it wait for another prefill. */
  private preempt(request: Request): void {
    this.publishAndSpill(request, this.lastSnapshot(request));
    this.leave(request);
    request.state = "waiting";
    this.waiting.pushFront(request);
  }

  private leave(request: Request): void {
    if (request.restore instanceof StateRestore) this.dropStateRestore(request, request.restore);
    if (request.lease) this.cache.release(request.lease);
    request.lease = undefined;
    request.restoredBy ??= request.restore?.mode;
    request.restore = undefined;
    request.computed = 0;
    if (request.seat !== undefined) this.freeSeats.push(request.seat);
    request.seat = undefined;
    request.seatState = undefined;
    this.running = this.running.filter((other) => other !== request);
    if (this.prefilling === request) this.prefilling = undefined;
    this.full = false;
  }

  private blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.options.blockTokens);
  }
}

interface Published {
  completes: FullBlock[];
  saves: Save[];
}

/** The blocks of a table that the tree has just taken over; those that were loaded are known below. */
function fullBlocks(
  sequence: Sequence,
  table: readonly number[],
  owned: readonly number[],
  restore?: Restore | StateRestore,
): FullBlock[] {
  const isLoaded = (block: number) => restore instanceof Restore && restore.isLoaded(block);
  const fresh = new Set(owned);
  return table
    .map((slot, block): FullBlock => ({ sequence, block, slot }))
    .filter(({ slot, block }) => fresh.has(slot) && !isLoaded(block));
}
