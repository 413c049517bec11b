/**
 * Models by link in headless Chromium, from a server of another origin: progress, a browser that is closed in the middle,
 * the rest after it is opened again, and loading with no server at all; two tabs at once; the Cache API in OPFS's place.
 * It builds the library for browsers into a folder of its own; times are printed, never asserted.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { BrowserContext, Page } from "playwright";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { Engine, LoadProgress, StoredModel } from "../../src/index.ts";
import type * as Library from "../../src/index.ts";
import { launchProfile, PATIENT_MS } from "../support/chromium.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";
import { serveUnreliably, type UnreliableServer } from "../support/unreliable-server.ts";

const MODEL = "demo/models/tide-dense.gguf";
/** Bytes behind the model's tensors, so that the download takes a while; they are fetched and checked like the rest. */
const PADDING_BYTES = 12_000_000;
const BYTES_PER_SECOND = 4_000_000;
/** What a browser that is closed may have received and not noted: see download/limits.ts. */
const LOST_BYTES = 4_000_000;
const PROMPT = "The harbour was quiet and";

declare global {
  /** In the page. */
  var tidepool: typeof Library;
  var engine: Engine;
  var told: LoadProgress[];
}

const HTML = `<!doctype html><script type="module">
import * as tidepool from "./index.js";
globalThis.tidepool = tidepool;
</script>`;

/** Folder of a copy of the library whose workers see no OPFS. */
const NO_OPFS = "no-opfs/";

async function refuseOpfs(from: string, to: string): Promise<void> {
  const refuse =
    'StorageManager.prototype.getDirectory = () => Promise.reject(new DOMException("no", "SecurityError"));';
  await mkdir(to);
  for (const name of (await readdir(from)).filter((each) => each.endsWith(".js"))) {
    const code = await readFile(join(from, name), "utf8");
    await writeFile(join(to, name), name.startsWith("worker") ? `${refuse}\n${code}` : code);
  }
}

const CASES = 3;
const present = existsSync(MODEL);
if (!present) console.warn(`SKIPPED ${CASES} cases of downloads in the browser: ${MODEL} is absent`);

let library: string;
let site: FileServer;
let models: UnreliableServer;
let profile: string;
let context: BrowserContext;
let sizeBytes = 0;

function paddedModel(): Uint8Array {
  const model = readFileSync(MODEL);
  const random = new Random(1);
  const padding = Uint32Array.from({ length: PADDING_BYTES / 4 }, () => random.uint32());
  return new Uint8Array(Buffer.concat([model, new Uint8Array(padding.buffer)]));
}

