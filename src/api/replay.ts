/**
 * `tidepool replay`: reads the files that the command line names, runs the replays one after another, and prints the
 * rows as a table, JSON or CSV. What a replay is stands in sim/.
 */
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { TidepoolError } from "../errors.ts";
import type { Cost, ReplayRow, Trace } from "../sim/index.ts";
import {
  capacityLabel,
  decodeTraceBytes,
  defaultModel,
  defaultWorkloads,
  generate,
  modelFromJson,
  modelNames,
  namedModel,
  parseCapacities,
  parsePolicies,
  parseTrace,
  plotRows,
  replay,
} from "../sim/index.ts";

/** The command's options, as words. */
export interface ReplayArguments {
  /** A file, or "generate:KIND[:SEED]" with a kind of workload. */
  trace: string;
  sessions?: string;
  policy: string;
  capacity: string;
  model?: string;
  blockTokens?: string | number;
  json?: boolean;
  csv?: boolean;
  /** Where to write a chart of token hit rate against capacity. */
  plot?: string;
}

/** Runs every policy at every capacity and returns what the command prints. Throws a TidepoolError that names the bad
 * option, file or field. */
export async function runReplay(options: ReplayArguments): Promise<string> {
  if (options.json === true && options.csv === true) {
    throw new TidepoolError("invalid_argument", "--json and --csv exclude each other");
  }
  const policies = parsePolicies(options.policy);
  const capacities = parseCapacities(options.capacity);
  const blockTokens = parseBlockTokens(options.blockTokens);
  const trace = await loadTrace(options);
  const cost = await loadModel(options.model ?? defaultModel(trace));
  const block = blockTokens === undefined ? {} : { blockTokens };
  const rows = capacities.flatMap((capacity) =>
    policies.map((policy) => replay(trace, { policy, capacity, cost, ...block })),
  );
  if (options.plot !== undefined) await writeFile(options.plot, plotRows(basename(trace.name), rows));
  if (options.json === true) return JSON.stringify(rows, undefined, 2);
  return options.csv === true ? csv(rows) : table(rows);
}

function parseBlockTokens(given: string | number | undefined): number | undefined {
  if (given === undefined) return undefined;
  const tokens = Number(given);
  if (!Number.isInteger(tokens) || tokens < 1) {
    throw new TidepoolError(
      "invalid_argument",
      `--block-tokens must be a positive whole number, not "${given}"`,
    );
  }
  return tokens;
}

async function loadTrace(options: ReplayArguments): Promise<Trace> {
  if (options.trace.startsWith("generate:")) return generated(options.trace);
  const text = await readText(options.trace);
  const { sessions } = options;
  if (sessions === undefined) return parseTrace(options.trace, text);
  return parseTrace(options.trace, text, { name: sessions, text: await readText(sessions) });
}

function generated(word: string): Trace {
  const [, kind = "", seed = "1"] = word.split(":");
  const workload = Object.values(defaultWorkloads).find((candidate) => candidate.kind === kind);
  if (workload === undefined || !/^\d+$/.test(seed)) {
    const kinds = Object.keys(defaultWorkloads).join(", ");
    throw new TidepoolError(
      "invalid_argument",
      `trace "${word}" is not generate:KIND[:SEED] with one of ${kinds}`,
    );
  }
  return generate({ ...workload, seed: Number(seed) });
}

async function loadModel(model: string): Promise<Cost> {
  const named = namedModel(model);
  if (named !== undefined) return named;
  if (model.endsWith(".json")) return modelFromJson(await readText(model), model);
  throw new TidepoolError(
    "invalid_argument",
    `model "${model}" is neither a .json shape file nor one of ${modelNames.join(", ")}`,
  );
}

async function readText(path: string): Promise<string> {
  try {
    return await decodeTraceBytes(new Uint8Array(await readFile(path)));
  } catch (error) {
    const isAbsent = error instanceof Error && "code" in error && error.code === "ENOENT";
    if (isAbsent) throw new TidepoolError("not_found", `${path} does not exist`, { path });
    throw new TidepoolError(
      "source",
      `${path} cannot be read: ${error instanceof Error ? error.message : ""}`,
      { path },
    );
  }
}

const columns: (keyof ReplayRow)[] = [
  "policy",
  "capacity",
  "requests",
  "blockHitRate",
  "tokenHitRate",
  "flopsSaved",
  "bytesPeak",
  "snapshotsTaken",
  "evictions",
  "alpha",
  "seconds",
];

function csv(rows: readonly ReplayRow[]): string {
  const lines = rows.map((row) => columns.map((column) => row[column] ?? "").join(","));
  return [columns.join(","), ...lines].join("\n");
}

function table(rows: readonly ReplayRow[]): string {
  const cells = rows.map((row) => [
    row.policy,
    capacityLabel(row.capacity),
    String(row.requests),
    `${(row.blockHitRate * 100).toFixed(2)}%`,
    `${(row.tokenHitRate * 100).toFixed(2)}%`,
    row.flopsSaved.toExponential(3),
    capacityLabel(row.bytesPeak),
    String(row.snapshotsTaken),
    String(row.evictions),
    row.alpha === null ? "-" : String(row.alpha),
    row.seconds.toFixed(2),
  ]);
  const all = [columns as string[], ...cells];
  const widths = columns.map((_, i) => Math.max(...all.map((line) => line[i]!.length)));
  return all
    .map((line) =>
      line
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
