/**
 * Runs the replays of a comparison in two workers and hands on what comes back. It keeps the workers between runs, so
 * that the same generated trace is made once; it draws nothing.
 */
import type { FromWorker, Job, Result, ToWorker, TraceFacts, TraceSource } from "./messages.ts";
import type { Settings } from "./settings.ts";
import { capacitiesOf } from "./settings.ts";

/** Replays at once. */
const workerCount = 2;

export interface Listener {
  loaded(facts: TraceFacts): void;
  /** `done` counts replays, those under way by their share. */
  progress(done: number, total: number): void;
  result(result: Result): void;
  /** Everything is done, or it was cancelled, or it failed and says how. */
  ended(how: "done" | "cancelled" | { problem: string }): void;
}

interface Thread {
  worker: Worker;
  /** The replay under way, and how far it is. */
  job: Job | undefined;
  share: number;
}

export class Comparison {
  private readonly listener: Listener;
  private threads: Thread[] = [];
  private waiting: Job[] = [];
  private total = 0;
  private finished = 0;
  private hasFacts = false;
  isRunning = false;

  constructor(listener: Listener) {
    this.listener = listener;
  }

  /** Begins; what was running is stopped without a word. */
  start(settings: Settings, source: TraceSource): void {
    if (this.isRunning) this.end();
    this.isRunning = true;
    this.waiting = jobsOf(settings);
    this.total = this.waiting.length;
    this.finished = 0;
    this.hasFacts = false;
    while (this.threads.length < workerCount) this.threads.push(this.newThread());
    const { model, rate } = settings;
    for (const thread of this.threads) send(thread, { kind: "load", source, model, rate });
  }

  /** Stops within a slice; results that are there stay. */
  cancel(): void {
    if (!this.isRunning) return;
    this.waiting = [];
    for (const thread of this.threads) if (thread.job) send(thread, { kind: "cancel" });
    if (this.threads.every(({ job }) => job === undefined)) this.finish("cancelled");
  }

  private newThread(): Thread {
    const worker = new Worker(new URL("./replay-worker.ts", import.meta.url), { type: "module" });
    const thread: Thread = { worker, job: undefined, share: 0 };
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.take(thread, data);
    worker.onerror = (event) =>
      this.finish({ problem: event.message || "the replay's worker could not start" });
    return thread;
  }

  private take(thread: Thread, message: FromWorker): void {
    if (!this.isRunning) return;
    switch (message.kind) {
      case "loaded":
        if (!this.hasFacts) this.listener.loaded(message.facts);
        this.hasFacts = true;
        this.next(thread);
        return;
      case "progress":
        if (thread.job?.id === message.id) thread.share = message.share;
        this.tellProgress();
        return;
      case "done":
        this.finished++;
        this.listener.result(message.result);
        this.next(thread);
        return;
      case "cancelled":
        thread.job = undefined;
        if (this.threads.every(({ job }) => job === undefined)) this.finish("cancelled");
        return;
      case "failed":
        this.finish({ problem: message.message });
    }
  }

  private next(thread: Thread): void {
    thread.job = this.waiting.shift();
    thread.share = 0;
    this.tellProgress();
    if (thread.job) send(thread, { kind: "run", job: thread.job });
    else if (this.finished === this.total) this.finish("done");
    else if (this.threads.every(({ job }) => job === undefined)) this.finish("cancelled");
  }

  private tellProgress(): void {
    const underWay = this.threads.reduce((sum, { job, share }) => sum + (job ? share : 0), 0);
    this.listener.progress(this.finished + underWay, this.total);
  }

  private finish(how: Parameters<Listener["ended"]>[0]): void {
    if (how !== "done") this.end();
    this.isRunning = false;
    this.listener.ended(how);
  }

  /** Ends the workers: whatever they still do is not wanted. */
  private end(): void {
    for (const { worker } of this.threads) worker.terminate();
    this.threads = [];
    this.isRunning = false;
  }
}

/** The largest capacities first: they take longest, and the last replays should be short. */
function jobsOf(settings: Settings): Job[] {
  const capacities = capacitiesOf(settings).reverse();
  const pairs = capacities.flatMap((capacityBytes) =>
    settings.policies.map((policy) => ({ policy, capacityBytes })),
  );
  return pairs.map((pair, id) => ({ id, ...pair }));
}

function send({ worker }: Thread, message: ToWorker): void {
  worker.postMessage(message);
}