describe.skipIf(!present)("models by link in Chromium", { timeout: PATIENT_MS }, () => {
  beforeAll(async () => {
    library = await mkdtemp(join(tmpdir(), "tidepool-library-"));
    await build({
      mode: "browser",
      logLevel: "error",
      build: { outDir: resolve(library), emptyOutDir: false },
    });
    await refuseOpfs(library, join(library, NO_OPFS));
    site = await serveFolders({ "": library }, { "/bare.html": HTML, [`/${NO_OPFS}bare.html`]: HTML });
    const bytes = paddedModel();
    sizeBytes = bytes.length;
    models = await serveUnreliably({ "/model.gguf": bytes });
  }, PATIENT_MS);

  afterAll(async () => {
    await site.close();
    await models.close();
    await rm(library, { recursive: true, force: true });
  });

  beforeEach(async () => {
    profile = await mkdtemp(join(tmpdir(), "tidepool-profile-"));
    context = await launchProfile(profile);
    models.bytesPerSecond = BYTES_PER_SECOND;
    models.bytesSent = 0;
  }, PATIENT_MS);

  afterEach(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  });

  async function tab(folder = ""): Promise<Page> {
    const page = await context.newPage();
    page.on("pageerror", (error) => console.error("page:", error.message));
    await page.goto(`${site.address}${folder}bare.html`);
    await page.waitForFunction(() => "tidepool" in globalThis);
    return page;
  }

  const url = (): string => `${models.address}/model.gguf`;

  /** Starts loading; the page's `told` fills with progress. */
  function load(page: Page): Promise<void> {
    return page.evaluate(async (link) => {
      globalThis.told = [];
      globalThis.engine = await tidepool.Engine.load(new URL(link), {
        onProgress: (progress) => void told.push(progress),
      });
    }, url());
  }

  async function answerOf(page: Page): Promise<string> {
    const result = await page.evaluate(
      (prompt) => engine.generate(prompt, { maxTokens: 8 }).result(),
      PROMPT,
    );
    expect(result.text.length).toBeGreaterThan(0);
    return result.text;
  }

  const kept = (page: Page): Promise<StoredModel[]> => page.evaluate(() => tidepool.models.list());

  const downloaded = (page: Page): Promise<number> =>
    page.evaluate(() => globalThis.told?.findLast(({ phase }) => phase === "download")?.done ?? 0);

  test("a browser closed in the middle goes on where it was, and then needs no server", async () => {
    let page = await tab();
    const interrupted = load(page).catch(() => "closed");
    await expect.poll(() => downloaded(page), { timeout: PATIENT_MS }).toBeGreaterThan(sizeBytes / 2);
    await context.close();
    expect(await interrupted).toBe("closed");
    const sentBefore = models.bytesSent;

    context = await launchProfile(profile);
    page = await tab();
    const [partial] = await kept(page);
    expect(partial).toMatchObject({ name: url(), sizeBytes, isComplete: false });
    console.log(`closed after ${sentBefore} bytes were sent; ${partial?.bytesKept} are kept`);
    expect(partial?.bytesKept).toBeGreaterThan(sizeBytes / 4);
    await load(page);
    const text = await answerOf(page);
    const waste = models.bytesSent - sizeBytes;
    console.log(
      `${models.bytesSent} bytes sent for ${sizeBytes}: ${((100 * waste) / sizeBytes).toFixed(1)}% twice`,
    );
    expect(waste).toBeLessThan(LOST_BYTES);
    const told = await page.evaluate(() => globalThis.told);
    const during = told.findIndex(({ phase, done, total }) => phase === "download" && done === total);
    expect(told.slice(0, during).some(({ phase, done }) => phase === "weights" && done > 0)).toBe(true);
    expect(told.some(({ phase, secondsLeft }) => phase === "download" && (secondsLeft ?? 0) > 0)).toBe(true);
    // The model answers before its file is checked and whole.
    const verified = (): Promise<unknown> => page.evaluate(() => tidepool.models.verify());
    await expect.poll(verified, { timeout: PATIENT_MS }).toEqual({ checked: 1, bad: [], partial: 0 });

    await models.pause();
    await page.reload();
    await page.waitForFunction(() => "tidepool" in globalThis);
    await load(page);
    expect(await answerOf(page)).toBe(text);
    await models.resume();
    await page.evaluate(() => engine.close());
    expect(await page.evaluate((name) => tidepool.models.remove(name), url())).toEqual({
      bytesFreed: sizeBytes,
    });
    expect(await kept(page)).toEqual([]);
  });

  test("two tabs download once", async () => {
    models.bytesPerSecond = 0;
    const [one, two] = [await tab(), await tab()];
    await Promise.all([load(one), load(two)]);
    expect(await answerOf(one)).toBe(await answerOf(two));
    expect(models.bytesSent).toBe(sizeBytes);
  });

  test("without OPFS it is the Cache API", async () => {
    const page = await tab(NO_OPFS);
    const stopped = page.evaluate(async (link) => {
      const controller = new AbortController();
      const half = ({ phase, done, total }: LoadProgress): void => {
        if (phase === "download" && done > total / 2) controller.abort();
      };
      const loading = tidepool.Engine.load(new URL(link), { signal: controller.signal, onProgress: half });
      return loading.then(
        () => "loaded",
        (error: unknown) => (error as { code: string }).code,
      );
    }, url());
    expect(await stopped).toBe("aborted");
    expect(await page.evaluate(() => caches.keys())).toContain("tidepool-models");
    const [partial] = await kept(page);
    expect(partial?.bytesKept).toBeGreaterThan(sizeBytes / 4);
    models.bytesPerSecond = 0;
    await load(page);
    await answerOf(page);
    expect(models.bytesSent).toBeLessThan(sizeBytes + LOST_BYTES);
    await expect.poll(async () => (await kept(page))[0]?.isComplete, { timeout: PATIENT_MS }).toBe(true);
    await models.pause();
    await page.reload();
    await page.waitForFunction(() => "tidepool" in globalThis);
    await load(page);
    await answerOf(page);
    await models.resume();
  });
});
