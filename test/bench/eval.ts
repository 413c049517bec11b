/**
 * `npm run eval [MODEL] [-- --limit N] [--distances 64,128] [--groups a,b] [--kv-dtype q8] [--torch] [--runtime NAME] [--out FOLDER]`:
 * scores a shipped model (default tide-dense) or a model file with the committed evaluation set, prints a Markdown table
 * and writes the same as JSON to dist/eval. An architecture that the engine does not run is scored with PyTorch.
 *
 * `npm run eval [MODEL] -- --long [--modes full,q8,q4,q2] [--contexts 1024,2048] [--documents N] [--out FOLDER]`: answers the
 * questions about long documents in several modes, and compares each with the first on the same questions.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { DEFAULT_MODEL, SHIPPED_MODELS, shippedPath } from "../../src/api/shipped.ts";
import type { KvDtype } from "../../src/wire/protocol.ts";
import { chooseDriver } from "./driver.ts";
import { scoreWithEngine } from "./eval-engine.ts";
import { runLong } from "./eval-long.ts";
import { longModes, longTable, readLongSet } from "./eval-long-set.ts";
import { markdown, readEvalSet, type EvalSet, type Scores } from "./eval-set.ts";
import { scoreWithTorch } from "./eval-torch.ts";

/** Wrong answers that are shown of a group. */
const SHOWN_WRONG = 3;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    limit: { type: "string", default: "1000000" },
    distances: { type: "string" },
    groups: { type: "string" },
    "kv-dtype": { type: "string" },
    long: { type: "boolean", default: false },
    modes: { type: "string", default: "full,q8,q4,q2" },
    contexts: { type: "string", default: "1024,2048" },
    documents: { type: "string", default: "24" },
    torch: { type: "boolean", default: false },
    runtime: { type: "string" },
    out: { type: "string", default: "dist/eval" },
  },
});

const log = (line: string): void => console.error(line);

async function main(): Promise<void> {
  const limit = Number(flags.limit);
  if (!Number.isInteger(limit) || limit < 1) throw new Error(`--limit is ${flags.limit}, expected 1 or more`);
  const set = readEvalSet({
    limit,
    ...(flags.distances !== undefined && { distances: flags.distances.split(",").map(Number) }),
    ...(flags.groups !== undefined && { groups: flags.groups.split(",") }),
  });
  const { name, path, shipped } = modelOf(positionals[0] ?? DEFAULT_MODEL);
  if (shipped && !shipped.runs)
    log(`the engine does not run ${shipped.architecture} yet: PyTorch scores ${name}`);
  const withTorch = flags.torch || shipped?.runs === false;
  if (withTorch && flags["kv-dtype"] !== undefined)
    throw new Error("--kv-dtype is the engine's, and PyTorch scores this model");
  const scores = withTorch ? await scoreWithTorch(name, path, set, limit) : await withEngine(path, set);
  report(
    flags["kv-dtype"] === undefined ? name : `${name}-${flags["kv-dtype"]}`,
    withTorch ? "PyTorch" : "engine",
    set,
    scores,
  );
}

async function long(): Promise<void> {
  const documents = Number(flags.documents);
  if (!Number.isInteger(documents) || documents < 2)
    throw new Error(`--documents is ${flags.documents}, expected 2 or more`);
  const modes = longModes(flags.modes);
  const set = readLongSet(flags.contexts.split(",").map(Number), documents);
  const { name, path } = modelOf(positionals[0] ?? DEFAULT_MODEL);
  log(`runtime: ${await chooseDriver(flags.runtime, log)}`);
  const scores = await runLong(path, set, modes, log);
  console.log(longTable(set, scores));
  write(`long-${name}`, { model: name, set: set.seed, modes: scores });
}

function modelOf(given: string): {
  name: string;
  path: string;
  shipped: (typeof SHIPPED_MODELS)[number] | undefined;
} {
  const shipped = SHIPPED_MODELS.find(({ name }) => name === given);
  return {
    name: shipped?.name ?? basename(given, ".gguf"),
    path: shipped ? shippedPath(shipped.name) : given,
    shipped,
  };
}

async function withEngine(path: string, set: EvalSet): Promise<Scores> {
  log(`runtime: ${await chooseDriver(flags.runtime, log)}`);
  const kvDtype = flags["kv-dtype"] as KvDtype | undefined; // the engine checks it
  return scoreWithEngine(path, set, kvDtype, (name, score, wrong) => {
    log(`${name} ${JSON.stringify(score)}`);
    for (const line of wrong.slice(0, SHOWN_WRONG)) log(`  ${line}`);
  });
}

function report(model: string, scorer: string, set: EvalSet, scores: Scores): void {
  console.log(markdown(model, scores));
  write(model, { model, scorer, set: set.seed, groups: scores });
}

function write(name: string, results: unknown): void {
  mkdirSync(flags.out, { recursive: true });
  const file = join(flags.out, `${name}.json`);
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  log(file);
}

try {
  await (flags.long ? long() : main());
} catch (error) {
  log(`eval: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
setTimeout(() => process.exit(), 50);
