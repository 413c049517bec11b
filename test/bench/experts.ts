/**
 * `npm run experts -- record [MODEL] --out FILE [--limit N] [--new N] [--text FILE] [--seed N]`: records which experts a model
 * chooses, for the committed evaluation set or the lines of a text file.
 * `npm run experts -- train TRACE --out FILE [--distances 1,2] [--width N] [--epochs N] [--seed N]`: trains the learned predictor
 * on such a trace and prints what it and two predictions without training get right on tokens that were held out.
 */
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { shippedPath } from "../../src/api/shipped.ts";
import {
  readActivations,
  writeActivationHeader,
  writeActivationStep,
  type ActivationHeader,
} from "../../src/cache/experts/activations.ts";
import { findProvider, openGpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { createTokenizer } from "../../src/text/tokenizer.ts";
import { chooseDriver } from "./driver.ts";
import { readEvalSet } from "./eval-set.ts";
import { recordExperts } from "./record-experts.ts";
import { trainPredictor, type Held } from "./train-predictor.ts";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string" },
    limit: { type: "string", default: "8" },
    new: { type: "string", default: "48" },
    text: { type: "string" },
    seed: { type: "string", default: "1" },
    runtime: { type: "string" },
    distances: { type: "string", default: "1,2" },
    width: { type: "string", default: "64" },
    epochs: { type: "string", default: "6" },
    batch: { type: "string", default: "32" },
    rate: { type: "string", default: "0.002" },
  },
});

const log = (line: string): void => console.error(line);

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} is ${text}, expected a positive integer`);
  return value;
}

function outFile(): string {
  if (flags.out === undefined) throw new Error("--out is missing: the file to write");
  return flags.out;
}

/** Texts of at least a few words: those of the evaluation set, `limit` of each group, or the lines of a file. */
function texts(): string[] {
  if (flags.text !== undefined)
    return readFileSync(flags.text, "utf8")
      .split("\n")
      .filter((line) => line.trim());
  const { groups } = readEvalSet({ limit: whole("limit", flags.limit) });
  return groups.flatMap((group) =>
    group.kind === "perplexity"
      ? group.items.map(({ text }) => text)
      : group.items.map(({ prompt }) => prompt),
  );
}

async function record(): Promise<void> {
  const out = outFile();
  const given = positionals[1] ?? "tide-moe";
  const path = given.includes(".") ? given : shippedPath(given);
  log(`runtime: ${await chooseDriver(flags.runtime, log)}`);
  const file = await openModel(path);
  const tokenizer = createTokenizer(file);
  const prompts = texts().map((text) => tokenizer.encode(text));
  const gpu = await openGpu((await findProvider()) as GPU);
  const descriptor = openSync(out, "w");
  let header: ActivationHeader | undefined;
  let tokens = 0;
  try {
    await recordExperts(
      gpu,
      file,
      { prompts, newTokens: whole("new", flags.new), seed: whole("seed", flags.seed) },
      (made) => writeSync(descriptor, writeActivationHeader((header = made))),
      (step) => {
        writeSync(descriptor, writeActivationStep(header as ActivationHeader, step));
        tokens += step.tokens;
      },
    );
  } finally {
    closeSync(descriptor);
    gpu.device.destroy();
  }
  console.log(`${out}: ${tokens} tokens of ${prompts.length} texts, by ${basename(path)}`);
}

function train(): void {
  const [, path] = positionals;
  if (path === undefined) throw new Error("expected the file of an activation trace");
  const out = outFile();
  const trace = readActivations(path, readFileSync(path));
  const options = {
    distances: flags.distances.split(",").map((text) => whole("distances", text)),
    ...{ width: whole("width", flags.width), epochs: whole("epochs", flags.epochs) },
    ...{
      batch: whole("batch", flags.batch),
      seed: whole("seed", flags.seed),
      learningRate: Number(flags.rate),
    },
  };
  console.log("behind layer, distance: learned, skip gate, the token before (shares of the true experts)");
  const { predictor, held } = trainPredictor(trace, options, (each) =>
    console.log(`${each.behind}, ${each.distance}: ${sharesOf(each)}`),
  );
  for (const distance of options.distances) {
    const all = held.filter((each) => each.distance === distance);
    const mean = (name: "learned" | "skipGate" | "former"): number =>
      all.reduce((sum, each) => sum + each[name], 0) / all.length;
    const means = { learned: mean("learned"), skipGate: mean("skipGate"), former: mean("former") };
    console.log(`all, ${distance}: ${sharesOf(means)}`);
  }
  const bytes = predictor.write();
  writeFileSync(out, bytes);
  console.log(`${out}: ${bytes.length} bytes`);
}

function sharesOf(shares: Pick<Held, "learned" | "skipGate" | "former">): string {
  return [shares.learned, shares.skipGate, shares.former].map((share) => share.toFixed(3)).join(", ");
}

const [command] = positionals;
if (command === "record") await record();
else if (command === "train") train();
else throw new Error(`"${command ?? ""}" is not one of record, train`);
process.exit();
