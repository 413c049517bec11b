/**
 * What is to be fetched, and in which order: experts that a layer waits for, then those that a layer will probably need, in
 * the order of need (the next layer first, then the better guess), then those of a warm start. It hands out no slots, and does
 * not know what has arrived.
 */
import type { ExpertEntry, FetchCause } from "./entry.ts";

export interface QueuedExpert {
  entry: ExpertEntry;
  cause: FetchCause;
  /** Of guesses: the step and layer that will need it, as one number; the score. */
  need: number;
  score: number;
  /** The order in which experts were queued. */
  queuedAt: number;
}

export class FetchQueue {
  private demand: QueuedExpert[] = [];
  private guesses: QueuedExpert[] = [];
  private warm: QueuedExpert[] = [];
  private merged: QueuedExpert[] | undefined;
  private clock = 0;
  private readonly preempts: boolean;

  /** @param preempts whether demand overtakes speculation; without, everything is fetched in the order in which it was queued */
  constructor(preempts: boolean) {
    this.preempts = preempts;
  }

  /** All that is queued, in the order in which it should be fetched. */
  order(): readonly QueuedExpert[] {
    this.merged ??= this.merge();
    return this.merged;
  }

  addDemand(entry: ExpertEntry): void {
    entry.isWanted = true;
    this.demand.push(this.queued(entry, "demand", 0, 0));
  }

  addGuess(entry: ExpertEntry, need: number, score: number): void {
    entry.isGuessed = true;
    this.guesses.push(this.queued(entry, "predicted", need, score));
  }

  addWarm(entry: ExpertEntry): void {
    this.warm.push(this.queued(entry, "warm", 0, 0));
  }

  dropDemand(which: (entry: ExpertEntry) => boolean): void {
    this.demand = this.without(this.demand, ({ entry }) => which(entry), "isWanted");
  }

  dropGuesses(which: (guess: QueuedExpert) => boolean): void {
    this.guesses = this.without(this.guesses, which, "isGuessed");
  }

  dropWarm(which: (entry: ExpertEntry) => boolean): void {
    if (this.warm.length === 0) return;
    this.warm = this.warm.filter(({ entry }) => !which(entry));
    this.merged = undefined;
  }

  private without(
    list: QueuedExpert[],
    which: (queued: QueuedExpert) => boolean,
    flag: "isWanted" | "isGuessed",
  ): QueuedExpert[] {
    const kept = list.filter((queued) => !which(queued));
    if (kept.length === list.length) return list;
    for (const queued of list) queued.entry[flag] = false;
    for (const queued of kept) queued.entry[flag] = true;
    this.merged = undefined;
    return kept;
  }

  private queued(entry: ExpertEntry, cause: FetchCause, need: number, score: number): QueuedExpert {
    this.merged = undefined;
    return { entry, cause, need, score, queuedAt: this.clock++ };
  }

  private merge(): QueuedExpert[] {
    this.guesses.sort((a, b) => a.need - b.need || b.score - a.score || a.queuedAt - b.queuedAt);
    const all = [...this.demand, ...this.guesses, ...this.warm];
    return this.preempts ? all : all.sort((a, b) => a.queuedAt - b.queuedAt);
  }
}
