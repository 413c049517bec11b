/**
 * The prefill queue: which waiting request is computed next. Requests are taken in order of arrival. Each gets the blocks of its whole prompt when it starts, so that half-computed prompts never wait for each
 * other's blocks; one that shares a prefix with a prompt under way waits until that has computed it.
 */
import type { Request } from "./request.ts";

/** Waiting requests for which one that is ahead takes a snapshot on its way, at most. */
const MAX_BRANCHES = 4;

export class PrefillQueue {
  private readonly waiting: Request[] = [];

  get length(): number {
    return this.waiting.length;
  }

  /** In their order. */
  get all(): readonly Request[] {
    return this.waiting;
  }

  push(request: Request): void {
    this.waiting.push(request);
  }

  /** A pre-empted request goes first: it was accepted before all that wait. */
  pushFront(request: Request): void {
    this.waiting.unshift(request);
  }

  /** The request to prefill next beside those under way. One whose samples are still under way cannot start again yet. */
  head(underWay: readonly Request[] = []): Request | undefined {
    const next = this.waiting.find((request) => request.pending === 0);
    return next && underWay.some((other) => computesFor(other, next)) ? undefined : next;
  }

  /**
   * How many of `tokens` each of the next requests begins with as well, where that is more than `known`: with a snapshot
   * there the prefix is computed once. Each length once, in no order.
   */
  branchesOf(tokens: readonly number[], known: number): number[] {
    const next = this.waiting.filter(({ storage }) => storage !== "off").slice(0, MAX_BRANCHES);
    const lengths = next.map((request) => sharedTokens(tokens, request.tokens));
    return [...new Set(lengths)].filter((length) => length > known && length < tokens.length);
  }

  remove(request: Request): void {
    const index = this.waiting.indexOf(request);
    if (index >= 0) this.waiting.splice(index, 1);
  }
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
