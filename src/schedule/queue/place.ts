/**
 * A request's place in the prefill queue: what its rank follows from, and ageing. The shortest prompt goes first, but not
 * for ever: each request may be overtaken, by requests that arrived after it, by as many tokens as it had to compute when
 * it arrived (background requests by `BACKGROUND_PATIENCE` more). Then it is due, and nobody who came later goes before it; for
 * each token that is computed of it then, one more may overtake it, so that a long prompt that is due takes turns with the short ones.
 *
 *     overtaken  <=  patience + own tokens computed + the chunk that made it due
 *
 * Tokens and no clock: a queue that stands still makes nobody older. Pure.
 */
import type { Request } from "../request.ts";
import type { Rank } from "./order.ts";

/** Tokens by which a background request may be overtaken beyond its own. */
export const BACKGROUND_PATIENCE = 32_768;

/** What is known of a prompt: tokens that the GPU has, and behind them tokens that lower tiers have. */
export interface Known {
  gpu: number;
  stored: number;
}

/** A stored token is loaded in about so much of the time of computing it. */
const LOADED_SHARE = 1 / 8;

export class Place implements Rank {
  readonly request: Request;
  readonly arrival: number;
  isResumed = false;
  /** The lower tiers have been told to bring what it will need. */
  isPrefetched = false;
  /** Tokens by which it may still be overtaken. */
  patience: number;
  private known: Known;
  private ids: Int32Array;

  constructor(request: Request, arrival: number, known: (ids: Int32Array) => Known) {
    this.request = request;
    this.arrival = arrival;
    this.ids = Int32Array.from(request.tokens);
    this.known = known(this.ids);
    this.patience = patienceOf(this.remainingTokens, request.priority);
  }

  get priority(): Request["priority"] {
    return this.request.priority;
  }

  get isDue(): boolean {
    return this.patience <= 0;
  }

  /** Tokens before those that are left. */
  get from(): number {
    return Math.max(this.request.computed, this.known.gpu);
  }

  /** At least 1: the last token is always computed. */
  get remainingTokens(): number {
    const { request, known, from } = this;
    const stored = Math.max(0, known.gpu + known.stored - from);
    return Math.max(1, Math.ceil(request.tokens.length - from - stored * (1 - LOADED_SHARE)));
  }

  /** Its tokens, as the prefix cache wants them. */
  get tokens(): Int32Array {
    const { tokens } = this.request;
    if (this.ids.length !== tokens.length) this.ids = Int32Array.from(tokens);
    return this.ids;
  }

  /** The cache may have found more of it, or lost some. */
  look(known: (ids: Int32Array) => Known): void {
    this.known = known(this.tokens);
  }

  /** Tokens of it were computed. */
  progressed(tokens: number): void {
    this.patience += tokens;
  }

  /** Tokens of one that arrived later were computed while it could have been. */
  overtaken(tokens: number): void {
    this.patience -= tokens;
  }
}

/** Of a prompt that arrives. */
export function patienceOf(tokens: number, priority: Request["priority"]): number {
  return tokens + (priority === "background" ? BACKGROUND_PATIENCE : 0);
}
