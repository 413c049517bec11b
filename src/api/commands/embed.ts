/** `tidepool embed`: the vectors of texts, as a JSON array of arrays. */
import type { Command } from "commander";
import { TidepoolError } from "../../errors.ts";
import type { EmbedInput, EmbedParams } from "../../wire/protocol.ts";
import { load, MODEL_HELP, withEngineOptions, type EngineFlags } from "../engine-flags.ts";
import { jsonFile, whole, withoutUndefined } from "../flags.ts";
import { outputClosed, print } from "../print.ts";

interface EmbedFlags extends EngineFlags {
  tokensFile?: string;
  dimensions?: number;
  normalise: boolean;
  truncate?: boolean;
  task?: string;
  json?: boolean;
}

async function embed(model: string, texts: string[], flags: EmbedFlags): Promise<void> {
  const inputs = await inputsOf(texts, flags.tokensFile);
  const engine = await load(model, flags);
  try {
    const { dimensions, normalise, truncate, task } = flags;
    const params = withoutUndefined({ dimensions, normalise, truncate, task }) as EmbedParams;
    const vectors = await engine.embed(inputs, { ...params, signal: outputClosed });
    const lines = vectors.map((vector) => JSON.stringify(Array.from(vector)));
    print(flags.json ? `[${lines.join(",")}]\n` : `[\n${lines.join(",\n")}\n]\n`);
  } finally {
    await engine.close();
  }
}

async function inputsOf(texts: string[], tokensFile: string | undefined): Promise<readonly EmbedInput[]> {
  if (texts.length > 0 && tokensFile === undefined) return texts;
  if (texts.length > 0 || tokensFile === undefined) {
    throw new TidepoolError("invalid_argument", "embed needs either texts or --tokens-file");
  }
  return tokenLists(await jsonFile(tokensFile), tokensFile);
}

function tokenLists(value: unknown, file: string): number[][] {
  const lists: unknown = (value as { inputs?: unknown } | null)?.inputs;
  const isList = (list: unknown) => Array.isArray(list) && list.every((token) => Number.isInteger(token));
  if (Array.isArray(lists) && lists.every(isList)) return lists as number[][];
  throw new TidepoolError(
    "invalid_file",
    `${file}: expected an object with "inputs", an array of arrays of token ids`,
  );
}

export function addEmbed(root: Command): void {
  withEngineOptions(
    root.command("embed").description("print the vector of each text, as a JSON array of arrays"),
  )
    .argument("<model>", MODEL_HELP)
    .argument("[texts...]", "texts, one vector each")
    .option("--tokens-file <file>", 'JSON object { "inputs": [[ids], ...] } with token ids, used unchanged')
    .option("--dimensions <n>", "keep this many leading numbers of each vector", whole(1))
    .option("--no-normalise", "do not divide each vector by its length")
    .option("--truncate", "cut texts that are too long for the model instead of refusing them")
    .option("--task <name>", "put the model's own words for this task before each text")
    .option("--json", "print on one line")
    .action(embed);
}
