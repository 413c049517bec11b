/** `tidepool score`: the log-probabilities of given tokens, and their logits. */
import { Option, type Command } from "commander";
import type { CacheScope } from "../../wire/protocol.ts";
import type { Engine } from "../../engine/engine.ts";
import { TidepoolError } from "../../errors.ts";
import { load, MODEL_HELP, withCacheOptions, withEngineOptions, type EngineFlags } from "../engine-flags.ts";
import { writePrivateFile } from "../../platform/private-files.ts";
import { jsonFile, tokenList, whole } from "../flags.ts";
import { print } from "../print.ts";

interface ScoreFlags extends EngineFlags {
  tokens?: number[];
  tokensFile?: string;
  text?: string;
  logits?: string;
  from: number;
  cache?: CacheScope;
  json?: boolean;
}

async function score(model: string, flags: ScoreFlags): Promise<void> {
  // A score judges the model: without a wish it is computed as exactly as the engine can.
  const engine = await load(model, { dtype: "f32", ...flags });
  try {
    const tokens = await scoreTokens(engine, flags);
    const { from, cache } = flags;
    const result = await engine.score(tokens, {
      from,
      logits: flags.logits !== undefined,
      ...(cache && { cache }),
    });
    if (flags.logits !== undefined && result.logits) {
      await writePrivateFile(flags.logits, new Uint8Array(result.logits.buffer));
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
  return tokensOf(await jsonFile(flags.tokensFile as string), flags.tokensFile as string);
}

function tokensOf(value: unknown, file: string): number[] {
  const list = Array.isArray(value) ? value : (value as { tokens?: unknown } | null)?.tokens;
  if (Array.isArray(list) && list.every((token) => Number.isInteger(token))) return list as number[];
  throw new TidepoolError(
    "invalid_file",
    `${file}: expected an array of token ids, or an object with "tokens"`,
  );
}

export function addScore(root: Command): void {
  withCacheOptions(
    withEngineOptions(
      root.command("score").description("print the log-probability of each token, and the perplexity"),
    ),
  )
    .argument("<model>", MODEL_HELP)
    .option("--tokens <ids>", "comma-separated token ids, used unchanged", tokenList)
    .option("--tokens-file <file>", "JSON array of ids, or an object with a tokens array")
    .option("--text <text>", "text, without BOS")
    .option(
      "--logits <file>",
      "write the raw logits to this file: float32 little-endian, [tokens, vocabulary]",
    )
    .option("--from <n>", "first row to score", whole(0), 0)
    .addOption(
      new Option(
        "--cache <scope>",
        'how far down keys and values are stored (default: "disk" with --cache-dir)',
      ).choices(["off", "memory", "disk"]),
    )
    .option("--json", "print one JSON object")
    .action(score);
}
