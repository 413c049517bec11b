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
import { decodeRows } from "./decode.ts";
import type {
  Copy,
  DecodePlan,
  FullBlock,
  LowerTiers,
  Move,
  Plan,
  PrefillPlan,
  Save,
  Sequence,
  States,
} from "./plan.ts";
import { PrefillQueue } from "./prefill.ts";
import {
  Request,
  type FinishReason,
  type StorageScope,
  type LowerTier,
  type RequestSpec,
} from "./request.ts";
import { Restore } from "./restore/block-restore.ts";
import type { SeatState } from "./seat-state.ts";
import { Snapshots } from "./snapshots.ts";
import { StateRestore } from "./restore/state-restore.ts";

export type {
  Copy,
  DecodePlan,
  FullBlock,
  LowerTiers,
  Move,
  Plan,
  PrefillPlan,
  Save,
  Sequence,
  States,
} from "./plan.ts";

export interface SchedulerOptions {
  blockTokens: number;
  /** Prompt tokens a prefill step at most. */
  chunkTokens: number;
  /** Requests that may run at once. */
  seats: number;
  /** Blocks that the pool may grow to. Default: as many as it has. */
  maxBlocks?: number;
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
  /** Where something was not finite, if it ended by that. */
  brokenAt?: number;
}

/** What a device has room for. */
export interface PoolSizes {
  /** Blocks that the KV pool has, and may grow to. */
  slots: number;
  maxBlocks: number;
  /** States that the state pool has, and how many of them may be snapshots; 0 in models without them. */
  stateSlots: number;
  maxSnapshots: number;
}

/** A request of a step whose numbers are not finite: its index in the plan, and the position. */
export interface BrokenRow {
  index: number;
  position: number;
}

/** Steps of one request that may fail: it is computed once more after the first. */
const MAX_FAILED_STEPS = 1;

export class Scheduler {
  readonly options: SchedulerOptions;
  private readonly cache: PrefixCache;
  private readonly blocks: BlockPool;
  private readonly waiting = new PrefillQueue();
  private running: Request[] = [];
  private prefilling: Request | undefined;
  private readonly freeSeats: number[];
  private readonly lent = new Map<Lease, Sequence>();
  /** The first waiting request found no room, and nothing has been freed since. */
  private full = false;
  private lastKind: Plan["kind"] = "decode";
  private maxBlocks: number;
  /** In models with recurrent layers. */
  private readonly snapshots: Snapshots | undefined;

