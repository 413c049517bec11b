/**
 * Tabs that share one engine in headless Chromium: one GPU device for all, and streams that go on when the tab that has it
 * closes or crashes. It drives the built library on a bare page (stored-page.ts). No timing is asserted.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launchProfile, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import type { FileServer } from "../support/serve.ts";
import { closeEngine, modelFolder, openTab, servePage, statsOf } from "./stored-page.ts";

const CASES = IS_FULL ? 6 : 2;
const present = modelFolder() !== undefined;
if (!present) console.warn(`SKIPPED ${CASES} cases of shared engines in the browser: there is no model`);

const HARBOUR = "Once upon a time there was a harbour";
const LIGHTHOUSE = "The keeper of the lighthouse";
const ANSWER_TOKENS = 96;
/** Tokens that a stream has when something happens to it. */
const BEFORE_TOKENS = 6;

const MID_STREAM_ATTEMPTS = 8;

let server: FileServer;
let profile: string;
let context: BrowserContext;
/** GPU devices that were made, and files of the model that were asked for. */
let devices: number;
let downloads: number;
let patches: string[];

beforeAll(async () => {
  server = await servePage();
});
afterAll(() => server.close());

beforeEach(async () => {
  profile = await mkdtemp(join(tmpdir(), "tidepool-profile-"));
  context = await launchProfile(profile);
  devices = downloads = 0;
  patches = [];
  context.on("request", (request) => void (request.url().includes("/models/") && downloads++));
  await countDevices();
}, PATIENT_MS);

afterEach(async () => {
  await context.close();
  await rm(profile, { recursive: true, force: true });
});

/** Each device that a worker makes is told to an address of ours. */
async function countDevices(): Promise<void> {
  const told = `const make = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = function (...given) {
  return fetch("/device-made").then(() => make.apply(this, given));
};`;
  await context.route("**/device-made", (route) => {
    devices++;
    return route.fulfill({ body: "" });
  });
  await patchWorkers(told);
}

/** Runs `code` first in each engine's worker, besides what was given before. */
async function patchWorkers(code: string): Promise<void> {
  patches.push(code);
  await context.unroute("**/worker.js");
  await context.route("**/worker.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `${patches.join("\n")}\n${await response.text()}` });
  });
}

/** Guests ask ten times as often whether the owner lives. */
const PATIENCE = `const later = globalThis.setTimeout;
globalThis.setTimeout = (run, ms, ...given) => later(run, ms === 5000 ? 500 : ms, ...given);`;

/** Longer than guests wait then. */
const STANDSTILL_MS = 8000;

declare global {
  /** In the page: what it streams, and what it was told. */
  var stream: { text: string; tokens: number[]; done: boolean; problem: string };
  var heard: { states: string[]; phases: string[] };
}

/** A tab with the shared engine. */
async function openShared(): Promise<Page> {
  const page = await openTab(context, server.address);
  const address = new URL(`models/${modelFolder()?.file}`, page.url()).href;
  await page.evaluate(async (url) => {
    globalThis.heard = { states: [], phases: [] };
    globalThis.engine = await tidepool.Engine.load(new URL(url), {
      share: true,
      cache: { disk: false },
      onProgress: ({ phase }) => void heard.phases.push(phase),
      onChange: ({ state }) => void heard.states.push(state),
    });
  }, address);
  return page;
}

const roleOf = (page: Page): Promise<string> => page.evaluate(() => engine.info.role);

/** A stream may have ended before its tab heard that the owner is gone. */
const roleIs = (page: Page, role: string): Promise<void> =>
  expect.poll(() => roleOf(page), { timeout: PATIENT_MS }).toBe(role);

