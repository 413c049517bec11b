/**
 * Tokens per second of all loads from one tier, while any is under way: what one takes by itself says little, because
 * several share the medium. Measured anew each time as many have ended as may be under way at once, or none is left. Pure.
 */

/** Weight of the newest measurement in a rate. */
const RATE_WEIGHT = 0.5;

export class LoadRate {
  /** 0 until measured. */
  perSecond = 0;
  private readonly windowTokens: number;
  private readonly measured: (tokens: number, ms: number) => void;
  private underWay = 0;
  private sinceMs = 0;
  private tokens = 0;

  /** @param measured told of each window, before the rate takes it in */
  constructor(windowTokens: number, measured: (tokens: number, ms: number) => void = () => {}) {
    this.windowTokens = windowTokens;
    this.measured = measured;
  }

  begin(nowMs: number): void {
    if (this.underWay++ > 0) return;
    this.sinceMs = nowMs;
    this.tokens = 0;
  }

  end(nowMs: number, tokens: number): void {
    this.tokens += tokens;
    this.underWay--;
    if (this.tokens === 0 || (this.underWay > 0 && this.tokens < this.windowTokens)) return;
    const tookMs = Math.max(nowMs - this.sinceMs, 0.01);
    this.measured(this.tokens, tookMs);
    this.perSecond = blend(this.perSecond, (1000 * this.tokens) / tookMs);
    this.sinceMs = nowMs;
    this.tokens = 0;
  }
}

/** Geometric, so that a rate that was far too high is left as soon as one that was far too low. */
function blend(rate: number, measured: number): number {
  return rate === 0 ? measured : rate ** (1 - RATE_WEIGHT) * measured ** RATE_WEIGHT;
}
