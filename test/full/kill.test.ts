/** kill -9 in mid-spill, 50 times. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { killSpillers } from "../fault/spill.ts";
import { testSeed } from "../support/seed.ts";

test(
  "a process killed in mid-spill 50 times leaves nothing wrong and nothing stuck",
  { timeout: 900_000 },
  async () => {
    const report = await killSpillers(50, new Random(testSeed("kill 50")));
    console.log(report);
    expect(report.violations).toEqual([]);
    expect(report.served).toBeGreaterThan(0);
  },
);
