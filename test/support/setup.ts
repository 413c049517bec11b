/**
 * Decides in which runtimes the GPU cases run on this machine, after installing what is missing where it can (Debian,
 * as root). A machine with a GPU of its own uses that; one without uses software drivers. It runs no test.
 */
import { commandsFor, hasApt, install, isRoot, type Need } from "../../src/setup/apt.ts";
import { findLavapipe, hasRenderNode } from "../../src/setup/driver.ts";
import type { Cover } from "./cases.ts";
import { OF_EACH_KIND } from "../model/variants.ts";
import { findChromium, findDeno, findSwiftShader, probe, type Probe } from "./machine.ts";

/** One place where the cases run. */
export interface Runtime {
  /** Also the key in test/expected-counts.json. */
  name: string;
  program: "node" | "deno" | "chromium";
  /** The Vulkan driver, for Node and Deno; undefined: the platform's own. */
  driverFile?: string;
  /** Cases whose names begin with one of these run here only in the full run: others have them in the normal one. */
  leaves?: readonly string[];
  /** Of these, cases that run here all the same. */
  keeps?: readonly string[];
  /**
   * How much of each group of cases the normal run holds here. A runtime is one dimension more: if others on this machine
   * hold all pairs of settings, every setting is enough. Default: the pairs.
   */
  cover?: Cover;
}

/** Variants that together have every kind of layer; the others are no more than rows of kernels which these have too. */
const KINDS = OF_EACH_KIND.map((name) => `model/${name}/`);

/**
 * What Chromium and Deno run of whole models is listed; a new case runs in Node, unless the runtime has a part in what it shows.
 * What the engine does with its caches, queues and experts, and with errors that the tests inject, is the same code everywhere.
 */
const MODELS = "model/";

/**
 * In Chromium a few whole models run on SwiftShader, each once. Kernels run on the same driver in Node; the engine behind its
 * worker is what the page's own tests drive. The browser has a part in errors and losses, which its GPU process reports, and in
 * memory, which takes what the GPU gives back.
 */
const CHROMIUM_LEAVES = ["kernel/", MODELS];
const CHROMIUM_KEEPS = [
  ...["llama", "gemma3", "lfm2", "mamba2", "qwen35", "qwen3moe", "gptoss", "gpt2"].map(
    (name) => `model/${name}/`,
  ),
  "model/embedding/bertmean f32",
  "model/transformers/qwen2 ",
  "model/archives/signed",
  "model/default limits/",
  "model/device-loss/while nothing runs",
  "model/experts/qwen3moe with a quarter of the experts, once",
  "model/failed-steps/llama: a step",
  "model/generate/four at once",
  "model/segments/",
  "model/tiers/restored by load",
  "model/toy/",
];
/**
 * Whole models run on SwiftShader in Chromium, and in Node on lavapipe; the slowest kernels only there. How each format is
 * decoded is the same in both matrix kernels, of which matvec compiles in less time. What stays are the kernels whose
 * work is shared out among a subgroup, of which SwiftShader's are the narrowest.
 */
const SWIFTSHADER_LEAVES = [
  "model/",
  "kernel/delta",
  "kernel/attention/decode/heads",
  "kernel/attention/decode/latent of 576",
  "kernel/attention/prefill/latent of 576",
  "kernel/matmul/",
  "kernel/experts/many rows",
  "kernel/expert-slots/many rows",
  "kernel/not-finite",
  "kernel/sampler/filters/50257",
  "kernel/altup",
  "kernel/embed/",
];
const SWIFTSHADER_KEEPS = ["F16", "Q4_0", "independence"].map((what) => `kernel/matmul/${what}`);
/**
 * Deno has a WebGPU and a compiler of its own, so that kernels and each model run in it, and its own workers. What is left
 * out is the engine's own, and the same code in every runtime.
 */
const DENO_LEAVES = [MODELS];
const DENO_KEEPS = [
  ...KINDS,
  "model/archives/signed",
  "model/default limits/",
  "model/device-loss/while nothing runs",
  "model/device-loss/a second loss",
  "model/embedding/",
  "model/engine/",
  "model/experts/qwen3moe with a quarter of the experts, once",
  "model/formats/qwen35",
  "model/generate/four at once",
  "model/latent/one matrix of queries, YaRN f32",
  "model/segments/",
  "model/text-worker/a template that loops",
  "model/tiers/restored by load",
  "model/toy/",
  "model/transformers/qwen2 ",
];
/** Beginnings of names in these lists; a unit test holds that each names a case. */
export const PREFIXES = [
  ...[...CHROMIUM_LEAVES, ...CHROMIUM_KEEPS, ...SWIFTSHADER_LEAVES, ...SWIFTSHADER_KEEPS],
  ...[...DENO_LEAVES, ...DENO_KEEPS],
];
const IN_CHROMIUM: Runtime = {
  ...{
    name: "chromium",
    program: "chromium",
    leaves: CHROMIUM_LEAVES,
    keeps: CHROMIUM_KEEPS,
    cover: "settings",
  },
};

export interface Machine {
  runtimes: Runtime[];
  /** Runtimes that were expected here but cannot run, and why. */
  absent: { name: string; reason: string }[];
  chromium: string;
  deno: string;
  /** The driver for tests that start Node on their own; undefined: the platform's own. */
  driverFile: string | undefined;
}

/** Thrown when something is missing that cannot be installed from here; the message says what to do. */
export class SetupError extends Error {}

type Log = (line: string) => void;

export async function setUp(log: Log): Promise<Machine> {
  const deno = await findDeno();
  const own = await ownGpu(deno);
  return own ? ownMachine(deno, log) : await softwareMachine(deno, log);
}

