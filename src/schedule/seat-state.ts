/**
 * Where the recurrent state of one running sequence lies on the GPU: a ring of slots of the state pool, so that the states
 * before the last steps are still there when those turn out to be too many. Two slots allow one step to be taken back,
 * each further one another. Pure numbers; the slots' bytes are the GPU's business (gpu/state-pool.ts).
 *
 *     step:    0          1          2          3               back to the end of step 1, then on
 *     reads    start      slot a     slot b     slot c          slot b
 *     writes   slot a     slot b     slot c     slot a          slot c
 */
import { assert } from "../base.ts";
import type { StateRing } from "../cache/state-slot-pool.ts";

/** Slots of the state pool that a step reads and writes. */
export interface StateSlots {
  /** undefined: the state is zero, because nothing came before. */
  read: number | undefined;
  write: number;
}

export class SeatState {
  /** Of the state pool, in the order in which they are written. */
  readonly ring: StateRing;
  /** Tokens that each slot has taken in; -1: its content means nothing. */
  private readonly covered: number[];
  private next = 0;
  private startSlot: number | undefined;
  private position = 0;

  constructor(ring: StateRing) {
    assert(ring.length >= 2, `${ring.length} slots for a state, expected 2 or more`);
    this.ring = ring;
    this.covered = ring.map(() => -1);
  }

  /** The next step starts at token `position` from the state in `slot`; by default from nothing. */
  start(position = 0, slot?: number): void {
    assert(
      position > 0 === (slot !== undefined),
      `a state of ${position} tokens starts from slot ${slot ?? "none"}`,
    );
    this.position = position;
    this.startSlot = slot;
    this.covered.fill(-1);
  }

  /** The slots of the next step, which takes in the tokens up to `end`. */
  step(end: number): StateSlots {
    assert(end > this.position, `a step to token ${end} behind token ${this.position}`);
    const { ring, covered, next } = this;
    const last = (next + ring.length - 1) % ring.length;
    const read = covered[last] === this.position ? ring[last] : this.startSlot;
    covered[next] = end;
    this.next = (next + 1) % ring.length;
    this.position = end;
    return { read, write: ring[next] as number };
  }

  /**
   * Takes the steps behind token `to` back: the next one starts there. The state of that token must still be in the ring:
   * a ring of n slots keeps those before the last n - 1 steps.
   */
  rollBack(to: number): void {
    if (to === this.position) return;
    const { covered, ring } = this;
    const kept = covered.indexOf(to);
    assert(to > 0 && kept >= 0, `no state of ${to} tokens is left to go back to from token ${this.position}`);
    covered.forEach((at, index) => {
      if (at > to) covered[index] = -1;
    });
    this.next = (kept + 1) % ring.length;
    this.position = to;
  }

  /** The slot that has taken in most tokens, but not more than `limit`; undefined if no step has been planned. */
  latest(limit: number): { slot: number; at: number } | undefined {
    const fitting = this.ring.map((slot, which) => ({ slot, at: this.covered[which] as number }));
    const usable = fitting.filter(({ at }) => at > 0 && at <= limit);
    return usable.length === 0 ? undefined : usable.reduce((a, b) => (b.at > a.at ? b : a));
  }
}
