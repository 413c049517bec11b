/**
 * Runs the GPU cases in Node (on Dawn) or in Deno; the same built file for both. The driver is chosen outside, by
 * VK_DRIVER_FILES. Its argument is a CaseChoice in JSON, or --probe to print the adapter and end.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import type { CaseChoice } from "../support/cases.ts";
import { allCases } from "./cases.ts";
import { printAdapter, runSuite, SharedAbsent } from "./run.ts";

const root = new URL("../shared/", pathToFileURL(`${process.cwd()}/`));

async function shared(path: string): Promise<Uint8Array<ArrayBuffer>> {
  if (process.env["WITHOUT_SHARED"] === "1" || !existsSync(new URL("README.md", root)))
    throw new SharedAbsent("../shared is absent");
  return new Uint8Array(await readFile(new URL(path, root)));
}

const models = new URL("demo/models/", pathToFileURL(`${process.cwd()}/`));

async function shipped(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const file = new URL(path, models);
  if (!existsSync(file)) throw new SharedAbsent(`demo/models/${path} is absent`);
  return new Uint8Array(await readFile(file));
}

async function main(args: string[]): Promise<number> {
  const log = (line: string) => console.log(line);
  if (args.includes("--probe")) {
    await printAdapter(log);
    return 0;
  }
  const choice = JSON.parse(args[0] ?? "{}") as CaseChoice;
  const { failed } = await runSuite(allCases, { shared, shipped }, { ...choice, log });
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
// Dawn keeps the process alive; a moment lets the maps that the device's end rejected settle (else: exit 134).
setTimeout(() => process.exit(), 50);
