/**
 * The built page on its bad days, in headless Chromium with a shipped model and real storage: no network, a new version, a
 * browser closed in mid-download, a lost device, full storage, a second tab, hostile files, a dead worker. Each says what
 * happened and goes on. It builds nothing (PAGE names another folder than dist/page).
 */
import { existsSync, readFileSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Browser, BrowserContext, Locator, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { launchChromium, launchProfile, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";
import { serveUnreliably, type UnreliableServer } from "../support/unreliable-server.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
const MODEL = "demo/models/tide-dense.gguf";
const SHIPPED = "tide-dense";
const QUESTION = "Who are you?";
/** All that the page keeps for visits without a network, compressed; the first load is a part of it. */
const KEPT_BYTES_LIMIT = 580_000;

const KILL_ATTEMPTS = 5;

let browser: Browser;
let server: FileServer;
let context: BrowserContext;
let page: Page;
/** What the console and uncaught errors said. */
let complaints: string[] = [];

beforeAll(async () => {
  if (!existsSync(`${FOLDER}/index.html`))
    throw new Error(`${FOLDER} has no built page: npx vite build makes it`);
  server = await serveFolders({ "": FOLDER });
  browser = await launchChromium();
}, PATIENT_MS);

afterAll(async () => {
  await browser?.close();
  await server?.close();
});

async function openTab(address = server.address, at = context): Promise<Page> {
  const made = await at.newPage();
  made.setDefaultTimeout(PATIENT_MS);
  made.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  made.on("pageerror", (error) => complaints.push(String(error)));
  await made.goto(address);
  await made.getByLabel("Message", { exact: true }).waitFor();
  return made;
}

const named = (role: Parameters<Page["getByRole"]>[0], name: string | RegExp, on = page): Locator =>
  on.getByRole(role, { name });
const answers = (on = page): Locator => on.getByRole("article", { name: "Answer" });
const alert = (words: string | RegExp): Locator => page.getByRole("alert").filter({ hasText: words });
const fact = (name: string): Locator =>
  page
    .locator(".facts > div")
    .filter({ has: page.locator("dt", { hasText: name }) })
    .locator("dd");

/** Greedy, so that answers can be compared. */
async function sampling(maxTokens: number, on = page): Promise<void> {
  await on.locator("summary", { hasText: /^Settings$/ }).click();
  await on.getByLabel("Temperature").fill("0");
  await on.getByLabel("Max tokens").fill(String(maxTokens));
}

/** Sends a message and waits for its answer's numbers. */
async function ask(text: string, on = page): Promise<string> {
  const before = await answers(on).count();
  await send(text, on);
  await answers(on).nth(before).locator(".origin").waitFor();
  return (await answers(on).nth(before).locator(".text").textContent()) ?? "";
}

async function send(text: string, on = page): Promise<void> {
  await on.getByLabel("Message", { exact: true }).fill(text);
  await on.keyboard.press("Enter");
}

/** Waits until the service worker answers for the page. */
async function kept(on = page): Promise<void> {
  await on.evaluate(async () => {
    await navigator.serviceWorker.ready;
    if (navigator.serviceWorker.controller) return;
    await new Promise((done) =>
      navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }),
    );
  });
}

