/**
 * `tidepool doctor`: what is here and what is missing, of all that an engine needs of a machine. It changes nothing, but for
 * the driver that `--install` asks for (supervise.ts installs it).
 */
import process from "node:process";
import type { Command } from "commander";
import { defaultModelsFolder } from "../../load/download/kept/folder-files.ts";
import { lookAtAdapter, type AdapterReport } from "../../setup/adapter.ts";
import { driverFiles } from "../../setup/driver.ts";
import { installCommand, remedy } from "../../setup/remedy.ts";
import { lookAtFolder, type FolderReport } from "../../setup/storage.ts";
import { print } from "../print.ts";
import { aligned, byteText } from "../report.ts";
import { NEEDS_DRIVER, standing } from "../supervise.ts";
import { version } from "../version.ts";

interface DoctorFlags {
  json?: boolean;
  cacheDir?: string;
  models?: string;
}

interface Findings {
  version: string;
  runtime: string;
  drivers: string[];
  adapter: AdapterReport;
  storage: { models: FolderReport; cache?: FolderReport };
  /** What would install a driver, if there is no adapter. */
  install?: string;
  runs: boolean;
}

async function findings(flags: DoctorFlags): Promise<Findings> {
  const adapter = await lookAtAdapter();
  const models = await lookAtFolder(flags.models ?? defaultModelsFolder());
  const cache = flags.cacheDir === undefined ? {} : { cache: await lookAtFolder(flags.cacheDir) };
  const runs = adapter.problem === undefined;
  const install = runs ? undefined : installCommand();
  return {
    ...{ version: version(), runtime: runtime(), drivers: driverFiles(), adapter },
    ...{ storage: { models, ...cache }, runs },
    ...(install !== undefined && { install }),
  };
}

function runtime(): string {
  const deno = (globalThis as { Deno?: { version: { deno: string } } }).Deno;
  const name = deno ? `Deno ${deno.version.deno}` : `Node ${process.versions.node}`;
  return `${name}, ${process.platform} ${process.arch}`;
}

async function doctor(flags: DoctorFlags): Promise<void> {
  const found = await findings(flags);
  if (found.adapter.name === "" && standing() === "may install") {
    process.exitCode = NEEDS_DRIVER;
    return;
  }
  if (!found.runs) process.exitCode = 1;
  if (flags.json) return print(`${JSON.stringify(found)}\n`);
  for (const line of aligned(pairs(found))) print(`${line}\n`);
  if (found.adapter.name === "") for (const line of ["", ...remedy()]) print(`${line}\n`);
}

function pairs({ version, runtime, drivers, adapter, storage, runs }: Findings): [string, string][] {
  const { name, isSoftware, features, limits, problem } = adapter;
  const yes = (is: boolean): string => (is ? "yes" : "no");
  return [
    ["tidepool", version],
    ["runtime", runtime],
    ...(process.platform === "linux"
      ? [["Vulkan drivers", drivers.join(", ") || "none"] as [string, string]]
      : []),
    ["adapter", name === "" ? "none" : `${name}${isSoftware ? " (software: tens of times slower)" : ""}`],
    ["16-bit floats", yes(features["shader-f16"])],
    ["subgroups", yes(features.subgroups)],
    ...limits.map(({ name, value, needed }): [string, string] => [name, `${value}, ${needed} needed`]),
    ["models", folderText(storage.models)],
    ["stored prompts", storage.cache ? folderText(storage.cache) : "not stored: no --cache-dir was given"],
    ["runs here", runs ? "yes" : `no: ${problem}`],
  ];
}

function folderText({ directory, exists, isWritable, freeBytes }: FolderReport): string {
  const state = isWritable ? (exists ? "writable" : "will be created") : "not writable";
  return `${directory}: ${state}, ${byteText(freeBytes)} free`;
}

export function addDoctor(root: Command): void {
  root
    .command("doctor")
    .description("check whether this machine has what an engine needs; exit code 1 if no model can run")
    .option(
      "--install",
      "if there is no adapter, install Mesa's software driver (Debian and Ubuntu, as root)",
    )
    .option("--cache-dir <dir>", "also check this folder for stored prompts")
    .option(
      "--models <dir>",
      "folder for downloaded models (default: TIDEPOOL_MODELS, otherwise the user's cache folder)",
    )
    .option("--verbose", "also show the messages of the GPU library")
    .option("--json", "print one JSON object")
    .action(doctor);
}
