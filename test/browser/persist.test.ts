/**
 * Prompts that outlive the page in headless Chromium: reloads, restarts, other tabs, and storage that is missing, full
 * or cleared. It drives the built library on a bare page (stored-page.ts); times are printed, never asserted.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { GenerationResult } from "../../src/index.ts";
import { launchProfile, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import type { FileServer } from "../support/serve.ts";
import {
  ask,
  closeEngine,
  drain,
  modelFolder,
  openEngine,
  openTab,
  readingOf,
  servePage,
  statsOf,
} from "./stored-page.ts";

/** The document of most tests, where the model's context takes it. */
const LONG_TOKENS = IS_FULL ? 1500 : 300;
const SHORT_TOKENS = 200;
const WHERE = "What is the berth of the Marlow?";
const WHAT = "What did the Petrel bring?";
const WHO = "Who brought the wool?";

const CASES = IS_FULL ? 6 : 1;
const present = modelFolder() !== undefined;
if (!present) console.warn(`SKIPPED ${CASES} cases of stored prompts in the browser: there is no model`);

let server: FileServer;
let profile: string;
let context: BrowserContext;

beforeAll(async () => {
  server = await servePage();
});
afterAll(() => server.close());

beforeEach(async () => {
  profile = await mkdtemp(join(tmpdir(), "tidepool-profile-"));
  context = await launchProfile(profile);
}, PATIENT_MS);

afterEach(async () => {
  await context.close();
  await rm(profile, { recursive: true, force: true });
});

const tab = (): Promise<Page> => openTab(context, server.address);

function tell(label: string, { usage, timing }: GenerationResult): void {
  const { gpu, ram, disk } = usage.cachedTokens;
  const from = `${usage.promptTokens} tokens: gpu ${gpu}, ram ${ram}, disk ${disk}, computed ${usage.computedTokens}`;
  console.log(`${label}: first token after ${timing.ttftMs.toFixed(0)} ms (${from})`);
}

/** The same question without any cache: where its tokens came from is asserted too. */
async function coldAnswer(page: Page, tokens: number, question: string): Promise<GenerationResult> {
  const cold = await ask(page, 1, tokens, question, "off");
  expect(cold.usage.cachedTokens).toEqual({ gpu: 0, ram: 0, disk: 0 });
  return cold;
}

