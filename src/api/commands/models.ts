/**
 * `tidepool models`: which models are kept, fetching one beforehand, checking and removing; and the flags that say where
 * models come from and go to. Prints text; the work is the library's.
 */
import { Option, type Command } from "commander";
import type { EngineOptions, SourceOptions } from "../../wire/protocol.ts";
import { TidepoolError } from "../../errors.ts";
import { models, type StoredModel } from "../../engine/kept-models.ts";
import { print } from "../print.ts";
import { errorTerminal } from "../supervise.ts";
import { ProgressBar } from "../progress-bar.ts";

export interface SourceFlags {
  hub?: string;
  hubToken?: string;
  models?: string;
}

export function withSourceOptions(command: Command): Command {
  return command
    .addOption(new Option("--hub <url>", "address of the Hub (default: the public one)").env("TIDEPOOL_HUB"))
    .addOption(
      new Option("--hub-token <token>", "token for private and gated repositories").env("TIDEPOOL_HUB_TOKEN"),
    )
    .option(
      "--models <dir>",
      "folder for downloaded models (default: TIDEPOOL_MODELS, otherwise the user's cache folder)",
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
  return `${result.name}: ${result.sizeBytes} bytes, of which ${result.receivedBytes} were downloaded now`;
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
  const said = `${checked} files checked, ${bad.length} bad${partial > 0 ? `, ${partial} incomplete` : ""}`;
  if (bad.length === 0) return said;
  const lines = bad.map(({ model, file, problem }) => `${model} ${file}: ${problem}`);
  throw new TidepoolError("invalid_file", [`${said}; bad files were removed`, ...lines].join("\n"));
}

/** Adds the commands below `tidepool models`. */
export function addModelsCommands(group: Command): void {
  const add = (name: string, description: string): Command =>
    withSourceOptions(group.command(name).description(description)).option("--json", "one JSON value");
  const line = async (text: Promise<string>): Promise<void> => print(`${await text}\n`);
  const NAME = "org/repo, org/repo/file.gguf, either with @revision; or a URL";
  add("ls", "list kept models").action((flags: ModelsFlags) => line(list(sourceOptions(flags), flags.json)));
  add("pull", "download a model, complete a partial download, or update a kept model")
    .argument("<model>", NAME)
    .action((name: string, flags: ModelsFlags) => line(pull(name, sourceOptions(flags), flags.json)));
  add("rm", "remove a model, or one of its files")
    .argument("<model>", NAME)
    .action((name: string, flags: ModelsFlags) => line(remove(name, sourceOptions(flags), flags.json)));
  add("verify", "compare hashes and remove damaged files")
    .argument("[model]", `${NAME}; default: all kept models`)
    .action((name: string | undefined, flags: ModelsFlags) =>
      line(verify(name, sourceOptions(flags), flags.json)),
    );
}
