/**
 * `npm run bench [NAME...] [-- --repeats N] [--prompt N] [--new N] [--disk-scale N] [--runtime NAME] [--out FOLDER]`: measures
 * models made on the fly and prints a table; the CSV goes to dist/bench. Each target runs in a process of its own, so that none
 * warms up or fills the memory of another. Nothing here is asserted: numbers are for reading.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { adapterLine, findProvider, openGpu } from "../../src/gpu/device.ts";
import { measureAdapter } from "./adapter.ts";
import { chooseDriver } from "./driver.ts";
import { measureAtRest } from "./measure-at-rest.ts";
import { measureBeside } from "./measure-beside.ts";
import { measureCache } from "./measure-cache.ts";
import { measureExperts, PAPER_LINE, type ExpertSubject } from "./measure-experts.ts";
import { measureKvTypes } from "./measure-kv-types.ts";
import { measureLoad } from "./measure-load.ts";
import { measureLoadInChromium } from "./measure-load-chromium.ts";
import {
  measureBatches,
  measureModel,
  MULTIPLY_ADDS_PER_TOKEN,
  READ_PER_TOKEN,
  type Amounts,
} from "./measure-model.ts";
import { measureOfferedLoad } from "./measure-offered-load.ts";
import { measurePrefill } from "./measure-prefill.ts";
import { measureStore } from "./measure-store.ts";
import { measureTree } from "./measure-tree.ts";
import { randomModel } from "./random-model.ts";
import { csv, median, tableLines, type Measurement, type RunFacts } from "./report.ts";
import { chooseTargets, TARGETS, type ModelTarget, type ShippedTarget, type Target } from "./targets.ts";

const MODEL_SEED = 28;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    repeats: { type: "string", default: "3" },
    prompt: { type: "string", default: "256" },
    new: { type: "string", default: "32" },
    runtime: { type: "string" },
    /** Makes the disks of the benchmarks of experts so many times slower. */
    "disk-scale": { type: "string", default: "1" },
    out: { type: "string", default: "dist/bench" },
    /** For the child process: one target, and the file of its model. */
    measure: { type: "string" },
    model: { type: "string", default: "" },
  },
});

