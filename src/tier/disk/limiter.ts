/** A bound on work in flight: so many at once, so many waiting, and no more. First come, first served. */
export class Limiter {
  private readonly maxRunning: number;
  private readonly maxWaiting: number;
  private readonly waiting: (() => void)[] = [];
  private running = 0;

  constructor(maxRunning: number, maxWaiting: number) {
    this.maxRunning = maxRunning;
    this.maxWaiting = maxWaiting;
  }

  /** Runs `work` when its turn comes; undefined, at once, if too many are waiting. */
  async run<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (this.running === this.maxRunning) {
      if (this.waiting.length >= this.maxWaiting) return undefined;
      await new Promise<void>((resolve) => this.waiting.push(resolve)); // its place is handed over
    } else this.running++;
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.running--;
      else next();
    }
  }
}
