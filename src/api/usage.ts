/**
 * Reports a wrong command line in one line that names the flag, with a hint where the flags are listed. The library's errors
 * name its options; here they get the names of the flags that set them.
 */
import type { Command } from "commander";

/** Options of the library whose flag has another name than theirs. All others follow `kebab`. */
const FLAGS: Readonly<Record<string, string>> = {
  memoryBytes: "--memory",
  poolBytes: "--gpu-cache",
  ramBytes: "--ram-cache",
  diskBytes: "--disk-cache",
  expertRamBytes: "--expert-ram",
  expertPrediction: "--no-expert-prediction",
  subgroups: "--no-subgroups",
  normalise: "--no-normalise",
  "cache.directory": "--cache-dir",
  "models.directory": "--models",
  "hub.baseUrl": "--hub",
  "hub.token": "--hub-token",
  "prefill.url": "--prefill-url",
  "prefill.key": "--prefill-key",
  "prefill.when": "--prefill-when",
};

/** Options of the library that a flag sets by their own name. */
const SAME_NAME = [
  ...["dtype", "kvDtype", "blockTokens", "chunkTokens", "maxRequests", "adapter", "restore", "policy"],
  ...["maxTokens", "temperature", "topK", "topP", "minP", "seed", "stop", "trust"],
  ...["dimensions", "truncate", "task", "expertMemory", "expertPolicy", "expertPredictor", "experts"],
  ...["ttftMs", "tbtMs", "deadlineMs", "rejection"],
];

const kebab = (option: string): string =>
  `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** The flag that sets an option of the library; `undefined` if none does. */
export function flagOf(option: string): string | undefined {
  const path = option.replace(/^(?:options|params)\./, "");
  const bare = path.replace(/^(?:cache|objectives)\./, "");
  return FLAGS[path] ?? FLAGS[bare] ?? (SAME_NAME.includes(bare) ? kebab(bare) : undefined);
}

/** A name with capitals or a dot is an option wherever it stands; a plain word only where a message begins with it. */
const NAMES =
  /\b(?:[a-z]+\.)*[a-z]+[A-Z]\w*\b|\b(?:(?:cache|hub|models|objectives|prefill|options|params)\.)+\w+\b|^[a-z]+(?= is )/g;

/** A message of the library with flags in place of its options. */
export function inFlags(message: string): string {
  return message.replace(NAMES, (name) => flagOf(name) ?? name);
}

/** Makes a wrong flag one line and a hint, for a command and all below it. */
export function tellFaults(command: Command, path = command.name()): void {
  command.showHelpAfterError(`"${path} --help" lists its options`);
  command.configureOutput({
    outputError: (text, write) => write(text.replace(/^error: /, "tidepool: ")),
  });
  for (const below of command.commands) tellFaults(below, `${path} ${below.name()}`);
}