const amounts: Amounts = {
  promptTokens: positive("prompt", flags.prompt),
  newTokens: positive("new", flags.new),
  repeats: positive("repeats", flags.repeats),
};

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} is ${text}, expected a positive integer`);
  return value;
}

/** What a child process prints. */
interface Answer {
  adapter: string;
  measurements: Measurement[];
}

async function parent(): Promise<void> {
  const targets = chooseTargets(positionals);
  const runtime = await chooseDriver(flags.runtime, (line) => console.error(line));
  const folder = mkdtempSync(join(tmpdir(), "tidepool-bench-"));
  const measurements: Measurement[] = [];
  let adapter = "";
  try {
    for (const target of targets) {
      console.error(`measuring ${target.name}`);
      const answer = await measureInChild(target, folder);
      adapter = answer.adapter;
      measurements.push(...answer.measurements);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  print([...measurements, ...fractions(measurements)], { ...factsOf(runtime), adapter });
}

/** Makes the target's model and measures it in a child process. */
async function measureInChild(target: Target, folder: string): Promise<Answer> {
  const file = join(folder, `${target.name}.gguf`);
  if ("shape" in target) writeFileSync(file, randomModel(target.shape, target.type, MODEL_SEED));
  const self = fileURLToPath(import.meta.url);
  const args = [self, "--measure", target.name, "--model", file];
  const numbers = ["repeats", "prompt", "new", "disk-scale"] as const;
  args.push(...numbers.flatMap((flag) => [`--${flag}`, flags[flag]]));
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const code = await new Promise<number | null>((done, fail) => child.on("error", fail).on("close", done));
  rmSync(file, { force: true });
  if (code !== 0) throw new Error(`measuring ${target.name} ended with code ${code}`);
  return JSON.parse(output.trim().split("\n").at(-1) ?? "") as Answer;
}

async function child(name: string): Promise<void> {
  const target = TARGETS.find((each) => each.name === name);
  if (!target) throw new Error(`no benchmark "${name}"`);
  const provider = await findProvider();
  const gpu = await openGpu(provider);
  const adapter = adapterLine(gpu.adapter);
  const measurements = await measure(target, provider);
  gpu.device.destroy();
  console.log(JSON.stringify({ adapter, measurements } satisfies Answer));

  async function measure(target: Target, provider: GPU): Promise<Measurement[]> {
    if (target.kind === "model") return measureModel(provider, target, flags.model, amounts);
    if (target.kind === "load-in-chromium")
      return measureLoadInChromium(target.name, flags.model, amounts.repeats);
    if (target.kind === "load") return measureLoad(provider, target.name, flags.model, amounts.repeats);
    if (target.kind === "batch") return measureBatches(provider, target, flags.model, amounts);
    if (target.kind === "experts" || target.kind === "shipped-experts")
      return measureExperts(provider, subjectOf(target), amounts);
    if (target.kind === "prefill-service") return measurePrefill(target.name, amounts.repeats);
    if (target.kind === "cache") return measureWholeCache(provider, target.name);
    if (target.kind === "offered-load") return measureOfferedLoad(provider, target.name, console.error);
    if (target.kind === "beside") return measureBeside(provider, target.name, amounts.repeats);
    if (target.kind === "kv-at-rest") return measureAtRest(provider, target.name, console.error);
    if (target.kind === "kv-types") return measureKvTypes(provider, target.name, amounts.repeats);
    const speed = await measureAdapter(gpu, amounts.repeats);
    const giga = (values: number[]) => values.map((value) => value / 1e9);
    return [
      { name, metric: BUFFER_COPY, unit: "GB/s", values: giga(speed.bufferCopyBytesPerSecond) },
      { name, metric: KERNEL_COPY, unit: "GB/s", values: giga(speed.kernelCopyBytesPerSecond) },
      { name, metric: MULTIPLY_ADD_RATE, unit: "G/s", values: giga(speed.multiplyAddsPerSecond) },
    ];
  }
}

function subjectOf(target: ModelTarget | ShippedTarget): ExpertSubject {
  const [file, vocabSize] =
    "path" in target ? [target.path, undefined] : [flags.model, target.shape.vocabSize];
  return { name: target.name, file, vocabSize, diskScale: positive("disk-scale", flags["disk-scale"]) };
}

/** From the tree up: the pure structure, the disk tier, and a session over both. */
async function measureWholeCache(provider: GPU, name: string): Promise<Measurement[]> {
  const { repeats } = amounts;
  return [
    ...(await measureCache(provider, name, repeats)),
    ...(await measureStore(`${name}, disk tier`, repeats, console.error)),
    ...measureTree(`${name}, prefix tree`, repeats),
  ];
}

const BUFFER_COPY = "copy of buffers, read and written";
const KERNEL_COPY = "copy by a kernel, read and written";
const MULTIPLY_ADD_RATE = "multiply-adds";

/** What part of the adapter's bandwidth decoding reaches, and of its multiply-add rate prefill. */
function fractions(measurements: readonly Measurement[]): Measurement[] {
  const of = (name: string, metric: string) =>
    median(measurements.find((each) => each.name === name && each.metric.startsWith(metric))?.values ?? []);
  const bandwidth = Math.max(of("adapter", BUFFER_COPY), of("adapter", KERNEL_COPY)) * 1e9;
  const rate = of("adapter", MULTIPLY_ADD_RATE) * 1e9;
  const models = new Set(
    measurements.filter(({ metric }) => metric === READ_PER_TOKEN).map(({ name }) => name),
  );
  return [...models].flatMap((name) => {
    const read = of(name, READ_PER_TOKEN) * of(name, "decode of");
    const macs = of(name, MULTIPLY_ADDS_PER_TOKEN) * 1e6 * of(name, "prefill of");
    return [
      {
        name: `${name}, of the adapter`,
        metric: "decode / copy bandwidth",
        unit: "%",
        values: [(100 * read) / bandwidth],
      },
      {
        name: `${name}, of the adapter`,
        metric: "prefill / multiply-adds",
        unit: "%",
        values: [(100 * macs) / rate],
      },
    ];
  });
}

function factsOf(runtime: string): Omit<RunFacts, "adapter"> {
  const all = cpus();
  return {
    date: new Date().toISOString(),
    commit: commit(),
    cpu: all[0]?.model ?? "unknown",
    cores: all.length,
    runtime,
  };
}

/** The commit, marked where the tree differs from it; outside of a checkout there is none. */
function commit(): string {
  try {
    return execFileSync("git", ["describe", "--always", "--dirty"], {
      encoding: "utf8",
      stdio: "pipe",
    }).trim();
  } catch {
    return "no checkout";
  }
}

function print(measurements: readonly Measurement[], facts: RunFacts): void {
  const { cpu, cores, adapter, runtime, commit } = facts;
  console.log(`${cpu}, ${cores} cores; ${runtime}: ${adapter}; commit ${commit}`);
  for (const line of tableLines(measurements)) console.log(line);
  if (measurements.some(({ name }) => name.startsWith("experts"))) console.log(`\n${PAPER_LINE}`);
  mkdirSync(flags.out, { recursive: true });
  const file = join(flags.out, `bench-${facts.date.replaceAll(":", "").slice(0, 17)}.csv`);
  writeFileSync(file, csv(measurements, facts));
  console.log(`\n${file}`);
}

// Waiting for a session's own messages does not keep Node alive.
const alive = setInterval(() => {}, 1000);
await (flags.measure === undefined ? parent() : child(flags.measure));
clearInterval(alive);
// Dawn keeps the process alive; a moment lets the maps that the device's end rejected settle.
setTimeout(() => process.exit(), 50);
