/**
 * `tidepool replay`: reads the files that the command line names, runs the replays one after another, and prints the
 * rows as a table, JSON or CSV. What a replay is stands in sim/.
 */
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import type { Command } from "commander";
import { TidepoolError } from "../../errors.ts";
import type { Cost, ReplayOptions, ReplayRow, ServeRow, Trace } from "../../sim/index.ts";
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
  policyNames,
  replay,
  serve,
} from "../../sim/index.ts";
import { conversationTrace, schedulerNames, selectionNames } from "../../sim/cluster/index.ts";
import { columned, print } from "../print.ts";
import {
  CLUSTER_DEFAULTS,
  refuseClusterFlags,
  MOONCAKE_MODEL,
  runReplayCluster,
  type ClusterArguments,
} from "./replay-cluster.ts";

/** The command's options, as words. */
export interface ReplayArguments extends ClusterArguments {
  /** A file, or "generate:KIND[:SEED]" with a kind of workload. */
  trace: string;
  sessions?: string;
  policy?: string;
  capacity?: string;
  model?: string;
  blockTokens?: string | number;
  json?: boolean;
  csv?: boolean;
  /** Serve the trace in simulated time by the engine's scheduler; rows then have times to first token. */
  serve?: boolean;
  /** Only the trace's first requests, this many. */
  first?: string | number;
  /** Where to write a chart of token hit rate against capacity. */
  plot?: string;
}

/** Runs every policy at every capacity, or a cluster in every way, and returns what the command prints. Throws a TidepoolError
 * that names the bad option, file or field. */
export async function runReplay(options: ReplayArguments): Promise<string> {
  if (options.scheduler === undefined) return await runReplayPolicies(options);
  return await runReplayCluster(options, () => loaded({ model: MOONCAKE_MODEL, ...options }));
}

/** Runs every policy at every capacity and returns what the command prints. Throws a TidepoolError that names the bad
 * option, file or field. */
async function runReplayPolicies(options: ReplayArguments): Promise<string> {
  refuseClusterFlags(options);
  if (options.json === true && options.csv === true) {
    throw new TidepoolError("invalid_argument", "--json and --csv exclude each other");
  }
  const policies = parsePolicies(needed("--policy", options.policy));
  const capacities = parseCapacities(needed("--capacity", options.capacity));
  const blockTokens = parseCount("--block-tokens", options.blockTokens);
  const { trace, model: cost } = await loaded(options);
  const block = blockTokens === undefined ? {} : { blockTokens };
  const rows = capacities.flatMap((capacity) =>
    policies.map((policy) => oneRow(trace, { policy, capacity, cost, ...block }, options.serve === true)),
  );
  if (options.plot !== undefined) await writeFile(options.plot, plotRows(basename(trace.name), rows));
  if (options.json === true) return JSON.stringify(rows, undefined, 2);
  return options.csv === true ? csv(rows) : table(rows);
}

async function loaded(options: ReplayArguments): Promise<{ trace: Trace; model: Cost }> {
  const trace = firstOf(await loadTrace(options), parseCount("--first", options.first));
  return { trace, model: await loadModel(options.model ?? defaultModel(trace)) };
}

function needed(flag: string, word: string | undefined): string {
  if (word !== undefined) return word;
  throw new TidepoolError("invalid_argument", `${flag} is missing; only with --scheduler it may be left out`);
}

/** A row of either kind; of a served trace without what happened to each request. */
type Row = ReplayRow & Partial<Pick<ServeRow, "ttftMs" | "queueMs" | "rejected">>;

function oneRow(trace: Trace, options: ReplayOptions, isServed: boolean): Row {
  if (!isServed) return replay(trace, options);
  const { served: _, ...row } = serve(trace, options);
  return row;
}

function firstOf(trace: Trace, count = Infinity): Trace {
  return count >= trace.requests.length ? trace : { ...trace, requests: trace.requests.slice(0, count) };
}

function parseCount(option: string, given: string | number | undefined): number | undefined {
  if (given === undefined) return undefined;
  const count = Number(given);
  if (!Number.isInteger(count) || count < 1) {
    throw new TidepoolError("invalid_argument", `${option} must be a positive whole number, not "${given}"`);
  }
  return count;
}

async function loadTrace(options: ReplayArguments): Promise<Trace> {
  if (options.trace.startsWith("generate:")) return generated(options.trace);
  const text = await readText(options.trace);
  const { sessions } = options;
  if (sessions === undefined) return parseTrace(options.trace, text);
  return parseTrace(options.trace, text, { name: sessions, text: await readText(sessions) });
}

/** In blocks of 512 tokens, as Mooncake's trace; the other workloads are in tokens. */
const CONVERSATION = "conversation";

