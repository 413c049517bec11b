/** Runs GPU cases one after another and reports each as a JSON line; the same in every runtime. */
import { adapterLine, findProvider, openGpu, type Gpu, type GpuFeatures } from "../../src/gpu/device.ts";
import { CASE_LIMIT_MS, chooseCases, type Case, type CaseChoice, type CaseEnv } from "../support/cases.ts";

/** What a runtime is asked to do. */
export interface RunRequest extends CaseChoice {
  /** true: runs none of the cases, and gives only the summary of what would run. */
  isList?: boolean;
}

export interface RunOptions extends RunRequest {
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

/** Thrown by `CaseEnv.shipped` where a file is absent: the case is skipped, loudly. */
export class FileAbsent extends Error {}

/** Where the files of cases come from. */
export interface CaseFiles {
  /** Reads a file under ../shared; undefined if that is absent as a whole: the cases that need it are skipped, loudly. */
  shared: CaseEnv["shared"] | undefined;
  shipped: CaseEnv["shipped"];
  golden: CaseEnv["golden"];
}

/** Opens the GPU, runs what exists on its adapter, and gives the device back. */
export async function runSuite(
  cases: readonly Case[],
  files: CaseFiles,
  options: RunOptions,
): Promise<SummaryLine> {
  const gpu = await openGpu(await findProvider());
  try {
    return await runCases(cases, gpu, files, options);
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

async function runCases(
  cases: readonly Case[],
  gpu: Gpu,
  files: CaseFiles,
  options: RunOptions,
): Promise<SummaryLine> {
  const { adapter, features } = gpu;
  const chosen = chooseCases(cases, features, options);
  const isSkipped = ({ needs }: Case): boolean => needs?.shared === true && files.shared === undefined;
  const lines: CaseLine[] = [];
  for (const testCase of options.isList ? [] : chosen) {
    const line = isSkipped(testCase) ? skippedLine(testCase) : await runOne(testCase, gpu, files);
    lines.push(line);
    options.log(JSON.stringify(line));
  }
  const skipped = options.isList
    ? chosen.filter(isSkipped).length
    : lines.filter((line) => line.skipped).length;
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

const skippedLine = ({ name }: Case, durationMs = 0): CaseLine => ({
  ...{ case: name, ok: false, skipped: true, durationMs },
});

async function runOne(testCase: Case, gpu: Gpu, files: CaseFiles): Promise<CaseLine> {
  const started = performance.now();
  const { env, problemOf } = envOf(testCase, gpu, files);
  gpu.device.pushErrorScope("validation");
  let problem: string | undefined;
  let skipped = false;
  try {
    await withLimit(testCase.run(env), testCase.limitMs ?? CASE_LIMIT_MS);
    problem = problemOf();
  } catch (error) {
    skipped = error instanceof FileAbsent;
    problem = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const invalid = await gpu.device.popErrorScope();
  const durationMs = Math.round(performance.now() - started);
  if (skipped) return skippedLine(testCase, durationMs);
  const error = problem ?? invalid?.message;
  return { case: testCase.name, ok: error === undefined, ...(error !== undefined && { error }), durationMs };
}

/**
 * What a case gets. Whether it needs ../shared must be known without running it, so that skipped cases can be counted: one that
 * says so must read there, and no other may.
 */
function envOf({ needs }: Case, gpu: Gpu, { shared, shipped, golden }: CaseFiles) {
  let hasRead = false;
  const env: CaseEnv = {
    ...{ gpu, shipped, golden },
    shared(path) {
      if (!needs?.shared || shared === undefined)
        throw new Error(`reads ../shared/${path}, which its \`needs\` do not name: see needingShared`);
      hasRead = true;
      return shared(path);
    },
  };
  const problemOf = (): string | undefined =>
    needs?.shared && !hasRead ? "says that it needs ../shared and reads nothing there" : undefined;
  return { env, problemOf };
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
