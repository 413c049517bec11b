/**
 * Measures the memory of Chromium's processes while a page loads a large model: the renderer, whose worker reads the file,
 * and the GPU process, which gets the weights. The JavaScript heap shows neither. Nothing observes the tab's network, since
 * Chromium keeps what an observed tab receives. Linux only: it reads /proc.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { Engine } from "../../src/index.ts";
import type * as Library from "../../src/index.ts";
import { serveFolders } from "../support/serve.ts";
import { openUnobservedTab, type UnobservedTab } from "../support/unobserved-tab.ts";
import type { Measurement } from "./report.ts";

declare global {
  /** In the page. */
  var tidepool: typeof Library;
  var engine: Engine;
}

const SAMPLE_MS = 50;
/** How long after a load memory counts as kept. */
const AFTER_MS = 10_000;
const MIB = 2 ** 20;

const HTML = `<!doctype html><input type="file"><script type="module">
import * as tidepool from "./index.js";
globalThis.tidepool = tidepool;
</script>`;

/** @param file a model of some hundred megabytes */
export async function measureLoadInChromium(
  name: string,
  file: string,
  repeats: number,
): Promise<Measurement[]> {
  const folder = mkdtempSync(join(tmpdir(), "tidepool-load-chromium-"));
  const library = join(folder, "library");
  buildLibrary(library);
  const site = await serveFolders({ "": library, models: dirname(file) }, { "/bare.html": HTML });
  const ways = {
    "from a File": (tab: UnobservedTab) => fromFile(tab, file),
    "over the network": (tab: UnobservedTab) => fromLink(tab, `${site.address}models/${basename(file)}`),
    "from what is kept": (tab: UnobservedTab) => fromLink(tab, `${site.address}models/${basename(file)}`),
  };
  const measurements: Measurement[] = [];
  try {
    const found = new Map<string, Used[]>();
    for (let repeat = 0; repeat < repeats; repeat++) {
      const profile = join(folder, `profile-${repeat}`);
      for (const [way, load] of Object.entries(ways)) {
        const used = await measured(profile, site.address, load);
        found.set(way, [...(found.get(way) ?? []), used]);
      }
    }
    for (const [way, loads] of found) measurements.push(...rows(`${name} in Chromium, ${way}`, loads));
  } finally {
    await site.close();
    rmSync(folder, { recursive: true, force: true });
  }
  return [{ name, metric: "model", unit: "MB", values: [statSync(file).size / 1e6] }, ...measurements];
}

function buildLibrary(outDir: string): void {
  const args = ["build", "--mode", "browser", "--logLevel", "error", "--outDir", outDir];
  execFileSync(process.execPath, ["node_modules/vite/bin/vite.js", ...args], { stdio: "inherit" });
}

/** Bytes beyond what the processes had before. */
interface Used {
  rendererPeak: number;
  rendererAfter: number;
  gpuPeak: number;
}

function rows(name: string, loads: readonly Used[]): Measurement[] {
  const values = (of: keyof Used): number[] => loads.map((used) => used[of] / MIB);
  return [
    { name, metric: "renderer, peak", unit: "MiB", values: values("rendererPeak") },
    { name, metric: "renderer, 10 s after", unit: "MiB", values: values("rendererAfter") },
    { name, metric: "GPU process (has the weights), peak", unit: "MiB", values: values("gpuPeak") },
  ];
}

async function measured(
  profile: string,
  address: string,
  load: (tab: UnobservedTab) => Promise<void>,
): Promise<Used> {
  const tab = await openUnobservedTab(profile, `${address}bare.html`, () => "tidepool" in globalThis);
  try {
    const before = tab.memory();
    const peak = { ...before };
    const timer = setInterval(() => {
      const now = tab.memory();
      peak.renderer = Math.max(peak.renderer, now.renderer);
      peak.gpu = Math.max(peak.gpu, now.gpu);
    }, SAMPLE_MS);
    await load(tab).finally(() => clearInterval(timer));
    await new Promise((done) => setTimeout(done, AFTER_MS));
    return {
      rendererPeak: peak.renderer - before.renderer,
      rendererAfter: tab.memory().renderer - before.renderer,
      gpuPeak: peak.gpu - before.gpu,
    };
  } finally {
    await tab.close();
  }
}

async function fromFile(tab: UnobservedTab, file: string): Promise<void> {
  await tab.choose(file);
  await tab.evaluate(async () => {
    const [chosen] = document.querySelector("input")?.files ?? [];
    globalThis.engine = await tidepool.Engine.load(chosen as File, { poolTokens: 256, dtype: "f32" });
  }, undefined);
}

async function fromLink(tab: UnobservedTab, link: string): Promise<void> {
  await tab.evaluate(async (address) => {
    globalThis.engine = await tidepool.Engine.load(new URL(address), { poolTokens: 256, dtype: "f32" });
  }, link);
}