function generated(word: string): Trace {
  const [, kind = "", seed = "1"] = word.split(":");
  if (kind === CONVERSATION && /^\d+$/.test(seed)) return conversationTrace(Number(seed));
  const workload = Object.values(defaultWorkloads).find((candidate) => candidate.kind === kind);
  if (workload === undefined || !/^\d+$/.test(seed)) {
    const kinds = [...Object.keys(defaultWorkloads), CONVERSATION].join(", ");
    throw new TidepoolError(
      "invalid_argument",
      `trace "${word}" is not valid: expected generate:KIND[:SEED] with one of ${kinds}`,
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

/** Columns of a table or CSV: what is in a cell of a file, and what people read. */
interface Column {
  name: string;
  raw: (row: Row) => string | number;
  text: (row: Row) => string;
}

const columns: Column[] = [
  plain("policy"),
  shown("capacity", capacityLabel),
  plain("requests"),
  shown("blockHitRate", percent),
  shown("tokenHitRate", percent),
  shown("flopsSaved", (flops) => flops.toExponential(3)),
  shown("bytesPeak", capacityLabel),
  plain("snapshotsTaken"),
  plain("evictions"),
  shown("alpha", (alpha) => String(alpha ?? "-")),
  shown("seconds", (seconds) => seconds.toFixed(2)),
];

/** Of served traces; milliseconds. */
const servedColumns: Column[] = (["ttftMs", "queueMs"] as const).flatMap((name) =>
  (["p50", "p90", "p99"] as const).map((share): Column => {
    const value = (row: Row): number => row[name]?.[share] ?? NaN;
    return { name: `${name}.${share}`, raw: value, text: (row) => value(row).toFixed(0) };
  }),
);

function shown<Name extends keyof ReplayRow>(name: Name, text: (value: ReplayRow[Name]) => string): Column {
  return { name, raw: (row) => row[name] ?? "", text: (row) => text(row[name]) };
}

function plain(name: keyof ReplayRow): Column {
  return shown(name, String);
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`;
}

function columnsOf(rows: readonly Row[]): Column[] {
  return rows[0]?.ttftMs === undefined ? columns : [...columns, ...servedColumns, rejectedColumn];
}

const rejectedColumn: Column = {
  name: "rejected",
  raw: (row) => row.rejected ?? 0,
  text: (row) => String(row.rejected ?? 0),
};

function csv(rows: readonly Row[]): string {
  const used = columnsOf(rows);
  const lines = rows.map((row) => used.map(({ raw }) => raw(row)).join(","));
  return [used.map(({ name }) => name).join(","), ...lines].join("\n");
}

function table(rows: readonly Row[]): string {
  const used = columnsOf(rows);
  return columned([used.map(({ name }) => name), ...rows.map((row) => used.map(({ text }) => text(row)))]);
}

function clusterHelp(name: keyof ClusterArguments, what: string): string {
  return `with --scheduler: ${what} (default: ${CLUSTER_DEFAULTS[name]})`;
}

export function addReplay(root: Command): void {
  root
    .command("replay")
    .description(
      "replay a trace of requests with cache policies, or on a simulated cluster; needs no model and no GPU",
    )
    .requiredOption(
      "--trace <file>",
      "Mooncake trace, SWE schedule or chat trace (also .gz), or generate:KIND[:SEED]",
    )
    .option("--sessions <file>", "the sessions that a SWE schedule refers to (also .gz)")
    .option("--policy <names>", `${policyNames.join(", ")}; comma-separated`)
    .option("--capacity <list>", "bytes (such as 40GB), blocks:N or inf; comma-separated")
    .option("--model <name>", "model whose costs are used: a name, or a SHAPE.json")
    .option("--block-tokens <n>", "tokens per block")
    .option("--first <n>", "replay only the first n requests")
    .option(
      "--serve",
      "serve the trace in simulated time with the engine's scheduler; adds times to first token",
    )
    .option(
      "--scheduler <modes>",
      `replay on a simulated cluster that rejects by ${schedulerNames.join(", ")}; comma-separated`,
    )
    .option("--selection <names>", clusterHelp("selection", selectionNames.join(", ")))
    .option("--instances <list>", clusterHelp("instances", "how many prefill and decode instances"))
    .option("--speed <factors>", clusterHelp("speed", "requests arrive this many times as fast"))
    .option("--ttft-ms <n>", clusterHelp("ttftMs", "objective of the time to first token, or inf"))
    .option("--tbt-ms <n>", clusterHelp("tbtMs", "objective of the time between tokens, or inf"))
    .option("--json", "print a JSON array of rows")
    .option("--csv", "print rows as CSV")
    .option("--plot <file>", "write a chart of token hit rate against capacity to this SVG file")
    .action(async (options: ReplayArguments) => print(`${(await runReplay(options)).trimEnd()}\n`));
}