  /** @param blocks the pool of `cache` */
  constructor(cache: PrefixCache, blocks: BlockPool, options: SchedulerOptions) {
    this.cache = cache;
    this.blocks = blocks;
    this.options = options;
    this.maxBlocks = options.maxBlocks ?? blocks.slotCount;
    const { states, lower, blockTokens } = options;
    this.snapshots = states && new Snapshots({ cache, blocks, blockTokens, lower });
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

  /** Tokens that one request alone could hold in the pool, once it has grown. */
  get capacityTokens(): number {
    return Math.max(this.maxBlocks, this.blocks.slotCount) * this.options.blockTokens;
  }

  /** Tokens that the pool holds now. */
  get poolTokens(): number {
    return this.blocks.slotCount * this.options.blockTokens;
  }

  /** Blocks that a loan needs beyond those that are free, as `missingBlocks` says. */
  missingToLend(tokens: readonly number[], reusable: number): number {
    const known = this.cache.match(Int32Array.from(tokens), reusable).blocks.length;
    return Math.max(0, this.blocksFor(tokens.length) - known - this.blocks.freeCount);
  }

  /** Blocks that the next steps need beyond those that are free: without more, cached ones go, or requests wait. */
  get missingBlocks(): number {
    const { blockTokens } = this.options;
    const atEnd = (request: Request) => request.slots.length * blockTokens <= request.computed;
    const decoding = this.running.filter((request) => request.wantsMore && atEnd(request)).length;
    return Math.max(0, decoding + this.blocksToStart() - this.blocks.freeCount);
  }

  /**
   * State slots that the next steps, and `loans` more, want beyond those that are unused: without more, snapshots go, or
   * requests wait. Each request that runs may end before the next look, and leave a snapshot.
   */
  missingStates(loans = 0): number {
    const head = this.prefilling ? undefined : this.waiting.head();
    const starting = head && this.freeSeats.length > 0 ? 1 : 0;
    const ofPrompt = this.options.lower ? 3 : 2; // at a branch, at the end, and one that is loaded
    const snapshots = this.running.length + (starting || this.prefilling ? ofPrompt : 0);
    return this.snapshots?.missing(starting + loans, snapshots) ?? 0;
  }

  /** The state pool has grown by that many slots. */
  statesGrown(slots: number): void {
    this.snapshots?.grown(slots);
    this.full = false;
  }

  /** The pool has grown by that many blocks. */
  grown(blocks: number): void {
    this.blocks.grow(blocks);
    this.full = false;
  }

  /**
   * The pool grows no further. A request that may need more than it has ends where the pool does.
   * @returns requests whose tokens do not fit even now: they can never run
   */
  stopGrowing(): Request[] {
    this.maxBlocks = this.blocks.slotCount;
    return this.fitToPool();
  }

  /**
   * The pools are others now, of other sizes, and empty.
   * @returns requests whose tokens do not fit: they can never run
   */
  moveTo({ slots, maxBlocks, stateSlots, maxSnapshots }: PoolSizes): Request[] {
    this.restart();
    this.blocks.reset(slots);
    this.cache.snapshots?.resetTo(stateSlots, maxSnapshots);
    this.maxBlocks = maxBlocks;
    return this.fitToPool();
  }

  private fitToPool(): Request[] {
    const active = [...this.waiting.all, ...this.seated];
    for (const request of active) {
      const room = this.capacityTokens + 1 - request.promptLength;
      request.maxNewTokens = Math.max(1, Math.min(request.maxNewTokens, room));
    }
    return active.filter(({ tokens }) => tokens.length > this.capacityTokens);
  }

  /**
   * What the GPU holds is gone or cannot be trusted, every block and state of it: requests that run wait again with the
   * tokens that they have, in the order in which they came, and what is lent is void. Steps in flight must not be
   * committed any more.
   */
  restart(): void {
    for (const request of this.waiting.all) request.restarted();
    this.startAgain(this.seated);
    for (const lease of [...this.lent.keys()]) this.endLoan(lease);
    this.cache.clear();
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
      const snapshot = isState ? restore.snapshot : undefined;
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
    if (tier !== undefined && first) request.countLoaded(tier, this.options.blockTokens);
  }

  /**
   * Takes in what a step sampled, in the order of its rows; a prefill chunk without a sample gives none.
   * @param broken requests of the step that cannot go on: each ends by an error, and what it has computed is forgotten
   */
  commit(plan: Plan, sampled: readonly number[], broken: readonly BrokenRow[] = []): Outcome[] {
    const rows = plan.kind === "prefill" ? [plan] : plan.rows;
    if (
      plan.kind === "prefill" &&
      plan.epoch === plan.request.epoch &&
      plan.request.restore instanceof Restore
    )
      plan.request.restore.ran();
    const samples = plan.kind === "prefill" && !plan.sample ? 0 : rows.length;
    assert(samples === sampled.length, `${sampled.length} samples for ${samples} rows`);
    const outcomes: Outcome[] = [];
    for (const [sampleIndex, { request, epoch }] of rows.entries()) {
      if (epoch !== request.epoch) continue;
      const brokenAt = broken.find(({ index }) => index === sampleIndex)?.position;
      if (brokenAt !== undefined) outcomes.push(...this.commitBroken(request, sampleIndex, brokenAt));
      else if (samples > 0)
        outcomes.push({ sampleIndex, ...this.commitOne(request, sampled[sampleIndex] as number) });
    }
    return outcomes;
  }

  /**
   * A step did not run, or not all of it: nothing on the GPU since then can be trusted. Every request is computed again
   * from the tokens that it has. Steps in flight must not be committed any more.
   * @param plan undefined: no one step is to blame, but all that runs
   * @returns requests of the step that have failed too often; they are the caller's to abort
   */
  stepFailed(plan: Plan | undefined): Request[] {
    const running = this.seated;
    const involved = plan
      ? (plan.kind === "prefill" ? [plan] : plan.rows).map(({ request }) => request)
      : running;
    const active = involved.filter(({ state }) => state !== "done");
    for (const request of active) request.failedSteps++;
    this.restart();
    return active.filter(({ failedSteps }) => failedSteps > MAX_FAILED_STEPS);
  }

  /** Ends a request from outside; its blocks are free at once. Does nothing where it is done already. */
  abort(request: Request, reason: FinishReason = "aborted"): void {
    if (request.state !== "done") this.finish(request, reason);
  }

  /**
   * Lends blocks for `tokens` to work outside the queues (scoring), with what the cache knows of their first `reusable`
   * unless they are kept nowhere, and may not be looked for either.
   * @throws TidepoolError `out_of_memory` where running requests hold too many.
   */
  borrow(tokens: readonly number[], reusable: number, storage: StorageScope = "disk"): Lease {
    const lease = this.cache.acquire(Int32Array.from(tokens), storage === "off" ? 0 : reusable);
    const missing = this.blocksFor(tokens.length) - lease.table.length;
    if (missing > 0 && !this.cache.extend(lease, missing)) {
      this.cache.release(lease);
      const message = `${missing} KV blocks are needed and ${this.blocks.freeCount} are free while other requests run`;
      throw new TidepoolError("out_of_memory", message);
    }
    const sequence = { tokens, storage };
    this.options.lower?.begin?.(sequence);
    this.lent.set(lease, sequence);
    return lease;
  }

  /**
   * Where the work on a loan has its recurrent state until it is given back, and the block to copy before it begins.
   * Undefined in models without recurrent layers.
   * @throws TidepoolError `out_of_memory` if running requests hold too many.
   */
  loanState(lease: Lease): { state: SeatState; copyBlock: Copy | undefined } | undefined {
    if (!this.snapshots) return undefined;
    const loan = this.snapshots.loan(lease);
    if (loan) return loan;
    throw new TidepoolError("out_of_memory", "no recurrent state is free while other requests run");
  }

  /** Takes a loan back; what was computed in it, the first `done` tokens, is kept in the cache as far as it may be. */
  giveBack(lease: Lease, done: number): void {
    if (lease.released) return; // what it was computed on is gone
    const sequence = this.lent.get(lease);
    assert(sequence, "a lease that was not lent is given back");
    if (sequence.storage !== "off") {
      const { owned } = this.cache.insert(lease, Int32Array.from(sequence.tokens.slice(0, done)));
      this.options.lower?.spill(this.blocksToSend(sequence, lease.table, done, owned));
    }
    this.endLoan(lease);
  }

  private endLoan(lease: Lease): void {
    this.lent.delete(lease);
    this.snapshots?.endLoan(lease);
    this.cache.release(lease);
    this.full = false;
  }

  /** Forgets everything that nobody holds. */
  forget(): void {
    this.cache.clear();
  }

  /** The conservation check: every slot is free, cached or in use, and in use by exactly the requests that say so; every seat
   * is free or one request's. */
  check(): void {
    this.cache.check();
    this.checkSeats();
    this.snapshots?.check(this.seated, this.leases);
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

  /** Requests that have a seat. */
  private get seated(): Request[] {
    return [...this.running, ...(this.prefilling ? [this.prefilling] : [])];
  }

  private get leases(): Lease[] {
    return [...this.seated.flatMap(({ lease }) => (lease ? [lease] : [])), ...this.lent.keys()];
  }

  private checkSeats(): void {
    const held = this.seated.map(({ seat }) => seat);
    const { seats } = this.options;
    const distinct = new Set([...this.freeSeats, ...held]).size;
    assert(
      distinct === seats && this.freeSeats.length + held.length === seats,
      `${this.freeSeats.length} free and ${held.length} held of ${seats} seats`,
    );
  }

  /** Block tables, and begun blocks of snapshots that are copied from, or loaded to, soon. */
  private heldSlots(): number[] {
    const { leases } = this;
    const begun = leases.map(({ copied, snapshot }) => (copied ? -1 : (snapshot?.tail ?? -1)));
    const loading = this.seated.map(({ restore }) =>
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
    request.ownFrom = Math.min(request.ownFrom, start);
    if (request.restore instanceof StateRestore)
      request.restore.passed(Math.floor(request.computed / this.options.blockTokens));
    const state = request.seatState?.step(request.computed);
    const owed = this.snapshots?.owed(request, start);
    const copyBlock = this.snapshots?.startedFrom(request, start);
    const { completes, saves } = this.publish(request, this.snapshots?.here(request));
    const sample = request.computed === request.tokens.length;
    if (sample) this.startDecoding(request);
    const extra = { ...(state && { state }), ...(copyBlock && { copyBlock }) };
    const { epoch } = request;
    const step = { request, epoch, start, count, sample };
    return { kind: "prefill", ...step, completes, saves: owed ? [owed, ...saves] : saves, ...extra };
  }

  /** Begins the prompt of the first waiting request that finds a seat, and blocks for all of it. */
  private startPrefill(): Request | undefined {
    const request = this.waiting.head();
    if (!request || this.freeSeats.length === 0 || this.full) return undefined;
    const lease = this.leaseFor(request);
    const seatState = lease && this.snapshots?.take(lease);
    if (!lease || (this.snapshots && !seatState)) {
      if (lease) this.cache.release(lease);
      this.full = true;
      return undefined;
    }
    this.waiting.remove(request);
    request.lease = lease;
    request.cachedTokens ??= Math.min(lease.tokens, request.promptLength);
    request.computed = lease.tokens;
    request.seat = this.freeSeats.pop() as number;
    request.state = "prefilling";
    this.prefilling = request;
    request.seatState = seatState;
    request.snapshotsAt = [];
    this.options.lower?.begin?.(request);
    this.snapshots?.start(request, lease, this.waiting.branchesOf(request.tokens, lease.tokens));
    this.startRestore(request);
    return request;
  }

  /** Looks for the blocks after those on the GPU in the lower tiers; the last token is always computed. */
  private startRestore(request: Request): void {
    const { lower, blockTokens } = this.options;
    if (!lower || request.storage === "off") return;
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
    if (request.generatedCount === 0) request.loadedTokens = { ...request.loadedTokens, ...loaded };
    this.cache.startFrom(lease, snapshot);
    request.computed = snapshot.at;
    request.seatState?.start(snapshot.at, snapshot.slot);
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

  private blocksToStart(): number {
    const request = this.waiting.head();
    if (!request || this.prefilling || this.freeSeats.length === 0) return 0;
    const { tokens, storage } = request;
    const known =
      storage === "off" ? 0 : this.cache.match(Int32Array.from(tokens), tokens.length - 1).blocks.length;
    return this.blocksFor(tokens.length) - known;
  }

  /** What the cache has of a request's tokens (never the last one, whose logits are wanted), and blocks for the rest. */
  private leaseFor(request: Request): Lease | undefined {
    const { tokens } = request;
    const limit = request.storage !== "off" ? tokens.length - 1 : 0;
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
    if (request.storage === "off" || !request.lease) return { completes: [], saves: [] };
    const valid = Math.min(request.computed, request.tokens.length);
    const tokens = Int32Array.from(request.tokens.slice(0, valid));
    const { owned, placed } = this.cache.insert(request.lease, tokens, snapshot ? [snapshot] : []);
    const completes = this.blocksToSend(request, request.slots, valid, owned, request.restore);
    const saves = placed.flatMap((each) => this.snapshots?.saveOf(request, each) ?? []);
    const fresh = new Set(owned);
    for (const { block, slot } of completes) if (fresh.has(slot)) request.ownBlocks.add(block);
    for (const { at } of saves) request.ownStates.add(at);
    return { completes, saves };
  }

  /** Blocks for the lower tiers: those that the tree has just taken over, and those that it had but the disk lacks. */
  private blocksToSend(
    sequence: Sequence,
    table: readonly number[],
    valid: number,
    owned: readonly number[],
    restore?: Restore | StateRestore,
  ): FullBlock[] {
    const owed = this.options.lower?.owed?.(sequence, Math.floor(valid / this.options.blockTokens)) ?? [];
    return fullBlocks(sequence, table, { owned, owed }, restore);
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

  private commitBroken(request: Request, sampleIndex: number, brokenAt: number): Outcome[] {
    request.pending = Math.max(0, request.pending - 1);
    if (request.state === "done") return [];
    this.forgetWorkOf(request);
    return [{ request, token: undefined, sampleIndex, finished: "error", brokenAt }];
  }

  /**
   * Ends a request by an error, and forgets what its own steps have computed, in all tiers. What it found in the cache stays.
   * Others that have begun on what is forgotten are computed again; what is lent on it is void.
   */
  private forgetWorkOf(request: Request): void {
    const { tokens, ownFrom, ownBlocks, ownStates } = request;
    this.finish(request, "error");
    request.epoch++;
    this.options.lower?.forget?.(request, [...ownBlocks], [...ownStates]);
    if (ownFrom === Infinity) return;
    const work = this.cache.behind(Int32Array.from(tokens), ownFrom);
    if (!work) return;
    this.voidAll((lease) => work.has(lease.node));
    this.cache.forgetBehind(Int32Array.from(tokens), ownFrom);
  }

  /** Lets requests with such a lease start again, and ends such loans. Of those that wait the samples under way are void. */
  private voidAll(isVoid: (lease: Lease) => boolean): void {
    const running = this.seated;
    for (const request of this.waiting.all) if (request.pending > 0) request.restarted();
    this.startAgain(running.filter(({ lease }) => lease && isVoid(lease)));
    for (const lease of [...this.lent.keys()].filter(isVoid)) this.endLoan(lease);
  }

  /** Requests that run wait again with the tokens that they have, in the order in which they came. */
  private startAgain(requests: readonly Request[]): void {
    for (const request of [...requests].sort((a, b) => b.id - a.id)) {
      this.leave(request);
      request.state = "waiting";
      request.restarted();
      this.waiting.pushFront(request);
    }
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
    if (reason !== "error") this.publishAndSpill(request, this.snapshots?.last(request));
    this.leave(request);
    this.waiting.remove(request);
    request.state = "done";
  }

  /** Gives a running request's blocks and seat back and lets it wait for another prefill. */
  private preempt(request: Request): void {
    this.publishAndSpill(request, this.snapshots?.last(request));
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
    this.snapshots?.leave(request);
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

/** The blocks of a table whose slots the tree has just taken over (those that were loaded are known below), or are owed. */
function fullBlocks(
  sequence: Sequence,
  table: readonly number[],
  { owned, owed }: { owned: readonly number[]; owed: readonly number[] },
  restore?: Restore | StateRestore,
): FullBlock[] {
  const isLoaded = (block: number) => restore instanceof Restore && restore.isLoaded(block);
  const fresh = new Set(owned);
  const missing = new Set(owed);
  return table
    .map((slot, block): FullBlock => ({ sequence, block, slot }))
    .filter(({ slot, block }) => missing.has(block) || (fresh.has(slot) && !isLoaded(block)));
}
