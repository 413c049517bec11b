/** What becomes of a request when a step has brought tokens for it, or fewer than it might have. */
import { assert } from "../base.ts";
import type { Outcome } from "./options.ts";
import type { Span } from "./plan.ts";
import type { Request } from "./request.ts";

/** Only where drafts were checked is it open how many tokens come. */
export function checkCount({ request, samples, drafts }: Span, count: number): void {
  const isCertain = drafts.length === 0;
  assert(
    isCertain ? count === samples : count <= samples,
    `${count} tokens for request ${request.id}, expected ${isCertain ? "" : "at most "}${samples}`,
  );
}

/** Appends tokens up to a stop token, or to as many as the request may have. */
export function acceptTokens(
  request: Request,
  accepted: readonly number[],
): Pick<Outcome, "tokens" | "finished"> {
  for (const [index, token] of accepted.entries()) {
    if (request.stopIds.has(token)) return { tokens: accepted.slice(0, index), finished: "stop" };
    request.tokens.push(token);
    if (request.generatedCount >= request.maxNewTokens)
      return { tokens: accepted.slice(0, index + 1), finished: "length" };
  }
  return { tokens: accepted, finished: undefined };
}

/** The positions of drafts that were refused are computed again. One that was pre-empted meanwhile starts anew anyway. */
export function takeBack({ request, from }: Span, accepted: number): void {
  if (request.status !== "decoding") return;
  request.computed = from + accepted;
  request.seatState?.rollBack(request.computed);
}

/** Blocks that are full of tokens whose step has run: the last token's keys and values belong to the next step. */
export function fullBlocks({ tokens }: Request, blockTokens: number): number {
  return Math.floor((tokens.length - 1) / blockTokens);
}
