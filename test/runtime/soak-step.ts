/**
 * The step of the test run that soaks the engine: one process for each model, one after the other, in Node. It passes
 * on what they print; what they do is soak.ts's.
 */
import { spawn } from "node:child_process";
import { driverEnv } from "../support/machine.ts";
import type { Machine } from "../support/setup.ts";
import { growthInWords, STEADY_MALLOC } from "../support/soak-memory.ts";
import { tail, type StepResult } from "./result.ts";
import type { SoakLine } from "./soak.ts";

/** One with a cache of keys and values alone, one with recurrent states beside it. */
export const SOAK_MODELS = ["demo/models/tide-dense.gguf", "demo/models/tide-hybrid.gguf"];

/** Seconds of all models together. */
const NORMAL_SECONDS = 60;
const FULL_SECONDS = 20 * 60;

/** For the last round and its comparisons, beyond which the process counts as hung. */
const GRACE_MS = 300_000;

/** Of the runtimes in Node. */
const PREFERRED = "node-lavapipe";

export async function soak(machine: Machine, isFull: boolean): Promise<StepResult> {
  const started = performance.now();
  const result: StepResult = {
    ...{ name: "soak", ran: 0, passed: 0, skipped: 0, failures: [], measured: [], where: "", durationMs: 0 },
  };
  const inNode = machine.runtimes.filter(({ program }) => program === "node");
  const runtime = inNode.find(({ name }) => name === PREFERRED) ?? inNode[0];
  if (!runtime) return { ...result, skipped: SOAK_MODELS.length, where: "SKIPPED: Node has no GPU here" };
  const seconds = (isFull ? FULL_SECONDS : NORMAL_SECONDS) / SOAK_MODELS.length;
  for (const model of SOAK_MODELS) await soakOne(model, seconds, runtime.driverFile, result);
  return { ...result, where: runtime.name, durationMs: performance.now() - started };
}

async function soakOne(
  model: string,
  seconds: number,
  driverFile: string | undefined,
  result: StepResult,
): Promise<void> {
  const { code, output } = await runSoak(model, seconds, driverFile);
  const seed = /SEED=\d+/.exec(output)?.[0] ?? "no seed";
  const line = lineOf(output);
  result.ran++;
  if (line) result.measured?.push(`soak ${seed}: ${inWords(line)}`);
  if (code === 0 && line && line.error === undefined) result.passed++;
  else
    result.failures.push({
      name: `soak of ${model}, ${seed}`,
      error: line?.error ?? `ended with ${code}\n${tail(output)}`,
    });
}

function inWords({ model, counts, growth }: SoakLine): string {
  const { engines, requests, aborted, calls, mistakes, losses, compared, ties, tokens } = counts;
  return [
    `${model}: ${engines} engines, ${requests} requests (${aborted} aborted), ${calls} calls, ${mistakes} mistakes`,
    `${losses} lost devices, ${compared} tokens compared (${ties} ties)`,
    `prompt tokens ${shares(tokens)}`,
    growthInWords(growth),
  ].join("; ");
}

function shares(tokens: SoakLine["counts"]["tokens"]): string {
  const total = Object.values(tokens).reduce((sum, count) => sum + count, 0);
  const parts = Object.entries(tokens);
  return parts.map(([tier, count]) => `${tier} ${count} (${Math.round((100 * count) / total)}%)`).join(", ");
}

function lineOf(output: string): SoakLine | undefined {
  const text = output.split("\n").find((line) => line.startsWith('{"model"'));
  return text === undefined ? undefined : (JSON.parse(text) as SoakLine);
}

function runSoak(
  model: string,
  seconds: number,
  driverFile: string | undefined,
): Promise<{ code: number | null; output: string }> {
  const args = [
    "--expose-gc",
    "--max-semi-space-size=1",
    "dist/suite/soak.js",
    "--model",
    model,
    "--seconds",
    String(seconds),
  ];
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, args, {
      ...{
        env: { ...driverEnv(driverFile), ...STEADY_MALLOC },
        timeout: seconds * 1000 + GRACE_MS,
        killSignal: "SIGKILL",
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const add = (chunk: Buffer): void => void (output += chunk.toString());
    child.stdout.on("data", add);
    child.stderr.on("data", add);
    child.on("error", fail);
    child.on("close", (code) => done({ code, output }));
  });
}
