/**
 * Runs the GPU cases in Node on Dawn. The driver is chosen outside, by VK_DRIVER_FILES.
 * Arguments: [--filter TEXT] [--full]. Prints a JSON line a case, then a line with the adapter and the counts.
 */
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { findProvider, openGpu } from "../../src/gpu/device.ts";
import { allCases } from "./cases.ts";
import { runCases } from "./run.ts";

const args = process.argv.slice(2);
const filter = args.includes("--filter") ? (args[args.indexOf("--filter") + 1] ?? "") : "";
const gpu = await openGpu(await findProvider());
const root = new URL("../shared/", pathToFileURL(`${process.cwd()}/`));
const failed = await runCases(
  allCases,
  {
    gpu,
    shared: async (path) => new Uint8Array(await readFile(new URL(path, root))),
  },
  { filter, full: args.includes("--full"), log: (line) => console.log(line) },
);
gpu.device.destroy();
process.exitCode = failed === 0 ? 0 : 1;
setTimeout(() => process.exit(), 50);
