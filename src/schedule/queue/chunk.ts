/**
 * How many tokens of a prompt are computed between two decode steps: as many as those that decode can wait for. Pure; what
 * steps cost is handed in.
 */
import type { StepCosts } from "../cost/model.ts";
import type { Request } from "../request.ts";

/** A chunk is not made shorter, whatever the objectives: prompts must come to an end. */
export const MIN_CHUNK = 8;

/** Chunks are multiples of so many tokens, which kernels compute together; where even one is too many, halves of it. */
const CHUNK_STEP = 32;

/** Share of the time between tokens that is planned for; the rest is for steps that take longer than predicted. */
const PLANNED_SHARE = 0.85;

/** A request that decodes. */
type Decoding = Pick<Request, "computed" | "objectives">;

/** Tokens of the next chunk behind `from` tokens, at most, beside requests that decode. */
export type ChunkLimit = (from: number, decoding: readonly Decoding[]) => number;

export interface ChunkTerms {
  costs: StepCosts;
  chunkTokens: number;
  /** Between tokens, where a request does not say. */
  tbtMs?: number | undefined;
}

/** The largest chunk that keeps the tightest objective together with the decode step behind it. */
export function chunkLimit({ costs, chunkTokens, tbtMs }: ChunkTerms): ChunkLimit {
  return (from, decoding) => {
    const budgetMs = PLANNED_SHARE * tightest(decoding, tbtMs);
    if (budgetMs === Infinity) return chunkTokens;
    const context = decoding.reduce((sum, { computed }) => sum + computed, 0);
    const leftMs = budgetMs - costs.decodeMs(decoding.length, context);
    return largest(chunkTokens, (tokens) => costs.prefillMs(tokens, from) <= leftMs);
  };
}

function tightest(decoding: readonly Decoding[], tbtMs = Infinity): number {
  return decoding.reduce((least, { objectives }) => Math.min(least, objectives.tbtMs ?? tbtMs), Infinity);
}

/** The largest chunk that fits; longer ones never cost less. */
function largest(most: number, fits: (tokens: number) => boolean): number {
  if (most <= MIN_CHUNK || fits(most)) return most;
  let [low, high] = [0, Math.ceil(most / CHUNK_STEP)];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (fits(middle * CHUNK_STEP)) low = middle;
    else high = middle;
  }
  if (low > 0) return low * CHUNK_STEP;
  let tokens = CHUNK_STEP / 2;
  while (tokens > MIN_CHUNK && !fits(tokens)) tokens /= 2;
  return Math.min(most, tokens);
}
