/**
 * Who runs next. Pure and synchronous: submit / next / commit / abort, and out comes a plan for each step. It knows
 * tokens and blocks; text, GPU, clock and randomness are elsewhere, so the same object runs in engine, tests and replay.
 *
 * Steps may be planned before earlier ones are committed: positions are known, only the tokens are not. A stop found
 * late makes the surplus samples of the steps in flight void. Each step has a ticket (tickets.ts): its own queue may reuse
 * blocks and seats that are freed meanwhile, and find a prompt's blocks in the prefix cache as soon as the step that
 * computes them is planned; other queues wait until it has run. A request stays in one queue while it runs. Of two requests
 * with the same new prefix the second starts when the first has computed it, also where the first was aborted half-way.
 * Prefill and decode steps take turns; in which order prompts are computed is queue/'s business.
 * Where a step checks drafts, positions are not known either: the next step of that request waits for its commit.
 */
import { assert } from "../base.ts";
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease, PrefixCache } from "../cache/prefix.ts";
import { Residency } from "../cache/residency.ts";
import { decodeRows, type DecodeRow } from "./decode.ts";
import { acceptTokens, checkCount, fullBlocks, takeBack } from "./accept.ts";
import { checkUsers, heldSlots } from "./conservation.ts";
import { Loans } from "./loans.ts";
import type { BrokenRow, Outcome, PoolSizes, SchedulerOptions } from "./options.ts";
import type { Copy, Move, Plan, Save, Sequence, Span } from "./plan.ts";
import { Publisher } from "./publish.ts";
import type { Known, Place } from "./queue/place.ts";
import { Preemption } from "./queue/pre-emption.ts";
import { Prefetch } from "./queue/prefetch.ts";
import { PrefillQueue, type Choice } from "./queue/prefill-queue.ts";
import { Start } from "./queue/start.ts";
import {
  Request,
  type FinishReason,
  type StorageScope,
  type LowerTier,
  type RequestSpec,
} from "./request.ts";
import { Restores } from "./restore/restores.ts";
import type { SeatState } from "./seat-state.ts";
import { Seats } from "./seats.ts";
import type { PromptLoad, SchedulerLoad } from "./slo/load.ts";
import { Snapshots } from "./snapshots.ts";
import { SlotTickets, Tickets, type Ticket } from "./tickets.ts";

export type { Drafter } from "./decode.ts";
export type { BrokenRow, Outcome, PoolSizes, SchedulerOptions } from "./options.ts";
export type { Copy, FullBlock, LowerTiers, Move, Plan, Save, Sequence, Span, States } from "./plan.ts";

/** Steps of one request that may fail: it is computed once more after the first. */
const MAX_FAILED_STEPS = 1;

export class Scheduler {
  readonly options: SchedulerOptions;
  private readonly cache: PrefixCache;
  private readonly blocks: BlockPool;
  /** Requests that wait or whose prompts are under way, and those that decode, oldest first. */
  private readonly prompts: PrefillQueue;
  private running: Request[] = [];
  private readonly start: Start;
  private readonly prefetch: Prefetch;
  private readonly preemption: Preemption;
  private readonly seats: Seats;
  readonly tickets: Tickets;
  readonly residency: Residency;
  /** Where there are several queues. */
  private readonly slotTickets: SlotTickets | undefined;
  private lastPhase: Plan["phase"] = "decode";
  private maxBlocks: number;
  /** In models with recurrent layers. */
  private readonly snapshots: Snapshots | undefined;
  private readonly publisher: Publisher;
  private readonly restores: Restores;
  private readonly loans: Loans;

