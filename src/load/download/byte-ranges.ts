/**
 * Which bytes of a file are there: a set of byte positions, kept as sorted ranges that neither touch nor overlap.
 * It knows nothing of files; its length is the number of holes, not of bytes.
 *
 *     have      [0, 4)      [9, 12)
 *     add [4, 7)            -> [0, 7) [9, 12)
 *     firstGap(0, 12)       -> [7, 9)
 */
import { assert } from "../../base.ts";

/** From the first byte up to, not including, `end`. */
export interface ByteRange {
  start: number;
  end: number;
}

export class ByteRanges {
  private ranges: ByteRange[] = [];
  /** Bytes in the set. */
  totalBytes = 0;

  /** Adds [start, end); bytes that are there already do no harm. */
  add(start: number, end: number): void {
    assert(start >= 0 && start <= end, `byte range ${start} to ${end}`);
    if (start === end) return;
    const first = this.ranges.findIndex((range) => range.end >= start);
    const from = first === -1 ? this.ranges.length : first;
    let to = from;
    const merged = { start, end };
    for (let next = this.ranges[to]; next && next.start <= end; next = this.ranges[++to]) {
      merged.start = Math.min(merged.start, next.start);
      merged.end = Math.max(merged.end, next.end);
      this.totalBytes -= next.end - next.start;
    }
    this.ranges.splice(from, to - from, merged);
    this.totalBytes += merged.end - merged.start;
  }

  /** Whether all of [start, end) is there. */
  covers(start: number, end: number): boolean {
    return start >= end || this.firstGap(start, end) === undefined;
  }

  /** The first stretch within [start, end) that is missing, if any. */
  firstGap(start: number, end: number): ByteRange | undefined {
    let at = start;
    for (const range of this.ranges) {
      if (range.end <= at) continue;
      if (range.start > at) break;
      at = range.end;
    }
    if (at >= end) return undefined;
    const next = this.ranges.find((range) => range.start > at);
    return { start: at, end: Math.min(end, next?.start ?? end) };
  }

  /** A copy of the ranges, in order. */
  list(): ByteRange[] {
    return this.ranges.map(({ start, end }) => ({ start, end }));
  }

  /** Forgets all from `end` on. */
  clip(end: number): void {
    const kept = this.ranges.filter((range) => range.start < end);
    this.ranges = [];
    this.totalBytes = 0;
    for (const range of kept) this.add(range.start, Math.min(range.end, end));
  }
}
