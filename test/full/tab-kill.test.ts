/** Tabs killed in mid-spill, 50 times. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { killTabs, openTierPage } from "../browser/tier-page.ts";
import { testSeed } from "../support/seed.ts";

test(
  "tabs killed in mid-spill 50 times leave nothing wrong and nothing stuck",
  { timeout: 1_200_000 },
  async () => {
    const tierPage = await openTierPage();
    const random = new Random(testSeed("tab kills 50"));
    const report = await killTabs(tierPage, 50, () => 50 + random.below(500));
    await tierPage.close();
    console.log(report);
    expect(report.served).toBe(report.drained * 6);
  },
);