  /** @param blocks the pool of `cache` */
  constructor(cache: PrefixCache, blocks: BlockPool, options: SchedulerOptions) {
    this.cache = cache;
    this.blocks = blocks;
    this.options = options;
    this.maxBlocks = options.maxBlocks ?? blocks.slotCount;
    const { states, lower, blockTokens, drafter, queues = 1 } = options;
    assert(queues === 1 || !states, `${queues} queues for a model with recurrent layers, expected 1`);
    this.tickets = new Tickets(queues);
    const slotTickets = queues > 1 ? new SlotTickets() : undefined;
    if (slotTickets) blocks.setFence((slot) => slotTickets.isFree(slot));
    this.slotTickets = slotTickets;
    const residency = options.residency ?? new Residency();
    if (!residency.isWhole) blocks.onFree((slot) => residency.release(slot));
    this.residency = residency;
    const ringSlots = 2 + (drafter?.most ?? 0);
    const rooms = { cache, blocks, blockTokens, lower };
    const snapshots = states && new Snapshots({ ...rooms, ringSlots });
    this.snapshots = snapshots;
    this.publisher = new Publisher({ ...rooms, states, snapshots, slotTickets });
    this.restores = new Restores({
      ...{ ...rooms, withStates: states !== undefined },
      publish: (request) => this.publisher.publish(request),
    });
    const { publisher } = this;
    this.loans = new Loans({ ...rooms, snapshots, publisher, freed: () => this.start.freed() });
    this.seats = new Seats(options.seats);
    this.prompts = new PrefillQueue((request, ids) => this.start.known(request, ids));
    const { restores, seats } = this;
    const most = options.promptsUnderWay ?? options.maxPromptsPerStep ?? 1;
    this.start = new Start(this.prompts, { ...rooms, snapshots, slotTickets, restores, seats, most });
    this.prefetch = new Prefetch({
      ...{ lower, blockTokens, queue: this.prompts, withStates: states !== undefined },
      onGpu: (request) => this.start.onGpu(request),
    });
    this.preemption = new Preemption(options.giveWayCosts, blockTokens);
  }

  /** Requests that are not done. */
  get activeCount(): number {
    return this.prompts.all.length + this.running.length + this.prompts.underWay.length;
  }

  /** What there is to do: what predictions follow from. */
  load(): SchedulerLoad {
    const loadOf = (request: Request): PromptLoad => promptLoad(this.prompts.placeOf(request));
    return {
      waiting: this.prompts.inOrder().map(loadOf),
      prefilling: this.prompts.underWay.map(loadOf),
      running: this.running.map((request) => {
        const { id, computed, startedMs = 0, objectives, generatedCount, maxNewTokens } = request;
        const leftTokens = Math.max(1, maxNewTokens - generatedCount);
        return {
          id,
          contextTokens: computed,
          startedMs,
          objectives,
          generatedTokens: generatedCount,
          leftTokens,
        };
      }),
      seats: this.options.seats,
      promptsUnderWay: this.start.most,
      decodesNext: this.lastPhase === "prefill",
    };
  }

  /** What cache and lower tiers have of a sequence that is not submitted. */
  known(sequence: Sequence): Known {
    return this.start.known(sequence, Int32Array.from(sequence.tokens));
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
    return this.loans.missing(tokens, reusable);
  }

  /** Blocks that the next steps need beyond those that are free: without more, cached ones go, or requests wait. */
  get missingBlocks(): number {
    const { blockTokens } = this.options;
    const atEnd = (request: Request) => request.slots.length * blockTokens <= request.computed;
    const decoding = this.running.filter((request) => request.wantsMore && atEnd(request)).length;
    return Math.max(0, decoding + this.start.blocksWanted - this.blocks.freeCount);
  }

  /**
   * State slots that the next steps, and `loans` more, want beyond those that are unused: without more, snapshots go, or
   * requests wait. Each request that runs may end before the next look, and leave a snapshot.
   */
  missingStates(loans = 0): number {
    const starting = this.start.next ? 1 : 0;
    const ofPrompt = this.options.lower ? 3 : 2; // at a branch, at the end, and one that is loaded
    const snapshots = this.running.length + (starting + this.prompts.underWay.length) * ofPrompt;
    return this.snapshots?.missing(starting + loans, snapshots) ?? 0;
  }

  /** The state pool has grown by that many slots. */
  statesGrown(slots: number): void {
    this.snapshots?.grown(slots);
    this.start.freed();
  }

