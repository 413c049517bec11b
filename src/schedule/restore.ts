/**
 * Getting a prompt's stored blocks back: which block is loaded next, and which the engine computes meanwhile. After Cake
 * (arXiv 2410.03065): computing runs from the front, because a token costs more the further back it stands; loading runs
 * from the back; they meet where they meet. Where one side is far faster it works alone. Pure; it moves no bytes.
 *
 *     from                                        to          end of the prompt
 *     |-- computed -->  ....  <-- loaded, loading --|--- computed afterwards ---|
 */
import { assert } from "../base.ts";

/** Load only, compute only, or both from their ends. */
export type RestoreMode = "load" | "compute" | "both";

/** Loads of one request under way at once. */
export const MAX_LOADS = 8;

/** Both sides work only where neither is this many times faster than the other (measured rates). */
const ONE_SIDE_FACTOR = 8;

const ABSENT = 0;
const LOADING = 1;
const LOADED = 2;
const COMPUTED = 3;

/** How to restore, and the share of what is computed where both sides work. */
export interface RestoreChoice {
  mode: RestoreMode;
  /** In (0, 1): the front's share of blocks that are neither here nor on their way. */
  computeShare: number;
}

/**
 * Which way is fastest, by measured tokens per second of loading and of computing; 0: not measured yet. Unmeasured, it
 * loads: that measures, and reading is far faster than computing on every machine but the oddest.
 */
export function chooseRestore(loadRate: number, computeRate: number): RestoreChoice {
  if (loadRate === 0 || computeRate === 0) return { mode: "load", computeShare: 0.5 };
  const computeShare = computeRate / (computeRate + loadRate);
  if (loadRate > ONE_SIDE_FACTOR * computeRate) return { mode: "load", computeShare };
  return { mode: computeRate > ONE_SIDE_FACTOR * loadRate ? "compute" : "both", computeShare };
}

export class Restore {
  readonly mode: RestoreMode;
  /** Blocks [from, to) are in a lower tier. */
  readonly from: number;
  readonly to: number;
  private readonly state: Uint8Array;
  private readonly computeShare: number;
  private loading = 0;

  constructor({ mode, computeShare }: RestoreChoice, from: number, to: number) {
    this.mode = mode;
    this.computeShare = computeShare;
    this.from = from;
    this.to = to;
    this.state = new Uint8Array(to - from).fill(mode === "compute" ? COMPUTED : ABSENT);
  }

  /** The next block to load, now counted as loading; undefined where enough are under way or none is left. */
  nextLoad(): number | undefined {
    if (this.loading >= MAX_LOADS) return undefined;
    const at = this.mode === "both" ? this.state.lastIndexOf(ABSENT) : this.state.indexOf(ABSENT);
    if (at < 0) return undefined;
    this.state[at] = LOADING;
    this.loading++;
    return this.from + at;
  }

  /** A load has ended; one that failed leaves the block to be computed. */
  loaded(block: number, ok: boolean): void {
    assert(this.state[block - this.from] === LOADING, `block ${block} was not being loaded`);
    this.state[block - this.from] = ok ? LOADED : COMPUTED;
    this.loading--;
  }

  /** Whether this block's keys and values are in place by loading. */
  isLoaded(block: number): boolean {
    return this.state[block - this.from] === LOADED;
  }

  /** How many blocks from `block` on may be computed now, at most `max`; 0: wait for loads. They count as computed. */
  claim(block: number, max: number): number {
    const most = Math.min(max, this.frontShare(block));
    let count = 0;
    while (count < most && this.isOurs(block + count)) count++;
    for (let at = block; at < Math.min(block + count, this.to); at++) this.state[at - this.from] = COMPUTED;
    return count;
  }

  /** Where both sides work, a chunk must not take what loading would have brought sooner. */
  private frontShare(block: number): number {
    const absent = this.state.filter((state) => state === ABSENT).length;
    if (this.mode !== "both" || absent === 0 || this.state[block - this.from] !== ABSENT) return Infinity;
    return Math.max(1, Math.ceil(absent * this.computeShare));
  }

  private isOurs(block: number): boolean {
    if (block >= this.to) return true;
    const state = this.state[block - this.from];
    return state === COMPUTED || (state === ABSENT && this.mode === "both");
  }
}
