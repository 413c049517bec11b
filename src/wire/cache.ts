/**
 * The cache as the caller sees it: numbers, records, the tree, decisions. Plain data that survives structured cloning.
 */
import type { CacheEvent as CacheDecision } from "../cache/events.ts";
import type { CountsByPlace } from "./request.ts";

/** The outcome of importing an archive. */
export interface ArchiveImport {
  /** Keys of the imported records. */
  keys: string[];
  /**
   * How many records were not imported, by reason: "fingerprint" (from another model, or other settings of it), "encoding"
   * (coarser than this engine serves), "expired", "room" (no tier has room for them).
   */
  rejected: Record<string, number>;
  /** The prompt that the archive's records cover. */
  tokens: number[];
  /** The signer's public key; absent if the archive is not signed, or if this runtime cannot check signatures. */
  signedBy?: string;
}

/** Sizes and counts of one tier. */
export interface CacheTierStats {
  bytes: number;
  budgetBytes: number;
  records: number;
  hits: number;
  /** By reason. */
  misses: Record<string, number>;
  promotions: number;
  demotions: number;
  drops: number;
}

/** Numbers of one tier with its name; `state` of one that is not in this process's memory: open, closed or lost. */
export interface NamedTierStats extends CacheTierStats {
  name: string;
  kind: "sync" | "async";
  state?: string;
}

/** What the cache holds, and what it has done for requests, by tier. */
export interface CacheStats {
  gpu: {
    blocks: { total: number; free: number; cached: number; inUse: number };
    bytes: number;
    /** Snapshots of recurrent states; all zeros in models without recurrent layers. `taken`: admitted to the tree since the start. */
    snapshots: {
      total: number;
      free: number;
      cached: number;
      inUse: number;
      taken: number;
      evicted: number;
      bytes: number;
    };
    policy: string;
    /** The weight of FLOP efficiency, if the policy has one, and how often the tuner has changed it. */
    alpha?: number;
    alphaChanges: number;
    lookups: number;
    tokensAsked: number;
    tokensMatched: number;
    /** Lookups that found a prefix: at a branch of inputs, or at the end of an earlier request. */
    branchHits: number;
    endHits: number;
    flopsSaved: number;
    evictions: number;
  };
  /** The lower tiers, the fastest first. */
  tiers: readonly NamedTierStats[];
  /** The same of the two usual ones. */
  ram: CacheTierStats;
  disk: CacheTierStats & { state: string };
  /** How long cached tokens would have taken to compute, at the rate measured in this session; 0 until there is one. */
  timeSavedMs: CountsByPlace;
  /** Blocks that were not copied to a lower tier because too many copies were under way. */
  spillsDropped: number;
  /** Records that wait to be written to disk. */
  waiting: number;
}

/** One stored record. */
export interface CacheEntry {
  key: string;
  kind: string;
  blockIndex: number;
  tokens: number;
  bytes: number;
  createdAtMs: number;
  tiers: string[];
  /** false: quantised, or computed from quantised blocks. */
  exact: boolean;
}

/**
 * The bit of the RAM tier in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const blocks = nodes.flatMap(({ tiers }) => [...tiers]);
 * console.log(`${blocks.filter((bits) => bits & TIER_RAM).length} blocks are in RAM`);
 * ```
 */
export const TIER_RAM = 1;

/**
 * The bit of the disk tier in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const isStored = nodes.every(({ tiers }) => tiers.every((bits) => bits & TIER_DISK));
 * console.log(isStored ? "all blocks are on disk" : "some blocks are not on disk");
 * ```
 */
export const TIER_DISK = 2;

/**
 * The bit of the GPU's pool in a `CacheTreeNode`.
 *
 * @example
 * ```ts
 * const { nodes } = await engine.cache.tree();
 * const onGpu = nodes.filter(({ tiers }) => tiers.some((bits) => bits & TIER_GPU));
 * console.log(`${onGpu.length} of ${nodes.length} runs have blocks on the GPU`);
 * ```
 */
export const TIER_GPU = 4;

/** A place that blocks can be in, and its bit in `CacheTreeNode`. */
export interface CachePlace {
  name: string;
  bit: number;
}

/** The cached prompts at one moment, as a tree of their common prefixes. */
export interface CacheTree {
  blockTokens: number;
  bytesPerBlock: number;
  bytesPerSnapshot: number;
  /** The GPU, and the lower tiers, the fastest first. */
  tiers: readonly CachePlace[];
  /** Parents come before their children, what the GPU holds before the rest, and recently used siblings before others. */
  nodes: CacheTreeNode[];
  /** Blocks on the GPU that the limit left out. */
  omittedBlocks: number;
  /** Whether the limit left out stored blocks too. */
  moreStored: boolean;
}

/** A run of tokens without a branch. */
export interface CacheTreeNode {
  /** Above 0 and constant if the GPU holds the node; below 0 if only lower tiers hold it. */
  id: number;
  /** The parent's id; 0: the root. */
  parent: number;
  /**
   * The number of tokens before the run, and to its end. A run begins where its parent ends; one that only lower tiers hold may
   * begin at any full block of its parent.
   */
  start: number;
  end: number;
  /** For each block whose last token is in the run, in order: the bits of the tiers that hold it. */
  tiers: Uint8Array;
  /** The bits of the tiers that hold the recurrent state at the end of the run; 0: none. */
  snapshot: number;
  /** Requests that use the run now. */
  pins: number;
  uses: number;
  /** Time since the last use, or since the computation of what only lower tiers hold; -1: older than the first listener. */
  idleMs: number;
}

/** A decision of the cache (src/cache/events.ts has its kinds and reasons), or the sum of several of one kind in a row. */
export interface CacheEvent extends Omit<CacheDecision, "clock" | "lastAccess"> {
  /** Milliseconds since 1970. */
  timeMs: number;
  /** Of an eviction: the time since the last use. */
  idleMs?: number;
}
