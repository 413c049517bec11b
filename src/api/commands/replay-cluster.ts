/**
 * `tidepool replay --scheduler`: a trace on a simulated cluster of prefill and decode instances, by rejection mode and by
 * selection. It reads the flags and prints a table or JSON; what a cluster is stands in sim/cluster/.
 */
import { TidepoolError } from "../../errors.ts";
import type { Cost, Trace } from "../../sim/index.ts";
import { parseCapacities, parsePolicies } from "../../sim/index.ts";
import {
  a800Node,
  parseInstances,
  parseObjective,
  parseSchedulers,
  parseSelections,
  parseSpeeds,
  replayCluster,
  schedulerNames,
  type ClusterOptions,
  type ClusterRow,
  type Machine,
} from "../../sim/cluster/index.ts";
import { columned } from "../print.ts";

/** The flags of clusters, as words. */
export interface ClusterArguments {
  scheduler?: string;
  selection?: string;
  instances?: string;
  speed?: string;
  ttftMs?: string;
  tbtMs?: string;
}

/** Flags of other replays that a cluster takes too, and those that it does not. */
interface OtherArguments {
  policy?: string;
  capacity?: string;
  json?: boolean;
  csv?: boolean;
  serve?: boolean;
  plot?: string;
  blockTokens?: string | number;
}

/** Mooncake's model, whatever the trace. */
export const MOONCAKE_MODEL = "llama3-70b";

/** Mooncake's cluster and limits. */
export const CLUSTER_DEFAULTS = {
  ...{ scheduler: "predicted", selection: "kvcache", instances: "8p8d", speed: "1" },
  ...{ ttftMs: "30000", tbtMs: "100" },
} satisfies Required<ClusterArguments>;

const CLUSTER_FLAGS = {
  ...{ selection: "--selection", instances: "--instances", speed: "--speed" },
  ...{ ttftMs: "--ttft-ms", tbtMs: "--tbt-ms" },
} as const satisfies Partial<Record<keyof ClusterArguments, string>>;

const FOREIGN_FLAGS = {
  ...{ csv: "--csv", serve: "--serve", plot: "--plot", blockTokens: "--block-tokens" },
} as const satisfies Partial<Record<keyof OtherArguments, string>>;

/** Throws if a flag of clusters is given without --scheduler, which makes a replay one of a cluster. */
export function refuseClusterFlags(options: ClusterArguments): void {
  const flag = firstGiven(CLUSTER_FLAGS, options);
  if (flag === undefined) return;
  const message = `${flag} needs --scheduler, with one or more of ${schedulerNames.join(", ")}`;
  throw new TidepoolError("invalid_argument", message);
}

/** Replays every combination and returns what the command prints. Throws a TidepoolError that names the bad flag. */
export async function runReplayCluster(
  given: ClusterArguments & OtherArguments,
  load: () => Promise<{ trace: Trace; model: Cost }>,
): Promise<string> {
  const foreign = firstGiven(FOREIGN_FLAGS, given);
  if (foreign !== undefined)
    throw new TidepoolError("invalid_argument", `${foreign} does not go with --scheduler`);
  const read = readWords(given);
  const { trace, model } = await load();
  const machine = { ...a800Node, hostBytes: hostBytesOf(given.capacity, model, trace) };
  const rows = combinations(read, model, machine).map((options) => replayCluster(trace, options));
  return given.json === true ? JSON.stringify(rows, undefined, 2) : table(rows);
}

function firstGiven<T>(
  flags: Readonly<Partial<Record<keyof T & string, string>>>,
  options: T,
): string | undefined {
  const names = Object.keys(flags) as (keyof T & string)[];
  return flags[names.find((name) => options[name] !== undefined && options[name] !== false)!];
}

function readWords(given: ClusterArguments & OtherArguments) {
  const words = { ...CLUSTER_DEFAULTS, ...given };
  const [policy = "lru", another] = parsePolicies(given.policy ?? "lru");
  if (another !== undefined)
    throw new TidepoolError(
      "invalid_argument",
      `--policy is "${given.policy}", expected one policy for all instances`,
    );
  if (policy === "offline")
    throw new TidepoolError(
      "invalid_argument",
      '--policy is "offline", which knows requests one after another, not how they overlap',
    );
  return {
    ...{ schedulers: parseSchedulers(words.scheduler), selections: parseSelections(words.selection), policy },
    ...{ instances: parseInstances(words.instances), speeds: parseSpeeds(words.speed) },
    ttftMs: parseObjective("--ttft-ms", words.ttftMs),
    tbtMs: parseObjective("--tbt-ms", words.tbtMs),
  };
}

function combinations(
  { schedulers, selections, instances, speeds, ...rest }: ReturnType<typeof readWords>,
  model: Cost,
  machine: Machine,
): ClusterOptions[] {
  return instances.flatMap((each) =>
    speeds.flatMap((speed) =>
      selections.flatMap((selection) =>
        schedulers.map((scheduler) => ({
          ...rest,
          model,
          machine,
          instances: each,
          speed,
          selection,
          scheduler,
        })),
      ),
    ),
  );
}

/** Of each prefill instance. */
function hostBytesOf(word: string | undefined, model: Cost, { symbolTokens }: Trace): number {
  if (word === undefined) return a800Node.hostBytes;
  const [capacity, another] = parseCapacities(word);
  if (capacity === undefined || another !== undefined)
    throw new TidepoolError(
      "invalid_argument",
      `--capacity is "${word}", expected one capacity for all instances`,
    );
  if (capacity === "inf") return Infinity;
  return "bytes" in capacity ? capacity.bytes : capacity.blocks * symbolTokens * model.bytesPerToken;
}

const columns: [string, (row: ClusterRow) => string][] = [
  ["scheduler", ({ scheduler }) => scheduler],
  ["selection", ({ selection }) => selection],
  ["instances", ({ instances }) => instances],
  ["speed", ({ speed }) => String(speed)],
  ["requests", ({ requests }) => String(requests)],
  ["rejected", ({ rejected }) => String(rejected)],
  ["(computed)", ({ wasted }) => `(${wasted})`],
  ["finished", ({ finished }) => String(finished)],
  ["goodput", ({ goodput }) => String(goodput)],
  ["ttft s: mean", ({ ttftMs }) => seconds(ttftMs.mean)],
  ["p50", ({ ttftMs }) => seconds(ttftMs.p50)],
  ["p90", ({ ttftMs }) => seconds(ttftMs.p90)],
  ["p99", ({ ttftMs }) => seconds(ttftMs.p99)],
  ["tbt ms: mean", ({ tbtMs }) => tbtMs.mean.toFixed(1)],
  ["p90", ({ tbtMs }) => tbtMs.p90.toFixed(1)],
  ["p99", ({ tbtMs }) => tbtMs.p99.toFixed(1)],
  ["prompt tokens cached", ({ tokenHitRate }) => `${(100 * tokenHitRate).toFixed(1)}%`],
  ["load deviation", ({ loadDeviation }) => loadDeviation.toFixed(3)],
];

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function table(rows: readonly ClusterRow[]): string {
  return columned([
    columns.map(([name]) => name),
    ...rows.map((row) => columns.map(([, text]) => text(row))),
  ]);
}
