/** OPFS and IndexedDB in a real browser: conformance, two tabs on one store, tabs killed in mid-spill, storage cleared. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { FORMAT_VERSION } from "../../src/tier/record/record.ts";
import { PATIENT_MS } from "../support/chromium.ts";
import { testSeed } from "../support/seed.ts";
import { killTabs, openTierPage, type TestWindow, type TierPage } from "./tier-page.ts";

const CHAIN_BLOCKS = 6;

/** In a tab: a database as a version before this one may have left it, its connection open. */
function olderDatabase({ place, leaves }: { place: string; leaves: boolean }): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(place, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("heads").put({ key: "k", bytes: 3 }, "k");
      request.result.createObjectStore("segments").put(new Uint8Array(3), "s");
    };
    request.onsuccess = () => {
      if (leaves) request.result.onversionchange = () => request.result.close();
      resolve();
    };
    request.onerror = () => reject(request.error ?? new Error("no database"));
  });
}

/** In a tab: deletes a database, which a connection that does not hear of it holds up. */
function deletionOf(place: string): Promise<"deleted" | "blocked"> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(place);
    request.onsuccess = () => resolve("deleted");
    request.onblocked = () => resolve("blocked");
    request.onerror = () => reject(request.error ?? new Error("no deletion"));
  });
}

/** In a tab: what a database is like now. */
function storesOf(place: string): Promise<{ version: number; stores: string[] }> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(place);
    request.onsuccess = () => {
      const { version, objectStoreNames } = request.result;
      request.result.close();
      resolve({ version, stores: [...objectStoreNames] });
    };
    request.onerror = () => reject(request.error ?? new Error("no database"));
  });
}

describe("tiers in Chromium", { timeout: PATIENT_MS }, () => {
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

  for (const leaves of [true, false]) {
    test(`a database of an older version is made anew${leaves ? ", also while its tab is open" : ", once its tab lets go of it"}`, async () => {
      const [old, page] = [await tierPage.tab(), await tierPage.tab()];
      const place = `older-${leaves}`;
      await old.evaluate(olderDatabase, { place, leaves });
      const open = () =>
        page.evaluate((name) => (window as unknown as TestWindow).tierTests.open("idb", name), place);
      if (!leaves) {
        expect(await open()).not.toBe("open");
        await old.close();
        expect(await page.evaluate(deletionOf, place)).toBe("deleted");
      }
      expect(await open()).toBe("open");
      expect(await page.evaluate(storesOf, place)).toEqual({
        version: FORMAT_VERSION,
        stores: ["bodies", "heads"],
      });
      expect(await page.evaluate(() => (window as unknown as TestWindow).tierTests.read(1))).toBe(0);
      expect(await page.evaluate(() => (window as unknown as TestWindow).tierTests.write(1))).toBe(0);
      expect(await page.evaluate(() => (window as unknown as TestWindow).tierTests.read(1))).toBe(
        CHAIN_BLOCKS,
      );
      await Promise.all([old.close(), page.close()]);
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
