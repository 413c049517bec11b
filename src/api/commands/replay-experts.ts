/**
 * `tidepool replay-experts`: how fast a mixture of experts would run on a machine whose GPU holds a part of its experts, by
 * policy. Reads or generates an activation trace, replays it, and prints a table or JSON. What a replay is stands in
 * sim/experts/.
 */
import type { Command } from "commander";
import { BYTE_SIZE, parseBytes } from "../../byte-size.ts";
import { TidepoolError } from "../../errors.ts";
import {
  expertStrategyNames,
  generateActivity,
  laptop,
  parseExpertStrategies,
  qwenActivity,
  readActivations,
  replayExperts,
  withPredictor,
  type ActivationTrace,
  type ExpertMachine,
  type ExpertReplayRow,
} from "../../sim/experts/index.ts";
import { readBytes } from "../flags.ts";
import { columned, print } from "../print.ts";

/** The command's options, as words. */
export interface ReplayExpertsArguments {
  /** A file, or "generate[:SEED]". */
  trace: string;
  policy: string;
  rate: string;
  link: string;
  disk: string;
  ram: string;
  group: string;
  expertBytes?: string;
  /** The file of a learned predictor, whose guesses replace the trace's. */
  predictor?: string;
  json?: boolean;
}

const DEFAULTS = {
  ...{ trace: "generate", policy: expertStrategyNames.join(","), rate: "0.25,0.5,0.75" },
  ...{ link: "6GB", disk: "2GB", ram: "16GB", group: "4" },
} satisfies ReplayExpertsArguments;

/** Runs every policy at every rate and returns what the command prints. Throws a TidepoolError that names the bad option. */
export async function runReplayExperts(given: Partial<ReplayExpertsArguments>): Promise<string> {
  const options = { ...DEFAULTS, ...given };
  const strategies = parseExpertStrategies(options.policy);
  const rates = options.rate.split(",").map((word) => numberOf("--rate", word, 1, "above 0, at most 1"));
  const groupLayers = numberOf("--group", options.group, Infinity, "a whole number of layers", true);
  const machine: ExpertMachine = {
    ...laptop,
    linkBytesPerSecond: bytesOf("--link", options.link),
    diskBytesPerSecond: bytesOf("--disk", options.disk),
    ramBytes: bytesOf("--ram", options.ram),
  };
  const { predictor } = options;
  const recorded = sized(await loadTrace(options.trace), options.expertBytes);
  const trace =
    predictor === undefined ? recorded : withPredictor(recorded, predictor, await readBytes(predictor));
  const rows = rates.flatMap((rate) =>
    strategies.map((strategy) => replayExperts(trace, { strategy, rate, machine, groupLayers })),
  );
  return options.json === true ? JSON.stringify(rows, undefined, 2) : table(rows);
}

async function loadTrace(word: string): Promise<ActivationTrace> {
  const generated = /^generate(?::(\d+))?$/.exec(word);
  if (generated)
    return generateActivity({ ...qwenActivity, seed: Number(generated[1] ?? qwenActivity.seed) });
  return readActivations(word, await readBytes(word));
}

/** The trace as if its experts had other sizes. */
function sized(trace: ActivationTrace, word: string | undefined): ActivationTrace {
  if (word === undefined) return trace;
  const { matrixBytes } = trace.header;
  const each = Math.ceil(bytesOf("--expert-bytes", word) / matrixBytes.length);
  return { ...trace, header: { ...trace.header, matrixBytes: matrixBytes.map(() => each) } };
}

function bytesOf(option: string, word: string): number {
  const bytes = parseBytes(word);
  if (bytes > 0) return bytes;
  throw new TidepoolError(
    "invalid_argument",
    `${option} is "${word}", expected a positive number of ${BYTE_SIZE}`,
  );
}

function numberOf(option: string, word: string, max: number, expected: string, isWhole = false): number {
  const value = Number(word);
  if (word.trim() !== "" && value > 0 && value <= max && (!isWhole || Number.isInteger(value))) return value;
  throw new TidepoolError("invalid_argument", `${option} is "${word}", expected ${expected}`);
}

const columns: [string, (row: ExpertReplayRow) => string][] = [
  ["policy", ({ strategy }) => strategy],
  ["rate", ({ rate }) => String(rate)],
  ["hits", ({ hitRate }) => percent(hitRate)],
  ["prefill tok/s", (row) => row.prefillTokensPerSecond.toFixed(0)],
  ["decode tok/s", (row) => row.decodeTokensPerSecond.toFixed(1)],
  ["stalled", ({ stallShare }) => percent(stallShare)],
  ["accuracy", ({ accuracy }) => percent(accuracy)],
  ["fetch rate", ({ fetchRate }) => percent(fetchRate)],
  ["GoodPred by distance", (row) => row.goodPredByDistance.map(percent).join(" ")],
  ["MB a token: demand", ({ demandMb }) => demandMb.toFixed(0)],
  ["used", ({ usedMb }) => usedMb.toFixed(0)],
  ["wasted", ({ wastedMb }) => wastedMb.toFixed(0)],
];

function percent(share: number | null): string {
  return share === null ? "-" : `${(100 * share).toFixed(0)}%`;
}

function table(rows: readonly ExpertReplayRow[]): string {
  return columned([
    columns.map(([name]) => name),
    ...rows.map((row) => columns.map(([, text]) => text(row))),
  ]);
}

export function addReplayExperts(root: Command): void {
  root
    .command("replay-experts")
    .description(
      "replay which experts a model chose, with policies of the expert cache; needs no model and no GPU",
    )
    .option(
      "--trace <file>",
      "activation trace, or generate[:SEED]: 48 layers of 128 experts",
      DEFAULTS.trace,
    )
    .option("--policy <names>", `${expertStrategyNames.join(", ")}; comma-separated`)
    .option("--rate <shares>", "shares of the experts that the GPU holds; comma-separated", DEFAULTS.rate)
    .option("--link <bytes>", "from RAM to the GPU, a second", DEFAULTS.link)
    .option("--disk <bytes>", "from disk to RAM, a second", DEFAULTS.disk)
    .option("--ram <bytes>", "for experts that are not on the GPU", DEFAULTS.ram)
    .option("--group <n>", "layers of a decode step that are submitted together", DEFAULTS.group)
    .option("--expert-bytes <bytes>", "as if an expert had this size")
    .option("--predictor <file>", "guesses of this learned predictor in place of the trace's")
    .option("--json", "print a JSON array of rows")
    .action(async (options: Partial<ReplayExpertsArguments>) =>
      print(`${(await runReplayExperts(options)).trimEnd()}\n`),
    );
}
