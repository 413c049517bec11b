/**
 * Which of two prompts is computed first: one that is due (place.ts), the one that arrived first where both are; then
 * interactive before background, one that had tokens already when it had to give way, the least work that is left, the
 * one that arrived first. Pure.
 */
import type { Priority } from "../slo/objectives.ts";

/** What the order of a prompt follows from. */
export interface Rank {
  /** It has been overtaken enough: only those that arrived earlier may go before it. */
  readonly isDue: boolean;
  readonly priority: Priority;
  /** Tokens have come of it before it gave way, or its device was lost: somebody is reading. */
  readonly isResumed: boolean;
  /** Tokens that are left to compute. */
  readonly remainingTokens: number;
  /** Rises with each arrival. */
  readonly arrival: number;
}

/** Below 0: `a` goes first. */
export function byRank(a: Rank, b: Rank): number {
  if (a.isDue !== b.isDue) return a.isDue ? -1 : 1;
  if (a.isDue) return a.arrival - b.arrival;
  if (a.priority !== b.priority) return a.priority === "interactive" ? -1 : 1;
  if (a.isResumed !== b.isResumed) return a.isResumed ? -1 : 1;
  const shorter = a.isResumed ? 0 : a.remainingTokens - b.remainingTokens;
  return shorter || a.arrival - b.arrival;
}
