/** How far predictions were off: of the last ones the median relative error. It predicts nothing. */

/** What is predicted: a prefill step, a decode step, a load from a lower tier, the time to the first token. */
export type PredictedKind = "prefill" | "decode" | "move" | "ttft";

/** Of the last predictions of one kind. */
export interface ErrorFigures {
  /** Predictions so far. */
  count: number;
  /** Median of |predicted - measured| / measured over the last `ERROR_WINDOW` of them; undefined before the first. */
  median: number | undefined;
}

export const ERROR_WINDOW = 64;

export class PredictionErrors {
  private count = 0;
  private last: number[] = [];

  /** @param predicted as it was before the measurement was known */
  add(predictedMs: number, measuredMs: number): void {
    if (!Number.isFinite(predictedMs) || !(measuredMs > 0)) return;
    this.count++;
    this.last = [...this.last.slice(1 - ERROR_WINDOW), Math.abs(predictedMs - measuredMs) / measuredMs];
  }

  get figures(): ErrorFigures {
    const sorted = [...this.last].sort((a, b) => a - b);
    return { count: this.count, median: sorted[Math.floor((sorted.length - 1) / 2)] };
  }
}
