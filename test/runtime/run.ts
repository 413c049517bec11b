/** Runs GPU cases one after another and reports each as a JSON line; the same in every runtime. */
import { adapterLine, findProvider, openGpu, type GpuFeatures } from "../../src/gpu/device.ts";
import { CASE_LIMIT_MS, chooseCases, type Case, type CaseChoice, type CaseEnv } from "../support/cases.ts";

export interface RunOptions extends CaseChoice {
  log: (line: string) => void;
}

/** The line of one case. */
export interface CaseLine {
  case: string;
  ok: boolean;
  /** true: it needs ../shared or a shipped model, which is absent; it counts neither as passed nor as failed. */
  skipped?: boolean;
  error?: string;
  durationMs: number;
}

/** The last line of a run. */
export interface SummaryLine {
  adapter: string;
  features: GpuFeatures;
  ran: number;
  failed: number;
  skipped: number;
}

/**
 * Thrown by `CaseEnv.shared` where ../shared is absent as a whole, and by `CaseEnv.shipped` where a file is: the case is
 * skipped, loudly.
 */
export class SharedAbsent extends Error {}

/** Opens the GPU, runs what exists on its adapter, and gives the device back. */
export async function runSuite(
  cases: readonly Case[],
  files: Pick<CaseEnv, "shared" | "shipped">,
  options: RunOptions,
): Promise<SummaryLine> {
  const gpu = await openGpu(await findProvider());
  try {
    return await runCases(cases, { gpu, ...files }, options);
  } finally {
    gpu.device.destroy();
  }
}

/** Says which adapter this runtime gets, on one line. */
export async function printAdapter(log: (line: string) => void): Promise<void> {
  const { device, adapter, features } = await openGpu(await findProvider(), { timestamps: true });
  log(JSON.stringify({ adapter: adapterLine(adapter), features, software: adapter.software }));
  device.destroy();
}

async function runCases(cases: readonly Case[], env: CaseEnv, options: RunOptions): Promise<SummaryLine> {
  const { adapter, features } = env.gpu;
  const chosen = chooseCases(cases, features, options);
  const lines: CaseLine[] = [];
  for (const testCase of chosen) {
    const line = await runOne(testCase, env);
    lines.push(line);
    options.log(JSON.stringify(line));
  }
  const skipped = lines.filter((line) => line.skipped).length;
  const failed = lines.filter((line) => !line.ok && !line.skipped).length;
  const summary = {
    adapter: adapterLine(adapter),
    features,
    ran: chosen.length - skipped,
    failed,
    skipped,
  };
  options.log(JSON.stringify(summary));
  return summary;
}

async function runOne(testCase: Case, env: CaseEnv): Promise<CaseLine> {
  const { device } = env.gpu;
  const started = performance.now();
  device.pushErrorScope("validation");
  let problem: string | undefined;
  let skipped = false;
  try {
    await withLimit(testCase.run(env), testCase.limitMs ?? CASE_LIMIT_MS);
  } catch (error) {
    skipped = error instanceof SharedAbsent;
    problem = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const invalid = await device.popErrorScope();
  const durationMs = Math.round(performance.now() - started);
  if (skipped) return { case: testCase.name, ok: false, skipped, durationMs };
  const error = problem ?? invalid?.message;
  return { case: testCase.name, ok: error === undefined, ...(error !== undefined && { error }), durationMs };
}

async function withLimit(work: Promise<void>, limitMs: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${limitMs} ms`)), limitMs);
  });
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
