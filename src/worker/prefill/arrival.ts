/**
 * One answer of a prefill service as it arrives, with what it shows of the service's computing and of the link, each apart, because
 * the next chunk is computed while the link brings the last. Pure: times are handed in.
 */
export class Arrival {
  tokens = 0;
  /** Tokens that were computed for it, and the time until the records of each chunk began to arrive. */
  computedTokens = 0;
  computeMs = 0;
  /** Bytes that were there when they were asked for, and how long they took. */
  linkBytes = 0;
  linkMs = 0;
  lastMs: number;
  readonly startedMs: number;

  constructor(nowMs: number) {
    this.startedMs = nowMs;
    this.lastMs = nowMs;
  }

  /** A record of so many tokens and bytes has arrived. @param waited whether the service had to compute it first */
  took(tokens: number, bytes: number, waited: boolean, nowMs: number): void {
    const ms = nowMs - this.lastMs;
    this.lastMs = nowMs;
    if (waited) this.computeMs += ms;
    else if (this.tokens > 0) {
      this.linkBytes += bytes;
      this.linkMs += ms;
    }
    this.tokens += tokens;
    if (this.computeMs > 0) this.computedTokens += tokens; // the rest of a chunk comes behind the record that was waited for
  }
}
