/**
 * The built page's scheduler lab: nothing of it is loaded before it is opened; a run in its worker fills lanes and tables; axe
 * finds nothing, light and dark, at 400 px too. It builds nothing: `vite build` comes before it (PAGE names another folder).
 */
import { AxeBuilder } from "@axe-core/playwright";
import { existsSync } from "node:fs";
import type { Browser } from "playwright";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
/** A folder for pictures of what is tested; none by default. */
const PICTURES = process.env["PICTURES"];

/** Two conversations and a long prompt, in Mooncake's form. */
const TRACE = Array.from({ length: 240 }, (_, i) => {
  const blocks = Array.from({ length: 4 + (i % 40) }, (__, k) => (k < 3 ? k : i * 100 + k));
  return JSON.stringify({
    timestamp: i * 150,
    input_length: blocks.length * 512 - 7,
    output_length: 60 + (i % 90),
    hash_ids: blocks,
  });
}).join("\n");

let browser: Browser;
let server: FileServer;

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

test(
  "a trace is replayed in three modes and with four selections, drawn, and read out",
  { timeout: PATIENT_MS },
  async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 1600 } });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENT_MS);
    const complaints: string[] = [];
    const asked: string[] = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    page.on("request", (request) => asked.push(request.url()));
    await page.goto(server.address);
    await page.getByRole("textbox", { name: "Message" }).waitFor();
    expect(asked.filter((url) => /schedule-view/.test(url))).toEqual([]);

    await page.getByRole("navigation", { name: "Views" }).getByRole("link", { name: "Schedule" }).click();
    await page.locator("#schedule-decode").fill("1");
    await page.locator("#schedule-prefill").fill("2");
    await page.locator("#schedule-ttft").fill("6");
    const file = { name: "small.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(TRACE) };
    await page.locator("#schedule-file").setInputFiles(file);
    await page.getByRole("button", { name: "Run" }).click();
    await page.getByText("small.jsonl: 240 requests").waitFor();
    await page.getByRole("row", { name: /Aware of all caches/ }).waitFor();

    const rejected = await page
      .getByRole("row", { name: /^Rejected/ })
      .locator("td:nth-of-type(1)")
      .allTextContents();
    expect(rejected.length).toBe(3);
    for (const words of rejected) expect(words).toMatch(/^\d+ \(\d+\.\d%\)$/);
    expect(Number.parseInt(rejected[0]!)).toBeGreaterThan(Number.parseInt(rejected[1]!));
    const time = page.getByRole("slider", { name: "Time" });
    await time.press("End");
    expect(await time.getAttribute("aria-valuetext")).toMatch(/^from second \d+ on$/);
    for (const canvas of await page.locator('[data-view="schedule"] canvas').all())
      expect(await canvas.getAttribute("aria-label")).toMatch(/\d/);

    for (const [width, colorScheme] of [
      [1280, "light"],
      [1280, "dark"],
      [400, "dark"],
      [320, "light"],
    ] as const) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: width < 500 ? 3600 : 1600 });
      await page.waitForTimeout(200); // it is drawn anew
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      if (PICTURES !== undefined)
        await page.screenshot({ path: `${PICTURES}/schedule-${width}-${colorScheme}.png` });
      const { violations } = await new AxeBuilder({ page }).analyze();
      expect(violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)).toEqual([]);
    }

    await page.locator("#schedule-tbt").fill("0");
    await page.getByRole("button", { name: "Run" }).click();
    await expect
      .poll(() => page.locator("#schedule-tbt").evaluate((field: HTMLInputElement) => field.validity.valid))
      .toBe(false);
    await page.locator("#schedule-tbt").fill("50");
    await page.locator("#schedule-file").setInputFiles({ ...file, buffer: Buffer.from("{") });
    await page.getByRole("button", { name: "Run" }).click();
    await page
      .getByRole("alert")
      .filter({ hasText: "The replay failed: small.jsonl: line 1: not JSON" })
      .waitFor();
    expect(complaints).toEqual([]);
    await context.close();
  },
);
