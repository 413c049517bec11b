/**
 * Tells the cost model how long steps took, and how long those under way still take. It holds no figures; schedule/cost/ does.
 *
 * A host that is busy, or a runtime that polls, hears of two steps at once: the second seems to have taken nothing, and the first took
 * less than it seems. Such steps are measured together, and each is told its share by what was expected of it.
 */
import type { CostModel, StepCosts } from "../../schedule/cost/model.ts";
import type { Plan } from "../../schedule/scheduler.ts";

/** The last steps of a phase by which its slow ones are judged: all but a fiftieth of them were not slower. */
const JUDGED_STEPS = 128;
const SLOW_SHARE = 0.98;
/** No step is taken to be so many times slower than expected, whatever the machine is busy with. */
const MAX_SLOWNESS = 4;

/** A step of which this share of what was expected seems to have taken place has ended before: it was reported late. */
const LATE_SHARE = 0.25;

/** A step that has run, as it was reported. */
export interface RanStep {
  plan: Plan;
  /** When it was submitted, or the step before it had ended. */
  startedMs: number;
  endedMs: number;
  expectedMs: number;
}

/** A step that was submitted. */
interface StepUnderWay {
  plan: Plan;
  submittedMs: number;
  expectedMs: number;
}

export class StepClock {
  private readonly costs: CostModel;
  private readonly nowMs: () => number;
  /** The oldest first. */
  private underWay: StepUnderWay[] = [];
  private lastEndMs = -Infinity;
  /** Steps that have ended, the last one's time and those that were reported with it; not told yet. */
  private ended: { steps: StepUnderWay[]; startedMs: number; tookMs: number } | undefined;
  /** A short step that is reported late took many times what was expected, and a long one did not: each phase has its own. */
  private readonly pace = { prefill: new PhasePace(), decode: new PhasePace() };
  /** What a step takes in the mean. */
  readonly mean: StepCosts;
  /** What a slow step takes: time between tokens is promised, and measured, by the slow ones. */
  readonly slow: StepCosts;
  private readonly onStep: ((step: RanStep) => void) | undefined;

  /** @param onStep for measuring */
  constructor(costs: CostModel, nowMs: () => number, onStep?: (step: RanStep) => void) {
    this.costs = costs;
    this.nowMs = nowMs;
    this.onStep = onStep;
    this.mean = this.times("excess");
    this.slow = this.times("slowness");
  }

  private times(what: "excess" | "slowness"): StepCosts {
    const { pace, costs } = this;
    return {
      prefillMs: (tokens, from) => pace.prefill[what] * costs.prefillMs(tokens, from),
      decodeMs: (rows, contextTokens) => pace.decode[what] * costs.decodeMs(rows, contextTokens),
    };
  }

  submitted(plan: Plan): StepUnderWay {
    const step = { plan, submittedMs: this.nowMs(), expectedMs: expectedMs(plan, this.costs) };
    this.underWay.push(step);
    return step;
  }

  /** A step has run; one that was dropped says nothing. */
  ran(step: StepUnderWay): void {
    if (!this.underWay.includes(step)) return;
    this.underWay = this.underWay.filter((other) => other !== step);
    const nowMs = this.nowMs();
    const startedMs = Math.max(step.submittedMs, this.lastEndMs);
    const isLate = this.lastEndMs >= step.submittedMs && nowMs - startedMs < LATE_SHARE * step.expectedMs;
    this.lastEndMs = nowMs;
    this.onStep?.({ plan: step.plan, startedMs, endedMs: nowMs, expectedMs: step.expectedMs });
    if (isLate && this.ended) {
      this.ended.steps.push(step);
      this.ended.tookMs = nowMs - this.ended.startedMs;
    } else {
      this.tell();
      this.ended = { steps: [step], startedMs, tookMs: nowMs - startedMs };
    }
    if (this.underWay.length === 0) this.tell(); // none can be reported with it
  }

  /** What the steps have taken that ended last. */
  private tell(): void {
    const { ended } = this;
    if (!ended) return;
    this.ended = undefined;
    const { steps, startedMs, tookMs } = ended;
    const multiple = tookMs / steps.reduce((sum, { expectedMs: ms }) => sum + ms, 0);
    let nowMs = startedMs;
    for (const { plan, expectedMs: expected } of steps) {
      const ms = multiple * expected;
      nowMs += ms;
      const { phase, spans } = plan;
      this.pace[phase].add(multiple);
      if (phase === "decode") this.costs.decoded(rowsOf(spans), contextOf(spans), { ms, nowMs });
      else for (const { count, from } of spans) this.costs.prefilled(count, from, { ms, nowMs });
    }
  }

  /** Nothing will be heard of the steps under way. */
  dropped(): void {
    this.tell();
    this.underWay = [];
  }

  /** What the steps under way still take. */
  busyMs(): number {
    const [oldest] = this.underWay;
    if (!oldest) return 0;
    const expected = this.underWay.reduce((sum, step) => sum + step.expectedMs, 0);
    return Math.max(0, expected - (this.nowMs() - Math.max(oldest.submittedMs, this.lastEndMs)));
  }
}

/** By how much the steps of one phase exceed what is expected: the cost model follows the usual step. */
class PhasePace {
  /** Of the last steps, what each took as a multiple of what was expected. */
  private multiples: number[] = [];
  /** Of the slow ones. */
  slowness = 1;
  /** In the mean, by which sums of steps go. */
  excess = 1;

  add(multiple: number): void {
    this.multiples = [...this.multiples.slice(1 - JUDGED_STEPS), multiple];
    const sorted = Float64Array.from(this.multiples).sort();
    this.slowness = bounded(sorted[Math.floor(SLOW_SHARE * sorted.length)] ?? 1);
    this.excess = bounded(
      sorted.reduce((sum, each) => sum + Math.min(each, MAX_SLOWNESS), 0) / sorted.length,
    );
  }
}

function expectedMs({ phase, spans }: Plan, costs: CostModel): number {
  if (phase === "decode") return costs.decodeMs(rowsOf(spans), contextOf(spans));
  return spans.reduce((sum, { count, from }) => sum + costs.prefillMs(count, from), 0);
}

function rowsOf(spans: Plan["spans"]): number {
  return spans.reduce((sum, { count }) => sum + count, 0);
}

function contextOf(spans: Plan["spans"]): number {
  return spans.reduce((sum, { from, count }) => sum + from + count, 0);
}

function bounded(multiple: number): number {
  return Math.min(MAX_SLOWNESS, Math.max(1, multiple));
}