  /** The pool has grown by that many blocks. */
  grown(blocks: number): void {
    this.blocks.grow(blocks);
    this.start.freed();
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
    this.tickets.voidAll(true);
    this.collect();
    this.blocks.reset(slots);
    this.cache.snapshots?.resetTo(stateSlots, maxSnapshots);
    this.maxBlocks = maxBlocks;
    return this.fitToPool();
  }

  private fitToPool(): Request[] {
    const active = [...this.prompts.all, ...this.seated];
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
    for (const request of this.prompts.all) request.restarted();
    this.tickets.voidAll();
    this.startAgain(this.seated);
    this.loans.endIf(() => true);
    this.cache.clear();
    this.slotTickets?.clear();
  }

  submit(spec: RequestSpec): Request {
    assert(spec.prompt.length > 0, "a request needs at least one prompt token");
    assert(spec.maxNewTokens > 0, "a request needs at least one new token");
    assert(
      spec.prompt.length + spec.maxNewTokens <= this.capacityTokens + 1,
      "a request is larger than the pool",
    );
    const request = new Request(spec);
    this.prompts.push(request);
    return request;
  }

  /** The next step of a queue, or undefined if nothing can run there until something in flight is committed. */
  next(queue = 0): Plan | undefined {
    const plan =
      this.lastPhase === "prefill"
        ? (this.nextDecode(queue) ?? this.nextPrefill(queue))
        : (this.nextPrefill(queue) ?? this.nextDecode(queue));
    if (plan) this.lastPhase = plan.phase;
    return plan;
  }

  /** Loads to start now; each must be answered by `moved`. Those that wait get theirs fetched. */
  takeMoves(): Move[] {
    this.prefetch.tell();
    return this.prompts.underWay.flatMap((request) => this.restores.movesOf(request));
  }

  /** Whether a load's slot is still meant for it; if not, its bytes must not be written. */
  isWanted(move: Move): boolean {
    return this.restores.isWanted(move);
  }

  /** A load has ended: the bytes are in the slot (`tier` says from where), or there were none and they are computed. */
  moved(move: Move, tier: LowerTier | undefined): void {
    this.restores.moved(move, tier);
  }

  /**
   * Takes in what a step has brought.
   * @param accepted for each span the tokens that its samples agreed on: exactly one where one was to come, none for a chunk
   * that is not the last, any number up to `samples` where drafts were checked
   * @param broken spans of requests that cannot go on: each ends by an error, and what it has computed is forgotten
   * @param nowMs for the times that `load` tells
   */
  commit(
    { spans, ticket }: Plan,
    accepted: readonly (readonly number[])[],
    broken: readonly BrokenRow[] = [],
    nowMs = 0,
  ): Outcome[] {
    assert(accepted.length === spans.length, `tokens of ${accepted.length} spans, expected ${spans.length}`);
    for (let at = 0; at < spans.length; at++) {
      const isBroken = broken.length > 0 && broken.some(({ index }) => index === at);
      if (!isBroken) checkCount(spans[at]!, accepted[at]!.length);
    }
    this.stepRan(ticket);
    const outcomes: Outcome[] = [];
    for (const [spanIndex, span] of spans.entries()) {
      span.restore?.ran();
      if (span.epoch !== span.request.epoch) continue;
      const brokenAt =
        broken.length === 0 ? undefined : broken.find(({ index }) => index === spanIndex)?.position;
      if (brokenAt !== undefined) outcomes.push(...this.commitBroken(span, spanIndex, brokenAt));
      else if (span.samples > 0) {
        span.request.startedMs ??= nowMs;
        outcomes.push(this.commitSpan(span, spanIndex, accepted[spanIndex]!));
      }
    }
    return outcomes;
  }

  /** A step has run, to its end or not: what it alone used is free. With several queues also told of steps that are void. */
  stepRan(ticket: Ticket): void {
    this.tickets.ran(ticket);
    if (this.slotTickets) this.collect();
  }

