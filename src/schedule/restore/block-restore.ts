/**
 * Getting a prompt's stored blocks back: which block is loaded next, and which the engine computes meanwhile. After Cake
 * (arXiv 2410.03065): computing runs from the front, because a token costs more the further back it stands; loading runs
 * from the back; they meet where they meet. Where one side is far faster it works alone. Pure: it moves no bytes, and
 * time and rates are what it is told.
 *
 *     from                                        to          end of the prompt
 *     |-- computed -->  ....  <-- loaded, loading --|--- computed afterwards ---|
 *
 * Rates known beforehand may be wrong, so they are held against what this restore itself sees: after `t` ms, loading is
 * at least as slow as if all that was begun had just ended, and at most as slow as if nothing but what has ended had been
 * worked on. A step of computing cannot be taken back: the first is one block, and later ones bet no more time than was
 * spent looking, unless more would be right even at rates far from what is believed.
 */
import { assert } from "../../base.ts";
import { MAX_LOADS, type LowerTier, type Restore, type RestoreMode, type RestoreTerms } from "./restore.ts";

/** Where loading is so many times faster than computing it works alone: the other's share would not pay for the steps. */
const ONE_SIDE_FACTOR = 8;

/** The first loads may take so many times longer than those after them: files are opened, and nothing is warm. */
const FIRST_LOADS_FACTOR = 2;

/** So wrong a rate known beforehand may be. */
const MISTAKE_FACTOR = 8;

/** A clock may be too coarse to see a step. */
const SHORTEST_STEP_MS = 0.01;

const ABSENT = 0;
const LOADING = 1;
const LOADED = 2;
const COMPUTED = 3;

export class BlockRestore implements Restore {
  readonly snapshot = undefined;
  /** Blocks [from, to) are in a lower tier. */
  readonly from: number;
  readonly to: number;
  private readonly terms: RestoreTerms;
  private readonly status: Uint8Array;
  private readonly startedMs: number;
  private loading = 0;
  /** Expected milliseconds of the loads under way, and of those that have ended with bytes. */
  private underWayMs = 0;
  private endedMs = 0;
  private loadedCount = 0;
  /** Stored blocks that were computed by choice. */
  private takenCount = 0;
  /** Blocks of each step that was claimed and has not run yet, oldest first; when the oldest began. */
  private readonly pending: number[] = [];
  private stepStartedMs = 0;
  /** Milliseconds of a block in the last step that ran. */
  private ranMs: number | undefined;

  constructor(terms: RestoreTerms, from: number) {
    this.terms = terms;
    this.from = from;
    this.to = from + terms.loadMs.length;
    this.startedMs = terms.nowMs();
    this.status = new Uint8Array(terms.loadMs.length).fill(terms.mode === "compute" ? COMPUTED : ABSENT);
  }

  get mode(): RestoreMode {
    const { mode } = this.terms;
    if (mode !== "auto") return mode;
    if (this.takenCount === 0) return "load";
    return this.loadedCount === 0 ? "compute" : "both";
  }

  nextLoad(): number | undefined {
    if (this.loading >= MAX_LOADS) return undefined;
    const at = this.terms.mode === "load" ? this.status.indexOf(ABSENT) : this.status.lastIndexOf(ABSENT);
    if (at < 0 || this.loading >= this.loadsThatPay()) return undefined;
    this.status[at] = LOADING;
    this.loading++;
    this.underWayMs += this.expectedMs(at);
    return this.from + at;
  }

  loaded(block: number, tier: LowerTier | undefined): void {
    const at = block - this.from;
    const ok = tier !== undefined;
    assert(this.loading > 0, `block ${block} was not being loaded`);
    this.loading--;
    this.underWayMs -= this.expectedMs(at);
    if (ok) this.endedMs += this.expectedMs(at);
    if (this.status[at] !== LOADING) return; // computed meanwhile
    this.status[at] = ok ? LOADED : COMPUTED;
    if (ok) this.loadedCount++;
  }

  isWanted(block: number): boolean {
    return this.status[block - this.from] === LOADING;
  }

  isLoaded(block: number): boolean {
    return this.status[block - this.from] === LOADED;
  }

  snapshotAt(): undefined {}

  passed(): void {} // what was claimed counts as computed

