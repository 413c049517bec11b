/**
 * `npm test`: set-up, then side by side the checks, Vitest, the GPU cases in every runtime of this machine and, after the builds,
 * the tests that drive the built command and page. It prints failures and a summary; the last line is `N passed, N failed`.
 *
 * Arguments: --full (the whole matrix and test/full), --write (rewrite the expected counts), --list (count what would run
 * and run nothing), and for work on a kernel --only NAME[,NAME] (these steps) and --filter TEXT (the GPU cases with
 * TEXT in their names, in every setting); with either, counts are not compared.
 */
import { parseArgs } from "node:util";
import { driverEnv } from "../support/machine.ts";
import { setUp, SetupError, type Machine, type Runtime } from "../support/setup.ts";
import { compareCounts, expectedRan, kindOfRun, sharedPresent, writeCounts, type Counts } from "./counts.ts";
import { gpuSuite, listGpuSuite } from "./gpu.ts";
import { describeStep, merged, seconds, table, type StepResult } from "./result.ts";
import { runJobs, type Job } from "./schedule.ts";
import { soak, SOAK_MODELS } from "./soak-step.ts";
import { CHECK_COUNT, checkJobs, listVitest, vitest } from "./steps.ts";

/** Jobs at a time. The smallest machines have two cores; a third job fills what the others leave while they wait for a driver. */
const JOBS_AT_ONCE = 3;

const { values } = parseArgs({
  options: {
    full: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    filter: { type: "string", default: "" },
  },
});

const started = performance.now();
const log = (line: string): void => console.log(line);
const results: StepResult[] = [];
/** The Vitest mode of the tests that drive what was built. */
const WHOLE = values.full ? "full" : "whole";
/** That of the unit tests. */
const UNIT = values.full ? "full-unit" : "test";

async function main(): Promise<number> {
  const machine = await timed("set-up", () => setUp(log));
  const names = machine.runtimes.map((runtime) => runtime.name).join(", ");
  log(
    `runtimes: ${names}; ${sharedPresent() ? "../shared is here" : "../shared is ABSENT: its cases are skipped"}`,
  );
  for (const { name, reason } of machine.absent) log(`SKIPPED ${name}: ${reason}`);
  const env = { ...driverEnv(machine.driverFile), CHROMIUM: machine.chromium };
  if (values.list) return await list(machine, env);
  if (chosen("training")) finish(await vitest("training", "training", env, log));
  await runSteps([
    ...machine.runtimes.flatMap((runtime) => gpuJobs(runtime, machine)),
    ...others(machine, env),
  ]);
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

/** A job that is a step, or a part of one. */
type StepJob = Job<StepResult> & { step: string };

/** Runs them, and finishes each step when its last part has ended. */
async function runSteps(jobs: readonly StepJob[]): Promise<void> {
  const parts = new Map<string, StepResult[]>();
  await runJobs<StepResult, { step: string }>(jobs, JOBS_AT_ONCE, (result, { step }) => {
    const ended = [...(parts.get(step) ?? []), result];
    parts.set(step, ended);
    if (ended.length === jobs.filter((job) => job.step === step).length) finish(merged(step, ended));
  });
}

/** In how many processes the cases of a runtime are run, and how long they take together in the normal run. */
const GPU_LOADS: Record<Runtime["program"], { parts: number; seconds: number }> = {
  node: { parts: 3, seconds: 300 },
  chromium: { parts: 2, seconds: 100 },
  deno: { parts: 2, seconds: 160 },
};

/** In how many processes the unit tests are run, of one worker each. */
const UNIT_PARTS = 2;

function gpuJobs(runtime: Runtime, machine: Machine): StepJob[] {
  const { name, program } = runtime;
  if (!chosen(name)) return [];
  const load = GPU_LOADS[program];
  const of = values.filter === "" ? load.parts : 1;
  return Array.from({ length: of }, (_, index) => ({
    step: name,
    seconds: load.seconds / of,
    run: () => gpuSuite(runtime, machine, values, { index, of }),
  }));
}

/** All that has no GPU cases. */
function others(machine: Machine, env: NodeJS.ProcessEnv): StepJob[] {
  const { checks, builds } = checkJobs();
  const ofChecks = (job: Job<StepResult>): StepJob => ({ ...job, step: "checks" });
  const after = builds.map(ofChecks);
  const unit = Array.from({ length: UNIT_PARTS }, (_, index) => ({
    ...{ step: "unit", seconds: 170 / UNIT_PARTS, after },
    run: () => vitest("unit", UNIT, env, log, { index, of: UNIT_PARTS }),
  }));
  const all: StepJob[] = [
    ...after,
    ...checks.map(ofChecks),
    ...unit,
    { step: "whole", seconds: 400, after, run: () => vitest("whole", WHOLE, env, log) },
    { step: "soak", seconds: 60, run: () => soak(machine, values.full) },
  ];
  return all.filter(({ step }) => chosen(step));
}

/** Counts what each step would run, without running it. */
async function list(machine: Machine, env: NodeJS.ProcessEnv): Promise<number> {
  const kind = kindOfRun(values.full);
  const counts: Counts = {
    checks: { ran: CHECK_COUNT, skipped: 0 },
    unit: await listVitest(UNIT, env),
    whole: await listVitest(WHOLE, env),
    soak: { ran: SOAK_MODELS.length, skipped: 0 },
  };
  for (const runtime of machine.runtimes) counts[runtime.name] = await listGpuSuite(runtime, machine, values);
  for (const [name, { ran, skipped }] of Object.entries(counts))
    log(
      `${name} (${kind}): ${ran} to run, ${skipped} to skip; expected ${expectedRan(kind, name) ?? "none"}`,
    );
  if (values.write) writeCounts(kind, counts);
  return 0;
}

/** A filter that leaves no case in any runtime is a slip of the pen, not a success. */
function filteredOut({ runtimes }: Machine): { name: string; error: string }[] {
  const names = runtimes.map(({ name }) => name).filter(chosen);
  const found = results.some(
    ({ name, ran, skipped, failures }) => names.includes(name) && ran + skipped + failures.length > 0,
  );
  if (values.filter === "" || names.length === 0 || found) return [];
  const error = `"${values.filter}" is in no name of a GPU case that runs here: test/kernel and test/model have the names; some cases run only in npm run test:full`;
  return [{ name: "--filter", error }];
}

/** Compares the counts, prints the summary, and gives the exit code. */
function conclude(machine: Machine): number {
  const kind = kindOfRun(values.full);
  const whole = values.only === "" && values.filter === "";
  if (values.write) writeCounts(kind, Object.fromEntries(results.map((result) => [result.name, result])));
  const wrong = whole ? compareCounts(kind, results, log) : filteredOut(machine);
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