  /** Takes back what no step uses any more. */
  private collect(): void {
    if (this.blocks.collect() + this.seats.collect() > 0) this.start.freed();
  }

  /**
   * A step did not run, or not all of it: nothing on the GPU since then can be trusted. Every request is computed again
   * from the tokens that it has. Steps in flight must not be committed any more.
   * @param plan undefined: no one step is to blame, but all that runs
   * @returns requests of the step that have failed too often; they are the caller's to abort
   */
  stepFailed(plan: Plan | undefined): Request[] {
    const involved = plan ? plan.spans.map(({ request }) => request) : this.seated;
    const active = involved.filter(({ status }) => status !== "done");
    for (const request of active) request.failedSteps++;
    this.restart();
    return active.filter(({ failedSteps }) => failedSteps > MAX_FAILED_STEPS);
  }

  /** Ends a request from outside; its blocks are free at once. Does nothing where it is done already. */
  abort(request: Request, reason: FinishReason = "aborted"): void {
    if (request.status !== "done") this.finish(request, reason);
  }

  /**
   * Lends blocks for `tokens` to work outside the queues (scoring), with what the cache knows of their first `reusable`
   * unless they are kept nowhere, and may not be looked for either.
   * @throws TidepoolError `out_of_memory` if running requests hold too many.
   */
  borrow(tokens: readonly number[], reusable: number, storage: StorageScope = "disk"): Lease {
    const visible = this.start.visibleTokens(Int32Array.from(tokens), reusable, 0);
    return this.loans.borrow(tokens, visible, storage);
  }

  /**
   * Where the work on a loan has its recurrent state until it is given back, and the block to copy before it begins.
   * Undefined in models without recurrent layers.
   * @throws TidepoolError `out_of_memory` if running requests hold too many.
   */
  loanState(lease: Lease): { state: SeatState; copyBlock: Copy | undefined } | undefined {
    return this.loans.state(lease);
  }

  /** Takes a loan back; what was computed in it, the first `done` tokens, is kept in the cache as far as it may be. */
  giveBack(lease: Lease, done: number): void {
    this.loans.giveBack(lease, done);
  }

  /** Forgets everything that nobody holds. */
  forget(): void {
    this.cache.clear();
  }

  /** The conservation check: every slot is free, cached or in use, and in use by exactly the requests that say so; every seat
   * is free or one request's. */
  check(): void {
    const { cache, blocks, snapshots, seated, leases } = this;
    cache.check();
    this.residency.check();
    this.seats.check(seated.map(({ seat }) => seat));
    snapshots?.check(seated, leases);
    checkUsers(blocks, heldSlots(seated, leases));
  }

  /** Requests that have a seat. */
  private get seated(): Request[] {
    return [...this.running, ...this.prompts.underWay];
  }

  private get leases(): Lease[] {
    return [...this.seated.flatMap(({ lease }) => (lease ? [lease] : [])), ...this.loans.leases];
  }

  /** The next chunk, or chunks of several prompts, as far as a step has room. */
  private nextPrefill(queue: number): Plan | undefined {
    const chunks = this.chunks(queue);
    if (chunks.length === 0) return undefined;
    this.prompts.lookAgain();
    // Only now: what the step computes cannot be found by requests that start in it.
    const ticket = this.tickets.issue(queue);
    const saves: Save[] = [];
    const planned = chunks.map(({ choice, count }) => {
      this.usedBy(choice.request, ticket);
      this.prompts.ran(choice, count);
      return this.planChunk(choice.request, count, saves);
    });
    const completes = planned.flatMap((each) => each.completes);
    return { phase: "prefill", spans: planned.map(({ span }) => span), ticket, completes, saves };
  }

