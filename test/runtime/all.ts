/**
 * `npm test`: set-up, checks, Vitest, the GPU cases in every runtime of this machine, then the tests that drive the
 * built command and page. It prints failures and a summary; the last line is `N passed, N failed`.
 *
 * Arguments: --full (the whole matrix and test/full), --write (rewrite the expected counts), and for work on a kernel
 * --only NAME[,NAME] (these steps) and --filter TEXT (these GPU cases); with either, counts are not compared.
 */
import { parseArgs } from "node:util";
import { driverEnv } from "../support/machine.ts";
import { setUp, SetupError, type Machine } from "../support/setup.ts";
import { compareCounts, expectedRan, kindOfRun, sharedPresent, writeCounts } from "./counts.ts";
import { gpuSuite } from "./gpu.ts";
import { describeStep, seconds, table, type StepResult } from "./result.ts";
import { soak } from "./soak-step.ts";
import { checks, vitest } from "./steps.ts";

/** GPU suites at a time: each keeps about one core busy, and the smallest machines have two. */
const SUITES_AT_ONCE = 2;

const { values } = parseArgs({
  options: {
    full: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    filter: { type: "string", default: "" },
  },
});

const started = performance.now();
const log = (line: string): void => console.log(line);
const results: StepResult[] = [];

async function main(): Promise<number> {
  const machine = await timed("set-up", () => setUp(log));
  const names = machine.runtimes.map((runtime) => runtime.name).join(", ");
  log(
    `runtimes: ${names}; ${sharedPresent() ? "../shared is here" : "../shared is ABSENT: its cases are skipped"}`,
  );
  for (const { name, reason } of machine.absent) log(`SKIPPED ${name}: ${reason}`);
  const env = { ...driverEnv(machine.driverFile), CHROMIUM: machine.chromium };
  if (chosen("checks")) finish(await checks());
  if (chosen("unit")) finish(await vitest("unit", "test", env, log));
  if (chosen("training")) finish(await vitest("training", "training", env, log));
  await runSuites(machine);
  if (chosen("whole")) finish(await vitest("whole", values.full ? "full" : "whole", env, log));
  return conclude(machine);
}

const chosen = (name: string): boolean =>
  values.only !== ""
    ? values.only.split(",").includes(name)
    : values.filter === "" || !STEPS_WITHOUT_CASES.has(name);

const STEPS_WITHOUT_CASES: ReadonlySet<string> = new Set(["checks", "unit", "training", "soak", "whole"]);

function finish(result: StepResult): void {
  results.push(result);
  for (const line of describeStep(result)) log(line);
}

async function timed<T>(name: string, work: () => Promise<T>): Promise<T> {
  const from = performance.now();
  const value = await work();
  log(`${name}: ${seconds(performance.now() - from)}`);
  return value;
}

/**
 * The GPU cases in every runtime and the soak, some at a time; the one that takes longest first, and the others beside it.
 */
async function runSuites(machine: Machine): Promise<void> {
  const runtimes = machine.runtimes.filter((runtime) => chosen(runtime.name));
  runtimes.sort((a, b) => Number(b.program === "chromium") - Number(a.program === "chromium"));
  const queue = runtimes.map((runtime) => () => gpuSuite(runtime, machine, values));
  if (chosen("soak")) queue.push(() => soak(machine, values.full));
  const take = async (): Promise<void> => {
    for (let suite = queue.shift(); suite !== undefined; suite = queue.shift()) finish(await suite());
  };
  await Promise.all(Array.from({ length: SUITES_AT_ONCE }, take));
}

/** Compares the counts, prints the summary, and gives the exit code. */
function conclude(machine: Machine): number {
  const kind = kindOfRun(values.full);
  const whole = values.only === "" && values.filter === "";
  if (values.write) writeCounts(kind, results);
  const wrong = whole ? compareCounts(kind, results, log) : [];
  const absent = machine.absent.map(({ name }) => ({ name, cases: expectedRan(kind, name) ?? 0 }));
  log("");
  for (const line of table(results)) log(line);
  for (const { name, cases } of absent) log(`${name}: not run here, ${cases} cases SKIPPED (reason above)`);
  for (const { name, error } of wrong) log(`FAILED ${name}: ${error}`);
  log(`run: ${kind}; ${seconds(performance.now() - started)} in all`);
  const sum = (count: (result: StepResult) => number) =>
    results.reduce((total, one) => total + count(one), 0);
  const failed = sum((result) => result.failures.length) + wrong.length;
  const skipped = sum((result) => result.skipped) + absent.reduce((total, { cases }) => total + cases, 0);
  log(
    `${sum((result) => result.passed)} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`,
  );
  return failed === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  log(
    error instanceof SetupError
      ? error.message
      : `the test run broke: ${error instanceof Error ? error.stack : error}`,
  );
  log("0 passed, 1 failed");
  process.exitCode = 1;
}
