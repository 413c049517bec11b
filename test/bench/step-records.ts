/**
 * The steps of an engine that a benchmark has heard of: what ran in a gap between two tokens, and what a request's time to its first
 * token was made of. It measures nothing itself.
 */
import type { RanStep } from "../../src/worker/slo/step-clock.ts";

/** Reports of steps and of tokens reach the benchmark so far apart, at most. */
const SAME_MS = 3;

export interface Gap {
  fromMs: number;
  toMs: number;
}

/** Why a gap was longer than its objective. */
export interface GapCauses {
  /** Its steps were expected to take longer than the objective. */
  planned: number;
  /** Steps took longer than expected. */
  slow: number;
  /** More than half of it no step ran. */
  idle: number;
}

/** What a time to first token is made of, predicted or measured. */
export interface FirstTokenParts {
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
}

export class StepRecords {
  private steps: RanStep[] = [];

  readonly add = (step: RanStep): void => void this.steps.push(step);

  clear(): void {
    this.steps = [];
  }

  /** Gaps of requests that waited for the same steps count as one. */
  causes(gaps: readonly Gap[], limitMs: number): { causes: GapCauses; worst: string | undefined } {
    const causes: GapCauses = { planned: 0, slow: 0, idle: 0 };
    let worst: { ms: number; steps: RanStep[] } | undefined;
    const seen = new Set<number>();
    for (const { fromMs, toMs } of gaps) {
      const ms = toMs - fromMs;
      if (ms <= limitMs || seen.has(Math.round(toMs))) continue;
      seen.add(Math.round(toMs));
      const steps = this.between(fromMs, toMs);
      causes[causeOf(steps, ms, limitMs)]++;
      if (!worst || ms > worst.ms) worst = { ms, steps };
    }
    return { causes, worst: worst && `${worst.ms.toFixed(0)} ms: ${worst.steps.map(describe).join(", ")}` };
  }

  /** Of a request that arrived, by its prompt: undefined if none of its steps is known. */
  partsOf(prompt: readonly number[], arrivedMs: number): FirstTokenParts | undefined {
    const isOwn = ({ plan: { phase, spans } }: RanStep): boolean =>
      phase === "prefill" && spans.some(({ request }) => startsWith(request.tokens, prompt));
    const own = this.steps.filter((step) => step.startedMs >= arrivedMs - SAME_MS && isOwn(step));
    const [first, last] = [own[0], own.at(-1)];
    if (!first || !last) return undefined;
    const within = this.steps.filter(
      ({ plan, startedMs }) =>
        plan.phase === "decode" && startedMs >= first.startedMs && startedMs < last.startedMs,
    );
    const [prefillMs, decodeMs] = [total(own), total(within)];
    return { queueMs: last.endedMs - arrivedMs - prefillMs - decodeMs, prefillMs, decodeMs };
  }

  private between(fromMs: number, toMs: number): RanStep[] {
    return this.steps.filter(({ endedMs }) => endedMs > fromMs + SAME_MS && endedMs <= toMs + SAME_MS);
  }
}

function causeOf(steps: readonly RanStep[], ms: number, limitMs: number): keyof GapCauses {
  if (total(steps) < ms / 2) return "idle";
  return steps.reduce((sum, { expectedMs }) => sum + expectedMs, 0) > limitMs ? "planned" : "slow";
}

function total(steps: readonly RanStep[]): number {
  return steps.reduce((sum, { startedMs, endedMs }) => sum + endedMs - startedMs, 0);
}

function describe({ plan: { phase, spans }, startedMs, endedMs, expectedMs }: RanStep): string {
  const tokens = spans.reduce((sum, { count }) => sum + count, 0);
  return `${phase} of ${tokens} took ${(endedMs - startedMs).toFixed(0)}, expected ${expectedMs.toFixed(0)}`;
}

function startsWith(tokens: readonly number[], prompt: readonly number[]): boolean {
  return prompt.every((token, at) => tokens[at] === token);
}
