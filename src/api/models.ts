/**
 * `tidepool models`: which models are kept, fetching one beforehand, checking and removing; and the flags that say where
 * models come from and go to. Prints text; the work is the library's.
 */
import { Option, type Command } from "commander";
import type { EngineOptions, SourceOptions } from "../engine/engine.ts";
import { TidepoolError } from "../errors.ts";
import { models, type StoredModel } from "../engine/kept-models.ts";
import { print } from "./print.ts";
import { errorTerminal } from "./supervise.ts";
import { ProgressBar } from "./progress-bar.ts";

export interface SourceFlags {
  hub?: string;
  hubToken?: string;
  models?: string;
}

export function withSourceOptions(command: Command): Command {
  return command
    .addOption(new Option("--hub <url>", "address of the Hub (default: the public one)").env("TIDEPOOL_HUB"))
    .addOption(
      new Option("--hub-token <token>", "for private and gated repositories").env("TIDEPOOL_HUB_TOKEN"),
    )
    .option(
      "--models <dir>",
      "keep downloaded models here (default: TIDEPOOL_MODELS, else the user's cache)",
    );
}

export function sourceOptions({ hub, hubToken, models }: SourceFlags): Pick<EngineOptions, "hub" | "models"> {
  return {
    hub: { ...(hub !== undefined && { baseUrl: hub }), ...(hubToken !== undefined && { token: hubToken }) },
    models: { ...(models !== undefined && { directory: models }) },
  };
}

/** Does something with a bar on standard error, if that is a terminal. */
export async function withBar<T>(work: (onProgress: ProgressBar["show"]) => Promise<T>): Promise<T> {
  const bar = new ProgressBar(errorTerminal());
  try {
    return await work(bar.show);
  } finally {
    bar.end();
  }
}

type ModelsFlags = SourceFlags & { json?: boolean };

async function list(options: SourceOptions, json: boolean | undefined): Promise<string> {
  const all = await models.list(options);
  if (json) return JSON.stringify(all);
  const total = all.reduce((sum, { bytesKept }) => sum + bytesKept, 0);
  return [...all.flatMap(modelLines), `${all.length} models, ${total} bytes`].join("\n");
}

function modelLines({ name, files, sizeBytes, bytesKept, isComplete }: StoredModel): string[] {
  const amount = isComplete ? `${sizeBytes} bytes` : `${bytesKept} of ${sizeBytes} bytes`;
  const lines = files.map(
    (file) => `    ${file.file}  ${file.isComplete ? "" : `${file.bytesKept} of `}${file.sizeBytes} bytes`,
  );
  return [`${name}  ${amount}`, ...(files.length > 1 ? lines : [])];
}

async function pull(name: string, options: SourceOptions, json: boolean | undefined): Promise<string> {
  const result = await withBar((onProgress) => models.pull(name, { ...options, onProgress }));
  if (json) return JSON.stringify(result);
  return `${result.name}: ${result.sizeBytes} bytes are kept, ${result.receivedBytes} came over the network`;
}

async function remove(name: string, options: SourceOptions, json: boolean | undefined): Promise<string> {
  const result = await models.remove(name, options);
  return json ? JSON.stringify(result) : `${name}: ${result.bytesFreed} bytes freed`;
}

/** @throws TidepoolError `invalid_file` where files were damaged, so that the command fails. */
async function verify(
  name: string | undefined,
  options: SourceOptions,
  json: boolean | undefined,
): Promise<string> {
  const result = await withBar((onProgress) => models.verify(name, { ...options, onProgress }));
  if (json) return JSON.stringify(result);
  const { checked, bad, partial } = result;
  const said = `${checked} files checked, ${bad.length} bad${partial > 0 ? `, ${partial} not whole yet` : ""}`;
  if (bad.length === 0) return said;
  const lines = bad.map(({ model, file, problem }) => `${model} ${file}: ${problem}`);
  throw new TidepoolError("invalid_file", [`${said}; the bad are removed`, ...lines].join("\n"));
}

/** Adds the commands below `tidepool models`. */
export function addModelsCommands(group: Command): void {
  const add = (name: string, description: string): Command =>
    withSourceOptions(group.command(name).description(description)).option("--json", "one JSON value");
  const line = async (text: Promise<string>): Promise<void> => print(`${await text}\n`);
  const NAME = "org/repo, org/repo/file.gguf, either with @revision; or a URL";
  add("ls", "the models that are kept").action((flags: ModelsFlags) =>
    line(list(sourceOptions(flags), flags.json)),
  );
  add("pull", "fetch a model, finish one that was begun, or bring a kept one up to date")
    .argument("<model>", NAME)
    .action((name: string, flags: ModelsFlags) => line(pull(name, sourceOptions(flags), flags.json)));
  add("rm", "forget a model, or one file of it")
    .argument("<model>", NAME)
    .action((name: string, flags: ModelsFlags) => line(remove(name, sourceOptions(flags), flags.json)));
  add("verify", "compare hashes; damaged files are removed")
    .argument("[model]", `${NAME}; all without one`)
    .action((name: string | undefined, flags: ModelsFlags) =>
      line(verify(name, sourceOptions(flags), flags.json)),
    );
}
