/**
 * Getting a prompt back in a model with recurrent layers: its stored blocks and the snapshot of the state behind them.
 * Only all of them together are of use, so there is no meeting in the middle (restore.ts): they are loaded, or, where
 * that promises to be slower, or a record is missing, or it takes longer than computing would have, the prompt is
 * computed. Pure.
 *
 *     from                          to        at
 *     |-- blocks, loaded in order --|- tail --|   the snapshot counts as block `to`
 */
import type { NewSnapshot } from "../cache/prefix.ts";
import { MAX_LOADS, type RestoreMode, type RestoreTerms } from "./restore.ts";

export class StateRestore {
  readonly from: number;
  readonly to: number;
  /** Where the state and the begun block are loaded to. */
  readonly snapshot: NewSnapshot;
  readonly mode: RestoreMode = "load";
  private readonly terms: RestoreTerms;
  private readonly startedMs: number;
  private next: number;
  private loading = 0;
  private loadedCount = 0;
  private failed = false;

  constructor(terms: RestoreTerms, from: number, snapshot: NewSnapshot) {
    this.terms = terms;
    this.from = from;
    this.next = from;
    this.to = from + terms.loadMs.length;
    this.snapshot = snapshot;
    this.startedMs = terms.nowMs();
  }

  /** Whether loading promises to be faster than computing, by what is known beforehand. */
  static pays({ mode, loadMs, computeMs }: RestoreTerms): boolean {
    if (mode === "load" || mode === "compute") return mode === "load";
    return loadMs.reduce((sum, ms) => sum + ms, 0) <= computeMs() * Math.max(1, loadMs.length);
  }

  /** Everything is in place. */
  get complete(): boolean {
    return !this.failed && this.loadedCount === this.to - this.from + 1;
  }

  /** Nothing more is waited for: the prompt is computed. */
  get givenUp(): boolean {
    return this.failed;
  }

  nextLoad(): number | undefined {
    if (this.failed || this.loading >= MAX_LOADS || this.next > this.to) return undefined;
    this.loading++;
    return this.next++;
  }

  loaded(_block: number, ok: boolean): void {
    this.loading--;
    if (ok) this.loadedCount++;
    else this.failed = true;
  }

  isWanted(): boolean {
    return !this.failed;
  }

  isLoaded(block: number): boolean {
    return this.complete && block >= this.from && block < this.to;
  }

  /** Blocks that may be computed now: none while it is worth waiting. */
  claim(_block: number, max: number): number {
    if (this.terms.mode === "auto" && this.elapsedMs() > this.wholeMs()) this.failed = true;
    return this.failed ? max : 0;
  }

  ran(): void {} // its rates are not learnt while it waits

  private elapsedMs(): number {
    return this.terms.nowMs() - this.startedMs;
  }

  /** What computing instead of waiting would have taken. */
  private wholeMs(): number {
    return this.terms.computeMs() * (this.to - this.from + 1);
  }
}
