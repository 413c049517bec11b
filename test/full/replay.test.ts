/**
 * The replays that take minutes: every policy on the agent and chat traces at every size, against the reference's
 * numbers (marconi.md section 9) and against a grid of fixed weights. Prints the table.
 */
import { describe, expect, test } from "vitest";
import { costOf, namedShapes } from "../../src/sim/cost-shape.ts";
import type { PolicyName } from "../../src/cache/policy/policy.ts";
import { alphaGrid } from "../../src/cache/policy/alpha-tuner.ts";
import { replay } from "../../src/sim/replay.ts";
import type { Trace } from "../../src/sim/trace.ts";
import { sharedPresent, skipLoudly } from "../support/shared.ts";
import { givenTrace } from "../support/traces.ts";

const cost = costOf(namedShapes["nvidia-hybrid-7b"]!);

/** Token hit rate in per cent. */
function percent(trace: Trace, policy: PolicyName, gigabytes: number, alpha?: number): number {
  const fixed = alpha === undefined ? {} : { alpha };
  return replay(trace, { policy, capacity: { bytes: gigabytes * 1e9 }, cost, ...fixed }).tokenHitRate * 100;
}

interface Reference {
  trace: "swe" | "lmsyslike" | "sysprompt";
  gigabytes: number;
  vllm: number;
  sglang: number;
  /** What Marconi must reach; undefined where only the comparison with sglang and alpha = 0 counts. */
  marconi?: number;
}

const references: Reference[] = [
  { trace: "swe", gigabytes: 40, vllm: 2.78, sglang: 21.47, marconi: 29.74 },
  { trace: "swe", gigabytes: 60, vllm: 3.5, sglang: 36.4, marconi: 45.56 },
  { trace: "swe", gigabytes: 80, vllm: 4.36, sglang: 48.53, marconi: 58.85 },
  { trace: "swe", gigabytes: 100, vllm: 5.47, sglang: 57.04, marconi: 63.08 },
  { trace: "lmsyslike", gigabytes: 1, vllm: 4.1, sglang: 8.37 },
  { trace: "lmsyslike", gigabytes: 2, vllm: 4.17, sglang: 17.88 },
  { trace: "lmsyslike", gigabytes: 3, vllm: 4.21, sglang: 27.2 },
  { trace: "lmsyslike", gigabytes: 5, vllm: 4.83, sglang: 41.24 },
  { trace: "lmsyslike", gigabytes: 10, vllm: 8.47, sglang: 68.45 },
  { trace: "lmsyslike", gigabytes: 20, vllm: 16.58, sglang: 88.33 },
  { trace: "sysprompt", gigabytes: 1, vllm: 13.66, sglang: 29.19 },
  { trace: "sysprompt", gigabytes: 2, vllm: 15.23, sglang: 41.95 },
  { trace: "sysprompt", gigabytes: 3, vllm: 18.48, sglang: 48.27 },
  { trace: "sysprompt", gigabytes: 5, vllm: 24.94, sglang: 56.44 },
  { trace: "sysprompt", gigabytes: 10, vllm: 34.6, sglang: 71.49 },
  { trace: "sysprompt", gigabytes: 20, vllm: 43.38, sglang: 85.89 },
];

/** How far Marconi may stay below the better of sglang and alpha = 0, in points. */
const slack = 1;

if (!sharedPresent) skipLoudly("full/replay", references.length);

describe.skipIf(!sharedPresent)("token hit rates on hybrid-model traces", () => {
  test.each(references)("$trace, $gigabytes GB", { timeout: 600_000 }, async (reference) => {
    const trace = await givenTrace(reference.trace);
    const { gigabytes } = reference;
    const [vllm, sglang, marconi, offline] = (["vllm", "sglang", "marconi", "offline"] as const).map(
      (policy) => percent(trace, policy, gigabytes),
    ) as [number, number, number, number];
    const fixed = alphaGrid.map((alpha) => percent(trace, "marconi", gigabytes, alpha));
    const best = Math.max(...fixed);
    const row = { vllm, sglang, marconi, "alpha = 0": fixed[0]!, "best alpha": best, offline };
    const cells = Object.entries(row).map(([name, rate]) => `${name} ${rate.toFixed(2)}`);
    console.log(
      `${reference.trace} ${gigabytes} GB: ${cells.join(", ")} (${alphaGrid[fixed.indexOf(best)]})`,
    );
    expect(Math.abs(vllm - reference.vllm)).toBeLessThan(1);
    expect(Math.abs(sglang - reference.sglang)).toBeLessThan(1);
    expect(marconi).toBeGreaterThanOrEqual(reference.marconi ?? 0);
    expect(marconi).toBeGreaterThanOrEqual(Math.max(sglang, fixed[0]!) - slack);
    expect(offline).toBeGreaterThan(Math.max(vllm, sglang, marconi, best));
  });
});
