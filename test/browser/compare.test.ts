/**
 * The policy comparison in headless Chromium: replays in workers while the page stays free, plots that can be read by
 * pointer, by keyboard and as tables, exports, links, traces of every kind. It builds a page of its own.
 */
import { AxeBuilder } from "@axe-core/playwright";
import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import type { Browser, BrowserContext, BrowserContextOptions, Locator, Page } from "playwright";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { gzipSync } from "node:zlib";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import type { CompareTests } from "./compare-entry.ts";
import { serveComparePage, type ComparePage } from "./compare-page.ts";

type TestWindow = Window & { compareTests: CompareTests; longTasksMs: number[] };

/** On a machine that does other work too. */
const small = "trace=few-shot&w.sessions=120&policies=lru,marconi&from=1&to=10&steps=3&at=1";

let served: ComparePage;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let complaints: string[] = [];

beforeAll(async () => {
  served = await serveComparePage();
  browser = await launchChromium();
}, PATIENT_MS);

afterAll(async () => {
  await browser?.close();
  await served?.close();
});

afterEach(async () => {
  await context.close();
  expect(complaints).toEqual([]);
});

async function open(params = "", options: BrowserContextOptions = {}): Promise<void> {
  complaints = [];
  context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  page = await context.newPage();
  page.setDefaultTimeout(PATIENT_MS);
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    const isIcon = message.location().url.endsWith("/favicon.ico");
    if (["error", "warning"].includes(message.type()) && !isIcon) complaints.push(message.text());
  });
  await page.goto(`${served.address}#/compare${params === "" ? "" : `?${params}`}`);
  await page.getByRole("heading", { name: "Compare cache policies" }).waitFor();
}

const status = (): Locator => page.locator(".compare-status");
const cell = (policy: string, column: number): Locator =>
  page.locator(".summary tbody tr", { hasText: policy }).locator("td").nth(column);

async function finished(): Promise<string> {
  await page.waitForFunction(() =>
    /replays.*,.*\.$/.test(document.querySelector(".compare-status")!.textContent),
  );
  return await status().innerText();
}

/** The text of what a click downloads. */
async function download(button: Locator): Promise<{ name: string; bytes: Buffer }> {
  const [file] = await Promise.all([page.waitForEvent("download"), button.click()]);
  return { name: file.suggestedFilename(), bytes: readFileSync(await file.path()) };
}

fullTest(
  "10,000 requests, five policies, eight capacities: counts, time, and the page's longest task",
  { timeout: PATIENT_MS },
  async () => {
    await open();
    await page.evaluate(() => {
      const seen: number[] = [];
      (window as unknown as TestWindow).longTasksMs = seen;
      new PerformanceObserver((list) =>
        seen.push(...list.getEntries().map((entry) => entry.duration)),
      ).observe({
        type: "longtask",
      });
    });
    await page.getByLabel("Sessions", { exact: true }).fill("1414");
    await page.getByLabel("Sessions", { exact: true }).press("Tab");
    const startedMs = performance.now();
    await page.getByRole("button", { name: "Compare" }).click();
    expect(await finished()).toMatch(/^40 replays, /);
    const seconds = (performance.now() - startedMs) / 1000;
    const tasksMs = await page.evaluate(() => (window as unknown as TestWindow).longTasksMs);
    await expect(page.locator(".trace-line").innerText()).resolves.toMatch(
      /^chat \(seed 1\): 10,0\d\d requests/,
    );
    for (const policy of ["lru", "vllm", "sglang", "marconi", "offline"]) {
      expect(await cell(policy, 0).innerText(), policy).toMatch(/^\d+\.\d%$/);
    }
    const longest = Math.max(0, ...tasksMs);
    console.log(
      `40 replays of 10,000 requests: ${seconds.toFixed(1)} s; longest task of the page ${longest.toFixed(0)} ms, ` +
        `${tasksMs.length} above 50 ms; load of the machine ${loadavg()[0]!.toFixed(1)}`,
    );
  },
);

test(
  "a link reproduces the view, and what is chosen is in the address",
  { timeout: PATIENT_MS },
  async () => {
    await open(small);
    await finished();
    expect(await page.locator(".trace-line").innerText()).toContain("few-shot (seed 1): 120 requests");
    expect(await page.locator(".capacity-bar output").innerText()).toBe("3.2 GB");
    await page.getByRole("slider", { name: "Capacity shown" }).press("ArrowRight");
    await page.locator("#compare-hit").getByText("Blocks").click();
    const address = new URL(page.url());
    expect(address.hash).toContain("at=2");
    expect(address.hash).toContain("hit=block");
    const shown = await cell("marconi", 0).innerText();
    const hash = address.hash.replace("#/compare?", "");
    await context.close();
    await open(hash);
    await finished();
    expect(await cell("marconi", 0).innerText()).toBe(shown);
    expect(await page.locator("#compare-hit").getByLabel("Blocks").isChecked()).toBe(true);
  },
);