/** Begins to stream; the tab goes on by itself. */
async function startStream(page: Page, prompt: string): Promise<void> {
  await page.evaluate(
    ([prompt, maxTokens]) => {
      const generation = engine.generate(prompt, { maxTokens, cache: "off" });
      globalThis.stream = { text: "", tokens: [], done: false, problem: "" };
      const read = async (): Promise<void> => {
        for await (const { text, tokens } of generation) {
          stream.text += text;
          stream.tokens.push(...tokens);
        }
        const { text } = await generation.result();
        if (text !== stream.text) stream.problem = `the result says "${text}"`;
      };
      const fail = (error: unknown) => void (stream.problem = String(error));
      void read()
        .catch(fail)
        .finally(() => (stream.done = true));
    },
    [prompt, ANSWER_TOKENS] as const,
  );
}

/** Whether a tab has no stream, or one that has ended. */
const isIdle = (): boolean => (globalThis as Partial<typeof globalThis>).stream?.done ?? true;

/** Starts streams and waits until all are well under way at once; one that has ended before the others began is started again. */
async function inMidStreams(...streams: readonly (readonly [Page, string])[]): Promise<void> {
  for (let attempt = 0; attempt < MID_STREAM_ATTEMPTS; attempt++) {
    const ended = await Promise.all(streams.map(([page]) => page.evaluate(isIdle)));
    await Promise.all(
      streams.filter((_, index) => ended[index]).map(([page, prompt]) => startStream(page, prompt)),
    );
    const isThere = (count: number) => stream.done || stream.tokens.length >= count;
    await Promise.all(
      streams.map(([page]) => page.waitForFunction(isThere, BEFORE_TOKENS, { timeout: PATIENT_MS })),
    );
    const idle = await Promise.all(streams.map(([page]) => page.evaluate(isIdle)));
    if (!idle.includes(true)) return;
  }
  throw new Error(`the streams did not run at the same time in ${MID_STREAM_ATTEMPTS} attempts`);
}

async function streamed(page: Page): Promise<{ text: string; tokens: number[] }> {
  await page.waitForFunction(() => stream.done, undefined, { timeout: PATIENT_MS });
  const { text, tokens, problem } = await page.evaluate(() => stream);
  expect(problem).toBe("");
  return { text, tokens };
}

/** What a tab says where nothing happens. */
async function undisturbed(page: Page, prompt: string): Promise<{ text: string; tokens: number[] }> {
  await startStream(page, prompt);
  return streamed(page);
}

async function crash(page: Page): Promise<void> {
  const session = await context.newCDPSession(page);
  const crashed = page.waitForEvent("crash");
  session.send("Page.crash").catch(() => {}); // nobody is left to answer
  await crashed;
}

