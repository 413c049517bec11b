/** Many durations in bounded memory: counts and sums in classes of 2% width, from which means and percentiles follow. */

/** A class is so much wider than the one below it. */
const CLASS_RATIO = Math.log(1.02);
/** Durations outside are counted in the first or last class. */
const LEAST_MS = 0.01;
const MOST_MS = 1e9;

/** By nearest rank; undefined before the first duration. */
export interface Quantiles {
  p50: number | undefined;
  p90: number | undefined;
  p99: number | undefined;
}

export class Histogram {
  count = 0;
  private readonly classes = new Map<number, { count: number; sumMs: number }>();

  add(ms: number): void {
    const within = Math.min(Math.max(ms, LEAST_MS), MOST_MS);
    const index = Math.floor(Math.log(within / LEAST_MS) / CLASS_RATIO);
    const known = this.classes.get(index) ?? { count: 0, sumMs: 0 };
    this.classes.set(index, { count: known.count + 1, sumMs: known.sumMs + ms });
    this.count++;
  }

  /** The duration of which this share is not longer; within 2%. */
  quantile(share: number): number | undefined {
    let left = Math.max(1, Math.ceil(share * this.count));
    for (const { count, sumMs } of this.longestFirst().reverse())
      if ((left -= count) <= 0) return sumMs / count;
    return undefined;
  }

  quantiles(): Quantiles {
    return { p50: this.quantile(0.5), p90: this.quantile(0.9), p99: this.quantile(0.99) };
  }

  /** The mean of the longest share of all, of one at least. */
  meanOfLongest(share: number): number | undefined {
    if (this.count === 0) return undefined;
    const wanted = Math.max(1, Math.ceil(share * this.count));
    let left = wanted;
    let sum = 0;
    for (const { count, sumMs } of this.longestFirst()) {
      const taken = Math.min(left, count);
      sum += (taken * sumMs) / count;
      left -= taken;
      if (left === 0) break;
    }
    return sum / wanted;
  }

  private longestFirst(): { count: number; sumMs: number }[] {
    return [...this.classes].sort(([a], [b]) => b - a).map(([, each]) => each);
  }
}
