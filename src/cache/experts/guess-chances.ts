/**
 * How often guesses have been right, by who made them, from what distance, and by their place among those made together: what a
 * guess is worth, which its score alone does not tell. Pure numbers.
 */

import type { GuessOrigin } from "./entry.ts";

/** Parts of a list of guesses, the best first, of which each has a chance of its own. */
const PARTS = 8;

/** Of a chance, what the last guess decides. */
const SHARE_OF_LAST = 0.02;

const FIRST_CHANCE = 0.5;

export class GuessChances {
  private readonly chances = new Map<string, number[]>();

  /** @param place of `count`, from 0 */
  of(origin: GuessOrigin, distance: number, place: number, count: number): number {
    return this.list(origin, distance)[partOf(place, count)]!;
  }

  note(origin: GuessOrigin, distance: number, place: number, count: number, isUsed: boolean): void {
    const [list, part] = [this.list(origin, distance), partOf(place, count)];
    list[part]! += SHARE_OF_LAST * ((isUsed ? 1 : 0) - list[part]!);
  }

  private list(origin: GuessOrigin, distance: number): number[] {
    const key = `${origin} ${distance}`;
    let list = this.chances.get(key);
    if (!list) this.chances.set(key, (list = new Array<number>(PARTS).fill(FIRST_CHANCE)));
    return list;
  }
}

function partOf(place: number, count: number): number {
  return Math.floor((PARTS * place) / count);
}
