/** `tidepool tokenize`, `render` and `inspect`: what a model's header alone answers. */
import type { Command } from "commander";
import {
  inspect as inspectModel,
  render as renderChat,
  tokenize as tokenizeText,
} from "../../engine/headers.ts";
import type { ChatMessage, Tool } from "../../wire/protocol.ts";
import { engineOptions, MODEL_HELP, withEngineOptions, type EngineFlags } from "../engine-flags.ts";
import { jsonFile } from "../flags.ts";
import { sourceOptions, withBar, withSourceOptions, type SourceFlags } from "./models.ts";
import { print } from "../print.ts";
import { reportLines } from "../report.ts";
import { resolveModel } from "../shipped.ts";

async function tokenize(model: string, text: string, flags: SourceFlags & { json?: boolean }): Promise<void> {
  const ids = await withBar((onProgress) =>
    tokenizeText(resolveModel(model), text, { ...sourceOptions(flags), onProgress }),
  );
  print(`${flags.json ? JSON.stringify(ids) : ids.join(" ")}\n`);
}

interface RenderFlags extends SourceFlags {
  messages: string;
  tools?: string;
  templateVars?: string;
  json?: boolean;
}

async function render(model: string, flags: RenderFlags): Promise<void> {
  const { messages, tools, templateVars, json, ...source } = flags;
  const conversation = (await jsonFile(messages)) as ChatMessage[];
  const options = {
    ...sourceOptions(source),
    ...(tools !== undefined && { tools: (await jsonFile(tools)) as Tool[] }),
    ...(templateVars !== undefined && {
      template: (await jsonFile(templateVars)) as Record<string, unknown>,
    }),
  };
  const rendered = await withBar((onProgress) =>
    renderChat(resolveModel(model), conversation, { ...options, onProgress }),
  );
  print(json ? `${JSON.stringify(rendered)}\n` : rendered.text);
}

async function inspect(model: string, flags: EngineFlags & { json?: boolean }): Promise<void> {
  const report = await withBar((onProgress) =>
    inspectModel(resolveModel(model), { ...engineOptions(flags), onProgress }),
  );
  for (const { code, message } of report.capabilities)
    process.stderr.write(`tidepool: ${code}: ${message}\n`);
  if (flags.json) return print(`${JSON.stringify(report)}\n`);
  for (const line of reportLines(report)) print(`${line}\n`);
}

export function addHeaderCommands(root: Command): void {
  withSourceOptions(
    root.command("tokenize").description("print the token ids of a text, without BOS; reads only the header"),
  )
    .argument("<model>", MODEL_HELP)
    .argument("<text>", "text; names of special tokens in it are plain text")
    .option("--json", "print a JSON array")
    .action(tokenize);
  withSourceOptions(
    root
      .command("render")
      .description(
        "print the prompt that a conversation becomes; reads only the header, needs no weights and no GPU",
      ),
  )
    .argument("<model>", MODEL_HELP)
    .requiredOption("--messages <file>", 'JSON array of messages in OpenAI\'s form; "-" reads standard input')
    .option("--tools <file>", "JSON array of tools in OpenAI's form")
    .option(
      "--template-vars <file>",
      "JSON object of variables for the chat template, such as enable_thinking",
    )
    .option("--json", "print one JSON object: { text, tokens }")
    .action(render);
  withEngineOptions(
    root.command("inspect").description("print what a model is and needs; reads only the header"),
  )
    .argument("<model>", MODEL_HELP)
    .option("--json", "print one JSON object")
    .action(inspect);
}
