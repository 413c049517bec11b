/**
 * How long requests decode, by those that have: the mean, and how likely one that has decoded for some time still does later.
 * Answers differ in length, so that a request which is older than the mean is not about to end: it is one of the long ones.
 * Pure, in bounded memory.
 */

/** The last times that are kept. */
export const KEPT_TIMES = 256;

export class DecodeTimes {
  /** The oldest first, and the shortest first. */
  private readonly last: number[] = [];
  private readonly sorted: number[] = [];
  private sumMs = 0;

  add(ms: number): void {
    if (!(ms >= 0) || ms === Infinity) return;
    this.last.push(ms);
    this.sorted.splice(this.longerFrom(ms), 0, ms);
    this.sumMs += ms;
    if (this.last.length > KEPT_TIMES) this.dropOldest();
  }

  /** Undefined before the first. */
  get meanMs(): number | undefined {
    const count = this.last.length;
    return count === 0 ? undefined : this.sumMs / count;
  }

  /**
   * The share of those that decoded for longer than `ageMs` that also decoded for longer than `ageMs + laterMs`. Of an age that
   * none has passed nothing is known but the mean: then as if ends came at random, once in the mean time. 1 before the first.
   */
  stillRuns(ageMs: number, laterMs: number): number {
    const { length } = this.sorted;
    const older = length - this.longerFrom(ageMs);
    if (older > 0) return (length - this.longerFrom(ageMs + laterMs)) / older;
    return length === 0 ? 1 : Math.exp(-laterMs / Math.max(this.sumMs / length, Number.MIN_VALUE));
  }

  /** The index of the first that is longer. */
  private longerFrom(ms: number): number {
    let [low, high] = [0, this.sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sorted[middle]! > ms) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private dropOldest(): void {
    const oldest = this.last.shift()!;
    this.sorted.splice(this.longerFrom(oldest) - 1, 1);
    this.sumMs = this.last.reduce((sum, ms) => sum + ms, 0);
  }
}
