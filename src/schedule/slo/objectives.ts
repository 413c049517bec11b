/** What a request asks of time, and what a scheduler may do about it: plain data that crosses the wire. No logic. */

/** What a request wants to be kept, in milliseconds; what is left out is not asked for. */
export interface Objectives {
  /** From arrival to first token, at most. */
  ttftMs?: number | undefined;
  /** Between tokens, at most. */
  tbtMs?: number | undefined;
  /** From arrival to the end of the whole request, at most. */
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
