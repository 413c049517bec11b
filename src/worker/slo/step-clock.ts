/** Tells the cost model how long steps took, and how long those under way still take. It holds no figures; schedule/cost/ does. */
import type { CostModel } from "../../schedule/cost/model.ts";
import type { Plan } from "../../schedule/scheduler.ts";

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

  constructor(costs: CostModel, nowMs: () => number) {
    this.costs = costs;
    this.nowMs = nowMs;
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
    const { phase, spans } = step.plan;
    const nowMs = this.nowMs();
    this.lastEndMs = nowMs;
    const time = { ms: nowMs - step.submittedMs, nowMs };
    if (phase === "decode") this.costs.decoded(rowsOf(spans), contextOf(spans), time);
    else for (const { count, from } of spans) this.costs.prefilled(count, from, time);
  }

  /** Nothing will be heard of the steps under way. */
  dropped(): void {
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
