/**
 * The built page's experts lab with the shipped mixture of experts: nothing of it is loaded before it is opened; a run fills
 * grids, strips and the comparison from the engine's events; axe finds nothing, light and dark, at 320 px too. It builds
 * nothing: `vite build` comes before it (PAGE names another folder than dist/page).
 */
import { AxeBuilder } from "@axe-core/playwright";
import { existsSync } from "node:fs";
import type { Browser, Locator, Page } from "playwright";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
/** A folder for pictures of what is tested; none by default. */
const PICTURES = process.env["PICTURES"];
const SHIPPED = existsSync("demo/models/tide-moe.gguf");
if (!SHIPPED) console.warn("SKIPPED 1 case of the experts lab: demo/models has no tide-moe.gguf");

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

async function expectAccessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)).toEqual([]);
}

/** How many colours a canvas has. */
function coloursOf(canvas: Locator): Promise<number> {
  return canvas.evaluate((one: HTMLCanvasElement) => {
    const { data } = one.getContext("2d")!.getImageData(0, 0, one.width, one.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
}

async function picture(page: Page, name: string): Promise<void> {
  if (PICTURES !== undefined) await page.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true });
}

test.skipIf(!SHIPPED)(
  "two ways of keeping experts are run, drawn from the engine's events, and compared",
  { timeout: PATIENT_MS },
  async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 1500 } });
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
    const isLab = (url: string): boolean => /experts-view|tide-moe/.test(url);
    // The page's service worker, which keeps all files, is not the page.
    expect(asked.filter(isLab)).toEqual([]);

    await page.getByRole("navigation", { name: "Views" }).getByRole("link", { name: "Experts" }).click();
    const slider = page.getByRole("slider", { name: "Experts on the GPU" });
    await page.locator(".expert-settings output").filter({ hasText: "25%: 1.0 MB of" }).waitFor();
    await slider.press("ArrowRight");
    await page.locator(".expert-settings output").filter({ hasText: "30%: 1.3 MB of" }).waitFor();
    await page.getByRole("button", { name: "Run both" }).click();
    await page.getByText("Both texts are equal, token by token.").waitFor();

    const lanes = page.locator(".expert-lane");
    for (const lane of await lanes.all()) {
      const grid = lane.locator(".expert-grid");
      expect(await grid.getAttribute("aria-label")).toMatch(
        /^Experts on the GPU by layer, of 16 each: \d+, \d+/,
      );
      expect(await coloursOf(grid)).toBeGreaterThan(3);
      for (const strip of await lane.locator(".strip").all())
        expect(await strip.locator(".note").textContent()).toMatch(/^at most (?!0 )/);
      const steps = lane.getByRole("slider", { name: "Step" });
      await steps.press("ArrowLeft");
      expect(await steps.getAttribute("aria-valuetext")).toMatch(
        /^Step \d+ \(one token, [\d.]+ ms\): \d of 8 chosen/,
      );
      await steps.press("Home");
      expect(await steps.getAttribute("aria-valuetext")).toMatch(/^Step 1 \(prompt, \d+ tokens/);
    }
    const row = async (name: string): Promise<string[]> =>
      page.locator(".expert-outcome tr", { hasText: name }).first().locator("td").allTextContents();
    const [predicted, onDemand] = await row("Chosen experts that were there");
    for (const hits of [predicted, onDemand]) expect(Number.parseFloat(hits!)).toBeGreaterThan(5);
    expect((await row("Read because a layer waited")).every((bytes) => /[1-9]/.test(bytes))).toBe(true);
    // What nobody predicts is read for no other reason.
    expect(await row("Read ahead and used")).toEqual([expect.stringMatching(/[1-9]/), "0 bytes"]);
    expect(await row("Right and in time")).toEqual([expect.stringMatching(/^\d+\.\d%$/), "–"]);
    expect(await row("Waited for experts")).toEqual([
      expect.stringMatching(/ times$/),
      expect.stringMatching(/ times$/),
    ]);

    for (const [width, colorScheme] of [
      [1280, "light"],
      [320, "dark"],
    ] as const) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 2400 });
      await page.waitForTimeout(200); // it is drawn anew
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      await picture(page, `${width}-${colorScheme}`);
      await expectAccessible(page);
    }
    expect(complaints).toEqual([]);
    await context.close();
  },
);
