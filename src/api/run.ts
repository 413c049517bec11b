/** `tidepool run`: continues a prompt, or answers it with `--chat`. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import type { GenerateParams, GenerationResult } from "../engine.ts";
import { TidepoolError } from "../errors.ts";
import { load, MODEL_HELP, withCacheOptions, withEngineOptions, type EngineFlags } from "./engine-flags.ts";
import { decimal, integer, withoutUndefined } from "./flags.ts";
import { print } from "./print.ts";
import { DEFAULT_MODEL, RUNNABLE_NAMES } from "./shipped.ts";

interface RunFlags extends EngineFlags {
  chat?: boolean;
  maxTokens?: number;
  temperature?: number;
  seed?: number;
  json?: boolean;
}

/** One argument is a prompt for the default model; one that names a model lacks its prompt. */
function modelAndPrompt(first: string, second: string | undefined): [string, string] {
  if (second !== undefined) return [first, second];
  if (RUNNABLE_NAMES.includes(first) || /\.(gguf|safetensors)$/.test(first) || existsSync(first)) {
    throw new TidepoolError("invalid_argument", `"${first}" is a model, and the prompt for it is missing`);
  }
  return [DEFAULT_MODEL, first];
}

async function run(first: string, second: string | undefined, flags: RunFlags): Promise<void> {
  const { maxTokens, temperature, seed } = flags;
  const [model, prompt] = modelAndPrompt(first, second);
  const params = withoutUndefined({ maxTokens, temperature, seed }) as GenerateParams;
  const engine = await load(model, flags);
  try {
    const generation = flags.chat
      ? engine.chat([{ role: "user", content: prompt }], params)
      : engine.generate(prompt, params);
    if (!flags.json) {
      for await (const chunk of generation) print(chunk.text);
      print("\n");
    } else {
      print(`${JSON.stringify(runJson(await generation.result()))}\n`);
    }
  } finally {
    await engine.close();
  }
}

function runJson({ text, tokens, finishReason, usage, timing }: GenerationResult) {
  return { text, tokens, finishReason, usage, timing };
}

export function addRun(root: Command): void {
  withCacheOptions(
    withEngineOptions(root.command("run").description("continue a prompt, or answer it with --chat")),
  )
    .argument("<model>", `${MODEL_HELP}; may be left out: ${DEFAULT_MODEL}`)
    .argument("[prompt]", "text")
    .usage("[options] [model] <prompt>")
    .option("--chat", "put the prompt into the model's chat template")
    .option(
      "--max-tokens <n>",
      "new tokens at most (default: to the end of the sequence or context)",
      integer,
    )
    .option("--temperature <t>", "0 (default): greedy", decimal)
    .option("--seed <s>", "for sampling, default 0", integer)
    .option("--json", "one JSON object instead of streamed text")
    .action(run);
}