  private chunks(queue: number): { choice: Choice; count: number }[] {
    const { chunkTokens, maxPromptsPerStep = 1 } = this.options;
    const chunks: { choice: Choice; count: number }[] = [];
    const passed = new Set<Request>();
    for (let room = chunkTokens; chunks.length < maxPromptsPerStep && room > 0;) {
      const choice = this.nextPrompt(queue, passed);
      if (!choice) break;
      passed.add(choice.request);
      this.restores.advance(choice.request);
      const count = this.chunkAt(choice.request, room);
      if (count > 0) chunks.push({ choice, count });
      room -= count;
    }
    return chunks;
  }

  /** Under way already, or begun now. */
  private nextPrompt(queue: number, passed: ReadonlySet<Request>): Choice | undefined {
    const choice = this.prompts.next(queue, passed, this.start.isAllowed);
    if (choice?.request.status !== "waiting") return choice;
    if (!this.start.begin(choice.request, queue)) return this.prompts.next(queue, passed, false);
    return choice;
  }

  private planChunk(
    request: Request,
    count: number,
    saves: Save[],
  ): { span: Span; completes: Plan["completes"] } {
    const { computed: from, epoch, restore } = request;
    request.computed += count;
    request.ownFrom = Math.min(request.ownFrom, from);
    restore?.passed(Math.floor(request.computed / this.options.blockTokens));
    const state = request.seatState?.step(request.computed);
    const owed = this.snapshots?.owed(request, from);
    const copyBlock = this.snapshots?.startedFrom(request, from);
    const published = this.publisher.publish(request, this.snapshots?.here(request));
    saves.push(...(owed ? [owed] : []), ...published.saves);
    const isLast = request.computed === request.tokens.length;
    if (isLast) this.startDecoding(request);
    const span = {
      ...{ request, epoch, from, count, drafts: [], samples: isLast ? 1 : 0, states: state ? [state] : [] },
      ...(copyBlock && { copyBlock }),
      ...(restore && { restore }),
    };
    return { span, completes: published.completes };
  }

  /** Tokens of the next chunk: up to the next snapshot, no blocks that are being loaded, as short as those that decode
   * need it; 0: wait. */
  private chunkAt(request: Request, room: number): number {
    const { computed } = request;
    const stop = request.snapshotsAt.find((at) => at > computed) ?? request.tokens.length;
    return this.restores.claim(request, Math.min(room, stop - computed, this.chunkLimit(computed)));
  }

  private chunkLimit(from: number): number {
    const { chunkLimit, chunkTokens } = this.options;
    const decoding = chunkLimit ? this.running.filter(({ wantsMore }) => wantsMore) : [];
    return chunkLimit && decoding.length > 0 ? Math.max(1, chunkLimit(from, decoding)) : chunkTokens;
  }

  /** The ticket's step uses what a request holds. */
  private usedBy(request: Request, ticket: Ticket): void {
    request.ticket = ticket;
    this.slotTickets?.used(request.slots, ticket);
  }

  private startDecoding(request: Request): void {
    this.prompts.leave(request);
    request.status = "decoding";
    request.pending++;
    this.running.push(request);
    this.running.sort((a, b) => a.id - b.id);
  }

  private nextDecode(queue: number): Plan | undefined {
    const { blockTokens, seats, chunkTokens, drafter } = this.options;
    const inQueue = this.slotTickets
      ? this.running.filter((request) => request.queue === queue)
      : this.running;
    const rows = decodeRows(inQueue, {
      ...{ blockTokens, drafter, maxRequests: seats, maxTokens: Math.max(seats, chunkTokens) },
      addBlock: (request, others) => this.addBlock(request, others),
      addSpareBlock: (request) => this.blocks.freeCount > 0 && this.extend(request),
    });
    if (rows.length === 0) return undefined;
    const ticket = this.tickets.issue(queue);
    for (const { request } of rows) this.usedBy(request, ticket);
    const spans = rows.map((row) => this.planRow(row));
    return { phase: "decode", spans, ticket, completes: [], saves: [] };
  }

  private planRow({ request, drafts }: DecodeRow): Span {
    const { computed: from, epoch, seatState } = request;
    const count = 1 + drafts.length;
    request.computed += count;
    request.pending += count;
    const states = seatState
      ? Array.from({ length: count }, (_, index) => seatState.step(from + index + 1))
      : NO_STATES;
    return { request, epoch, from, count, drafts, samples: count, states };
  }

