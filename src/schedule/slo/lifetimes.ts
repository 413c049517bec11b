/**
 * How long requests decode, in milliseconds or in tokens, by those that have: the mean, how likely one of some age still decodes later,
 * and for how much longer. Answers differ in length, so that a request which is older than the mean is not about to end: it is one
 * of the long ones. Pure, in bounded memory.
 */

/** The last ones that are kept. */
export const KEPT_LIFETIMES = 256;

export class Lifetimes {
  /** The oldest first, and the shortest first. */
  private readonly last: number[] = [];
  private readonly sorted: number[] = [];
  private sum = 0;

  add(length: number): void {
    if (!(length >= 0) || length === Infinity) return;
    this.last.push(length);
    this.sorted.splice(this.longerFrom(length), 0, length);
    this.sum += length;
    if (this.last.length > KEPT_LIFETIMES) this.dropOldest();
  }

  /** Undefined before the first. */
  get mean(): number | undefined {
    const count = this.last.length;
    return count === 0 ? undefined : this.sum / count;
  }

  /**
   * The share of those that decoded for longer than `age` that also decoded for longer than `age + later`. Of an age that
   * none has passed nothing is known but the mean: then as if ends came at random. 1 before the first.
   */
  stillRuns(age: number, later: number): number {
    const { length } = this.sorted;
    const older = length - this.longerFrom(age);
    if (older > 0) return (length - this.longerFrom(age + later)) / older;
    return length === 0 ? 1 : Math.exp(-later / Math.max(this.sum / length, Number.MIN_VALUE));
  }

  /** For how much longer one of that age decodes in the mean; Infinity before the first. */
  meanLeft(age: number): number {
    const older = this.sorted.slice(this.longerFrom(age));
    if (older.length > 0) return sumOf(older) / older.length - age;
    return this.mean ?? Infinity;
  }

  /** The index of the first that is longer. */
  private longerFrom(length: number): number {
    let [low, high] = [0, this.sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sorted[middle]! > length) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private dropOldest(): void {
    const oldest = this.last.shift()!;
    this.sorted.splice(this.longerFrom(oldest) - 1, 1);
    this.sum = sumOf(this.last);
  }
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
