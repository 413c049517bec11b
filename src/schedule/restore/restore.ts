/**
 * Getting a prompt's stored blocks back, as the scheduler sees it: what is loaded next, what may be computed meanwhile,
 * and what has come. How the two sides share the work is in block-restore.ts and state-restore.ts. Pure: it moves no
 * bytes, and time and rates are handed in.
 */
import type { NewSnapshot } from "../../cache/prefix.ts";

/** A tier below the GPU, by the name that the store has for it. */
export type LowerTier = string;

/** Load only, compute only, or both from their ends. */
export type RestoreMode = "load" | "compute" | "both";

/** Loads of one request under way at once. */
export const MAX_LOADS = 8;

/** What is known of this machine when a restore begins, and how to learn more. */
export interface RestoreTerms {
  /** "auto": what is fastest, as far as can be seen. */
  mode: RestoreMode | "auto";
  /** For each stored block: milliseconds until it is loaded, when others are loaded too; above 0. */
  loadMs: readonly number[];
  /** Milliseconds of computing a block, by what was last measured; above 0. */
  computeMs(): number;
  nowMs(): number;
}

/** One prompt's stored blocks on their way back. */
export interface Restore {
  /** How the blocks have come back; of "auto": what it came to. */
  readonly mode: RestoreMode;
  /** Where the recurrent state behind the blocks is loaded to, in models that have one. */
  readonly snapshot: NewSnapshot | undefined;
  /** The next block to load, now counted as loading; undefined if enough are under way or none is left. */
  nextLoad(): number | undefined;
  /** A load has ended with bytes from `tier`; without, the block is to be computed. */
  loaded(block: number, tier: LowerTier | undefined): void;
  /** Whether this block's bytes may still be written: it may have been computed meanwhile. */
  isWanted(block: number): boolean;
  /** Whether this block's keys and values are in place by loading, and may be used. */
  isLoaded(block: number): boolean;
  /** Where a load's bytes go if not into the block's slot. */
  snapshotAt(block: number): NewSnapshot | undefined;
  /** How many blocks from `block` on may be computed now, at most `max`; 0: wait for loads. */
  claim(block: number, max: number): number;
  /** All blocks before `block` are computed by steps that have been submitted. */
  passed(block: number): void;
  /** The oldest step whose blocks were claimed has run. */
  ran(): void;
}
