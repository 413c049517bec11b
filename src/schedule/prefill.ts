/**
 * The prefill queue: which waiting request is computed next, and in which chunks. Requests are taken in order of
 * arrival; one is prefilled at a time, so that no two half-computed prompts hold blocks against each other.
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

  /** The request to prefill next. One whose samples are still under way cannot start again yet. */
  head(): Request | undefined {
    return this.waiting.find((request) => request.pending === 0);
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

/** Never all of `b`: its last token is always computed. */
function sharedTokens(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length - 1);
  let shared = 0;
  while (shared < most && a[shared] === b[shared]) shared++;
  return shared;
}
