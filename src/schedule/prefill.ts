/**
 * The prefill queue: which waiting request is computed next, and in which chunks. Requests are taken in order of
 * arrival; one is prefilled at a time, so that no two half-computed prompts hold blocks against each other.
 */
import type { Request } from "./request.ts";

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

  remove(request: Request): void {
    const index = this.waiting.indexOf(request);
    if (index >= 0) this.waiting.splice(index, 1);
  }
}