  claim(block: number, max: number): number {
    if (block >= this.to) return max;
    const share = this.frontShare(block);
    let count = 0;
    let taken = 0;
    for (; count < max; count++) {
      const state = this.statusOf(block + count);
      if (state === LOADED || (state !== COMPUTED && taken === share)) break;
      if (state !== COMPUTED) taken++;
      if (block + count < this.to) this.status[block + count - this.from] = COMPUTED;
    }
    this.takenCount += taken;
    if (count > 0) {
      if (this.pending.length === 0) this.stepStartedMs = this.terms.nowMs();
      this.pending.push(count);
    }
    return count;
  }

  ran(): void {
    const blocks = this.pending.shift();
    if (blocks === undefined) return;
    const nowMs = this.terms.nowMs();
    this.ranMs = Math.max(nowMs - this.stepStartedMs, SHORTEST_STEP_MS) / blocks;
    this.stepStartedMs = nowMs;
  }

  private statusOf(block: number): number {
    return block >= this.to ? COMPUTED : (this.status[block - this.from] as number);
  }

  private expectedMs(at: number): number {
    return this.terms.loadMs[at] as number;
  }

  /** Blocks that computing should take next, so that both sides end together; those under way may be among them. */
  private frontShare(block: number): number {
    const { mode } = this.terms;
    if (mode === "load" || mode === "compute" || this.statusOf(block) === COMPUTED) return 0;
    const { blocks, expectedMs } = this.leftToLoad();
    const computeMs = this.computeMs();
    const loadMs = expectedMs * this.slowness();
    if (mode === "auto" && loadMs * ONE_SIDE_FACTOR < computeMs * blocks) return 0;
    const fair = this.fairShare(blocks, loadMs, computeMs);
    if (mode === "both" || fair === 0) return fair;
    const leastLoadMs = expectedMs * Math.max(this.leastSlowness(), this.slowness() / MISTAKE_FACTOR);
    const mostComputeMs = this.ranMs === undefined ? computeMs * MISTAKE_FACTOR : computeMs;
    const safe = this.fairShare(blocks, leastLoadMs, mostComputeMs);
    const bet =
      this.ranMs === undefined ? 0 : Math.floor(this.elapsedMs() / computeMs) - this.pendingBlocks();
    return Math.min(fair, Math.max(safe, bet, this.pending.length === 0 ? 1 : 0));
  }

  /** How many of `blocks`, which take `loadMs` to load, to compute after the steps that are still running. */
  private fairShare(blocks: number, loadMs: number, computeMs: number): number {
    const backlogMs = this.pendingBlocks() * computeMs;
    const fair = Math.floor((loadMs - backlogMs) / (computeMs + loadMs / blocks));
    if (fair >= 1) return fair;
    return backlogMs + computeMs <= loadMs ? 1 : 0;
  }

  /** Loads to have under way: not more than will end before computing gets there. One always is, because it measures. */
  private loadsThatPay(): number {
    if (this.terms.mode === "load") return MAX_LOADS;
    const { blocks, expectedMs } = this.leftToLoad();
    const computeMs = this.computeMs() * blocks;
    return Math.max(1, Math.ceil((blocks * computeMs) / (computeMs + expectedMs * this.slowness())));
  }

  /** Blocks not loaded yet, and how long loading them all would take if all were as expected. */
  private leftToLoad(): { blocks: number; expectedMs: number } {
    let blocks = 0;
    let expectedMs = 0;
    for (let at = 0; at < this.status.length; at++) {
      if (this.status[at] !== ABSENT && this.status[at] !== LOADING) continue;
      blocks++;
      expectedMs += this.expectedMs(at);
    }
    return { blocks, expectedMs };
  }

  /** How many times longer than expected loading takes: as expected, within what the clock allows. */
  private slowness(): number {
    const most = this.endedMs === 0 ? Infinity : this.elapsedMs() / this.endedMs;
    return Math.min(Math.max(1, this.leastSlowness()), most);
  }

  private leastSlowness(): number {
    const begunMs = this.endedMs + this.underWayMs;
    const least = begunMs === 0 ? 0 : this.elapsedMs() / begunMs;
    return this.endedMs === 0 ? least / FIRST_LOADS_FACTOR : least;
  }

  private elapsedMs(): number {
    return this.terms.nowMs() - this.startedMs;
  }

  /** Of a block: as the last step, or as believed before one has run; but not less than the running one has taken. */
  private computeMs(): number {
    const computeMs = this.ranMs ?? this.terms.computeMs();
    const [running] = this.pending;
    return running === undefined
      ? computeMs
      : Math.max(computeMs, (this.terms.nowMs() - this.stepStartedMs) / running);
  }

  private pendingBlocks(): number {
    return this.pending.reduce((sum, blocks) => sum + blocks, 0);
  }
}
