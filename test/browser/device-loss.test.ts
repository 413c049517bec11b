/**
 * The bad day of a page in headless Chromium: the GPU device is destroyed in mid-stream, and the page is hidden, frozen and
 * brought back. It drives the built library on a bare page (stored-page.ts). No timing is asserted.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launchProfile, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import type { FileServer } from "../support/serve.ts";
import { closeEngine, modelFolder, openEngine, openTab, servePage } from "./stored-page.ts";

const CASES = IS_FULL ? 3 : 1;
const present = modelFolder() !== undefined;
if (!present) console.warn(`SKIPPED ${CASES} cases of lost devices in the browser: there is no model`);

const PROMPT = "Once upon a time there was a harbour";

let server: FileServer;
let profile: string;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  server = await servePage();
});
afterAll(() => server.close());

beforeEach(async () => {
  profile = await mkdtemp(join(tmpdir(), "tidepool-profile-"));
  context = await launchProfile(profile);
  page = await openTab(context, server.address);
  await openEngine(page, { disk: false });
}, PATIENT_MS);

afterEach(async () => {
  await context.close();
  await rm(profile, { recursive: true, force: true });
});

/** Streams an answer, and loses the device after `loseAfter` chunks, where that is given. */
function stream(loseAfter?: number): Promise<{ text: string; tokens: number[]; states: string[] }> {
  return page.evaluate(
    async ([prompt, loseAfter]) => {
      const generation = engine.generate(prompt, { maxTokens: 32, cache: "off" });
      const states = new Set<string>();
      let text = "";
      let chunks = 0;
      for await (const chunk of generation) {
        text += chunk.text;
        states.add(engine.state);
        if (++chunks === loseAfter) await engine.debug.loseDevice();
      }
      return { text, tokens: (await generation.result()).tokens, states: [...states] };
    },
    [PROMPT, loseAfter] as const,
  );
}

describe.skipIf(!present)("a page on a bad day", () => {
  fullTest(
    "the device is destroyed in mid-stream: the stream goes on, with the text of an undisturbed one",
    { timeout: PATIENT_MS },
    async () => {
      const before = await stream();
      const after = await stream(8);
      expect(after.text).toBe(before.text);
      expect(after.tokens).toEqual(before.tokens);
      const told = await page.evaluate(() => ({ codes, state: engine.state }));
      expect(told).toEqual({ codes: ["device_recovered"], state: "ready" });
      await closeEngine(page);
      expect(await page.evaluate(() => engine.state)).toBe("closed");
    },
  );

  fullTest(
    "lost twice within a minute: an error that names itself, and another engine can be loaded",
    { timeout: PATIENT_MS },
    async () => {
      const { text } = await stream(4);
      const code = await page.evaluate(async (prompt) => {
        const running = engine.generate(prompt, { maxTokens: 200 });
        await engine.debug.loseDevice();
        return running.result().then(
          () => "none",
          (error: { code: string }) => `${error.code} ${engine.state}`,
        );
      }, PROMPT);
      expect(code).toBe("device_lost failed");
      await closeEngine(page);
      await openEngine(page, { disk: false });
      expect((await stream()).text).toBe(text);
      await closeEngine(page);
    },
  );

  test(
    "a page that is hidden, frozen and restored: the stream goes on",
    { timeout: PATIENT_MS },
    async () => {
      const before = await stream();
      await page.evaluate((prompt) => {
        const generation = engine.generate(prompt, { maxTokens: 32, cache: "off" });
        globalThis.answer = { text: "", done: false };
        const read = async (): Promise<void> => {
          for await (const { text } of generation) globalThis.answer.text += text;
          globalThis.answer.done = true;
        };
        void read();
      }, PROMPT);
      const other = await context.newPage(); // in front: ours is hidden
      await other.bringToFront();
      const session = await context.newCDPSession(page);
      await session.send("Page.setWebLifecycleState", { state: "frozen" });
      await other.waitForTimeout(500);
      await session.send("Page.setWebLifecycleState", { state: "active" });
      await page.bringToFront();
      await page.waitForFunction(() => globalThis.answer.done, undefined, { timeout: PATIENT_MS });
      expect(await page.evaluate(() => globalThis.answer.text)).toBe(before.text);
      await closeEngine(page);
    },
  );
});

declare global {
  /** In the page. */
  var answer: { text: string; done: boolean };
}
