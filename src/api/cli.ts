/**
 * The `tidepool` command: arguments in, answers on standard output, errors on standard error with exit code 1. Every
 * command but `run` and `score` reads the model's header alone. It parses and prints; the work is the library's.
 */
import { Command, InvalidArgumentError, Option } from "commander"; // small, kept, and prints its own help
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { Engine, inspect as inspectModel, tokenize as tokenizeText } from "../engine.ts";
import { TidepoolError } from "../errors.ts";
import type { CacheOptions, EngineOptions, GenerateParams, GenerationResult, Notice } from "../engine.ts";
import { cacheClear, cacheExport, cacheImport, cacheList, cacheStats, cacheVerify } from "./cache.ts";
import { addModelsCommands, sourceOptions, withBar, withSourceOptions, type SourceFlags } from "./models.ts";
import { runReplay, type ReplayArguments } from "./replay.ts";
import { reportLines } from "./report.ts";
import { DEFAULT_MODEL, resolveModel, RUNNABLE_NAMES } from "./shipped.ts";

interface EngineFlags extends SourceFlags {
  dtype?: "f32" | "f16" | "auto";
  kvDtype?: "f32" | "f16";
  blockTokens?: number;
  chunkTokens?: number;
  adapter?: string;
  memory?: number;
  subgroups: boolean;
  cacheDir?: string;
  gpuCache?: number;
  ramCache?: number;
  diskCache?: number;
  restore?: "auto" | "load" | "compute" | "both";
  policy?: NonNullable<CacheOptions["policy"]>;
}

/** What `--policy` takes: every policy but the one that knows the future. */
const POLICIES: readonly NonNullable<CacheOptions["policy"]>[] = [
  "marconi",
  "lru",
  "lfu",
  "length-aware",
  "vllm",
  "sglang",
];

interface RunFlags extends EngineFlags {
  chat?: boolean;
  maxTokens?: number;
  temperature?: number;
  seed?: number;
  json?: boolean;
}

interface ScoreFlags extends EngineFlags {
  tokens?: number[];
  tokensFile?: string;
  text?: string;
  logits?: string;
  from: number;
  json?: boolean;
}

function integer(text: string): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new InvalidArgumentError("expected an integer");
  return value;
}

function decimal(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number");
  return value;
}

function tokenList(text: string): number[] {
  return text === "" ? [] : text.split(",").map((part) => integer(part.trim()));
}

function withEngineOptions(command: Command): Command {
  return withSourceOptions(command)
    .addOption(new Option("--dtype <type>", "arithmetic and activations").choices(["f32", "f16", "auto"]))
    .addOption(new Option("--kv-dtype <type>", "stored keys and values").choices(["f32", "f16"]))
    .option("--block-tokens <n>", "tokens a KV block: 16, 32 or 64", integer)
    .option("--chunk-tokens <n>", "prompt tokens a prefill step at most", integer)
    .option("--adapter <name-part>", "refuse an adapter whose name does not contain this")
    .option("--memory <bytes>", "GPU memory that the model may take in all", integer)
    .option("--no-subgroups", "no subgroup operations");
}

function withCacheOptions(command: Command): Command {
  return command
    .option("--cache-dir <dir>", "keep computed keys and values in this folder")
    .option("--gpu-cache <bytes>", "KV pool on the GPU", integer)
    .option("--ram-cache <bytes>", "budget of the RAM tier", integer)
    .option("--disk-cache <bytes>", "budget of the disk tier", integer)
    .addOption(
      new Option("--policy <name>", "what is evicted first, and which snapshots are taken").choices(POLICIES),
    )
    .addOption(
      new Option("--restore <way>", "how stored blocks come back").choices([
        "auto",
        "load",
        "compute",
        "both",
      ]),
    );
}

function cacheOptions(flags: EngineFlags): CacheOptions {
  const { cacheDir, ramCache, diskCache, restore, policy } = flags;
  return withoutUndefined({ directory: cacheDir, ramBytes: ramCache, diskBytes: diskCache, restore, policy });
}

/** Loads a model; what the storage has to say, and what the platform lacks, goes to standard error. */
async function load(model: string, flags: EngineFlags): Promise<Engine> {
  const onNotice = ({ code, message }: Notice) => process.stderr.write(`tidepool: ${code}: ${message}\n`);
  const pool = flags.gpuCache === undefined ? {} : { poolBytes: flags.gpuCache };
  const options = { ...engineOptions(flags), ...pool, cache: cacheOptions(flags), onNotice };
  const engine = await withBar((onProgress) => Engine.load(resolveModel(model), { ...options, onProgress }));
  engine.info.capabilities.forEach(onNotice);
  return engine;
}

function engineOptions(flags: EngineFlags): EngineOptions {
  const { dtype, kvDtype, blockTokens, chunkTokens, adapter, subgroups, memory } = flags;
  const given = {
    dtype,
    kvDtype,
    blockTokens,
    chunkTokens,
    adapter,
    memoryBytes: memory,
    subgroups: subgroups ? undefined : false,
  };
  return { ...(withoutUndefined(given) as EngineOptions), ...sourceOptions(flags) };
}

function withoutUndefined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
}

