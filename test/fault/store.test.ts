/** The store over a failing disk: nothing wrong is ever served, nothing leaks, it always opens. And a test of the test. */
import { describe, expect, test } from "vitest";
import { tries } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";
import { fuzz, type FuzzReport } from "./fuzz.ts";

const RUNS = tries(900);

function print(report: FuzzReport): void {
  const { runs, restarts, hits, misses } = report;
  console.log(`${runs} runs, ${restarts} starts, ${hits} hits, ${misses} misses; injected faults:`);
  for (const [name, count] of [...report.injected].sort()) console.log(`  ${name}: ${count}`);
}

describe("store over a failing disk", () => {
  test(`${RUNS} runs`, { timeout: 300_000 }, async () => {
    const report = await fuzz(testSeed("store faults"), RUNS);
    print(report);
    expect(report.violations).toEqual([]);
    expect(report.hits).toBeGreaterThan(RUNS);
  });

  test("with the checksums believed, wrong bytes are found out", { timeout: 120_000 }, async () => {
    const report = await fuzz(testSeed("trusting"), 1000, { trustRecords: true });
    expect(report.violations.filter((violation) => violation.includes("wrong"))).not.toEqual([]);
  });

  test("with the commit marks written first, half records are found out", { timeout: 120_000 }, async () => {
    const report = await fuzz(testSeed("marks first"), 1000, { logFirst: true });
    expect(report.violations.filter((violation) => violation.includes("half-committed"))).not.toEqual([]);
  });
});
