/**
 * What the cache has decided, told to whoever listens: plain data, one small listener, and nothing is made where nobody
 * listens. It holds no clock, no queue and no words: times, batches and sentences are the outer rooms' (worker/, demo/).
 */

/** What happened. `matched`: a prompt was looked up; `admitted`: computed blocks became findable; `snapshot`: a recurrent
 * state was kept; `evicted`: something was given up on the GPU; `spilled`: copied to a lower tier; `restored`: came back
 * from one; `alpha`: the tuner changed the policy's weight of FLOP efficiency. */
export type CacheEventKind =
  "matched" | "admitted" | "snapshot" | "evicted" | "spilled" | "restored" | "alpha";

/** Why a snapshot is kept: sequences branch there; a request ended there; its policy keeps one every so many blocks; it
 * came back from a lower tier. */
export type SnapshotReason = "branch" | "end" | "interval" | "restored";

/** Why it happened. */
export type CacheEventReason =
  | SnapshotReason
  /** matched: nothing is known of the prompt; it goes on behind a former one; it leaves a former one half-way. */
  | "unknown"
  | "continued"
  | "branched"
  /** admitted: a request has computed it, or it was brought back. */
  | "computed"
  /** evicted: blocks, a place for a snapshot, or bytes of the budget were needed; or all was to be forgotten. */
  | "blocks-needed"
  | "snapshot-needed"
  | "over-budget"
  | "cleared"
  /** spilled, restored: behind the step that computed it; asked for by a request. */
  | "written-behind"
  | "asked-for"
  /** alpha: another value would have saved more of late. */
  | "saves-more";

export interface CacheEvent {
  kind: CacheEventKind;
  why: CacheEventReason;
  /** Tokens that it is about, and the position behind the last of them. */
  tokens: number;
  at: number;
  /** Full blocks among them. */
  blocks: number;
  bytes: number;
  requestId?: number;
  /** evicted: the logical time of the last use. */
  lastAccess?: number;
  /** Logical time, of those that use or evict. */
  clock?: number;
  /** spilled: the lowest tier that it is meant for; restored: where it came from. */
  tier?: string;
  /** Whether a snapshot is spilled, restored or evicted, not (only) blocks. */
  isSnapshot?: boolean;
  alpha?: number;
}

/** Called within the decision: it must be quick and must not call the cache. */
export type CacheListener = (event: CacheEvent) => void;