  /**
   * Gives a request that decodes one more block; others give way for it, or else the request itself.
   * @param others those that decode and whose next step is not planned, oldest first
   */
  private addBlock(request: Request, others: readonly Request[]): boolean {
    let left = others;
    while (!this.extend(request)) {
      const victim = this.preemption.victimFor(request, this.prompts.underWay, left) ?? request;
      this.preempt(victim);
      if (victim === request) return false;
      left = left.filter((other) => other !== victim);
    }
    return true;
  }

  private extend(request: Request): boolean {
    assert(request.lease, `request ${request.id} decodes without blocks`);
    return this.cache.extend(request.lease, 1);
  }

  private commitBroken({ request, samples }: Span, spanIndex: number, brokenAt: number): Outcome[] {
    request.pending = Math.max(0, request.pending - samples);
    if (request.status === "done") return [];
    this.forgetWorkOf(request);
    return [{ request, tokens: [], spanIndex, finished: "error", brokenAt }];
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
    for (const request of this.prompts.all) if (request.pending > 0) request.restarted();
    this.startAgain(running.filter(({ lease }) => lease && isVoid(lease)));
    this.loans.endIf(isVoid);
  }

  /** Requests that run wait again with the tokens that they have, in the order in which they came. */
  private startAgain(requests: readonly Request[]): void {
    for (const request of [...requests]) {
      this.leave(request);
      this.prompts.again(request);
      request.restarted();
    }
  }

  private commitSpan(span: Span, spanIndex: number, accepted: readonly number[]): Outcome {
    const { request, samples } = span;
    const { blockTokens } = this.options;
    request.pending -= samples;
    if (request.status === "done") return { request, tokens: [], spanIndex, finished: undefined };
    if (accepted.length < samples) takeBack(span, accepted.length);
    const fullBefore = fullBlocks(request, blockTokens);
    const { tokens, finished } = acceptTokens(request, accepted);
    if (finished !== "stop" && fullBlocks(request, blockTokens) > fullBefore)
      this.publisher.publishAndSpill(request);
    if (finished) this.finish(request, finished);
    return { request, tokens, spanIndex, finished };
  }

  private finish(request: Request, reason: FinishReason): void {
    request.finishReason = reason;
    if (reason !== "error") this.publisher.publishAndSpill(request, this.snapshots?.last(request));
    this.leave(request);
    this.prompts.forget(request);
    request.status = "done";
  }

  /** Gives a running request's blocks and seat back and lets it wait for another prefill. */
  private preempt(request: Request): void {
    const isKept = this.preemption.isSentDown(request);
    this.publisher.publishAndSpill(request, isKept ? this.snapshots?.last(request) : undefined);
    this.leave(request);
    this.prompts.again(request);
  }

  private leave(request: Request): void {
    if (!request.restore?.snapshot) request.restoredBy ??= request.restore?.mode;
    this.restores.drop(request);
    if (request.lease) this.cache.release(request.lease);
    request.lease = undefined;
    request.computed = 0;
    if (request.seat !== undefined) this.seats.give(request.seat, this.slotTickets && request.ticket);
    request.seat = undefined;
    request.ticket = undefined;
    this.snapshots?.leave(request);
    this.running = this.running.filter((other) => other !== request);
    this.prompts.leave(request);
    this.start.freed();
  }
}

function promptLoad(place: Place): PromptLoad {
  const { request, isDue, priority, isResumed, remainingTokens, arrival, from, patience } = place;
  const { id, arrivedMs, objectives, maxNewTokens, generatedCount } = request;
  const leftTokens = Math.max(1, maxNewTokens - generatedCount);
  const rank = { isDue, priority, isResumed, remainingTokens, arrival };
  return { id, arrivedMs, from, patience, leftTokens, objectives, ...rank };
}

const NO_STATES: Span["states"] = [];
