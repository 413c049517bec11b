/**
 * Whether promises were kept: requests counted by how they ended, goodput (those that finished within their objectives),
 * and the distributions of the times to first token and between tokens. It measures nothing itself.
 */
import { Histogram, type Quantiles } from "./histogram.ts";
import type { Objectives, RejectionReason } from "./objectives.ts";

/** Share of a request's gaps, the longest ones, whose mean is its time between tokens (Mooncake's definition). */
export const LONGEST_SHARE = 0.1;

/** The times of one request, told as its tokens come. */
export class RequestTimes {
  ttftMs: number | undefined;
  private readonly arrivedMs: number;
  private readonly gaps = new Histogram();
  private lastMs: number | undefined;

  constructor(arrivedMs: number) {
    this.arrivedMs = arrivedMs;
  }

  /** Tokens have come, all at once. */
  tokens(count: number, nowMs: number): void {
    if (count === 0) return;
    if (this.lastMs === undefined) this.ttftMs = nowMs - this.arrivedMs;
    else this.gaps.add(nowMs - this.lastMs);
    this.lastMs = nowMs;
  }

  get figures(): TimeFigures {
    const { ttftMs, gaps, arrivedMs, lastMs } = this;
    return {
      ttftMs,
      tbtMs: gaps.meanOfLongest(LONGEST_SHARE),
      tbtP99Ms: gaps.quantile(0.99),
      totalMs: lastMs === undefined ? undefined : lastMs - arrivedMs,
    };
  }
}

/** Undefined where it never came to it. */
export interface TimeFigures {
  ttftMs: number | undefined;
  /** The mean of the longest tenth of the gaps between tokens. */
  tbtMs: number | undefined;
  tbtP99Ms: number | undefined;
  /** From arrival to last token. */
  totalMs: number | undefined;
}

/** Whether all that was asked for was kept. */
export function keeps(times: TimeFigures, { ttftMs, tbtMs, deadlineMs }: Objectives): boolean {
  const within = (value: number | undefined, limit: number | undefined): boolean =>
    limit === undefined || value === undefined || value <= limit;
  return within(times.ttftMs, ttftMs) && within(times.tbtMs, tbtMs) && within(times.totalMs, deadlineMs);
}

/** How requests ended, and the times of those that finished. */
export interface GoodputFigures {
  /** Requests that finished within their objectives, and those that finished and did not. */
  kept: number;
  late: number;
  rejected: Record<RejectionReason, number>;
  aborted: number;
  failed: number;
  /** Of requests that finished. */
  ttftMs: Quantiles;
  tbtMs: Quantiles;
}

export class Goodput {
  private readonly counts = { kept: 0, late: 0, aborted: 0, failed: 0 };
  private readonly byReason: Record<RejectionReason, number> = { ttft: 0, tbt: 0, deadline: 0 };
  private readonly ttft = new Histogram();
  private readonly tbt = new Histogram();

  finished(times: TimeFigures, objectives: Objectives): void {
    this.counts[keeps(times, objectives) ? "kept" : "late"]++;
    if (times.ttftMs !== undefined) this.ttft.add(times.ttftMs);
    if (times.tbtMs !== undefined) this.tbt.add(times.tbtMs);
  }

  rejected(reason: RejectionReason): void {
    this.byReason[reason]++;
  }

  ended(how: "aborted" | "failed"): void {
    this.counts[how]++;
  }

  figures(): GoodputFigures {
    const { counts, byReason, ttft, tbt } = this;
    return { ...counts, rejected: { ...byReason }, ttftMs: ttft.quantiles(), tbtMs: tbt.quantiles() };
  }
}
