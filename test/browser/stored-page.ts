/**
 * A bare page with the built library (dist/browser; LIB names another folder) and one engine on it, driven from tests: asks
 * about a document in token ids, so that its first tokens are the same in each question. It builds nothing, and knows
 * nothing of the demo page.
 */
import { existsSync } from "node:fs";
import type { BrowserContext, Page } from "playwright";
import type { CacheOptions, CacheStats, Engine, GenerationResult } from "../../src/index.ts";
import type * as Library from "../../src/index.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";
import { sharedPath, sharedPresent } from "../support/shared.ts";

const LIBRARY = process.env["LIB"] ?? "dist/browser";

/** Tokens that the question and its answer may take. */
const ASKING_TOKENS = 64;
const ANSWER_TOKENS = 8;

/** What a model is asked about; the document is cut to what the model's context takes. */
export interface Reading {
  documentTokens: number;
  /** Full blocks of the document alone, in tokens: what must come back whatever is asked. */
  blocksTokens: number;
}

declare global {
  /** In the page. */
  var tidepool: typeof Library;
  var engine: Engine;
  var codes: string[];
}

const HTML = `<!doctype html><script type="module">
import * as tidepool from "./index.js";
globalThis.tidepool = tidepool;
</script>`;

/** The shipped model, or the given small one; undefined where there is neither. */
export function modelFolder(): { folder: string; file: string } | undefined {
  if (existsSync("demo/models/tide-dense.gguf")) return { folder: "demo/models", file: "tide-dense.gguf" };
  return sharedPresent ? { folder: sharedPath("goldens/stories260K"), file: "model.gguf" } : undefined;
}

export function servePage(): Promise<FileServer> {
  if (!existsSync(`${LIBRARY}/index.js`))
    throw new Error(`${LIBRARY} has no built library: npx vite build --mode browser makes it`);
  const model = modelFolder();
  return serveFolders({ "": LIBRARY, ...(model && { models: model.folder }) }, { "/stored.html": HTML });
}

/** A tab with the library loaded and no engine yet. */
export async function openTab(context: BrowserContext, address: string): Promise<Page> {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error("page:", error.message));
  await page.goto(`${address}stored.html`);
  await page.waitForFunction(() => "tidepool" in globalThis);
  return page;
}

/**
 * Loads the model in a tab; later notices are collected by code. Stored blocks are loaded and never computed instead, so
 * that what a tab found does not depend on how busy the machine is.
 */
export async function openEngine(page: Page, cache: CacheOptions): Promise<void> {
  await page.waitForFunction(() => "tidepool" in globalThis);
  const address = new URL(`models/${modelFolder()?.file}`, page.url()).href;
  await page.evaluate(
    async ([url, options]) => {
      globalThis.codes = [];
      globalThis.engine = await tidepool.Engine.load(new URL(url), {
        cache: { restore: "load", ...options },
        onNotice: ({ code, message }) => {
          codes.push(code);
          console.log(`${code}: ${message}`);
        },
      });
    },
    [address, cache] as const,
  );
}

export async function closeEngine(page: Page): Promise<void> {
  await page.evaluate(() => engine.close());
}

/** A log book with facts that differ in each line, long enough for any context here. */
function logBook(number: number): string {
  const names = ["Marlow", "Tern", "Osprey", "Kelpie", "Brannock", "Sallow", "Petrel"];
  const goods = ["salt", "rope", "timber", "coal", "wool"];
  const lines = Array.from({ length: 160 }, (_, i) => {
    const berth = (number * 31 + i * 17) % 97;
    return `The ${names[i % names.length]} brought ${goods[i % goods.length]} to berth ${berth} in the harbour.`;
  });
  return `Log book ${number}.\n${lines.join("\n")}`;
}

/** How much of a document is read, by the loaded model's context. */
export async function readingOf(page: Page, wantedTokens: number): Promise<Reading> {
  const { context, block } = await page.evaluate(() => ({
    context: engine.info.model.contextTokens,
    block: engine.info.limits.blockTokens,
  }));
  const documentTokens = Math.min(wantedTokens, context - ASKING_TOKENS - ANSWER_TOKENS);
  return { documentTokens, blocksTokens: Math.floor(documentTokens / block) * block };
}

/** Asks a question about the first tokens of a log book, greedily. */
export async function ask(
  page: Page,
  book: number,
  documentTokens: number,
  question: string,
  cache: "off" | "memory" | "disk" = "disk",
): Promise<GenerationResult> {
  return await page.evaluate(
    async ([text, documentTokens, question, cache, askingTokens, maxTokens]) => {
      const document = (await engine.tokenize(text)).slice(0, documentTokens);
      if (document.length < documentTokens)
        throw new Error(`the document has ${document.length} tokens only`);
      const asked = await engine.tokenize(`\nQuestion: ${question}\nAnswer:`);
      const tokens = [...document, ...asked.slice(0, askingTokens)];
      return engine.generate(tokens, { maxTokens, cache }).result();
    },
    [logBook(book), documentTokens, question, cache, ASKING_TOKENS, ANSWER_TOKENS] as const,
  );
}

/** Waits until all is written; what could not be is told. */
export async function drain(page: Page): Promise<number> {
  return (await page.evaluate(() => engine.cache.drain(60_000))).left;
}

export async function statsOf(page: Page): Promise<CacheStats> {
  return await page.evaluate(() => engine.cache.stats());
}
