/**
 * The replays' thread: holds one trace, and runs one replay at a time in slices, so that it can be cancelled. The
 * simulation itself is src/sim; this file gets traces and answers messages.
 */
import type { Cost, Timing, Trace } from "../../src/sim/index.ts";
import {
  SeriesCollector,
  decodeTraceBytes,
  durationMs,
  generate,
  parseTrace,
  replaySteps,
  serveSteps,
  servedQuantiles,
  timingFor,
  tokenCount,
} from "../../src/sim/index.ts";
import type { FromWorker, Job, Result, ToWorker, TraceFacts, TraceSource } from "./messages.ts";
import { runCluster } from "../schedule/cluster-run.ts";
import type { ForCluster } from "../schedule/messages.ts";
import { costOfModel } from "./models.ts";
import { recordedTrace } from "./recorded.ts";

/** The most tokens of a trace that the engine's scheduler also serves, for the times to first token. */
const maxServedHere = 1_000_000;
/** The largest file that is read: its text and its trace must fit in memory. */
const maxFileBytes = 1 << 29;
/** Between two looks for messages. */
const sliceMs = 50;
/** Between two reports of progress. */
const reportMs = 200;
let reportedMs = 0;

interface Loaded {
  source: TraceSource;
  trace: Trace;
  cost: Cost;
  timing: Timing;
  isServed: boolean;
}

let loaded: Loaded | undefined;
let isCancelled = false;

const post = (message: FromWorker): void => postMessage(message);

addEventListener("message", ({ data }: MessageEvent<ToWorker | ForCluster>) => {
  answer(data).catch((error: unknown) => {
    post({ kind: "failed", message: error instanceof Error ? error.message : String(error) });
  });
});

async function answer(message: ToWorker | ForCluster): Promise<void> {
  if (message.kind === "cluster") await runCluster(message.settings);
  else if (message.kind === "cancel") isCancelled = true;
  else if (message.kind === "load") post({ kind: "loaded", facts: await load(message) });
  else await runJob(message.job);
}

async function load({ source, model, rate }: Extract<ToWorker, { kind: "load" }>): Promise<TraceFacts> {
  const isSame = loaded !== undefined && JSON.stringify(loaded.source) === JSON.stringify(source);
  const trace = isSame && source.kind === "generated" ? loaded!.trace : await traceOf(source);
  const timing = timingFor(trace);
  if (rate !== undefined) timing.prefillTokensPerSecond = rate;
  const isServed = tokenCount(trace) <= maxServedHere;
  loaded = { source, trace, cost: costOfModel(model), timing, isServed };
  const sum = (field: "inputTokens" | "outputTokens"): number =>
    trace.requests.reduce((total, request) => total + request[field], 0);
  return {
    ...{ name: trace.name, requests: trace.requests.length, timing, isServed },
    ...{ inputTokens: sum("inputTokens"), outputTokens: sum("outputTokens"), durationMs: durationMs(trace) },
  };
}

async function traceOf(source: TraceSource): Promise<Trace> {
  if (source.kind === "generated") return generate(source.workload);
  if (source.kind === "file") return await traceOfFiles(source.files);
  const text = await recordedTrace();
  if (text === undefined) throw new Error("nothing has been recorded on this page yet");
  return parseTrace("recorded on this page", text);
}

/** One trace, or a schedule with its sessions in either order. */
async function traceOfFiles(files: readonly File[]): Promise<Trace> {
  if (files.length === 0 || files.length > 2)
    throw new Error("choose one trace, or a schedule and its sessions");
  const texts = await Promise.all(files.map(async (file) => ({ name: file.name, text: await textOf(file) })));
  const isSessions = ({ text }: { text: string }): boolean =>
    /^\s*\{[^\n]{0,200}?"turns"\s*:/.test(text.slice(0, 300));
  const [first, second] = texts.toSorted((a, b) => Number(isSessions(a)) - Number(isSessions(b)));
  return parseTrace(first!.name, first!.text, second);
}

async function textOf(file: File): Promise<string> {
  if (file.size > maxFileBytes) {
    throw new Error(`${file.name} has ${file.size} bytes; at most ${maxFileBytes} can be read`);
  }
  return await decodeTraceBytes(new Uint8Array(await file.arrayBuffer()));
}

async function runJob(job: Job): Promise<void> {
  if (loaded === undefined) throw new Error("assertion failed: a job without a trace");
  isCancelled = false;
  const result = await resultOf(job, loaded);
  post(result === undefined ? { kind: "cancelled" } : { kind: "done", result });
}

async function resultOf(job: Job, { trace, cost, timing, isServed }: Loaded): Promise<Result | undefined> {
  const { policy, capacityBytes } = job;
  const collector = new SeriesCollector(trace, timing, cost);
  const options = { policy, cost, capacity: { bytes: capacityBytes } };
  const withServing = isServed && policy !== "offline";
  const [first, second] = withServing ? [0.2, 0.8] : [1, 0];
  const replayed = replaySteps(trace, { ...options, observe: collector.observe });
  const row = await inSlices(job.id, 0, first, replayed);
  if (row === undefined) return undefined;
  const { ttftMs, evictions } = collector.series();
  if (!isServed) return { job, row, series: { ttftMs, evictions } };
  if (!withServing) return { job, row, series: { ttftMs: undefined, evictions } };
  const servedRow = await inSlices(job.id, first, second, serveSteps(trace, { ...options, timing }));
  if (servedRow === undefined) return undefined;
  return { job, row, series: { ttftMs: servedQuantiles(servedRow.served), evictions } };
}

/** Runs to the end, or until it is cancelled: undefined. Its progress counts `weight` from `base` on. */
async function inSlices<Row>(
  id: number,
  base: number,
  weight: number,
  steps: Generator<{ done: number; total: number }, Row>,
): Promise<Row | undefined> {
  let sliceEndMs = performance.now() + sliceMs;
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (performance.now() < sliceEndMs) continue;
    if (performance.now() - reportedMs >= reportMs) {
      reportedMs = performance.now();
      post({ kind: "progress", id, share: base + (weight * step.value.done) / step.value.total });
    }
    await nextTask();
    if (isCancelled) return undefined;
    sliceEndMs = performance.now() + sliceMs;
  }
}

/** Lets waiting messages be handled; a timer would wait for at least 4 ms. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
