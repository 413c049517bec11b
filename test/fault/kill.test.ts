/** kill -9 in mid-spill, a few times (50 times in test/full). */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { testSeed } from "../support/seed.ts";
import { killSpillers } from "./spill.ts";

test(
  "a process killed in mid-spill leaves nothing wrong and nothing stuck",
  { timeout: 120_000 },
  async () => {
    const report = await killSpillers(4, new Random(testSeed("kill")));
    console.log(report);
    expect(report.violations).toEqual([]);
  },
);
