/** Starts headless Chromium with WebGPU for tests. It installs none: see setup.ts. */
import { chromium, type Browser, type BrowserContext, type LaunchOptions } from "playwright";
import { findChromium } from "./machine.ts";

/**
 * How long a browser test waits for what its software adapter computes. It says when a page hangs, not how fast it should be: other
 * jobs of the run share the cores.
 */
export const PATIENT_MS = 300_000;

const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];

/**
 * A headless Chromium. On Linux WebGPU runs on its built-in SwiftShader, so that results do not depend on the machine;
 * elsewhere on the machine's GPU. The caller closes it.
 */
export async function launchChromium(executablePath = findChromium()): Promise<Browser> {
  return await chromium.launch(settings(executablePath));
}

/** As launchChromium, but what pages store goes into `folder` and is there when it is launched again. */
export async function launchProfile(folder: string): Promise<BrowserContext> {
  return await chromium.launchPersistentContext(folder, settings(findChromium()));
}

function settings(given: string | undefined): LaunchOptions {
  return { ...chromiumArguments(given), headless: true };
}

/** The program and its flags, for whoever starts it without Playwright. */
export function chromiumArguments(executablePath = findChromium()): {
  executablePath: string;
  args: string[];
} {
  if (executablePath === undefined) throw new Error("no Chromium found; npm test says how to install it");
  const args = ["--enable-unsafe-webgpu", ...QUIET];
  if (process.platform === "linux") args.push("--use-webgpu-adapter=swiftshader");
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  return { executablePath, args };
}
