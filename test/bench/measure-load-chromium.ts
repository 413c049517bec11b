/**
 * Measures the memory of Chromium's processes while a page loads a large model: the renderer, whose worker reads the file,
 * and the GPU process, which gets the weights. The JavaScript heap shows neither. Linux only: it reads /proc.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { Page } from "playwright";
import type { Engine } from "../../src/index.ts";
import type * as Library from "../../src/index.ts";
import { launchProfile } from "../support/chromium.ts";
import { serveFolders } from "../support/serve.ts";
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
    "from a File": (page: Page) => fromFile(page, file),
    "over the network": (page: Page) => fromLink(page, `${site.address}models/${basename(file)}`),
    "from what is kept": (page: Page) => fromLink(page, `${site.address}models/${basename(file)}`),
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
  load: (page: Page) => Promise<void>,
): Promise<Used> {
  const context = await launchProfile(profile);
  try {
    const page = await context.newPage();
    await page.goto(`${address}bare.html`);
    await page.waitForFunction(() => "tidepool" in globalThis);
    const before = memoryOf(profile);
    const peak = { ...before };
    const timer = setInterval(() => {
      const now = memoryOf(profile);
      peak.renderer = Math.max(peak.renderer, now.renderer);
      peak.gpu = Math.max(peak.gpu, now.gpu);
    }, SAMPLE_MS);
    await load(page);
    clearInterval(timer);
    await new Promise((done) => setTimeout(done, AFTER_MS));
    return {
      rendererPeak: peak.renderer - before.renderer,
      rendererAfter: memoryOf(profile).renderer - before.renderer,
      gpuPeak: peak.gpu - before.gpu,
    };
  } finally {
    await context.close();
  }
}

async function fromFile(page: Page, file: string): Promise<void> {
  await page.locator("input").setInputFiles(file);
  await page.evaluate(async () => {
    const [chosen] = document.querySelector("input")?.files ?? [];
    globalThis.engine = await tidepool.Engine.load(chosen as File, { poolTokens: 256, dtype: "f32" });
  });
}

async function fromLink(page: Page, link: string): Promise<void> {
  await page.evaluate(async (address) => {
    globalThis.engine = await tidepool.Engine.load(new URL(address), { poolTokens: 256, dtype: "f32" });
  }, link);
}

/** Resident bytes of the browser that was launched on this profile: its largest renderer, and its GPU process. */
function memoryOf(profile: string): { renderer: number; gpu: number } {
  const processes = readdirSync("/proc").flatMap(processOf);
  const main = processes.find(
    ({ command }) => command.includes(`--user-data-dir=${profile}`) && !command.includes("--type="),
  );
  const family = new Set<number>(main ? [main.pid] : []);
  for (const { pid, parent } of processes.sort((a, b) => a.pid - b.pid))
    if (family.has(parent)) family.add(pid);
  const largest = (type: string): number =>
    Math.max(
      0,
      ...processes
        .filter(({ pid, command }) => family.has(pid) && command.includes(`--type=${type}`))
        .map(({ pid }) => residentBytes(pid)),
    );
  return { renderer: largest("renderer"), gpu: largest("gpu-process") };
}

function processOf(entry: string): { pid: number; parent: number; command: string }[] {
  if (!/^\d+$/.test(entry)) return [];
  try {
    const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ");
    const [, parent = ""] = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${entry}/status`, "utf8")) ?? [];
    return [{ pid: Number(entry), parent: Number(parent), command }];
  } catch {
    return []; // it has ended
  }
}

function residentBytes(pid: number): number {
  try {
    const [, kib = "0"] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
    return 1024 * Number(kib);
  } catch {
    return 0;
  }
}