describe("the page itself", { timeout: PATIENT_MS }, () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "tidepool-page-"));
    await cp(FOLDER, folder, { recursive: true });
    complaints = [];
    context = await browser.newContext();
  });

  afterEach(async () => {
    await context.close();
    await rm(folder, { recursive: true, force: true });
    expect(complaints).toEqual([]);
  });

  /** Puts another version of the page into the folder, as a deployment does. */
  async function publish(version: string): Promise<void> {
    const html = await readFile(join(FOLDER, "index.html"), "utf8");
    await writeFile(join(folder, "index.html"), html.replace("<html", `<html data-version="${version}"`));
    const worker = await readFile(join(FOLDER, "sw.js"), "utf8");
    const next = worker.replace(/(index\.html[`'"],revision:[`'"])[0-9a-f]+/, `$1${version}`);
    expect(next).not.toBe(worker);
    await writeFile(join(folder, "sw.js"), next);
  }

  const version = (on = page): Promise<string | null> => on.locator("html").getAttribute("data-version");

  test("is installable, and opens without a network with its headers and policy, models left out", async () => {
    const site = await serveFolders({ "": folder });
    page = await openTab(site.address);
    await kept();
    const session = await context.newCDPSession(page);
    const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
    // Playwright's contexts are private windows, which install nothing whatever the page.
    expect(installabilityErrors.filter(({ errorId }) => errorId !== "in-incognito")).toEqual([]);
    const { errors, data } = await session.send("Page.getAppManifest");
    expect(errors).toEqual([]);
    for (const { src } of (JSON.parse(data ?? "{}") as { icons: { src: string }[] }).icons)
      expect(existsSync(join(FOLDER, src)), src).toBe(true);

    const urls = await page.evaluate(async () => {
      const names = (await caches.keys()).filter((name) => name.includes("precache"));
      const all = await Promise.all(names.map(async (name) => (await caches.open(name)).keys()));
      return all.flat().map(({ url }) => url);
    });
    const files = urls.map((url) => new URL(url).pathname.slice(1));
    expect(files).toContain("index.html");
    expect(files.filter((file) => /\.(gguf|json)$/.test(file))).toEqual([]);
    const bytes = files.reduce((sum, file) => sum + gzipSync(readFileSync(join(FOLDER, file))).length, 0);
    console.log(`kept for visits without a network: ${files.length} files, ${bytes} bytes compressed`);
    expect(bytes).toBeLessThan(KEPT_BYTES_LIMIT);

    await site.close();
    await context.setOffline(true);
    await page.goto(`${site.address}?from=a-bookmark`);
    await page.getByLabel("Message", { exact: true }).waitFor();
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
    expect(
      await page.evaluate(() =>
        fetch("/v1/models").then(
          () => "answered",
          () => "no network",
        ),
      ),
    ).toBe("no network");
    complaints = complaints.filter((text) => !/ERR_(INTERNET_DISCONNECTED|CONNECTION_REFUSED)/.test(text));
    for (const view of ["Cache", "Compare", "Race"]) {
      await named("link", view).click();
      await page.locator(`[data-view="${view.toLowerCase()}"] > *`).first().waitFor();
    }
    expect(await page.getByText("could not be loaded").count()).toBe(0);
  });

  test("a new version is taken at the next load, and said quietly before", async () => {
    const site = await serveFolders({ "": folder });
    page = await openTab(site.address);
    await kept();
    expect(await version()).toBe(null);
    await publish("a1");
    await page.reload(); // the old one, which hears of the new one
    const newer = (on = page): Locator =>
      on.getByRole("status").filter({ hasText: "A new version is ready" });
    await newer().waitFor();
    await page.reload();
    await page.locator('html[data-version="a1"]').waitFor();
    expect(await newer().count()).toBe(0);

    const other = await openTab(site.address);
    await publish("a2");
    await page.evaluate(async () => void (await (await navigator.serviceWorker.ready).update()));
    await newer().waitFor();
    await newer(other).waitFor();
    await other.reload(); // two tabs are open: both stay with what they have until one is told to go on
    await newer(other).waitFor();
    expect(await version(other)).toBe("a1");
    await named("button", "Reload").click();
    await page.locator('html[data-version="a2"]').waitFor();
    await newer(other).waitFor();
    await other.getByRole("button", { name: "Reload" }).click();
    await other.locator('html[data-version="a2"]').waitFor();
    await site.close();
  });
});

const CASES = IS_FULL ? 6 : 3;
const present = existsSync(MODEL);
if (!present) console.warn(`SKIPPED ${CASES} cases of the page's bad days: ${MODEL} is absent`);

describe.skipIf(!present)("by link", { timeout: PATIENT_MS }, () => {
  const PADDING_BYTES = 2_000_000;
  const BYTES_PER_SECOND = 500_000;
  let models: UnreliableServer;
  let profile: string;

  beforeEach(async () => {
    const random = new Random(1);
    const padding = Uint32Array.from({ length: PADDING_BYTES / 4 }, () => random.uint32());
    const bytes = new Uint8Array(Buffer.concat([readFileSync(MODEL), new Uint8Array(padding.buffer)]));
    models = await serveUnreliably({ "/harbour.gguf": bytes });
    models.bytesPerSecond = BYTES_PER_SECOND;
    profile = await mkdtemp(join(tmpdir(), "tidepool-profile-"));
    context = await launchProfile(profile);
  });

  afterEach(async () => {
    await context.close();
    await models.close();
    await rm(profile, { recursive: true, force: true });
  });

  const load = async (on = page): Promise<void> => {
    await on.getByLabel("Or an address").fill(`${models.address}/harbour.gguf`);
    await named("button", "Load", on).click();
  };

  test("progress, a second tab that waits, a browser closed in mid-download, the rest, a chat; then all of it without a network", async () => {
    const site = await serveFolders({ "": FOLDER });
    const size = models.files.get("/harbour.gguf")?.length ?? 0;
    page = await openTab(site.address);
    await load();
    const whole = `of ${(size / 1e6).toFixed(1)} MB`;
    await page.locator(".phase", { hasText: new RegExp(`Downloading[\\d.]+ ${whole}`) }).waitFor();
    const second = await openTab(site.address);
    await load(second);
    await second.locator(".phase", { hasText: "Downloading" }).waitFor(); // what the first downloads for both
    await expect.poll(() => models.bytesSent, { timeout: PATIENT_MS }).toBeGreaterThan(size / 2);
    await context.close();
    const sentBefore = models.bytesSent;
    models.requests = [];
    models.bytesPerSecond = 0;

    context = await launchProfile(profile);
    page = await openTab(site.address);
    await page.locator(".kept li", { hasText: "cut off" }).waitFor();
    await named("button", /^Go on/).click();
    await page.locator(".facts").waitFor();
    console.log(
      `${size} bytes: ${sentBefore} sent before the browser was closed, ${models.bytesSent} in all`,
    );
    expect(Math.min(...models.requests.map(({ start }) => start))).toBeGreaterThan(0);
    await sampling(12);
    const text = await ask(QUESTION);
    expect(text.length).toBeGreaterThan(0);

    await kept();
    await site.close();
    await models.pause();
    await context.setOffline(true);
    await page.reload();
    await answers().first().waitFor(); // the conversation, too
    expect(await page.evaluate(() => navigator.onLine)).toBe(false);
    await named("button", "New conversation").click();
    await sampling(12);
    expect(await ask(QUESTION)).toBe(text);

    await page.getByText("Another model").click();
    await page.getByLabel("Or an address").fill(`${models.address}/other.gguf`);
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await alert("Check the address and the connection").waitFor();
    expect(await ask("And again?")).not.toBe(""); // the model that is there goes on
  });
});

describe.skipIf(!present)("a page with a model", { timeout: PATIENT_MS }, () => {
  beforeEach(async () => {
    complaints = [];
    context = await browser.newContext({ reducedMotion: "reduce" });
    page = await openTab();
  });

  afterEach(async () => {
    await context.close();
    expect(complaints).toEqual([]);
  });

  test("the GPU device is lost in mid-stream: it is said, and the answer goes on as if nothing had been", async () => {
    await sampling(48);
    const undisturbed = await ask(QUESTION);
    expect(await fact("State").textContent()).toBe("ready");
    expect(await fact("KV pool").textContent()).toMatch(
      /^[\d,]+ of [\d,]+ tokens in f(16|32), now [\d.]+ .?B$/,
    );
    await page.locator(".lacks summary").click();
    await page.getByText("no 16-bit floats").waitFor();
    await page.locator("summary", { hasText: "Debug" }).click();
    await named("button", "Lose the GPU device").waitFor();
    await loseAtFirstText();
    await named("button", "New conversation").click();
    const text = await ask(QUESTION);
    expect(text).toBe(undisturbed);
    await page.locator(".notice", { hasText: "The GPU was lost" }).waitFor();
    expect(await page.evaluate(() => seen)).toContain("GPU lost…");
    expect(await fact("State").textContent()).toBe("ready");
    complaints = complaints.filter((text) => !/device was lost|destroyed/i.test(text));
  });

  fullTest("full storage is said once, with what to do, and chatting goes on", async () => {
    const session = await context.newCDPSession(page);
    const { origin } = new URL(server.address);
    const notice = (words: RegExp): Locator => page.locator(".notice").filter({ hasText: words });
    await sampling(8);
    await ask(QUESTION);
    await kept();
    await countNotices();
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 100_000 });
    const long = (words: string): string => `${QUESTION} ${words.repeat(25)}`;
    expect(await ask(long("The harbour is wide. "))).not.toBe("");
    await notice(/storage is full.*Free some room/).waitFor();
    expect(await ask(long("The sea is deep. "))).not.toBe("");
    expect(await page.evaluate(() => notices.length)).toBe(1);

    await page.getByText("Another model").click();
    await named("button", "Use tide-hybrid").click();
    await notice(/no room for this model.*free some room/).waitFor();
    await expect
      .poll(() => page.locator(".model-chip.ready").textContent(), { timeout: PATIENT_MS })
      .toMatch(/hybrid/i);
    expect(await ask(QUESTION)).not.toBe("");
  });

  fullTest("two tabs of one origin both answer, the same to the same", async () => {
    const other = await openTab();
    for (const tab of [page, other]) await sampling(12, tab);
    const [one, two] = await Promise.all([ask(QUESTION, page), ask(QUESTION, other)]);
    expect(one).toBe(two);
    const parts = [page, other].map((tab) => tab.locator(".facts", { hasText: "in another tab" }).count());
    expect((await Promise.all(parts)).sort()).toEqual([0, 1]);
    await other.close();
    expect(await ask(QUESTION)).not.toBe("");
  });

  fullTest("hostile files are refused by name and field, and the next model is taken", async () => {
    const model = readFileSync(MODEL);
    const random = new Random(testSeed("hostile files"));
    const noise = Buffer.from(Uint32Array.from({ length: 50_000 }, () => random.uint32()).buffer);
    const wild = Buffer.from(model);
    wild.writeBigUInt64LE(0xffff_ffff_ffffn, 8); // the count of tensors
    const hostile: [string, Buffer, RegExp][] = [
      ["cut.gguf", model.subarray(0, 3000), /cut\.gguf: /],
      ["short.gguf", model.subarray(0, model.length - 4096), /short\.gguf: .*tensor/],
      ["noise.gguf", noise, /noise\.gguf: .*magic/],
      ["wild.gguf", wild, /wild\.gguf: .*tensor/],
      ["headed.gguf", Buffer.concat([model.subarray(0, 24), noise]), /headed\.gguf: /],
      ["noise.safetensors", noise, /noise\.safetensors: config\.json was not found/],
    ];
    for (const [name, buffer, words] of hostile) {
      await page.getByLabel("Model files").setInputFiles({ name, mimeType: "", buffer });
      await alert(words).waitFor();
    }
    const dropped = await page.evaluateHandle(
      (bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], "dropped.gguf"));
        return data;
      },
      [...noise.subarray(0, 2000)],
    );
    await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
    await alert("dropped.gguf").waitFor();
    for (const words of ["nothing", "ftp://host/model.gguf", "C:\\model.gguf"]) {
      await page.getByLabel("Or an address").fill(words);
      await named("button", "Load").click();
      await alert(/neither a Hub id \(org\/repo\) nor an address/)
        .filter({ hasText: words })
        .waitFor();
    }
    await named("button", `Use ${SHIPPED}`).click();
    await page.locator(".facts").waitFor();
    expect(await page.getByRole("alert").filter({ hasText: "Could not load" }).count()).toBe(0);
    await sampling(8);
    expect(await ask(QUESTION)).not.toBe("");
  });

  test("the engine's worker dies: it is said, and the model is loaded again by a button", async () => {
    await sampling(8);
    await ask(QUESTION);
    await kill();
    await alert("The engine has stopped: the engine's worker died").waitFor();
    expect(await page.locator(".model-chip").textContent()).toContain("stopped");
    expect(await fact("State").textContent()).toBe("stopped");
    await named("button", "Load again").click();
    await expect.poll(() => fact("State").textContent(), { timeout: PATIENT_MS }).toBe("ready");
    expect(await page.getByRole("alert").filter({ hasText: "has stopped" }).count()).toBe(0);
    expect(await ask(QUESTION)).not.toBe("");

    await page.getByLabel("Max tokens").fill("200");
    await killInMidStream();
    await named("button", "Load the model again").click();
    await expect.poll(() => fact("State").textContent(), { timeout: PATIENT_MS }).toBe("ready");
    await page.getByLabel("Max tokens").fill("8");
    await named("button", "Retry").click();
    await answers().last().locator(".origin").waitFor();
  });
});

