/** Replays of the given traces against the reference's numbers (mooncake.md section 6, marconi.md section 9); those that
 * take minutes are in test/full. */
import { describe, expect, test } from "vitest";
import { costOf, namedShapes } from "../../src/sim/cost-shape.ts";
import type { PolicyName } from "../../src/cache/policy/policy.ts";
import { replay, replaySteps } from "../../src/sim/replay.ts";
import type { ReplayRow } from "../../src/sim/replay.ts";
import type { Trace } from "../../src/sim/trace.ts";
import { defaultWorkloads, generate } from "../../src/sim/workload.ts";
import { sharedPresent, skipLoudly } from "../support/shared.ts";
import { givenTrace } from "../support/traces.ts";

const hybrid = costOf(namedShapes["nvidia-hybrid-7b"]!);
const dense = costOf(namedShapes["llama3-70b"]!);

const hybridRow = (trace: Trace, policy: PolicyName, gigabytes: number, alpha?: number): ReplayRow =>
  replay(trace, {
    policy,
    capacity: { bytes: gigabytes * 1e9 },
    cost: hybrid,
    ...(alpha === undefined ? {} : { alpha }),
  });

if (!sharedPresent) skipLoudly("sim-replay", 24);

describe.skipIf(!sharedPresent)("conversation trace, prefix hit rate in blocks", () => {
  const capacities = [Infinity, 100_000, 50_000, 30_000, 10_000, 1000];
  const reference = {
    lru: [0.3664, 0.3637, 0.3546, 0.3257, 0.2112, 0.0445],
    lfu: [0.3664, 0.3631, 0.3438, 0.2759, 0.1318, 0.0481],
    "length-aware": [0.3664, 0.3631, 0.3439, 0.276, 0.1317, 0.0481],
  };
  const cases = (["lru", "lfu", "length-aware"] as const).flatMap((policy) =>
    capacities.map((blocks, i) => ({ policy, blocks, expected: reference[policy][i]! })),
  );
  test.each(cases)("$policy, $blocks blocks: $expected", async ({ policy, blocks, expected }) => {
    const trace = await givenTrace("conversation");
    const capacity = blocks === Infinity ? "inf" : { blocks };
    const row = replay(trace, { policy, capacity, cost: dense });
    const tolerance = blocks >= 10_000 ? 0.001 : 0.005;
    expect(Math.abs(row.blockHitRate - expected)).toBeLessThanOrEqual(tolerance);
    expect(row.bytesPeak).toBeLessThanOrEqual(blocks * 512 * dense.bytesPerToken);
    expect(row).toMatchObject({ requests: 12_031, snapshotsTaken: 0, alpha: null });
  });
});

describe.skipIf(!sharedPresent)("agent trace, token hit rate (thinned: the rest is in test/full)", () => {
  test.each([
    [40, 21.47],
    [60, 36.4],
    [80, 48.53],
    [100, 57.04],
  ])("sglang at %d GB: %d%%", async (gigabytes, expected) => {
    const row = hybridRow(await givenTrace("swe"), "sglang", gigabytes);
    expect(Math.abs(row.tokenHitRate * 100 - expected)).toBeLessThan(1);
    expect(row.bytesPeak).toBeLessThanOrEqual(gigabytes * 1e9);
  });

  test("marconi without weight at 80 GB reaches the reference's 58.85%", async () => {
    expect(hybridRow(await givenTrace("swe"), "marconi", 80, 0).tokenHitRate).toBeGreaterThanOrEqual(0.5885);
  });
});

describe.skipIf(!sharedPresent)("chat with system prompts at 1 GB", () => {
  test("marconi, tuned, is not more than a point below the better of sglang and alpha = 0", async () => {
    const trace = await givenTrace("sysprompt");
    const better = Math.max(
      hybridRow(trace, "sglang", 1).tokenHitRate,
      hybridRow(trace, "marconi", 1, 0).tokenHitRate,
    );
    expect(hybridRow(trace, "marconi", 1).tokenHitRate).toBeGreaterThan(better - 0.01);
  });
});

test("the offline bound is above every policy, and no cap is below a cap", () => {
  const trace = generate({ ...defaultWorkloads.chat, sessions: 60, seed: 3 });
  const rate = (policy: PolicyName, gigabytes: number): number =>
    hybridRow(trace, policy, gigabytes).tokenHitRate;
  const offline = rate("offline", 3);
  for (const policy of ["lru", "lfu", "vllm", "sglang", "marconi"] as const) {
    expect(rate(policy, 3), policy).toBeLessThan(offline);
    const unlimited = replay(trace, { policy, capacity: "inf", cost: hybrid });
    expect(unlimited.tokenHitRate, policy).toBeGreaterThanOrEqual(rate(policy, 3));
    expect(unlimited.evictions).toBe(0);
  }
});

test("a replay in slices reports progress, can be cancelled, and gives the same row", () => {
  const trace = generate({ ...defaultWorkloads["few-shot"], sessions: 200 });
  const clock = { nowMs: () => 0 };
  const options = { policy: "sglang", capacity: { bytes: 3e9 }, cost: hybrid, clock } as const;
  const steps = replaySteps(trace, options);
  expect(steps.next()).toEqual({ done: false, value: { done: 0, total: 200 } });
  let last = steps.next();
  while (last.done !== true) last = steps.next();
  expect(last.value).toEqual(replay(trace, options));
  const cancelled = replaySteps(trace, options);
  cancelled.next();
  expect(cancelled.return({} as ReplayRow).done).toBe(true);
});

test("rows count what the issue defines, on a trace small enough to check by hand", () => {
  const piece = (from: number, length: number): Int32Array => Int32Array.from({ length }, (_, i) => from + i);
  const request = (input: Int32Array[], output: Int32Array) => {
    const inputTokens = input.reduce((sum, part) => sum + part.length, 0);
    const pieces = [...input, output];
    return { timestampMs: 0, inputTokens, outputTokens: output.length, inputSymbols: inputTokens, pieces };
  };
  const [user, answer, next] = [piece(0, 40), piece(1000, 24), piece(2000, 16)];
  const requests = [request([user], answer), request([user, answer, next], piece(3000, 8))];
  const trace = { name: "hand", symbolTokens: 1, requests };
  const clock = { nowMs: () => 5 };
  const row = replay(trace, { policy: "marconi", capacity: "inf", cost: hybrid, blockTokens: 16, clock });
  expect(row).toEqual({
    policy: "marconi",
    capacity: "inf",
    requests: 2,
    blockHitRate: 4 / 8, // 64 of 40 and 80 tokens, in blocks of 16: 4 of 3 + 5
    tokenHitRate: 64 / 120,
    flopsSaved: hybrid.flopsLinear * 64 + hybrid.flopsQuadratic * 64 * 64,
    bytesPeak: 88 * hybrid.bytesPerToken + 2 * hybrid.bytesPerSnapshot,
    snapshotsTaken: 2,
    evictions: 0,
    alpha: 0,
    seconds: 0,
  });
});
