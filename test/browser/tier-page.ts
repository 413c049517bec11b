/** Builds the tier's test page, serves it on localhost, and opens tabs of it in Chromium. */
import { createServer, type Server } from "node:http";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright";
import { build } from "vite";
import type { TierTests } from "../tier/browser-entry.ts";

export type TestWindow = Window & { tierTests: TierTests };

export interface TierPage {
  browser: Browser;
  context: BrowserContext;
  /** A new tab with the tests loaded. */
  tab(): Promise<Page>;
  close(): Promise<void>;
}

const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript" };

async function bundle(outDir: string): Promise<void> {
  await build({
    configFile: false,
    logLevel: "error",
    worker: { format: "es" },
    build: {
      outDir,
      emptyOutDir: false,
      target: "es2023",
      rollupOptions: {
        input: fileURLToPath(new URL("../tier/browser-entry.ts", import.meta.url)),
        output: { entryFileNames: "entry.js" },
        preserveEntrySignatures: "exports-only",
      },
    },
  });
}

async function serve(root: string): Promise<Server> {
  const server = createServer((request, response) => {
    const path = request.url === "/" ? "/index.html" : (request.url ?? "/");
    const body =
      path === "/index.html"
        ? Promise.resolve('<!doctype html><script type="module" src="/entry.js"></script>')
        : readFile(join(root, path));
    body.then(
      (content) => response.setHeader("Content-Type", TYPES[extname(path)] ?? "text/plain").end(content),
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

export async function openTierPage(): Promise<TierPage> {
  const root = await mkdtemp(join(tmpdir(), "tidepool-page-"));
  await bundle(root);
  const server = await serve(root);
  const url = `http://localhost:${(server.address() as AddressInfo).port}/`;
  const browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--headless=new", "--no-sandbox", "--disable-background-networking"],
  });
  const context = await browser.newContext();
  return {
    browser,
    context,
    tab: async () => {
      const page = await context.newPage();
      page.on("pageerror", (error) => console.error("page:", error.message));
      await page.goto(url);
      await page.waitForFunction(() => "tierTests" in window);
      return page;
    },
    close: async () => {
      await browser.close();
      await new Promise((resolve) => server.close(resolve));
      await rm(root, { recursive: true });
    },
  };
}

/** Kills a tab's process, as a crash does; the page object is of no use afterwards. */
export async function crash(page: Page): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const crashed = new Promise<void>((resolve) => page.once("crash", () => resolve()));
  session.send("Page.crash").catch(() => undefined); // nobody is left to answer
  await crashed;
  await page.close();
}

export interface TabKillReport {
  kills: number;
  /** Chains that killed tabs had reported as drained, and how many of their records were served afterwards. */
  drained: number;
  served: number;
  checked: number;
}

/** Kills a spilling tab `kills` times, by turns closed and crashed, while another tab stays on the same store. */
export async function killTabs(
  tierPage: TierPage,
  kills: number,
  pause: () => number,
): Promise<TabKillReport> {
  const place = `kills-${Date.now()}`;
  const report: TabKillReport = { kills, drained: 0, served: 0, checked: 0 };
  const watcher = await tierPage.tab();
  await watcher.evaluate((name) => (window as unknown as TestWindow).tierTests.open("opfs", name), place);
  for (let i = 0; i < kills; i++) {
    const victim = await tierPage.tab();
    await victim.evaluate((name) => (window as unknown as TestWindow).tierTests.open("opfs", name), place);
    await victim.evaluate((seed) => (window as unknown as TestWindow).tierTests.spill(seed), 1000 * (i + 1));
    await victim.waitForTimeout(pause()); // the moment of death, not a condition
    const drained = await victim.evaluate(() => [...(window as unknown as TestWindow).tierTests.drained]);
    await (i % 2 === 0 ? victim.close() : crash(victim));
    const { checked, bad } = await watcher.evaluate(() =>
      (window as unknown as TestWindow).tierTests.verify(),
    );
    report.checked += checked;
    if (Object.keys(bad).length > 0)
      throw new Error(`half-committed after kill ${i}: ${JSON.stringify(bad)}`);
    for (const seed of drained) {
      const read = await watcher.evaluate((n) => (window as unknown as TestWindow).tierTests.read(n), seed);
      report.served += read;
    }
    report.drained += drained.length;
  }
  const end = await watcher.evaluate(
    (name) => (window as unknown as TestWindow).tierTests.finish(name),
    place,
  );
  if (!end.complete || end.files.length > 0) throw new Error(`left behind: ${JSON.stringify(end)}`);
  await watcher.close();
  return report;
}
