/** What passes between the prefix cache and who uses it: matches, leases, snapshots to be hung. Plain data. */
import type { BlockState } from "./tree/block-ref.ts";
import type { SnapshotReason } from "./events.ts";
import type { RadixNode, Snapshot } from "./tree/radix.ts";

/** What is known of a sequence; valid until the next call that changes the cache. */
export interface Match {
  /** Tokens whose KV (and state) can be reused, and the raw length of the match. */
  tokens: number;
  rawTokens: number;
  /** The full blocks of the reusable prefix; empty without a pool. */
  blocks: BlockState[];
  /** The state at `tokens`; undefined in models without snapshots, or where nothing matched. */
  snapshot: Snapshot | undefined;
}

/** A request's hold on the cache: the pinned path, and its block table. */
export interface Lease extends Match {
  /** Slots of the request's blocks in order: first the shared ones, then its own. */
  table: number[];
  /** The deepest pinned node. */
  node: RadixNode;
  /** A leaf that this lease itself has made and may lengthen. */
  own: RadixNode | undefined;
  /** Whether the state that the request started from has been copied, so that its slot may be evicted. */
  copied: boolean;
  /** Whose it is, for those who listen. */
  requestId: number | undefined;
  released: boolean;
}

/** A state that the request has saved at position `at`. Slots are -1 in a replay; `tail` is the copy of the partial block,
 * -1 where `at` is a multiple of the block. The cache takes over the slots' reference, also of those it cannot use. */
export interface NewSnapshot {
  at: number;
  slot: number;
  tail: number;
  /** Why it is taken, for those who listen. Default: by where it comes to stand in the tree. */
  why?: SnapshotReason;
}

export interface Inserted {
  /** Tokens of the sequence that the tree holds now. */
  tokens: number;
  /** Slots that the tree has taken over, and the request's own slots whose content the tree had already: those become
   * free at release. */
  owned: number[];
  duplicates: number[];
  /** The snapshots that the tree has taken; it had the others already, or no place for them. */
  placed: NewSnapshot[];
}

/** Field by field: spreading objects costs more than all else that a lookup does. */
export function newLease(
  { tokens, rawTokens, blocks, snapshot }: Match,
  table: number[],
  node: RadixNode,
  requestId: number | undefined,
): Lease {
  return {
    tokens,
    rawTokens,
    blocks,
    snapshot,
    table,
    node,
    own: undefined,
    copied: false,
    requestId,
    released: false,
  };
}
