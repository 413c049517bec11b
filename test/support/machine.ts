/**
 * Finds what the tests run on: Chromium, the Vulkan driver files of lavapipe and SwiftShader, Deno; and asks a runtime
 * which adapter it sees. It installs nothing (setup.ts decides, src/setup installs).
 */
import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { chromium } from "playwright";

const run = promisify(execFile);

/** What a runtime says of the adapter that it gets. */
export interface Probe {
  adapter: string;
  features: { f16: boolean; subgroups: boolean; timestamps: boolean };
  software: boolean;
}

/** How long a runtime may take to open an adapter. */
const PROBE_LIMIT_MS = 60_000;

const CHROMIUM_NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

const CHROMIUM_PLACES: Partial<Record<NodeJS.Platform, string[]>> = {
  darwin: [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
  ],
  win32: [
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Program Files (x86)\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe",
  ],
};

/** The Chromium to test with: the environment's CHROMIUM, one on the PATH, one in its usual place, or Playwright's. */
export function findChromium(): string | undefined {
  const given = process.env["CHROMIUM"];
  if (given !== undefined && given !== "") {
    if (!existsSync(given)) throw new Error(`CHROMIUM names ${given}, which does not exist`);
    return given;
  }
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const places = [
    ...CHROMIUM_NAMES.flatMap((name) => folders.map((folder) => join(folder, name))),
    ...(CHROMIUM_PLACES[process.platform] ?? []),
    chromium.executablePath(),
  ];
  return places.find((place) => existsSync(place));
}

/** The driver file of Chromium's own SwiftShader, which Dawn can use as a Vulkan driver. */
export function findSwiftShader(chromiumPath: string | undefined): string | undefined {
  const folders = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/usr/lib64/chromium-browser"];
  if (chromiumPath !== undefined) folders.unshift(dirname(realpathSync(chromiumPath)));
  return folders.map((folder) => join(folder, "vk_swiftshader_icd.json")).find((file) => existsSync(file));
}

/** The Deno that npm installed; the first call puts its program in place, from the package of this platform. */
export async function findDeno(): Promise<string> {
  const folder = join(process.cwd(), "node_modules/deno");
  await run(process.execPath, [join(folder, "bin.cjs"), "--version"]);
  return join(folder, process.platform === "win32" ? "deno.exe" : "deno");
}

/** The environment in which a runtime finds the given Vulkan driver; without one, the platform's own. */
export function driverEnv(driverFile: string | undefined): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { XDG_RUNTIME_DIR: tmpdir(), ...process.env };
  delete env["VK_DRIVER_FILES"];
  if (driverFile !== undefined) env["VK_DRIVER_FILES"] = driverFile;
  return env;
}

/** How Node or Deno is started on a built file. */
export function command(program: "node" | "deno", deno: string, file: string): [string, string[]] {
  return program === "node" ? [process.execPath, [file]] : [deno, ["run", "-A", "--no-lock", file]];
}

/** What our own fault looks like: it says nothing about a driver. */
const OUR_FAULT = /ReferenceError|SyntaxError|Cannot find (?:module|package)/;

/**
 * Opens an adapter in Node or Deno with the given driver; says why not where it fails.
 * @throws Error if the cases themselves do not start
 */
export async function probe(
  program: "node" | "deno",
  deno: string,
  driverFile: string | undefined,
): Promise<Probe | { error: string }> {
  const [file, args] = command(program, deno, "dist/suite/node.js");
  try {
    const env = driverEnv(driverFile);
    const { stdout } = await run(file, [...args, "--probe"], { env, timeout: PROBE_LIMIT_MS });
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Probe;
  } catch (error) {
    const why = reason(error);
    if (OUR_FAULT.test(why)) throw new Error(`${file} ${args.join(" ")} does not start: ${why}`);
    return { error: why };
  }
}

function reason(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message: string };
  const line = stderr?.split("\n").find((text) => /error:/i.test(text));
  return line?.trim() ?? message.split("\n")[0] ?? "unknown";
}