function print(text: string): void {
  process.stdout.write(text);
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

async function score(model: string, flags: ScoreFlags): Promise<void> {
  const engine = await load(model, flags);
  try {
    const tokens = await scoreTokens(engine, flags);
    const { from } = flags;
    const result = await engine.score(tokens, { from, logits: flags.logits !== undefined });
    if (flags.logits !== undefined && result.logits) {
      await writeFile(flags.logits, new Uint8Array(result.logits.buffer));
    }
    const mean = result.logprobs.reduce((sum, value) => sum + value, 0) / Math.max(1, result.logprobs.length);
    const perplexity = Math.exp(-mean);
    if (flags.json) {
      print(
        `${JSON.stringify({ from, tokens, logprobs: result.logprobs, perplexity, usage: result.usage })}\n`,
      );
      return;
    }
    result.logprobs.forEach((value, index) =>
      print(`${from + 1 + index}\t${tokens[from + 1 + index]}\t${value.toFixed(6)}\n`),
    );
    print(`perplexity ${perplexity}\n`);
  } finally {
    await engine.close();
  }
}

async function scoreTokens(engine: Engine, flags: ScoreFlags): Promise<number[]> {
  const given = [flags.tokens, flags.tokensFile, flags.text].filter((value) => value !== undefined);
  if (given.length !== 1) {
    throw new TidepoolError(
      "invalid_argument",
      "score needs exactly one of --tokens, --tokens-file and --text",
    );
  }
  if (flags.tokens) return flags.tokens;
  if (flags.text !== undefined) return engine.tokenize(flags.text);
  return tokensOf(JSON.parse(await readFile(flags.tokensFile as string, "utf8")), flags.tokensFile as string);
}

function tokensOf(value: unknown, file: string): number[] {
  const list = Array.isArray(value) ? value : (value as { tokens?: unknown } | null)?.tokens;
  if (Array.isArray(list) && list.every((token) => Number.isInteger(token))) return list as number[];
  throw new TidepoolError(
    "invalid_file",
    `${file}: expected an array of token ids, or an object with "tokens"`,
  );
}

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

const MODEL_HELP = `shipped with Tidepool: ${RUNNABLE_NAMES.join(", ")}; or a Hub id (org/repo, org/repo/file.gguf, with @revision), path or URL of a GGUF file or of a folder with safetensors`;

function addCacheCommands(cache: Command): void {
  const line = (text: string): void => print(`${text}\n`);
  const store = (name: string, description: string) =>
    cache.command(name).description(description).requiredOption("--cache-dir <dir>", "the folder");
  store("ls", "all records")
    .option("--json")
    .action(async (flags) => line(await cacheList(flags)));
  store("stats", "counts and bytes")
    .option("--json")
    .action(async (flags) => line(await cacheStats(flags)));
  store("verify", "check every record, drop the bad")
    .option("--json")
    .action(async (flags) => line(await cacheVerify(flags)));
  store("clear", "forget everything")
    .option("--namespace <name>", "or only this namespace's records")
    .action(async (flags) => line(await cacheClear(flags)));
  store("import", "take an exported file in")
    .argument("<file>")
    .action(async (file: string, flags) => line(await cacheImport(file, flags)));
  withCacheOptions(withEngineOptions(cache.command("export").description("a prompt's blocks as one file")))
    .argument("<model>", MODEL_HELP)
    .argument("<prompt>", "text")
    .requiredOption("--out <file>", "the file to write")
    .option("--chat", "put the prompt into the model's chat template")
    .action(async (model: string, prompt: string, flags: EngineFlags & { out: string; chat?: boolean }) => {
      const engine = await load(model, flags);
      try {
        line(await cacheExport(engine, prompt, flags.chat === true, flags.out));
      } finally {
        await engine.close();
      }
    });
}

function program(): Command {
  const root = new Command("tidepool")
    .description("Runs language models on WebGPU and keeps what it has computed")
    .showHelpAfterError();
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
  withCacheOptions(
    withEngineOptions(root.command("score").description("log-probability of each token, and the perplexity")),
  )
    .argument("<model>", MODEL_HELP)
    .option("--tokens <ids>", "comma-separated token ids, used as they are", tokenList)
    .option("--tokens-file <file>", "JSON array of ids, or an object with a tokens array")
    .option("--text <text>", "text, without BOS")
    .option("--logits <file>", "write raw logits, float32 little-endian, [tokens, vocabulary]")
    .option("--from <n>", "first row that is wanted", integer, 0)
    .option("--json", "one JSON object")
    .action(score);
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
  addModelsCommands(root.command("models").description("the models that are kept on this machine"), print);
  addCacheCommands(root.command("cache").description("what is stored in a cache folder"));
  root
    .command("replay")
    .description("replays a trace of requests against cache policies; no model and no GPU")
    .requiredOption(
      "--trace <file>",
      "Mooncake, SWE schedule or chat trace (.gz too), or generate:KIND[:SEED]",
    )
    .option("--sessions <file>", "the sessions that a SWE schedule refers to (.gz too)")
    .requiredOption(
      "--policy <names>",
      "lru, lfu, length-aware, vllm, sglang, marconi, offline; comma-separated",
    )
    .requiredOption("--capacity <list>", "bytes, blocks:N or inf; comma-separated")
    .option("--model <name>", "a named shape or a SHAPE.json: what a token costs")
    .option("--block-tokens <n>", "tokens a block")
    .option("--first <n>", "only the trace's first requests")
    .option("--serve", "serve it in simulated time by the engine's scheduler: adds times to first token")
    .option("--json", "an array of rows")
    .option("--csv", "rows as CSV")
    .option("--plot <file>", "write a chart of token hit rate against capacity, SVG")
    .action(async (options: ReplayArguments) => print(`${(await runReplay(options)).trimEnd()}\n`));
  return root;
}

try {
  await program().parseAsync();
} catch (error) {
  process.stderr.write(`tidepool: ${error instanceof Error ? error.message : String(error)}\n`);
  if (!(error instanceof TidepoolError) && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
