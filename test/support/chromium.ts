/** Starts headless Chromium with WebGPU for tests. It installs none: see setup.ts. */
import { chromium, type Browser } from "playwright";
import { findChromium } from "./machine.ts";

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
  if (executablePath === undefined) throw new Error("no Chromium found; npm test says how to install it");
  const args = ["--enable-unsafe-webgpu", ...QUIET];
  if (process.platform === "linux") args.push("--use-webgpu-adapter=swiftshader");
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  return await chromium.launch({ executablePath, headless: true, args });
}
