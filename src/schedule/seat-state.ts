/**
 * Where the recurrent state of one running sequence lies on the GPU: two slots of the state pool, used in turns, so that
 * the state before the last submitted step is still there when that step turns out to be one too many. Pure numbers; the
 * slots' bytes are the GPU's business (gpu/state-pool.ts).
 *
 *     step:    0          1          2
 *     reads    start      slot a     slot b
 *     writes   slot a     slot b     slot a
 */
import { assert } from "../base.ts";
import type { StatePair } from "../cache/state-slot-pool.ts";

/** Slots of the state pool that a step reads and writes. */
export interface StateSlots {
  /** undefined: the state is zero, because nothing came before. */
  read: number | undefined;
  write: number;
}

export class SeatState {
  /** Of the state pool. */
  readonly pair: StatePair;
  /** Tokens that each of the two slots has taken in; -1: its content means nothing. */
  private readonly covered: [number, number] = [-1, -1];
  private turn: 0 | 1 = 0;
  private startSlot: number | undefined;
  private position = 0;

  constructor(pair: StatePair) {
    this.pair = pair;
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
    const last = (1 - this.turn) as 0 | 1;
    const read = this.covered[last] === this.position ? this.pair[last] : this.startSlot;
    const write = this.pair[this.turn];
    this.covered[this.turn] = end;
    this.turn = last;
    this.position = end;
    return { read, write };
  }

  /** The slot that has taken in most tokens, but not more than `limit`; undefined where no step has been planned. */
  latest(limit: number): { slot: number; at: number } | undefined {
    const fitting = this.pair.map((slot, which) => ({ slot, at: this.covered[which] as number }));
    const usable = fitting.filter(({ at }) => at > 0 && at <= limit);
    return usable.length === 0 ? undefined : usable.reduce((a, b) => (b.at > a.at ? b : a));
  }
}
