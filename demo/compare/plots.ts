/** What the four plots show of the results. It draws nothing itself (plot.ts) and runs nothing. */
import type { PolicyName } from "../../src/sim/index.ts";
import { quantileShares, timePoints } from "../../src/sim/index.ts";
import type { Result, TraceFacts } from "./messages.ts";
import { capacityText, countText, durationText, percentText, shortText } from "./numbers.ts";
import type { Drawing, Line } from "./plot.ts";
import type { Look } from "./settings.ts";

/** Everything that is known of a comparison so far. */
export interface Findings {
  policies: readonly PolicyName[];
  capacities: readonly number[];
  facts: TraceFacts | undefined;
  results: readonly Result[];
}

export function resultAt(
  { results }: Findings,
  policy: PolicyName,
  capacityBytes: number,
): Result | undefined {
  return results.find(({ job }) => job.policy === policy && job.capacityBytes === capacityBytes);
}

/** Hit rate against capacity. */
export function hitDrawing(findings: Findings, look: Look): Drawing {
  const isToken = look.hit === "token";
  return {
    ...overCapacity(findings, ({ row }) => (isToken ? row.tokenHitRate : row.blockHitRate)),
    title: "Hit rate",
    note: isToken
      ? "Share of prompt tokens that need not be computed because they are cached."
      : "Share of prompt blocks in the longest cached prefix.",
    yLabel: isToken ? "prompt tokens reused" : "blocks reused",
    yText: percentText,
    yTick: (share) => `${Math.round(share * 100)}%`,
    yEnds: [0, 1],
  };
}

/** Tokens or FLOPs saved against capacity. */
export function savedDrawing(findings: Findings, look: Look): Drawing {
  const isTokens = look.saved === "tokens";
  const tokens = findings.facts?.inputTokens ?? 0;
  const all = isTokens && tokens > 0 ? ` The trace has ${shortText(tokens)} prompt tokens.` : "";
  return {
    ...overCapacity(findings, ({ row }) => (isTokens ? row.tokenHitRate * tokens : row.flopsSaved)),
    title: "Saved",
    note: `${isTokens ? "Prompt tokens" : "FLOPs of prefill"} that need not be computed, over the whole trace.${all}`,
    yLabel: isTokens ? "tokens saved" : "FLOPs saved",
    yText: shortText,
  };
}

/** Predicted time to first token, as its distribution. */
export function ttftDrawing(findings: Findings, look: Look): Drawing {
  const lines = linesAt(findings, look, ({ series }) => series.ttftMs && [...series.ttftMs]);
  const { facts } = findings;
  const model = facts?.isServed
    ? "The engine's scheduler, in simulated time with overlapping requests"
    : "One queue of prompts, in order of arrival";
  const rate = facts ? `; ${countText(facts.timing.prefillTokensPerSecond)} prompt tokens per second` : "";
  return {
    ...{ title: "Time to first token", lines, xs: quantileShares.map((share) => share * 100) },
    note: `${model}${rate}.`,
    ...{
      xLabel: "share of requests that are at least as fast",
      xText: (x) => `p${x}`,
      xTick: (x) => `${x}%`,
    },
    xMarks: [0, 25, 50, 75, 90, 99],
    ...{ yLabel: "time to first token", yText: durationText, logY: true },
    rows: [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1].map((share) => quantileShares.indexOf(share)),
  };
}

/** Evictions over the time of the trace. */
export function evictionDrawing(findings: Findings, look: Look): Drawing {
  const minutes = (findings.facts?.durationMs ?? 0) / 60_000;
  const xs = Array.from({ length: timePoints }, (_, i) => (i * minutes) / (timePoints - 1));
  const last = timePoints - 1;
  return {
    ...{
      title: "Evictions over time",
      lines: linesAt(findings, look, ({ series }) => [...series.evictions]),
      xs,
    },
    note: "Leaves and snapshots that were evicted since the trace began.",
    ...{
      xLabel: "minutes in the trace",
      xText: (x) => `${x.toFixed(1)} min`,
      xTick: String,
      yLabel: "evictions so far",
    },
    ...{ yText: countText, yTick: shortText },
    rows: Array.from({ length: 11 }, (_, i) => (i * last) / 10),
  };
}

type OverCapacity = Pick<Drawing, "xs" | "lines" | "xLabel" | "xText" | "xTick" | "xMarks" | "logX">;

function overCapacity(findings: Findings, value: (result: Result) => number): OverCapacity {
  const xs = [...findings.capacities];
  const lines = findings.policies.map((policy): Line => {
    const values = xs.map((capacity) => {
      const result = resultAt(findings, policy, capacity);
      return result ? value(result) : null;
    });
    return { policy, values };
  });
  return {
    xs,
    lines,
    xLabel: "capacity",
    xText: capacityText,
    xTick: capacityText,
    xMarks: xs,
    logX: xs.length > 1,
  };
}

function linesAt(findings: Findings, look: Look, values: (result: Result) => number[] | undefined): Line[] {
  const capacity = findings.capacities[look.at];
  return findings.policies.flatMap((policy) => {
    const result = capacity === undefined ? undefined : resultAt(findings, policy, capacity);
    const found = result && values(result);
    return found ? [{ policy, values: found }] : [];
  });
}
