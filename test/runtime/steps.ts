/**
 * The steps of the test run that need no GPU of their own: the checks and builds, and the Vitest suites. Each gives a
 * StepResult; none prints.
 */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { RESULTS, tail, type Failure, type StepResult } from "./result.ts";
import type { Job } from "./schedule.ts";

/** How long one program may take. */
const PROGRAM_LIMIT_MS = 30 * 60_000;

interface Ended {
  code: number | null;
  output: string;
}

/** Runs a Node script of ours or of a package to its end. */
function runNode(args: string[], env: NodeJS.ProcessEnv = process.env): Promise<Ended> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, args, {
      env: { ...env, NO_COLOR: "1", FORCE_COLOR: "0" },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: PROGRAM_LIMIT_MS,
    });
    let output = "";
    const add = (chunk: Buffer) => void (output += chunk.toString());
    child.stdout.on("data", add);
    child.stderr.on("data", add);
    child.on("error", fail);
    child.on("close", (code) => done({ code, output }));
  });
}

const VITE_BUILD = ["node_modules/vite/bin/vite.js", "build"];

interface Check {
  name: string;
  seconds: number;
  args: string[];
}

const CHECKS: readonly Check[] = [
  { name: "types", seconds: 20, args: ["node_modules/typescript/bin/tsc", "--noEmit", "-p", "."] },
  { name: "lint", seconds: 30, args: ["node_modules/eslint/bin/eslint.js", "."] },
  { name: "format", seconds: 25, args: ["node_modules/prettier/bin/prettier.cjs", "--check", "."] },
];

/** What later steps use. */
const BUILDS: readonly Check[] = [
  { name: "library build", seconds: 5, args: ["test/support/fresh.mjs"] },
  {
    name: "library build for browsers",
    ...{ seconds: 5, args: [...VITE_BUILD, "--mode", "browser", "--logLevel", "warn"] },
  },
  { name: "page build", seconds: 10, args: [...VITE_BUILD, "--logLevel", "warn"] },
];

export const CHECK_COUNT = CHECKS.length + BUILDS.length;

const jobOf = ({ name, seconds, args }: Check): Job<StepResult> => ({
  seconds,
  run: () => check(name, args),
});

/** Types, lint, format, and the builds: the parts of one step. */
export const checkJobs = (): Record<"checks" | "builds", Job<StepResult>[]> => ({
  checks: CHECKS.map(jobOf),
  builds: BUILDS.map(jobOf),
});

async function check(name: string, args: string[]): Promise<StepResult> {
  const started = performance.now();
  const { code, output } = await runNode(args);
  const failures = code === 0 ? [] : [{ name, error: tail(output) }];
  const durationMs = performance.now() - started;
  return {
    ...{ name: "checks", ran: 1, passed: 1 - failures.length, skipped: 0, failures, where: "", durationMs },
  };
}

interface VitestReport {
  numTotalTests: number;
  numPassedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: {
    name: string;
    status: string;
    message: string;
    assertionResults: { fullName: string; status: string; failureMessages: string[] }[];
  }[];
}

/**
 * One Vitest run; which files belong to a mode stands in vite.config.ts.
 * @param part of the files, in one worker. Default: all, in as many as the mode has.
 */
export async function vitest(
  name: string,
  mode: string,
  env: NodeJS.ProcessEnv,
  log: (line: string) => void,
  part?: { index: number; of: number },
): Promise<StepResult> {
  const started = performance.now();
  const file = `${RESULTS}/${part ? `${mode}.${part.index + 1}` : mode}.json`;
  mkdirSync(RESULTS, { recursive: true });
  rmSync(file, { force: true });
  const args = ["node_modules/vitest/vitest.mjs", "run", "--mode", mode, "--passWithNoTests"];
  if (part) args.push(`--shard=${part.index + 1}/${part.of}`, "--maxWorkers=1");
  const reporters = ["--reporter=dot", "--reporter=json", `--outputFile.json=${file}`];
  const { code, output } = await runNode([...args, ...reporters], env);
  const loud = output.split("\n").filter((line) => line.startsWith("SKIPPED "));
  for (const line of loud) log(line);
  const durationMs = performance.now() - started;
  const seeds = output.split("\n").filter((line) => /SEED=\d+/.test(line));
  if (code !== 0 && seeds.length > 0) log(`seeds of this run: ${seeds.join("; ")}`);
  const report = readReport(file);
  if (report === undefined) {
    const failures = [{ name: `${name} as a whole`, error: tail(output) }];
    return { name, ran: 0, passed: 0, skipped: 0, failures, where: "", durationMs };
  }
  return { name, ...countReport(report, code, output, loud), where: "", durationMs };
}

function readReport(file: string): VitestReport | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as VitestReport;
  } catch {
    return undefined;
  }
}

function countReport(report: VitestReport, code: number | null, output: string, loud: string[]) {
  const failures = report.testResults.flatMap(failuresOf);
  if (failures.length === 0 && code !== 0)
    failures.push({ name: `vitest ended with ${code}`, error: tail(output) });
  const pending = report.numPendingTests + report.numTodoTests;
  const ran = report.numTotalTests - pending;
  return { ran, passed: report.numPassedTests, skipped: Math.max(pending, skippedIn(loud)), failures };
}

/** How many cases these lines name as skipped. */
const skippedIn = (loud: readonly string[]): number =>
  loud.reduce((sum, line) => sum + Number(/^SKIPPED (\d+)/.exec(line)?.[1] ?? 0), 0);

/** How many tests a Vitest run of this mode would run, and how many it would skip: its files are read, no test is run. */
export async function listVitest(
  mode: string,
  env: NodeJS.ProcessEnv,
): Promise<{ ran: number; skipped: number }> {
  const { code, output } = await runNode(["test/support/list-tests.mjs", mode], env);
  const lines = output.split("\n");
  const listed = lines.find((line) => line.startsWith('{"ran"'));
  if (code !== 0 || listed === undefined)
    throw new Error(`the tests of mode ${mode} were not listed:\n${tail(output)}`);
  const { ran, pending } = JSON.parse(listed) as { ran: number; pending: number };
  return { ran, skipped: Math.max(pending, skippedIn(lines)) };
}

/** The failed tests of a file, or the file itself where it failed before it had any. */
function failuresOf(file: VitestReport["testResults"][number]): Failure[] {
  const failed = file.assertionResults.filter((test) => test.status === "failed");
  if (failed.length === 0 && file.status === "failed") return [{ name: file.name, error: file.message }];
  return failed.map((test) => ({ name: test.fullName, error: ownLines(test.failureMessages.join("\n")) }));
}

/** A stack without the lines of the test runner itself. */
const ownLines = (stack: string): string =>
  stack
    .split("\n")
    .filter((line) => !/^\s+at .*(node_modules|node:internal|new Promise)/.test(line))
    .join("\n");
