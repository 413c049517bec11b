/**
 * Plain data of the expert cache: the shape of a model's experts, what is known of each of them, and what is asked of whoever
 * fetches. It decides nothing.
 */

/** Layers whose experts have one size, and share slots. */
export interface ExpertClass {
  layers: readonly number[];
  slots: number;
  /** Bytes of each matrix of one expert; as many numbers as there are matrices. */
  matrixBytes: readonly number[];
}

/** Layers count only those with experts, from 0. A fetch moves one matrix of one expert. */
export interface ExpertCacheShape {
  layers: number;
  experts: number;
  /** Experts that run for one token. */
  chosen: number;
  matrices: number;
  classes: readonly ExpertClass[];
}

/** One expert of one layer. */
export interface ExpertId {
  layer: number;
  expert: number;
}

/** Why something is fetched: a layer waits for it; a layer will probably need it; it was needed the last time. */
export type FetchCause = "demand" | "predicted" | "warm";

export interface Fetch extends ExpertId {
  matrix: number;
  slot: number;
  cause: FetchCause;
  /** The expert that lost the slot to this one; with the first matrix alone. */
  evicted?: ExpertId;
}

/** An expert that the router chose, for how many tokens, and the sum of its weights. */
export interface ExpertUse {
  expert: number;
  tokens: number;
  weight: number;
}

/** An expert that a layer will probably need; better ones have greater scores. */
export interface ExpertGuess {
  expert: number;
  score: number;
}

/** The next layers' routers (or a learned predictor), the part of a step that ran without some experts, or the policy itself. */
export type GuessOrigin = "router" | "run" | "policy";

export type ExpertPhase = "prefill" | "decode";

/** What the cache knows of one expert. */
export interface ExpertEntry extends ExpertId {
  /** Index of its class of layers. */
  readonly classIndex: number;
  /** -1 if it has none. */
  slot: number;
  /** Bits: matrices that are in the slot, and matrices on their way there. */
  arrived: number;
  moving: number;
  /** A fetch has failed: the slot is given back when no other is under way. */
  isLost: boolean;
  /** A layer is about to run it, so that its slot is nobody else's. */
  isPinned: boolean;
  /** A layer waits for it. */
  isWanted: boolean;
  /** A standing prediction names it. */
  isGuessed: boolean;
  /** Logical times: of the last use (0: never), and of the last time that it took a slot. */
  lastAccess: number;
  insertedAt: number;
  /** Uses, of which old ones count less. */
  heat: number;
  /** Bytes that were fetched by a prediction and not used yet. */
  unusedBytes: number;
}

export function newEntry(id: ExpertId, classIndex: number): ExpertEntry {
  return {
    ...{
      ...id,
      classIndex,
      slot: -1,
      arrived: 0,
      moving: 0,
      isLost: false,
      isPinned: false,
      isWanted: false,
    },
    ...{ isGuessed: false, lastAccess: 0, insertedAt: 0, heat: 0, unusedBytes: 0 },
  };
}
