/**
 * Loads mutants in a thread under a watch: what takes too long or dies is a failure that names the mutant, and the next
 * thread goes on behind it.
 */
import { rm } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import { bundleForNode } from "../support/bundle.ts";
import type { FuzzJob, FuzzMessage } from "./load-worker.ts";

/** One mutant may take so long. */
export const HANG_MS = 5000;

/** What one mutant may ask for through typed arrays: the models have up to 3.8 MB. */
export const MAX_BYTES = 32 * 1024 * 1024;

/** What one mutant may ask of the GPU: weights, a pool of 512 tokens, snapshots of state, and the workspace. */
const MAX_BUFFER_BYTES = 256 * 1024 * 1024;

/** What the thread's JavaScript may hold. */
const MAX_HEAP_MIB = 512;

/** Failures after which the search ends. */
const MAX_FAILURES = 20;

export interface FuzzReport {
  mutants: number;
  models: number;
  /** Mutants by what came of them: "model code / text code". */
  outcomes: Record<string, number>;
  failures: string[];
  slowestMs: number;
  mostBytes: number;
  mostBufferBytes: number;
}

export type FuzzRun = Pick<FuzzJob, "root" | "goldens" | "seed"> & { from?: number; count: number };

export async function fuzzLoading(run: FuzzRun): Promise<FuzzReport> {
  const script = await bundleForNode(`${run.root}/test/fault/load-worker.ts`);
  const from = run.from ?? 0;
  const report: FuzzReport = {
    mutants: run.count,
    models: 0,
    outcomes: {},
    failures: [],
    slowestMs: 0,
    mostBytes: 0,
    mostBufferBytes: 0,
  };
  let next = from;
  while (next < from + run.count && report.failures.length < MAX_FAILURES) {
    next = await runThread(script, { ...run, from: next, to: from + run.count, maxBytes: MAX_BYTES }, report);
  }
  await rm(new URL(".", script), { recursive: true });
  return report;
}

/** Runs a thread to its end, or until a mutant stops it. Gives the number to go on with. */
function runThread(script: URL, job: FuzzJob, report: FuzzReport): Promise<number> {
  const thread = new Worker(script, {
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
  });
  return new Promise((resolve, reject) => {
    let current = job.from - 1;
    let timer: NodeJS.Timeout | undefined;
    const stop = (why: string): void => {
      clearTimeout(timer);
      thread.removeAllListeners();
      thread.on("error", () => {});
      if (current >= job.from) report.failures.push(`mutant ${current} of seed ${job.seed}: ${why}`);
      thread
        .terminate()
        .then(() => (current >= job.from ? resolve(current + 1) : reject(new Error(why))), reject);
    };
    thread.on("error", (error) =>
      stop(`the thread died: ${error instanceof Error ? error.message : String(error)}`),
    );
    thread.on("exit", () => {
      clearTimeout(timer);
      if (current === job.to - 1) resolve(job.to);
      else stop("the thread ended");
    });
    thread.on("message", (message: FuzzMessage) => {
      if (message.type === "begin") {
        current = message.number;
        timer = setTimeout(() => stop(`it took over ${HANG_MS} ms`), HANG_MS);
      } else if (message.type === "end") {
        clearTimeout(timer);
        note(report, job.seed, message);
        if (report.failures.length >= MAX_FAILURES) stop("too many failures");
      } else report.models = message.count;
    });
  });
}

function note(report: FuzzReport, seed: number, end: Extract<FuzzMessage, { type: "end" }>): void {
  const { verdict, failure } = end;
  if (verdict && verdict.bufferBytes > MAX_BUFFER_BYTES) {
    report.failures.push(`mutant ${end.number} of seed ${seed}: ${verdict.bufferBytes} bytes of GPU buffers`);
  }
  const outcome = verdict ? `${verdict.model} / ${verdict.text}` : "FAILED";
  report.outcomes[outcome] = (report.outcomes[outcome] ?? 0) + 1;
  if (failure !== undefined) report.failures.push(`mutant ${end.number} of seed ${seed}: ${failure}`);
  report.slowestMs = Math.max(report.slowestMs, end.ms);
  report.mostBytes = Math.max(report.mostBytes, end.bytes);
  report.mostBufferBytes = Math.max(report.mostBufferBytes, verdict?.bufferBytes ?? 0);
}
