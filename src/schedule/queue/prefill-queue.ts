/**
 * The prefill queue: prompts that wait and prompts that are under way, and which of them is computed next (order.ts). A
 * short prompt goes before the next chunk of a long one. Each gets the blocks of its whole prompt when it starts, so that
 * half-computed prompts never wait for each other's blocks; one that shares a new prefix with a prompt under way waits until
 * that has computed it, and lends it its own rank meanwhile. Who finds a seat and blocks is start.ts's business. Pure.
 */
import type { Request } from "../request.ts";
import { byRank } from "./order.ts";
import { Place, type Known } from "./place.ts";

/** Waiting requests for which one that is ahead takes a snapshot on its way, at most. */
const MAX_BRANCHES = 4;

/** Waiting requests that are looked at for one step where the first ones wait for others' prefixes. */
const MAX_LOOKS = 4;

/** Whose chunk is next. */
export interface Choice {
  request: Request;
  /** The one that waits for what is computed, where that is why. */
  onBehalfOf?: Request;
}

export class PrefillQueue {
  private readonly places = new Map<Request, Place>();
  private readonly waiting: Request[] = [];
  private started: Request[] = [];
  private readonly known: (request: Request, ids: Int32Array) => Known;
  /** Rises whenever other requests may be the next ones. */
  changes = 0;
  private arrivals = 0;
  private lookedAt = 0;

  /** @param known what cache and lower tiers have of a request's tokens */
  constructor(known: (request: Request, ids: Int32Array) => Known) {
    this.known = known;
  }

  /** Those that wait, in no order. */
  get all(): readonly Request[] {
    return this.waiting;
  }

  /** Those that have begun and are not done, in the order in which they began. */
  get underWay(): readonly Request[] {
    return this.started;
  }

  /** A request has arrived. */
  push(request: Request): void {
    this.places.set(request, new Place(request, this.arrivals++, (ids) => this.known(request, ids)));
    this.waiting.push(request);
    this.changes++;
  }

  /** A request that has run waits again, in the place that it had. */
  again(request: Request): void {
    request.status = "waiting";
    const place = this.placeOf(request);
    place.isResumed ||= request.generatedCount + request.pending > 0;
    place.isPrefetched = false;
    this.look(place);
    this.waiting.push(request);
    this.changes++;
  }

  /** A waiting request has begun. */
  begin(request: Request): void {
    take(this.waiting, request);
    this.changes++;
    this.started.push(request);
  }

  /** A request waits no longer, nor is its prompt under way; its place is kept until `forget`. */
  leave(request: Request): void {
    take(this.waiting, request);
    this.changes++;
    this.started = this.started.filter((other) => other !== request);
  }

  /** A request is done. */
  forget(request: Request): void {
    this.leave(request);
    this.places.delete(request);
  }

  placeOf(request: Request): Place {
    return this.places.get(request) as Place;
  }

  /**
   * Whose chunk is computed next in a queue.
   * @param passed those that cannot go on just now
   * @param mayStart whether one more may begin
   */
  next(queue: number, passed: ReadonlySet<Request>, mayStart: boolean): Choice | undefined {
    const blocked = new Set(passed);
    let allowed = mayStart;
    for (let looks = 0; ; looks++) {
      const first = this.first(queue, blocked, allowed && looks < MAX_LOOKS);
      const leader = first && this.leaderOf(first);
      if (!first || !leader) return first && { request: first };
      if (leader.queue === queue && !passed.has(leader)) return { request: leader, onBehalfOf: first };
      blocked.add(first);
      if (this.placeOf(first).isDue) allowed = false; // nobody takes its seat meanwhile
    }
  }

  /** The first waiting request in all queues, if no prompt under way goes before it or computes its prefix. */
  toStart(): Request | undefined {
    const first = this.first(undefined, NOBODY, true);
    return first?.status === "waiting" && !this.leaderOf(first) ? first : undefined;
  }

  /** Tokens of a prompt are computed; those that arrived before and are not done are overtaken. */
  ran({ request, onBehalfOf }: Choice, tokens: number): void {
    const own = this.placeOf(request);
    own.progressed(tokens);
    for (const other of this.waiting) if (other !== onBehalfOf) this.overtake(other, own.arrival, tokens);
    for (const other of this.started) this.overtake(other, own.arrival, tokens);
  }

  /** Those that wait, the next one first. */
  inOrder(): Request[] {
    const places = this.waiting.map((request) => this.placeOf(request));
    return places.sort(byRank).map(({ request }) => request);
  }

  /** Looks again for what the cache has of one waiting request, each time of another one. */
  lookAgain(): void {
    if (this.waiting.length === 0) return;
    this.lookedAt = (this.lookedAt + 1) % this.waiting.length;
    this.look(this.placeOf(this.waiting[this.lookedAt] as Request));
  }

  /** The first waiting requests. */
  firsts(count: number): Request[] {
    const best: Place[] = [];
    for (const request of this.waiting) {
      const place = this.placeOf(request);
      if (best.length === count && byRank(place, best[count - 1] as Place) > 0) continue;
      best.push(place);
      best.sort(byRank);
      best.length = Math.min(best.length, count);
    }
    return best.map(({ request }) => request);
  }

  /**
   * How many of `tokens` each of the next requests begins with as well, where that is more than `known`: with a snapshot
   * there the prefix is computed once. Each length once, in no order.
   */
  branchesOf(tokens: readonly number[], known: number): number[] {
    const next = this.firsts(MAX_BRANCHES).filter(({ storage }) => storage !== "off");
    const lengths = next.map((request) => sharedTokens(tokens, request.tokens));
    return [...new Set(lengths)].filter((length) => length > known && length < tokens.length);
  }

  private look(place: Place): void {
    place.look((ids) => this.known(place.request, ids));
  }

  /** One whose samples are still under way cannot start again yet. */
  private first(
    queue: number | undefined,
    blocked: ReadonlySet<Request>,
    mayStart: boolean,
  ): Request | undefined {
    let best: Place | undefined;
    const consider = (request: Request): void => {
      if (blocked.has(request)) return;
      const place = this.placeOf(request);
      if (!best || byRank(place, best) < 0) best = place;
    };
    for (const request of this.started) if (queue === undefined || request.queue === queue) consider(request);
    if (mayStart) for (const request of this.waiting) if (request.pending === 0) consider(request);
    return best?.request;
  }

  /** The prompt under way that computes a prefix which a waiting one will find in the cache then. */
  private leaderOf(request: Request): Request | undefined {
    if (request.status !== "waiting") return undefined;
    return this.started.find((other) => computesFor(other, request));
  }

  private overtake(request: Request, by: number, tokens: number): void {
    const place = this.placeOf(request);
    if (place.arrival < by) place.overtaken(tokens);
  }
}

const NOBODY: ReadonlySet<Request> = new Set();

function take(requests: Request[], request: Request): void {
  const index = requests.indexOf(request);
  if (index >= 0) requests.splice(index, 1);
}

/** Whether `other` is about to compute what `next` will find in the cache then. */
function computesFor(other: Request, next: Request): boolean {
  if (other.storage === "off" || next.storage === "off") return false;
  return sharedTokens(other.tokens, next.tokens) > other.computed;
}

/** Never all of `b`: its last token is always computed. */
function sharedTokens(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length - 1);
  let shared = 0;
  while (shared < most && a[shared] === b[shared]) shared++;
  return shared;
}