test(
  "values are read by pointer and by keyboard, as a table, as CSV and as a picture",
  { timeout: PATIENT_MS },
  async () => {
    await open(small);
    await finished();
    const plot = page.locator("#compare-hit");
    const stage = plot.getByRole("group", { name: "Hit rate" });
    await stage.hover();
    await plot.locator(".plot-tip").getByText("3.2 GB").waitFor();
    await stage.focus();
    await page.keyboard.press("Home");
    expect(await plot.locator(".spoken").first().textContent()).toMatch(/^1 GB: \w+ \d+\.\d%, \w+ \d+\.\d%$/);
    await plot.getByText("Table").click();
    await plot.locator("tbody tr").last().waitFor();
    expect(await plot.locator("tbody tr").count()).toBe(3);
    expect(await plot.locator("tbody tr").last().locator("th").innerText()).toBe("10 GB");
    const csv = await download(plot.getByRole("button", { name: "CSV" }));
    expect(csv.bytes.toString().split("\n").slice(0, 2).join()).toMatch(
      /^capacity,lru,marconi,1000000000,0\.\d+,0\.\d+$/,
    );
    const png = await download(plot.getByRole("button", { name: "PNG" }));
    expect([png.name, png.bytes.subarray(1, 4).toString()]).toEqual(["compare-hit.png", "PNG"]);
    const all = await download(page.getByRole("button", { name: "All results as CSV" }));
    expect(all.bytes.toString().trim().split("\n").length).toBe(1 + 6);
  },
);

test("a run can be stopped, and what was found stays", { timeout: PATIENT_MS }, async () => {
  await open("trace=chat&w.sessions=400&policies=lru,marconi");
  await page.waitForFunction(
    () => Number.parseInt(document.querySelector(".compare-status")!.textContent) >= 1,
  );
  await page.getByRole("button", { name: "Stop" }).click();
  expect(await finished()).toMatch(/before it was stopped/);
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "hidden" });
  await page.getByLabel("Sessions", { exact: true }).fill("20");
  await page.getByRole("button", { name: "Compare" }).click();
  expect(await finished()).toMatch(/^16 replays, /);
});

const line = (timestamp: number, hash_ids: number[]): string =>
  JSON.stringify({ timestamp, input_length: hash_ids.length * 512, output_length: 1, hash_ids });
const blocks = [line(0, [1, 2, 3]), line(1000, [1, 2, 4]), line(2000, [1, 2, 3])].join("\n");

test(
  "a file is read, packed or not; one that is no trace says which line is wrong",
  { timeout: PATIENT_MS },
  async () => {
    await open("trace=file&policies=lru&model=llama3-8b&from=1&to=1&steps=1");
    await page.getByText("choose or drop the file").waitFor();
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByText("Choose a trace file").waitFor();
    const choose = async (name: string, buffer: Buffer): Promise<void> => {
      await page
        .getByLabel("Trace file")
        .setInputFiles({ name, mimeType: "application/octet-stream", buffer });
      await page.getByRole("button", { name: "Compare" }).click();
    };
    await choose("three.jsonl.gz", gzipSync(blocks));
    expect(await finished()).toMatch(/^1 replays, /);
    expect(await cell("lru", 1).innerText()).toBe("55.6%");
    expect(await page.locator(".plot-note", { hasText: "The engine's scheduler" }).count()).toBe(1);
    await choose("bad.jsonl", Buffer.from(`${blocks}\n{"timestamp":1}`));
    await page.getByText("bad.jsonl: line 4: hash_ids must be a list of whole numbers").waitFor();
  },
);

test("what the page records can be replayed", { timeout: PATIENT_MS }, async () => {
  await open("trace=recorded&policies=lru&model=tide-dense&steps=1&from=1&to=1");
  await page.getByText("nothing has been recorded on this page yet").waitFor();
  await page.evaluate(async () => {
    const { record } = (window as unknown as TestWindow).compareTests;
    const tokens = Array.from({ length: 64 }, (_, i) => i);
    await record(tokens, 48);
    await record([...tokens, ...tokens], 80);
  });
  await page.reload();
  expect(await finished()).toMatch(/^1 replays, /);
  expect(await page.locator(".trace-line").innerText()).toMatch(/^recorded on this page: 2 requests/);
  expect(await cell("lru", 0).innerText()).toBe("50.0%"); // 64 of 48 + 80
  await page.getByRole("button", { name: "Forget it" }).click();
  await page.getByText("Nothing is recorded yet").waitFor();
});

test.each(IS_FULL ? (["light", "dark"] as const) : (["dark"] as const))(
  "axe finds nothing, %s, at phone width nothing is cut off",
  { timeout: PATIENT_MS },
  async (colorScheme) => {
    await open(small, { colorScheme, viewport: { width: 390, height: 844 } });
    await finished();
    await page.getByText("All parameters").click();
    const { violations } = await new AxeBuilder({ page }).analyze();
    const told = violations.filter(({ id }) => id !== "region" && id !== "page-has-heading-one");
    expect(told.map(({ id, nodes }) => `${id}: ${nodes[0]!.html}`)).toEqual([]);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  },
);