/** Whether there is a GPU other than a software driver to run on. */
async function ownGpu(deno: string): Promise<boolean> {
  if (process.platform !== "linux") return true;
  if (!hasRenderNode()) return false;
  const seen = await probe("node", deno, undefined);
  return !("error" in seen) && !seen.software;
}

function ownMachine(deno: string, log: Log): Machine {
  const chromium = findChromium();
  if (chromium === undefined) throw missing(["chromium"]);
  log("this machine has a GPU of its own: Node and Deno use it");
  return {
    runtimes: [
      { name: "node-gpu", program: "node" },
      { name: "deno-gpu", program: "deno" },
      { ...IN_CHROMIUM, name: process.platform === "linux" ? "chromium" : "chromium-gpu" },
    ],
    absent: [],
    chromium,
    deno,
    driverFile: undefined,
  };
}

async function softwareMachine(deno: string, log: Log): Promise<Machine> {
  let lavapipe = await workingLavapipe("node", deno);
  const needs: Need[] = [];
  if (findChromium() === undefined) needs.push("chromium");
  if ("error" in lavapipe) needs.push("lavapipe");
  if (needs.length > 0) {
    if ("error" in lavapipe) log(`lavapipe: ${lavapipe.error}`);
    if (!hasApt() || !isRoot()) throw missing(needs);
    log(`installing ${needs.join(" and ")}`);
    install(needs, log);
    if (needs.includes("lavapipe")) lavapipe = await workingLavapipe("node", deno);
  }
  const chromium = findChromium();
  if (chromium === undefined) throw missing(["chromium"]);
  const swiftShader = findSwiftShader(chromium);
  if ("error" in lavapipe)
    return withoutLavapipe({ reason: lavapipe.error, swiftShader, chromium, deno }, log);
  const { file: driverFile } = lavapipe;
  const absent: Machine["absent"] = [];
  // On lavapipe Node and Deno share out the cases that hold every pair of settings.
  const runtimes: Runtime[] = [{ name: "node-lavapipe", program: "node", driverFile, cover: "settings" }];
  if (swiftShader !== undefined)
    runtimes.push({
      name: "node-swiftshader",
      program: "node",
      driverFile: swiftShader,
      leaves: SWIFTSHADER_LEAVES,
      keeps: SWIFTSHADER_KEEPS,
      cover: "settings",
    });
  else
    absent.push({ name: "node-swiftshader", reason: `${chromium} has no SwiftShader driver file beside it` });
  const inDeno: Runtime = { name: "deno-lavapipe", program: "deno", driverFile };
  runtimes.push(IN_CHROMIUM, { ...inDeno, leaves: DENO_LEAVES, keeps: DENO_KEEPS, cover: "rest" });
  return { runtimes, absent, chromium, deno, driverFile };
}

interface Found {
  /** Why Node has no lavapipe. */
  reason: string;
  swiftShader: string | undefined;
  chromium: string;
  deno: string;
}

/** Nothing is left to lavapipe then: what runs in its place has names of its own, and more cases. */
async function withoutLavapipe(found: Found, log: Log): Promise<Machine> {
  const { reason, swiftShader: driverFile, chromium, deno } = found;
  if (driverFile === undefined) throw missing(["lavapipe"]);
  loudly(log, [
    "NO LAVAPIPE THAT DAWN ACCEPTS, and none could be installed: " + reason,
    "Node runs on Chromium's own SwiftShader instead, which has no shader-f16: fewer cases run",
  ]);
  const absent = [{ name: "node-lavapipe", reason }];
  const inDeno = await denoAlone(deno, driverFile, absent);
  const inNode: Runtime = { name: "node-swiftshader-alone", program: "node", driverFile };
  return { runtimes: [inNode, IN_CHROMIUM, inDeno], absent, chromium, deno, driverFile };
}

/** Deno accepts older lavapipes than Dawn does; failing that it runs on SwiftShader. */
async function denoAlone(deno: string, swiftShader: string, absent: Machine["absent"]): Promise<Runtime> {
  const lavapipe = await workingLavapipe("deno", deno);
  if (!("error" in lavapipe))
    return { name: "deno-lavapipe-alone", program: "deno", driverFile: lavapipe.file };
  absent.push({ name: "deno-lavapipe", reason: lavapipe.error });
  return { name: "deno-swiftshader-alone", program: "deno", driverFile: swiftShader };
}

async function workingLavapipe(program: "node" | "deno", deno: string) {
  const file = findLavapipe();
  if (file === undefined) return { error: "Mesa's lavapipe is not installed" };
  const seen = await probe(program, deno, file);
  if ("error" in seen) return { error: `${program} does not accept the lavapipe of ${file}: ${seen.error}` };
  return isLavapipe(seen)
    ? { file }
    : { error: `${program} got "${seen.adapter}" instead of the lavapipe of ${file}` };
}

const isLavapipe = (seen: Probe): boolean => /llvmpipe|lavapipe/i.test(seen.adapter);

function missing(needs: Need[]): SetupError {
  const words = { chromium: "Chromium", lavapipe: "Mesa's lavapipe, of a version that Dawn accepts" };
  const who = hasApt() ? (isRoot() ? "These commands did not help; see above" : "As root") : "Please";
  const lines = [
    `This machine has no ${needs.map((need) => words[need]).join(" and no ")}. ${who}:`,
    "",
    ...commandsFor(needs).map((line) => `  ${line}`),
    "",
    ...(hasApt() && !isRoot() ? ["or run the tests once as root, which does the same."] : []),
  ];
  return new SetupError(lines.join("\n"));
}

function loudly(log: Log, lines: string[]): void {
  const rule = "!".repeat(100);
  for (const line of [rule, ...lines, rule]) log(line);
}
