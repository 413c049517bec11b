/** Starting a worker whose script lies on another origin: a script of the own origin that takes it in. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { findScript, loadingFlags } from "../../src/platform/spawn-node.ts";
import { isElsewhere, startWebWorker } from "../../src/platform/spawn.ts";

const PAGE = "https://app.example";
const CDN = "https://cdn.example/tidepool/worker.js";

/** A Worker that starts nothing and remembers what it was asked to start. */
class FakeWorker {
  readonly script: string;

  constructor(script: string | URL) {
    this.script = String(script);
  }
}

const blobs = new Map<string, Blob>();

beforeEach(() => {
  vi.stubGlobal("Worker", FakeWorker);
  vi.stubGlobal("location", new URL(`${PAGE}/page/`));
  vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
    const address = `blob:${PAGE}/${blobs.size}`;
    blobs.set(address, blob as Blob);
    return address;
  });
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const scriptOf = (href: string | URL, options?: WorkerOptions): string =>
  (startWebWorker(() => new Worker(href, options)) as unknown as FakeWorker).script;

test("only web addresses of another origin lie elsewhere", () => {
  expect(isElsewhere(CDN, PAGE)).toBe(true);
  expect(isElsewhere(CDN.replace("https", "http"), "https://cdn.example")).toBe(true);
  expect(isElsewhere(`${PAGE}/assets/worker.js`, PAGE)).toBe(false);
  expect(isElsewhere(`blob:${PAGE}/1`, "https://cdn.example")).toBe(false);
  expect(isElsewhere("file:///lib/worker.js", PAGE)).toBe(false);
  expect(isElsewhere(CDN, "null")).toBe(false); // a page from a file
  vi.stubGlobal("location", undefined); // Deno without --location
  expect(isElsewhere(CDN)).toBe(false);
});

test("a script of the page's own origin is started as it is", () => {
  const own = new URL("worker.js", `${PAGE}/assets/`);
  expect(scriptOf(own, { type: "module" })).toBe(own.href);
  expect(scriptOf("../assets/worker.js")).toBe("../assets/worker.js");
});

test("a script from elsewhere is taken in by one of our own, made once", async () => {
  const module = scriptOf(CDN, { type: "module" });
  expect(await blobs.get(module)?.text()).toBe(`import "${CDN}";`);
  expect(await blobs.get(scriptOf(CDN))?.text()).toBe(`importScripts("${CDN}");`);
  expect(scriptOf(CDN, { type: "module" })).toBe(module);
});

test("the platform's Worker is back afterwards, also after a throw", () => {
  scriptOf(CDN);
  expect(globalThis.Worker).toBe(FakeWorker);
  const fail = (): Worker => {
    throw new Error("no");
  };
  expect(() => startWebWorker(fail)).toThrow("no");
  expect(globalThis.Worker).toBe(FakeWorker);
});

test("a worker inherits the flags that say how modules are loaded, and no text that was given to node", () => {
  const flags = [
    "--no-warnings",
    "--import",
    "./hooks.mjs",
    "--input-type=module",
    "-C",
    "dev",
    "-e",
    "code()",
  ];
  expect(loadingFlags(flags)).toEqual(["--import", "./hooks.mjs", "-C", "dev"]);
  expect(loadingFlags(["--import=./hooks.mjs", "-r", "./before.cjs", "-p", "1"])).toEqual([
    "--import=./hooks.mjs",
    "-r",
    "./before.cjs",
  ]);
});

test("where there is no Worker the error says so", () => {
  vi.stubGlobal("Worker", undefined);
  const why = expect.stringContaining(
    "no Worker (service workers, server-side rendering and jsdom",
  ) as string;
  expect(() => scriptOf(CDN)).toThrow(expect.objectContaining({ code: "unsupported", message: why }));
});

test("a thread's script is taken from the installed package if a bundler left it behind, or the error says what to do", () => {
  const folder = mkdtempSync(join(tmpdir(), "tidepool-spawn-"));
  try {
    const here = pathToFileURL(join(folder, "out", "app.mjs")).href;
    const whatToDo = expect.stringContaining("--external:tidepool") as string;
    expect(() => findScript("./worker.js", here)).toThrow(
      expect.objectContaining({ code: "unsupported", message: whatToDo }),
    );
    const installed = join(folder, "node_modules", "tidepool");
    mkdirSync(installed, { recursive: true });
    for (const file of ["index.js", "worker.js"]) writeFileSync(join(installed, file), "");
    const found = realpathSync(join(installed, "worker.js"));
    expect(realpathSync(findScript("./worker.js", here))).toBe(found);
    expect(realpathSync(findScript("./worker.js", pathToFileURL(join(installed, "index.js")).href))).toBe(
      found,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
