/**
 * The `tidepool` command: arguments in, answers on standard output, errors on standard error with exit code 1. Each
 * command has a file of its own, which parses and prints; the work is the library's.
 */
import { Command } from "commander";
import { TidepoolError } from "../errors.ts";
import { addCacheCommands } from "./cache.ts";
import { addHeaderCommands } from "./header.ts";
import { addModelsCommands } from "./models.ts";
import { addReplay } from "./replay.ts";
import { addRun } from "./run.ts";
import { addScore } from "./score.ts";

function program(): Command {
  const root = new Command("tidepool")
    .description("Runs language models on WebGPU and keeps what it has computed")
    .showHelpAfterError();
  addRun(root);
  addScore(root);
  addHeaderCommands(root);
  addModelsCommands(root.command("models").description("the models that are kept on this machine"));
  addCacheCommands(root.command("cache").description("what is stored in a cache folder"));
  addReplay(root);
  return root;
}

try {
  await program().parseAsync();
} catch (error) {
  process.stderr.write(`tidepool: ${error instanceof Error ? error.message : String(error)}\n`);
  if (!(error instanceof TidepoolError) && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
