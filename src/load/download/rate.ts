/** How fast something goes on, and how long the rest will take. It is handed the time, and holds a few numbers. */

/** Older progress counts for less: half as much after this long. */
const HALF_LIFE_MS = 3000;
/** No guess before so much time has been seen. */
const FIRST_GUESS_MS = 500;

export class RateMeter {
  private startedMs: number | undefined;
  private lastMs = 0;
  private lastDone = 0;
  /** Weighted sums of progress and of the time that it took. */
  private amount = 0;
  private timeMs = 0;

  /** Seconds until `total` at the recent rate; undefined while it is unknown. */
  secondsLeft(done: number, total: number, nowMs: number): number | undefined {
    this.see(done, nowMs);
    if (done >= total) return 0;
    if (nowMs - (this.startedMs ?? nowMs) < FIRST_GUESS_MS || this.amount <= 0) return undefined;
    return ((total - done) * this.timeMs) / this.amount / 1000;
  }

  private see(done: number, nowMs: number): void {
    if (this.startedMs === undefined || done < this.lastDone) {
      this.startedMs = nowMs; // what was there before did not take any of our time
      this.amount = 0;
      this.timeMs = 0;
    } else {
      const kept = 2 ** (-(nowMs - this.lastMs) / HALF_LIFE_MS);
      this.amount = this.amount * kept + done - this.lastDone;
      this.timeMs = this.timeMs * kept + nowMs - this.lastMs;
    }
    this.lastMs = nowMs;
    this.lastDone = done;
  }
}
