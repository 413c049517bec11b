/**
 * Which of two prompts is computed first: one that has been overtaken long enough (ageing.ts), the one that arrived first
 * where both have; then interactive before background, one that ran before and had to give way, the least work that is
 * left, the one that arrived first. Pure.
 */
import type { Priority } from "../slo/objectives.ts";

/** What the order of a prompt follows from. */
export interface Rank {
  /** Others may not go before it any more, unless they arrived earlier. */
  isDue: boolean;
  priority: Priority;
  /** It gave way, or its device was lost. */
  isResumed: boolean;
  /** Tokens that are left to compute. */
  remainingTokens: number;
  /** Rises with each arrival. */
  arrival: number;
}

/** Below 0: `a` goes first. */
export function byRank(a: Rank, b: Rank): number {
  if (a.isDue !== b.isDue) return a.isDue ? -1 : 1;
  if (a.isDue) return a.arrival - b.arrival;
  if (a.priority !== b.priority) return a.priority === "interactive" ? -1 : 1;
  if (a.isResumed !== b.isResumed) return a.isResumed ? -1 : 1;
  return a.remainingTokens - b.remainingTokens || a.arrival - b.arrival;
}
