/**
 * `tidepool run`: continues a prompt, or answers it with `--chat`. It samples as people expect of a chat program, where
 * the library decodes greedily unless told otherwise.
 */
import process from "node:process";
import type { Command } from "commander";
import type { ChatMessage, GenerationResult } from "../../wire/protocol.ts";
import type { Engine } from "../../engine/engine.ts";
import type { GenerateOptions } from "../../engine/options.ts";
import type { Generation } from "../../engine/generation.ts";
import {
  load,
  MODEL_HELP,
  withCacheOptions,
  withEngineOptions,
  withObjectives,
  withPrefillOptions,
  type EngineFlags,
} from "../engine-flags.ts";
import { decimal, texts, whole, withoutUndefined } from "../flags.ts";
import { outputClosed, print } from "../print.ts";
import { modelAndPrompt, readPrompt } from "../prompt.ts";
import { expertsLine, paceLine } from "../report.ts";
import { DEFAULT_MODEL } from "../shipped.ts";

/** How an answer is sampled and where it ends, unless flags say otherwise. */
const RUN_DEFAULTS = { maxTokens: 200, temperature: 0.7, topP: 0.9, minP: 0.05, seed: 0 } as const;

interface RunFlags extends EngineFlags {
  chat?: boolean;
  system?: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP: number;
  minP: number;
  seed: number;
  stop?: string[];
  json?: boolean;
}

const MAX_SEED = 2 ** 32 - 1;

async function run(first: string | undefined, second: string | undefined, flags: RunFlags): Promise<void> {
  const { model, prompt = await readPrompt() } = modelAndPrompt(first, second, process.stdin.isTTY !== true);
  const engine = await load(model, flags);
  try {
    const generation = begin(engine, prompt, flags);
    if (!flags.json) await stream(generation);
    const result = await generation.result();
    const { experts } = await engine.stats();
    if (flags.json) print(`${JSON.stringify({ ...runJson(result), experts })}\n`);
    else if (flags.cacheDir !== undefined) process.stderr.write(`tidepool: ${usageLine(result)}\n`);
    if (!flags.json && asksForPace(flags)) process.stderr.write(`tidepool: ${paceLine(result.usage)}\n`);
    if (experts) process.stderr.write(`tidepool: ${expertsLine(experts)}\n`);
  } finally {
    await engine.close();
  }
}

function begin(engine: Engine, prompt: string, flags: RunFlags): Generation {
  const { chat, system, maxTokens, temperature, topK, topP, minP, seed, stop } = flags;
  const params = withoutUndefined({ maxTokens, temperature, topK, topP, minP, seed, stop });
  const options = { ...(params as GenerateOptions), signal: outputClosed };
  if (!chat && system === undefined) return engine.generate(prompt, options);
  const before: ChatMessage[] = system === undefined ? [] : [{ role: "system", content: system }];
  return engine.chat([...before, { role: "user", content: prompt }], options);
}

/** Prints the text as it comes, and ends its last line if the model has not. */
async function stream(generation: Generation): Promise<void> {
  let last = "";
  for await (const { text } of generation) {
    print(text);
    last = text || last;
  }
  if (!last.endsWith("\n")) print("\n");
}

function runJson({ text, tokens, finishReason, usage, timing }: GenerationResult) {
  return { text, tokens, finishReason, usage, timing };
}

function asksForPace({ ttftMs, tbtMs, deadlineMs }: RunFlags): boolean {
  return [ttftMs, tbtMs, deadlineMs].some((ms) => ms !== undefined);
}

/** Where the prompt's tokens came from. */
function usageLine({ usage }: Pick<GenerationResult, "usage">): string {
  const { promptTokens, computedTokens, cachedTokens } = usage;
  return `${promptTokens} prompt tokens: ${cachedTokens.disk} from disk, ${computedTokens} computed`;
}

export function addRun(root: Command): void {
  const command = root.command("run").description("continue a prompt, or answer it with --chat");
  withSamplingOptions(withObjectives(withPrefillOptions(withCacheOptions(withEngineOptions(command)))))
    .argument("[model]", `${MODEL_HELP}; default: ${DEFAULT_MODEL}`)
    .argument("[prompt]", "text; if it is - or absent, standard input is read")
    .usage("[options] [model] <prompt>")
    .option("--chat", "put the prompt into the model's chat template")
    .option("--system <text>", "system message before the prompt; implies --chat")
    .option("--json", "print one JSON object instead of streaming text")
    .action(run);
}

const isTemperature = decimal("from 0 to 100", (t) => t >= 0 && t <= 100);
const isTopP = decimal("above 0 and at most 1", (p) => p > 0 && p <= 1);
const isMinP = decimal("of at least 0 and below 1", (p) => p >= 0 && p < 1);

function withSamplingOptions(command: Command): Command {
  const { maxTokens, temperature, topP, minP, seed } = RUN_DEFAULTS;
  return command
    .option("--max-tokens <n>", "most new tokens", whole(1), maxTokens)
    .option("--temperature <t>", "sampling temperature; 0: greedy", isTemperature, temperature)
    .option("--top-k <n>", "sample from this many likeliest tokens (default: all)", whole(0))
    .option(
      "--top-p <p>",
      "sample from the likeliest tokens whose probabilities add up to this",
      isTopP,
      topP,
    )
    .option(
      "--min-p <p>",
      "exclude tokens below this share of the likeliest token's probability",
      isMinP,
      minP,
    )
    .option(
      "--seed <s>",
      "seed of the random choices; another seed gives another text",
      whole(0, MAX_SEED),
      seed,
    )
    .option("--stop <text>", "stop before this text; repeatable", texts);
}
