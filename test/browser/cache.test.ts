/**
 * The built page's cache view with the shipped model: the tree branches where prompts part, decisions are told, budgets are
 * moved by keyboard and pointer, 10,000 blocks are drawn (times printed), and axe finds nothing serious; and the race. It builds
 * nothing: `vite build` comes before it (PAGE names another folder than dist/page).
 */
import { AxeBuilder } from "@axe-core/playwright";
import { existsSync } from "node:fs";
import type { Browser, Locator, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { fullTest } from "../support/full.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
/** A folder for pictures of what is tested; none by default. */
const PICTURES = process.env["PICTURES"];
const SHIPPED = existsSync("demo/models/tide-dense.gguf") && existsSync("demo/models/tide-hybrid.gguf");

let browser: Browser;
let server: FileServer;
let page: Page;
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

beforeEach(async () => {
  const context = await browser.newContext(); // AxeBuilder wants one
  page = await context.newPage();
  page.setDefaultTimeout(PATIENT_MS);
  complaints = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
});

afterEach(async () => {
  await page.context().close();
  expect(complaints).toEqual([]);
});

const named = (role: Parameters<Page["getByRole"]>[0], name: string | RegExp): Locator =>
  page.getByRole(role, { name });

async function ask(text: string): Promise<void> {
  const answers = page.getByRole("article", { name: "Answer" });
  const before = await answers.count();
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
  await answers.nth(before).locator(".origin").waitFor();
}

async function view(name: string): Promise<void> {
  await named("navigation", "Views").getByRole("link", { name }).click();
}

async function expectAccessible(): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  expect(bad.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`)).toEqual([]);
}

/** Pictures at both widths and in both themes, where somebody wants to look. */
async function pictures(name: string): Promise<void> {
  if (PICTURES === undefined) return;
  for (const [width, size] of Object.entries({ desktop: [1280, 900], phone: [360, 740] } as const)) {
    await page.setViewportSize({ width: size[0], height: size[1] });
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(700);
      await page.screenshot({ path: `${PICTURES}/${name}-${width}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 1280, height: 720 });
}

const SYSTEM = `${["Tern", "Kelpie", "Osprey", "Petrel"].map((ship, i) => `The ${ship} lies at berth ${51 + i}.`).join(" ")} Answer briefly.`;

if (!SHIPPED)
  console.warn("SKIPPED 2 cases of the cache view: demo/models has no tide-dense.gguf or tide-hybrid.gguf");

describe.skipIf(!SHIPPED)("with the shipped models", { timeout: 3 * PATIENT_MS }, () => {
  fullTest(
    "two conversations branch in the tree; decisions are told; budgets move; large trees are drawn",
    async () => {
      await page.goto(server.address);
      await page.locator("summary", { hasText: /^Settings$/ }).click();
      await page.getByLabel("Temperature").fill("0");
      await page.getByLabel("Max tokens").fill("8");
      await view("Cache");
      await named("button", /^Load tide-dense$/).click();
      const tree = named("region", "Prefix tree");
      await tree.filter({ hasText: "Nothing is computed yet" }).waitFor();
      await view("Chat");
      await page.getByLabel("System prompt").fill(SYSTEM);
      await ask("At which berth does the Kelpie lie, and what does it carry today, when the tide is low?");
      await named("button", "New conversation").click();
      await page.getByLabel("System prompt").fill(SYSTEM);
      await ask("Who keeps the light, and who rang the bell when the water was high last night?");
      await view("Cache");

      const drawing = tree.getByRole("img");
      await expect
        .poll(() => drawing.getAttribute("aria-label"), { timeout: PATIENT_MS })
        .toMatch(
          /^2 sequences with 1 branch: \d+ blocks \(([1-9]\d*) on the GPU, [1-9]\d* in memory, [1-9]\d* on disk\)/,
        );
      console.log("tree:", await drawing.getAttribute("aria-label"));
      await tree.locator("summary", { hasText: "as a table" }).click();
      await expect
        .poll(() => named("region", "Tree as a table").locator("tbody tr").count())
        .toBeGreaterThan(2);
      const box = (await drawing.boundingBox()) ?? { x: 0, y: 0 };
      await page.mouse.move(box.x + 14, box.y + 20);
      await tree.filter({ hasText: /Tokens 0 to \d+ · \d+ blocks? \(\d+ on GPU/ }).waitFor();

      const decisions = named("region", "Decisions").getByRole("listitem");
      for (const words of [
        "Prompt 1: none of it is on the GPU.",
        /Prompt 2: its first \d+ tokens are on the GPU, shared with another conversation\./,
        /Kept \d+ blocks? of prompt 1, up to token \d+\./,
        /Copied \d+ blocks? to memory and disk/,
      ])
        await decisions.filter({ hasText: words }).first().waitFor();

      const slider = named("slider", "Budget of memory");
      const before = await slider.getAttribute("aria-valuetext");
      await slider.press("ArrowLeft");
      await slider.press("ArrowLeft");
      await decisions.filter({ hasText: "The budget of memory is 189.8 MB now" }).waitFor();
      expect([before, await slider.getAttribute("aria-valuetext")]).toEqual(["268.4 MB", "189.8 MB"]);
      const track = (await named("slider", "Budget of disk").locator("..").boundingBox())!;
      await page.mouse.move(track.x + track.width * 0.6, track.y + 5);
      await page.mouse.down();
      await page.mouse.move(track.x + track.width * 0.5, track.y + 5, { steps: 4 });
      await page.mouse.up();
      await decisions.filter({ hasText: "The budget of disk is 134.2 MB now" }).waitFor();
      await expectAccessible();
      await page.emulateMedia({ colorScheme: "dark" });
      await expectAccessible();
      await pictures("cache");

      await named("button", "Try it with 10,000 blocks").click();
      const measured = tree.getByRole("status").filter({ hasText: "frames drawn" });
      console.log("10,000 blocks:", await measured.textContent());
      await drawing.and(page.locator('[aria-label^="2 sequences"]')).waitFor();

      await named("button", "Clear…").click();
      await named("button", "Forget").click();
      await decisions.filter({ hasText: "the cache was cleared" }).first().waitFor();
      await tree.filter({ hasText: "Nothing is computed yet" }).waitFor();
    },
  );

  test("a race of two policies: the answers are equal, both are counted, and it can be stopped", async () => {
    await page.goto(`${server.address}#/race`);
    await named("button", "Start the race").click();
    await page.getByText(/^(\d+) of \1 answers are equal/).waitFor();
    await expect
      .poll(() => page.locator(".race-equal").textContent(), { timeout: PATIENT_MS })
      .toMatch(/^([2-9]|\d\d+) of \1 answers are equal/);
    for (const lane of await page.locator(".race-lane").all())
      expect(await lane.textContent()).toMatch(/first token after [\d.]+ s.*[1-9][\d,]* tokens computed/);
    await expectAccessible();
    await pictures("race");
    await named("button", "Stop").click();
    await page.getByText("Stopped.").waitFor();
    await named("button", "Start the race").waitFor();
  });
});
