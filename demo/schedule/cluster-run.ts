/**
 * What the scheduler lab has its thread do: replay one trace on a simulated cluster in the three rejection modes, then with the four
 * ways of selecting an instance, and post what came of each. The simulation is src/sim/cluster. The thread is that of the
 * comparison, which has most of this code anyway; whoever wants it to stop ends it.
 */
import {
  clusterSteps,
  conversationTrace,
  schedulerNames,
  selectionNames,
  type ClusterOptions,
  type ClusterRow,
} from "../../src/sim/cluster/index.ts";
import { decodeTraceBytes, namedModel, parseTrace, type Trace } from "../../src/sim/index.ts";
import type { FromWorker, LabSettings } from "./messages.ts";
import { TallyMaker } from "./tally.ts";

const MODEL = "llama3-70b";
const SEED = 1;
const MINUTES = 20;
/** The largest file that is read. */
const MAX_FILE_BYTES = 1 << 28;
const REPORT_MS = 150;

const post = (message: FromWorker): void => postMessage(message);

export async function runCluster({ file, ...settings }: LabSettings): Promise<void> {
  const trace = file ? await traceOf(file) : conversationTrace(SEED, MINUTES);
  const model = namedModel(MODEL);
  if (!model) throw new Error(`assertion failed: no model ${MODEL}`);
  const { name, requests } = trace;
  const firstMs = requests[0]?.timestampMs ?? 0;
  const arrivalsMs = requests.map(({ timestampMs }) => (timestampMs - firstMs) / settings.speed);
  const inputTokens = requests.reduce((sum, request) => sum + request.inputTokens, 0) / requests.length;
  const perSecond = requests.length / Math.max(1, (arrivalsMs.at(-1) ?? 0) / 1000);
  post({ kind: "trace", name, requests: requests.length, perSecond, inputTokens });
  for (const scheduler of schedulerNames) {
    const maker = new TallyMaker(arrivalsMs);
    const options = { ...settings, model, scheduler, selection: "kvcache", observe: maker.take } as const;
    const row = replayed(trace, options, `rejection: ${scheduler}`);
    post({ kind: "mode", row, tally: maker.end() });
  }
  const free = { ...settings, model, scheduler: "none", ttftMs: Infinity, tbtMs: Infinity } as const;
  for (const selection of selectionNames)
    post({ kind: "selection", row: replayed(trace, { ...free, selection }, `selection: ${selection}`) });
  post({ kind: "done" });
}

async function traceOf(file: File): Promise<Trace> {
  if (file.size > MAX_FILE_BYTES)
    throw new Error(`${file.name} has ${file.size} bytes; at most ${MAX_FILE_BYTES} can be read`);
  return parseTrace(file.name, await decodeTraceBytes(new Uint8Array(await file.arrayBuffer())));
}

function replayed(trace: Trace, options: ClusterOptions, words: string): ClusterRow {
  const steps = clusterSteps(trace, options);
  let reportedMs = -Infinity;
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (performance.now() - reportedMs < REPORT_MS) continue;
    reportedMs = performance.now();
    post({ kind: "progress", words, share: step.value.done / step.value.total });
  }
}