/** Makes the engine's worker fail as a mistake of ours would, outside everything that catches. */
async function kill(): Promise<void> {
  const worker = page.workers().find((one) => /\/worker-[^/]*\.js/.test(one.url()));
  if (!worker) throw new Error("the page has no engine's worker");
  await worker.evaluate(() => {
    setTimeout(() => {
      throw new Error("killed by the test");
    });
  });
}

/** Kills the worker while an answer streams; which of the two ends first is chance, so that it takes another where it must. */
async function killInMidStream(): Promise<void> {
  for (let attempt = 0; attempt < KILL_ATTEMPTS; attempt++) {
    await send("Tell me a story.");
    await answers().last().locator(".text").filter({ hasText: /\w/ }).waitFor();
    await kill();
    const told = answers().last().getByRole("alert").filter({ hasText: "worker died" });
    await told.or(answers().last().locator(".origin")).first().waitFor();
    if (await told.isVisible()) return;
    await named("button", "Load again").click();
    await expect.poll(() => fact("State").textContent(), { timeout: PATIENT_MS }).toBe("ready");
  }
  throw new Error(`every answer of ${KILL_ATTEMPTS} ended before the worker did`);
}

declare global {
  /** In the page: what the model's chip said. */
  var seen: string[];
  /** In the page: every notice, as often as it was said. */
  var notices: string[];
}

/** Presses the debug panel's button as soon as the next answer has text: a click from outside may come too late. */
async function loseAtFirstText(): Promise<void> {
  await page.evaluate(() => {
    globalThis.seen = [];
    let isLost = false;
    const look = new MutationObserver(() => {
      globalThis.seen.push(document.querySelector(".model-chip")?.textContent ?? "");
      if (isLost || !document.querySelector(".answer[aria-busy] .text")?.textContent) return;
      isLost = true;
      const lose = [...document.querySelectorAll("button")].find(({ textContent }) =>
        textContent?.includes("Lose the GPU"),
      );
      lose?.click();
    });
    look.observe(document.body, { childList: true, subtree: true, characterData: true });
  });
}

async function countNotices(): Promise<void> {
  await page.evaluate(() => {
    globalThis.notices = [];
    let before: string[] = [];
    const look = (): void => {
      const shown = [...document.querySelectorAll(".notice")].map(({ textContent }) => textContent);
      globalThis.notices.push(...shown.filter((text) => !before.includes(text)));
      before = shown;
    };
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  });
}
