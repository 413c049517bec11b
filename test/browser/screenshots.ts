/**
 * Pictures of every view of the built page with a real model and real answers, at desktop and phone width, light and dark:
 * demo/screenshots/VIEW-WIDTH-THEME.png; and the installed page's icons. Arguments name the views to take, or `icons`, alone. It checks nothing
 * but sizes; PAGE names another folder than dist/page.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import type { BrowserContext, Locator, Page } from "playwright";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { packPng } from "../support/png.ts";
import { serveFolders } from "../support/serve.ts";
import { drawIcons } from "./icons.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
const OUT = process.env["OUT"] ?? "demo/screenshots";
/** What a picture in the repository may take. */
const BYTES_LIMIT = 150_000;

const WIDTHS = { desktop: { width: 1280, height: 800 }, phone: { width: 360, height: 740 } } as const;
const THEMES = ["light", "dark"] as const;
const NAMED = process.argv.slice(2);
const VIEWS = ["chat", "cache", "compare", "race", "experts", "schedule"] as const;

async function ask(page: Page, text: string): Promise<void> {
  const answers = await page.locator(".answer:not([aria-busy])").count();
  await page.locator("#message").fill(text);
  await page.locator("#message").press("Enter");
  await page.locator(".answer:not([aria-busy])").nth(answers).waitFor();
}

/** A document read, asked about, and asked about again after a reload: so that all sources of tokens are seen. */
async function converse(page: Page): Promise<void> {
  await page.locator("summary", { hasText: /^Settings$/ }).click();
  await page.getByLabel("Temperature").fill("0");
  await page.locator("summary", { hasText: /^Settings$/ }).click();
  await ask(page, "Tell me about the harbour.");
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.getByRole("button", { name: /sample log book/ }).click();
  await ask(page, "What is the berth of the Garwick?");
  await page.waitForTimeout(2000); // the last records go to the disk
  await page.reload();
  await page.locator(".answer").waitFor();
  await ask(page, "What does the Erlvin carry?");
  await page.locator(".facts").waitFor();
}

async function picture(of: Page | Locator, name: string): Promise<void> {
  const path = `${OUT}/${name}.png`;
  const png = packPng(await of.screenshot());
  console.log(`${path}: ${png.length} bytes`);
  if (png.length > BYTES_LIMIT) throw new Error(`${path} has ${png.length} bytes, more than ${BYTES_LIMIT}`);
  writeFileSync(path, png);
}

async function show(page: Page, view: (typeof VIEWS)[number]): Promise<void> {
  await page.getByRole("navigation", { name: "Views" }).getByRole("link", { name: view }).click();
  await page.locator(`[data-view="${view}"] > *`).first().waitFor();
  if (view === "cache") await page.locator(".numbers td").first().waitFor();
  if (view === "compare") await compared(page);
  if (view === "race") await raced(page);
  if (view === "experts") await ranExperts(page);
  if (view === "schedule") await scheduled(page);
  await page.locator(`[data-view="${view}"]`).evaluate((place) => place.scrollTo(0, 0));
  await page.waitForTimeout(500);
}

/** Runs the comparison as the page proposes it, once. */
async function compared(page: Page): Promise<void> {
  const table = page.locator('[data-view="compare"] td', { hasText: "%" });
  if ((await table.count()) > 0) return;
  await page.getByRole("button", { name: "Compare", exact: true }).click();
  const stop = page.locator('[data-view="compare"] button', { hasText: /^Stop$/ });
  await stop.waitFor();
  await stop.waitFor({ state: "hidden" });
}

/** Runs the race once, to its end. */
async function raced(page: Page): Promise<void> {
  const start = page.getByRole("button", { name: "Start the race" });
  if ((await page.locator(".race-dots i").count()) > 0) return;
  await start.click();
  await start.waitFor({ state: "hidden" });
  await start.waitFor({ timeout: 4 * PATIENT_MS });
}

/** Runs both lanes of the experts lab once. */
async function ranExperts(page: Page): Promise<void> {
  if (!(await page.locator(".expert-outcome").isHidden())) return;
  await page.getByRole("button", { name: "Run both" }).click();
  await page.getByText("Both texts are equal").waitFor({ timeout: 4 * PATIENT_MS });
}

/** Runs the scheduler lab once, and asks this page's engine for a prediction. */
async function scheduled(page: Page): Promise<void> {
  const said = page.getByText(/^First token after/);
  if ((await said.count()) > 0) return;
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByRole("row", { name: /Aware of all caches/ }).waitFor({ timeout: 4 * PATIENT_MS });
  await page.getByRole("button", { name: "Predict" }).click();
  await said.waitFor();
}

async function pictures(context: BrowserContext, address: string): Promise<void> {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENT_MS);
  page.on("pageerror", (error) => console.error("page:", error.message));
  await page.goto(address);
  await converse(page);
  for (const view of VIEWS.filter((each) => NAMED.length === 0 || NAMED.includes(each))) {
    for (const [width, size] of Object.entries(WIDTHS)) {
      await page.setViewportSize(size);
      for (const theme of THEMES) {
        await page.emulateMedia({ colorScheme: theme });
        await show(page, view);
        await picture(page, `${view}-${width}-${theme}`);
        if (view === "schedule")
          await picture(page.getByLabel("This page's engine"), `engine-${width}-${theme}`);
      }
    }
  }
}

if (!existsSync(`${FOLDER}/index.html`))
  throw new Error(`${FOLDER} has no built page: npx vite build makes it`);
mkdirSync(OUT, { recursive: true });
const server = await serveFolders({ "": FOLDER });
const browser = await launchChromium();
try {
  if (NAMED.length === 0 || NAMED.includes("icons")) await drawIcons(browser);
  if (NAMED.join() !== "icons")
    await pictures(await browser.newContext({ reducedMotion: "reduce" }), server.address);
} finally {
  await browser.close();
  await server.close();
}
