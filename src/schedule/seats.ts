/** The seats of running requests: indexes of sampler states on the GPU. A seat is free when the last step that uses it has run. */
import { assert } from "../base.ts";
import type { Ticket } from "./tickets.ts";

export class Seats {
  private readonly count: number;
  private readonly free: number[];
  /** Seats that a step of a request which has left still uses. */
  private returning: { seat: number; ticket: Ticket }[] = [];

  constructor(count: number) {
    this.count = count;
    this.free = Array.from({ length: count }, (_, seat) => count - 1 - seat);
  }

  get freeCount(): number {
    return this.free.length;
  }

  take(): number {
    const seat = this.free.pop();
    assert(seat !== undefined, `all ${this.count} seats are taken`);
    return seat;
  }

  /** @param ticket the last step that uses the seat, if it is to be waited for */
  give(seat: number, ticket?: Ticket): void {
    if (ticket && !ticket.isOver) this.returning.push({ seat, ticket });
    else this.free.push(seat);
  }

  /** Frees seats whose last step has run; how many. */
  collect(): number {
    const over = this.returning.filter(({ ticket }) => ticket.isOver);
    this.returning = this.returning.filter(({ ticket }) => !ticket.isOver);
    this.free.push(...over.map(({ seat }) => seat));
    return over.length;
  }

  /** The conservation check: each seat is free, on its way to being free, or one request's. */
  check(held: readonly (number | undefined)[]): void {
    const free = [...this.free, ...this.returning.map(({ seat }) => seat)];
    const distinct = new Set([...free, ...held]).size;
    assert(
      distinct === this.count && free.length + held.length === this.count,
      `${free.length} free and ${held.length} held of ${this.count} seats`,
    );
  }
}