describe.skipIf(!present)("tabs that share an engine", () => {
  test(
    "one device for two tabs, which stream at the same time; a guest that closes frees its request",
    { timeout: PATIENT_MS },
    async () => {
      const [owner, guest] = [await openShared(), await openShared()];
      expect([await roleOf(owner), await roleOf(guest)]).toEqual(["owner", "guest"]);
      const alone = [await undisturbed(owner, HARBOUR), await undisturbed(owner, LIGHTHOUSE)];
      const before = downloads;
      await startStream(owner, HARBOUR);
      await startStream(guest, LIGHTHOUSE);
      expect([await streamed(owner), await streamed(guest)]).toEqual(alone);
      expect({ devices, downloads }).toEqual({ devices: 1, downloads: before });
      const text = await guest.evaluate(async () => engine.detokenize(await engine.tokenize("a harbour")));
      expect(text).toBe("a harbour");

      // A stream may end while the owner is asked; then another is begun.
      const inUse = async (): Promise<number> => {
        await inMidStreams([guest, HARBOUR]);
        return (await statsOf(owner)).gpu.blocks.inUse;
      };
      await expect.poll(inUse, { timeout: PATIENT_MS }).toBeGreaterThan(0);
      await guest.close();
      await expect.poll(async () => (await statsOf(owner)).gpu.blocks.inUse, { timeout: PATIENT_MS }).toBe(0);
      await closeEngine(owner);
    },
  );

  fullTest(
    "the owner's tab is closed in mid-stream: the guest's stream goes on, with the text of an undisturbed one",
    { timeout: PATIENT_MS },
    async () => {
      const [owner, guest] = [await openShared(), await openShared()];
      const before = await undisturbed(guest, HARBOUR);
      await guest.evaluate(() => void (heard.phases.length = 0));
      await inMidStreams([guest, HARBOUR]);
      await owner.close();
      expect(await streamed(guest)).toEqual(before);
      await roleIs(guest, "owner");
      expect(devices).toBe(2);
      const { states, phases } = await guest.evaluate(() => heard);
      expect(states).toContain("recovering");
      expect(states.at(-1)).toBe("ready");
      expect(phases).toContain("weights");
      await closeEngine(guest);
    },
  );

  fullTest(
    "the owner's engine is closed by its page: the guest's stream goes on",
    { timeout: PATIENT_MS },
    async () => {
      const [owner, guest] = [await openShared(), await openShared()];
      const before = await undisturbed(guest, LIGHTHOUSE);
      await inMidStreams([guest, LIGHTHOUSE], [owner, HARBOUR]);
      await closeEngine(owner);
      expect(await streamed(guest)).toEqual(before);
      expect(await owner.evaluate(() => stream.tokens.length)).toBeLessThan(ANSWER_TOKENS);
      await closeEngine(guest);
    },
  );

  test(
    "owners crash one after the other: the streams of the others go on",
    { timeout: 2 * PATIENT_MS },
    async () => {
      const [first, second, third] = [await openShared(), await openShared(), await openShared()];
      const before = [await undisturbed(second, HARBOUR), await undisturbed(third, LIGHTHOUSE)];
      await inMidStreams([second, HARBOUR], [third, LIGHTHOUSE]);
      await crash(first);
      expect(await streamed(second)).toEqual(before[0]);
      expect(await streamed(third)).toEqual(before[1]);
      await roleIs(second, "owner");
      await roleIs(third, "guest");
      await inMidStreams([third, HARBOUR]);
      await crash(second);
      expect(await streamed(third)).toEqual(before[0]);
      await roleIs(third, "owner");
      expect(devices).toBe(3);
      await closeEngine(third);
    },
  );

  fullTest(
    "an owner that stands still is taken over from, and is a guest when it goes on: both streams go on",
    { timeout: PATIENT_MS },
    async () => {
      await patchWorkers(PATIENCE);
      const [owner, guest] = [await openShared(), await openShared()];
      const before = [await undisturbed(owner, HARBOUR), await undisturbed(guest, LIGHTHOUSE)];
      await inMidStreams([owner, HARBOUR], [guest, LIGHTHOUSE]);
      const worker = owner.workers().find((one) => one.url().endsWith("/worker.js"));
      const stood = worker?.evaluate((ms) => {
        for (const end = Date.now() + ms; Date.now() < end;);
      }, STANDSTILL_MS);
      expect(await streamed(guest)).toEqual(before[1]);
      await stood;
      expect(await streamed(owner)).toEqual(before[0]);
      await roleIs(owner, "guest");
      await roleIs(guest, "owner");
      await closeEngine(owner);
      await closeEngine(guest);
    },
  );

  fullTest(
    "without BroadcastChannel each tab has an engine, and says so",
    { timeout: PATIENT_MS },
    async () => {
      await patchWorkers("delete globalThis.BroadcastChannel;");
      const tabs = [await openShared(), await openShared()];
      for (const tab of tabs) {
        const { role, codes } = await tab.evaluate(() => ({
          role: engine.info.role,
          codes: engine.info.capabilities.map(({ code }) => code),
        }));
        expect(role).toBe("alone");
        expect(codes).toContain("no_sharing");
      }
      for (const tab of tabs) await closeEngine(tab);
    },
  );
});
