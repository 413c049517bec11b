/** Runs GPU cases one after another and reports each as a JSON line; the same in every runtime. */
import { adapterLine } from "../../src/gpu/device.ts";
import { runsOn, type Case, type CaseEnv } from "../support/cases.ts";

export interface RunOptions {
  /** Only cases whose name contains this text. */
  filter: string;
  full: boolean;
  log: (line: string) => void;
}

/** How long one case may take before it counts as hung. */
const CASE_LIMIT_MS = 120_000;

/** Runs what exists on this adapter; returns the number that failed. */
export async function runCases(cases: readonly Case[], env: CaseEnv, options: RunOptions): Promise<number> {
  const chosen = cases.filter(
    (c) => c.name.includes(options.filter) && runsOn(c, env.gpu.features, options.full),
  );
  let failed = 0;
  for (const testCase of chosen) {
    const error = await runOne(testCase, env);
    if (error !== undefined) failed++;
    options.log(JSON.stringify({ case: testCase.name, ok: error === undefined, error }));
  }
  const { adapter, features } = env.gpu;
  options.log(JSON.stringify({ adapter: adapterLine(adapter), features, ran: chosen.length, failed }));
  return failed;
}

async function runOne(testCase: Case, env: CaseEnv): Promise<string | undefined> {
  const { device } = env.gpu;
  device.pushErrorScope("validation");
  let problem: string | undefined;
  try {
    await withLimit(testCase.run(env));
  } catch (error) {
    problem = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const invalid = await device.popErrorScope();
  return problem ?? invalid?.message;
}

async function withLimit(work: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${CASE_LIMIT_MS} ms`)), CASE_LIMIT_MS);
  });
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
