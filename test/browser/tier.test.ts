/** OPFS and IndexedDB in a real browser: conformance, two tabs on one store, tabs killed in mid-spill, storage cleared. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { testSeed } from "../support/seed.ts";
import { killTabs, openTierPage, type TestWindow, type TierPage } from "./tier-page.ts";

const CHAIN_BLOCKS = 6;

describe("tiers in Chromium", { timeout: 180_000 }, () => {
  let tierPage: TierPage;
  beforeAll(async () => {
    tierPage = await openTierPage();
  }, 120_000);
  afterAll(() => tierPage.close());

  test("OPFS and IndexedDB pass the conformance suite", async () => {
    const page = await tierPage.tab();
    const result = await page.evaluate(() => (window as unknown as TestWindow).tierTests.run());
    expect(result.failures).toEqual([]);
    expect(result.passed).toBe(38);
    await page.close();
  });

  for (const kind of ["opfs", "idb"] as const) {
    test(`two tabs share one store on ${kind}`, async () => {
      const place = `shared-${kind}`;
      const [a, b] = [await tierPage.tab(), await tierPage.tab()];
      for (const page of [a, b]) {
        const state = await page.evaluate(
          ([backend, name]) => (window as unknown as TestWindow).tierTests.open(backend, name),
          [kind, place] as const,
        );
        expect(state).toBe("open");
      }
      expect(await a.evaluate(() => (window as unknown as TestWindow).tierTests.write(1))).toBe(0);
      expect(await b.evaluate(() => (window as unknown as TestWindow).tierTests.read(1))).toBe(CHAIN_BLOCKS);
      expect(await b.evaluate(() => (window as unknown as TestWindow).tierTests.write(2))).toBe(0);
      expect(await a.evaluate(() => (window as unknown as TestWindow).tierTests.read(2))).toBe(CHAIN_BLOCKS);
      await a.close();
      expect(await b.evaluate(() => (window as unknown as TestWindow).tierTests.read(1))).toBe(CHAIN_BLOCKS);
      await b.close();
    });
  }

  test("tabs killed in mid-spill leave nothing wrong and nothing stuck", async () => {
    const random = new Random(testSeed("tab kills"));
    const report = await killTabs(tierPage, 4, () => 100 + random.below(400));
    console.log(report);
    expect(report.served).toBe(report.drained * CHAIN_BLOCKS);
  });

  test("storage cleared while running: misses, no exception, and the store goes on", async () => {
    const page = await tierPage.tab();
    const place = "cleared";
    await page.evaluate((name) => (window as unknown as TestWindow).tierTests.open("opfs", name), place);
    await page.evaluate(() => (window as unknown as TestWindow).tierTests.write(1));
    const session = await tierPage.context.newCDPSession(page);
    const origin = new URL(page.url()).origin;
    await session.send("Storage.clearDataForOrigin", { origin, storageTypes: "all" });
    const after = await page.evaluate(async () => {
      const { tierTests } = window as unknown as TestWindow;
      const left = await tierTests.write(2);
      await tierTests.verify();
      const read = await tierTests.read(2);
      const again = await tierTests.write(3);
      return { left, read, again, readAgain: await tierTests.read(3), notices: tierTests.notices };
    });
    console.log("after clearing:", after);
    expect(after.read === 0 || after.read === CHAIN_BLOCKS).toBe(true);
    expect(after.readAgain).toBe(CHAIN_BLOCKS);
    expect(new Set(after.notices).size).toBe(after.notices.length);
    await page.close();
  });
});
