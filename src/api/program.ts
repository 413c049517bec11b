/**
 * The commands of `tidepool`, in this process: arguments in, answers on standard output, errors on standard error with
 * exit code 1. Each command has a file of its own, which parses and prints; the work is the library's.
 */
import { Command } from "commander";
import { TidepoolError } from "../errors.ts";
import { NEEDS_DRIVER, standing } from "./supervise.ts";
import { remedy } from "../setup/remedy.ts";
import { addDoctor } from "./commands/doctor.ts";
import { addCacheCommands } from "./commands/cache.ts";
import { addEmbed } from "./commands/embed.ts";
import { addHeaderCommands } from "./commands/header.ts";
import { addModelsCommands } from "./commands/models.ts";
import { addReplay } from "./commands/replay.ts";
import { addReplayExperts } from "./commands/replay-experts.ts";
import { addRun } from "./commands/run.ts";
import { addScore } from "./commands/score.ts";
import { addServe } from "./commands/serve.ts";
import { watchOutput } from "./print.ts";
import { inFlags, tellFaults } from "./usage.ts";
import { version } from "./version.ts";

export function program(): Command {
  const root = new Command("tidepool")
    .description("Runs language models on WebGPU and keeps what it has computed.")
    .version(version(), "--version", "print the version");
  addRun(root);
  addScore(root);
  addEmbed(root);
  addServe(root);
  addHeaderCommands(root);
  addModelsCommands(root.command("models").description("manage the models that are kept on this machine"));
  addCacheCommands(root.command("cache").description("manage what is stored in a cache folder"));
  addReplay(root);
  addReplayExperts(root);
  addDoctor(root);
  tellFaults(root);
  return root;
}

/** Runs what the arguments say; the outcome is the process's exit code. */
export async function main(): Promise<void> {
  watchOutput();
  try {
    await program().parseAsync();
  } catch (error) {
    process.exitCode = told(error);
  }
}

/** Tells an error on standard error, unless whoever started this process does something about it; the exit code. */
function told(error: unknown): number {
  const lacksAdapter = error instanceof TidepoolError && error.details["missing"] === "adapter";
  if (lacksAdapter && standing() === "may install") return NEEDS_DRIVER;
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`tidepool: ${inFlags(message)}\n`);
  if (lacksAdapter) process.stderr.write(`${remedy().join("\n")}\n`);
  if (!(error instanceof TidepoolError) && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return 1;
}
