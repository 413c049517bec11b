/** `tidepool tokenize` and `tidepool inspect`: what a model's header alone answers. */
import type { Command } from "commander";
import { inspect as inspectModel, tokenize as tokenizeText } from "../engine.ts";
import { engineOptions, MODEL_HELP, withEngineOptions, type EngineFlags } from "./engine-flags.ts";
import { sourceOptions, withSourceOptions, type SourceFlags } from "./models.ts";
import { print } from "./print.ts";
import { reportLines } from "./report.ts";
import { resolveModel } from "./shipped.ts";

async function tokenize(model: string, text: string, flags: SourceFlags & { json?: boolean }): Promise<void> {
  const ids = await tokenizeText(resolveModel(model), text, sourceOptions(flags));
  print(`${flags.json ? JSON.stringify(ids) : ids.join(" ")}\n`);
}

async function inspect(model: string, flags: EngineFlags & { json?: boolean }): Promise<void> {
  const report = await inspectModel(resolveModel(model), engineOptions(flags));
  for (const { code, message } of report.capabilities)
    process.stderr.write(`tidepool: ${code}: ${message}\n`);
  if (flags.json) return print(`${JSON.stringify(report)}\n`);
  for (const line of reportLines(report)) print(`${line}\n`);
}

export function addHeaderCommands(root: Command): void {
  withSourceOptions(
    root.command("tokenize").description("token ids of a text, without BOS; reads the header alone"),
  )
    .argument("<model>", MODEL_HELP)
    .argument("<text>", "text; special tokens in it are plain text")
    .option("--json", "a JSON array")
    .action(tokenize);
  withEngineOptions(root.command("inspect").description("what a model is and needs; reads the header alone"))
    .argument("<model>", MODEL_HELP)
    .option("--json", "one JSON object")
    .action(inspect);
}
