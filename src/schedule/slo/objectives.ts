/** What a request asks of time, and what a scheduler may do about it: plain data that crosses the wire. No logic. */

/**
 * How long a request may take. If the engine predicts on arrival that one of these will be missed, it rejects the request at once
 * (`rejected`, with `details.reason`, `predictedMs`, `limitMs` and `retryAfterMs`), so that the requests it has accepted keep
 * theirs. A request that was accepted runs to its end.
 *
 * @example
 * ```ts
 * const objectives: Objectives = { ttftMs: 0.001 };
 * const error = await engine.generate("The tide was low and", objectives).result().catch((error: TidepoolError) => error);
 * if (error instanceof TidepoolError) console.log(error.code, error.details["reason"]); // rejected ttft
 * ```
 */
export interface Objectives {
  /** The most milliseconds from arrival to the first token; above 0. Default: the engine's. */
  ttftMs?: number | undefined;
  /** The most milliseconds between two tokens, by the mean of a request's longest tenth of gaps; above 0. Default: the engine's. */
  tbtMs?: number | undefined;
  /** The most milliseconds from arrival to the last token; above 0. Default: the engine's. */
  deadlineMs?: number | undefined;
}

/** Those of background requests go behind all others, until they have waited too long (queue/ageing.ts). */
export type Priority = "interactive" | "background";

/**
 * When requests are rejected: not before it is too late ("none"), on arrival by the load that there is ("early"), or on arrival by
 * the load that is forecast for the moment when the prompt will have been computed ("predicted").
 */
export type RejectionMode = "none" | "early" | "predicted";

/** Which objective could not be kept. */
export type RejectionReason = "ttft" | "tbt" | "deadline";