describe.skipIf(!present)("stored prompts in Chromium", { timeout: 2 * PATIENT_MS }, () => {
  test("a document is read once: after a reload and a restart of the browser it comes from the disk", async () => {
    let page = await tab();
    await openEngine(page, { restore: "load" });
    const { documentTokens, blocksTokens } = await readingOf(page, LONG_TOKENS);
    const first = await ask(page, 1, documentTokens, WHERE);
    tell("cold", first);
    expect(first.usage.computedTokens).toBe(first.usage.promptTokens);
    expect(await drain(page)).toBe(0);

    await page.reload();
    await openEngine(page, { restore: "load" });
    const reloaded = await ask(page, 1, documentTokens, WHAT);
    tell("after a reload", reloaded);
    expect(reloaded.usage.cachedTokens.disk).toBeGreaterThanOrEqual(blocksTokens);
    expect(await drain(page)).toBe(0);

    await context.close();
    context = await launchProfile(profile);
    page = await tab();
    await openEngine(page, { restore: "load" });
    const reopened = await ask(page, 1, documentTokens, WHO);
    tell("after a restart", reopened);
    expect(reopened.usage.cachedTokens.disk).toBeGreaterThanOrEqual(blocksTokens);

    for (const [question, warm] of [
      [WHAT, reloaded],
      [WHO, reopened],
    ] as const) {
      const cold = await coldAnswer(page, documentTokens, question);
      tell("without the cache", cold);
      expect(warm.tokens).toEqual(cold.tokens);
    }
  });

  fullTest("loading and computing share the work by themselves, and the answer is the same", async () => {
    const page = await tab();
    await openEngine(page, { restore: "auto" });
    const { documentTokens } = await readingOf(page, LONG_TOKENS);
    const cold = await ask(page, 1, documentTokens, WHERE);
    expect(await drain(page)).toBe(0);
    await page.reload();
    await openEngine(page, { restore: "auto" });
    const warm = await ask(page, 1, documentTokens, WHERE);
    tell("as the engine chooses", warm);
    expect(warm.usage.cachedTokens.disk).toBeGreaterThan(0);
    expect(warm.tokens).toEqual(cold.tokens);
  });

  fullTest("two tabs: the second reads what the first wrote", async () => {
    const [first, second] = [await tab(), await tab()];
    await openEngine(first, { restore: "load" });
    await openEngine(second, { restore: "load" });
    const { documentTokens, blocksTokens } = await readingOf(first, SHORT_TOKENS);
    const cold = await ask(first, 1, documentTokens, WHERE);
    expect(await drain(first)).toBe(0);
    await expect
      .poll(async () => (await statsOf(second)).disk.records, { timeout: PATIENT_MS })
      .toBeGreaterThan(0);
    const warm = await ask(second, 1, documentTokens, WHERE);
    expect(warm.usage.cachedTokens.disk + warm.usage.cachedTokens.ram).toBeGreaterThanOrEqual(blocksTokens);
    expect(warm.tokens).toEqual(cold.tokens);
  });

  fullTest("without OPFS the disk is IndexedDB", async () => {
    await context.route("**/*worker*.js", async (route) => {
      const response = await route.fetch();
      const refuse =
        'StorageManager.prototype.getDirectory = () => Promise.reject(new DOMException("no", "SecurityError"));';
      await route.fulfill({ response, body: `${refuse}\n${await response.text()}` });
    });
    const page = await tab();
    await openEngine(page, { restore: "load" });
    const { documentTokens, blocksTokens } = await readingOf(page, SHORT_TOKENS);
    const cold = await ask(page, 1, documentTokens, WHERE);
    expect(await drain(page)).toBe(0);
    const names = await page.evaluate(async () => (await indexedDB.databases()).map(({ name }) => name));
    expect(names).toContain("tidepool-kv");
    expect(await page.evaluate(() => codes)).toEqual(["no_opfs"]);
    await page.reload();
    await openEngine(page, { restore: "load" });
    const warm = await ask(page, 1, documentTokens, WHERE);
    expect(warm.usage.cachedTokens.disk).toBeGreaterThanOrEqual(blocksTokens);
    expect(warm.tokens).toEqual(cold.tokens);
  });

  fullTest("storage cleared while running: answers go on, and it is told once", async () => {
    const page = await tab();
    await openEngine(page, {});
    const { documentTokens } = await readingOf(page, SHORT_TOKENS);
    await ask(page, 1, documentTokens, WHERE);
    expect(await drain(page)).toBe(0);
    const session = await context.newCDPSession(page);
    const { origin } = new URL(server.address);
    await session.send("Storage.clearDataForOrigin", { origin, storageTypes: "all" });
    for (const book of [2, 3]) {
      const stored = await ask(page, book, documentTokens, WHERE);
      await drain(page);
      const cold = await ask(page, book, documentTokens, WHERE, "off");
      expect(stored.tokens).toEqual(cold.tokens);
    }
    console.log("after clearing:", await page.evaluate(() => codes), (await statsOf(page)).disk.state);
    expect(await page.evaluate(() => codes)).toEqual(["disk_lost"]);
    await closeEngine(page);
  });

  fullTest("quota full: answers go on, and it is told once", async () => {
    const page = await tab();
    await openEngine(page, {});
    const session = await context.newCDPSession(page);
    const { origin } = new URL(server.address);
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 100_000 });
    const { documentTokens } = await readingOf(page, SHORT_TOKENS);
    for (const book of [1, 2]) {
      const stored = await ask(page, book, documentTokens, WHERE);
      await drain(page);
      const cold = await ask(page, book, documentTokens, WHERE, "off");
      expect(stored.tokens).toEqual(cold.tokens);
    }
    console.log("with a full quota:", await page.evaluate(() => codes), (await statsOf(page)).disk);
    expect(await page.evaluate(() => codes)).toEqual(["disk_full"]);
    await closeEngine(page);
  });
});
