/**
 * Runs the GPU cases in Node (on Dawn) or in Deno; the same built file for both. The driver is chosen outside, by
 * VK_DRIVER_FILES. Its argument is a RunRequest in JSON, or --probe to print the adapter and end.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { allCases } from "./cases.ts";
import { FileAbsent, printAdapter, runSuite, type RunRequest } from "./run.ts";

const root = new URL("../shared/", pathToFileURL(`${process.cwd()}/`));

const shared =
  process.env["WITHOUT_SHARED"] === "1" || !existsSync(new URL("README.md", root))
    ? undefined
    : async (path: string): Promise<Uint8Array<ArrayBuffer>> =>
        new Uint8Array(await readFile(new URL(path, root)));

const models = new URL("demo/models/", pathToFileURL(`${process.cwd()}/`));

async function shipped(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const file = new URL(path, models);
  if (!existsSync(file)) throw new FileAbsent(`demo/models/${path} is absent`);
  return new Uint8Array(await readFile(file));
}

const goldens = new URL("test/goldens/", pathToFileURL(`${process.cwd()}/`));

const golden = async (path: string): Promise<Uint8Array<ArrayBuffer>> =>
  new Uint8Array(await readFile(new URL(path, goldens)));

async function main(args: string[]): Promise<number> {
  const log = (line: string) => console.log(line);
  if (args.includes("--probe")) {
    await printAdapter(log);
    return 0;
  }
  const request = JSON.parse(args[0] ?? "{}") as RunRequest;
  const { failed } = await runSuite(allCases, { shared, shipped, golden }, { ...request, log });
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
// Dawn keeps the process alive; a moment lets the maps that the device's end rejected settle (else: exit 134).
setTimeout(() => process.exit(), 50);
