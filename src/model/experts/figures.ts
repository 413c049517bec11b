/**
 * What is counted and noted of a model whose experts are not all on the GPU. Plain data.
 */
import type { ExpertId, FetchCause } from "../../cache/experts/entry.ts";
import type { ExpertPolicyName } from "../../cache/experts/policy.ts";
import type { ExpertRates, ExpertStats } from "../../cache/experts/stats.ts";
import type { CopyUse } from "./bounded.ts";

/** How steps waited, and how guesses ended. */
export interface ExpertWaits {
  /** Times that a step read choices back, and how long that took in all. */
  readBacks: number;
  readBackMs: number;
  /** Times that a step waited for experts to arrive, and how long. */
  stalls: number;
  stallMs: number;
  /** Layers that ran before their choices were known: what was there was what they chose, or they ran again. */
  guessedRight: number;
  guessedWrong: number;
}

/**
 * The experts of a model of which not all are on the GPU. Layers count only those with experts, from 0.
 *
 * @example
 * ```ts
 * const { experts } = await engine.stats();
 * if (experts) {
 *   const { slots, rates, waits } = experts;
 *   console.log(`${slots} slots, GoodPred ${rates.goodPred ?? 0}, ${waits.stallMs} ms waited`);
 * }
 * ```
 */
export interface ExpertFigures {
  policy: ExpertPolicyName;
  layers: number;
  /** Of a layer, and those of them that a token has. */
  experts: number;
  chosen: number;
  /** Experts that the GPU has room for, and bytes of that. */
  slots: number;
  slotBytes: number;
  /** Experts on the GPU now: how many, and by layer their numbers. */
  resident: number;
  residents: number[][];
  /** Bytes of experts in RAM now, and at most. */
  ramBytes: number;
  maxRamBytes: number;
  /** Bytes that were read from the model's file, those that were still in RAM, and reads that were tried again. */
  read: { fileBytes: number; ramBytes: number; retries: number };
  /** Hits by layer, fetches and bytes by cause, and how good predictions were, by layer and by distance. */
  cache: ExpertStats;
  /** The same for all layers together, as shares. */
  rates: ExpertRates;
  waits: ExpertWaits;
  /** With experts "bounded". */
  copies?: CopyFigures;
}

/**
 * Low-bit copies of all experts, and what decode computed with them.
 *
 * @example
 * ```ts
 * const { experts } = await engine.stats();
 * const { weight, weightLow } = experts?.copies ?? { weight: 1, weightLow: 0 };
 * console.log(weightLow / weight < 0.5); // true
 * ```
 */
export interface CopyFigures extends CopyUse {
  /** On the GPU. */
  bytes: number;
  /** Their squared error as a share of the squared weights. */
  error: number;
}

/**
 * Something that happened to the experts, with its time in milliseconds since 1970.
 *
 * @example
 * ```ts
 * const { expertEvents } = await engine.stats({ eventsAfter: 0 });
 * const fetched = expertEvents?.events.filter(({ kind }) => kind === "fetched") ?? [];
 * console.log(fetched.length >= 0); // true
 * ```
 */
export type ExpertEvent = { timeMs: number } & (
  | { kind: "step"; phase: "prefill" | "decode"; rows: number; ms: number }
  /** A router chose; `low`: what copies stood for; `guessed`: its experts had run before that was known, rightly. */
  | { kind: "chose"; layer: number; resident: number[]; missing: number[]; low: number[]; guessed: boolean }
  | { kind: "predicted"; layer: number; madeBehind: number; experts: number[] }
  /** A matrix of an expert came to its slot. `ms`: from when it was asked for. */
  | ({ kind: "fetched"; matrix: number; slot: number; cause: FetchCause; isWhole: boolean } & ExpertId & {
        evicted?: ExpertId;
        from: "ram" | "file";
        ms: number;
      })
  | { kind: "stalled"; layer: number; ms: number }
);

/** Events in their order. `next` is where to go on; `dropped` of those asked for were too old to be kept. */
export interface ExpertEvents {
  events: ExpertEvent[];
  next: number;
  dropped: number;
}
