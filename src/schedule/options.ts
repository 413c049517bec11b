/** What a scheduler is told and tells, as plain data: its limits, what a commit found out, what a device has room for. */
import type { Residency } from "../cache/residency.ts";
import type { Drafter } from "./decode.ts";
import type { LowerTiers, States } from "./plan.ts";
import type { ChunkLimit } from "./queue/chunk.ts";
import type { GiveWayCosts } from "./queue/pre-emption.ts";
import type { FinishReason, Request } from "./request.ts";

/** Of an engine: prompts under way, so that a short one does not wait for a long one; each holds blocks for all of it. */
export const PROMPTS_UNDER_WAY = 4;

export interface SchedulerOptions {
  blockTokens: number;
  /** Prompt tokens in a prefill step, at most. */
  chunkTokens: number;
  /** Requests that may run at once. */
  seats: number;
  /** Chunks of different prompts in one step, at most. Default: 1. */
  maxPromptsPerStep?: number;
  /** Prompts under way at once, at most: a short one begins before a long one is done. Default: as many as in a step. */
  promptsUnderWay?: number;
  /** How long a chunk may be beside requests that decode. Default: `chunkTokens`, whoever decodes. */
  chunkLimit?: ChunkLimit;
  /** What it takes to get back what gave way. Default: not known, and the latest to arrive gives way. */
  giveWayCosts?: GiveWayCosts;
  /** Queues that run steps side by side; several only in models without recurrent layers. Default: 1. */
  queues?: number;
  /** Which layers of a block are on the GPU. Default: all of them, of every block. */
  residency?: Residency;
  /** Guesses that decode steps check. Default: none, and each step of a request brings one token. */
  drafter?: Drafter;
  /** Blocks that the pool may grow to. Default: as many as it has. */
  maxBlocks?: number;
  /** Default: there are none. */
  lower?: LowerTiers;
  /** In models with recurrent layers. */
  states?: States;
}

/** What a commit found out about one request. */
export interface Outcome {
  request: Request;
  /** The accepted tokens: none where the first sample was a stop token or void. */
  tokens: readonly number[];
  /** Index of its span in the plan. */
  spanIndex: number;
  finished: FinishReason | undefined;
  /** Where something was not finite, if it ended by that. */
  brokenAt?: number;
}

/** What a device has room for. */
export interface PoolSizes {
  /** Blocks that the KV pool has, and may grow to. */
  slots: number;
  maxBlocks: number;
  /** States that the state pool has, and how many of them may be snapshots; 0 in models without them. */
  stateSlots: number;
  maxSnapshots: number;
}

/** A span of a step whose numbers are not finite: its index in the plan, and the position. */
export interface BrokenRow {
  index: number;
  position: number;
}
