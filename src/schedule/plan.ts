/**
 * What the scheduler hands out and asks for, as plain data: the plan of a step, blocks and states to bring, to copy and to
 * send down, and the lower tiers and the state pool as it sees them. No logic.
 */
import type { NewSnapshot } from "../cache/prefix.ts";
import type { StorageScope, Request } from "./request.ts";
import type { Restore, RestoreTerms } from "./restore/restore.ts";
import type { StateSlots } from "./seat-state.ts";
import type { Ticket } from "./tickets.ts";

/**
 * One request's part in a step: the positions [from, from + count) are computed.
 *
 *     from                                  from + count
 *     |-- tokens that are known --|-- drafts --|    drafts are guesses: they may turn out to be wrong
 *                       `samples` of the rows are sampled: the last known one, and each draft's
 */
export interface Span {
  request: Request;
  /** The request's when the plan was made: another at commit means that the step's result is void. */
  epoch: number;
  from: number;
  count: number;
  /** Tokens that follow the request's own in the span, and are accepted only if the samples before them agree. */
  drafts: readonly number[];
  /** Tokens that may come of it, at most: 0 for a chunk that is not the last of its prompt. */
  samples: number;
  /**
   * Where its recurrent state is read and written, in models that have one: one entry for a run of known tokens, one for
   * each token where drafts follow.
   */
  states: readonly StateSlots[];
  /** A slot of the KV pool to copy before the step: the partial block of the snapshot that the request starts from. */
  copyBlock?: Copy;
  /** What is being loaded meanwhile for the prompt. */
  restore?: Restore;
}

/** A step: spans of several requests, each of them in one span at most. */
export interface Plan {
  /** Chunks of prompts, whose tokens are given, or the next tokens of running requests, which their seats hold. */
  phase: "prefill" | "decode";
  spans: readonly Span[];
  /** Its place in the queue that it is planned for. */
  ticket: Ticket;
  /** Blocks that the step completes, for the lower tiers, and states to save, once it has been submitted. */
  completes: readonly FullBlock[];
  saves: readonly Save[];
}

/** Copies slot `from` of a pool over slot `to`. */
export interface Copy {
  from: number;
  to: number;
}

/** A state to be saved, and sent to the lower tiers, behind the steps submitted so far. */
export interface Save {
  sequence: Sequence;
  /** Tokens that it covers. */
  at: number;
  /** In the state pool; both slots are the same where it is saved already and only the lower tiers lack it. */
  state: Copy;
  /** In the KV pool: the partial block, where it has to be copied. */
  copyBlock: Copy | undefined;
  /** The KV slot that has the partial block then. */
  tail: number | undefined;
}

/** Tokens from the first on; grows at its end only. */
export interface Sequence {
  readonly tokens: readonly number[];
  readonly storage: StorageScope;
  /** What is stored of it expires so long after it was computed. Default: the tier mover's. */
  readonly maxAgeMs?: number | undefined;
  /** Rises when what was computed for it, and is not known to be good, must not be kept. */
  readonly epoch?: number;
}

/** Bytes of one block, or of a snapshot, to be brought from a lower tier into slots. */
export interface Move {
  request: Request;
  restore: Restore;
  /** Index in the request's block table. */
  block: number;
  slot: number;
  /** Instead of the block: the state of the first `at` tokens into a slot of the state pool, and the partial block
   * there into KV slot `tail` (-1: none was). */
  snapshot?: NewSnapshot;
}

/** A block that is complete and that lower tiers should have. */
export interface FullBlock {
  sequence: Sequence;
  block: number;
  slot: number;
}

/** The lower tiers as the scheduler sees them. */
export interface LowerTiers {
  /** Consecutive blocks of a sequence's tokens, from block `from` on, that they hold. */
  storedBlocks(sequence: Sequence, from: number): number;
  /** How to get `blocks` of them back, from block `from` on. */
  restoreTerms(request: Request, from: number, blocks: number): RestoreTerms;
  /** The furthest stored snapshot of a sequence's state behind token `after`, not behind `limit`, with all blocks before it
   * from that of token `after` on in store. */
  storedState?(sequence: Sequence, after: number, limit: number): number | undefined;
  /** A waiting request is among the next: blocks [from, from + blocks) of it, and the state of its first `at` tokens where it
   * needs one, are to be brought as near to the GPU as they may be, as long as its status is "waiting". Takes no GPU blocks. */
  prefetch?(request: Request, from: number, blocks: number, at?: number): void;
  /** A sequence begins to be computed: what it stores from now on is forgotten with what was stored before. */
  begin?(sequence: Sequence): void;
  /** Of a sequence's blocks before `end`, all of them computed, those that the disk is to have for it and has not: others may
   * have computed them for themselves alone. Each is told once a sequence. */
  owed?(sequence: Sequence, end: number): number[];
  /** The same of its state behind its first `at` tokens. */
  owesState?(sequence: Sequence, at: number): boolean;
  /** Blocks that submitted steps have completed. Their slots may be reused by the very next plan: copy them at once. They
   * may be looked up once all steps submitted so far are known to be good. */
  spill(blocks: readonly FullBlock[]): void;
  /** Drops blocks of a request, by index, and its states at the given tokens, also those that are on their way down. */
  forget?(request: Request, blocks: readonly number[], states: readonly number[]): void;
}

/** The state pool as the scheduler sees it. */
export interface States {
  /** Saves states of requests that end. Their slots may be used by the very next plan: copy them at once. */
  save(saves: readonly Save[]): void;
}
