/**
 * A simulated cluster: a trace's requests pass the Conductor, an admission, a prefill and a decode instance, in simulated
 * time. Admission is the engine's (schedule/slo), the prefix caches are the engine's (cache/), the costs are fixed
 * (hardware.ts). It reads no files and shows nothing.
 */
import { assert, Random } from "../../base.ts";
import { createPrefixCache } from "../../cache/policy/create.ts";
import { Admission, type Arrival, type DecodeLoad } from "../../schedule/slo/admission.ts";
import type { Objectives } from "../../schedule/slo/objectives.ts";
import { scaleCost } from "../../shape/cost.ts";
import type { ReplayProgress } from "../replay.ts";
import { sequencesOf } from "../sequences.ts";
import type { Trace } from "../trace.ts";
import { Conductor, type Choice } from "./conductor.ts";
import { DecodeInstance } from "./decode-instance.ts";
import { EventQueue } from "./events.ts";
import { a800Node, ClusterCost } from "./hardware.ts";
import { NEW_JOB, type Job } from "./job.ts";
import { PrefillInstance, type PromptRun } from "./prefill-instance.ts";
import { Outcomes } from "./outcomes.ts";
import type { ClusterRow } from "./report.ts";
import type { ClusterOptions } from "./settings.ts";

/** Of simulated time, between two looks at the load. */
const SAMPLE_MS = 1000;
/**
 * The share of an objective that a prediction may come to, in all modes: contexts grow, and others join, after the decision.
 * Mooncake publishes no value.
 */
const LOAD_THRESHOLD = 0.95;
/** Events between two progress reports. */
const PROGRESS_EVERY = 4096;
/** What the load is a share of where no time to first token, or between tokens, is asked for: Mooncake's limits. */
const USUAL_OBJECTIVES = { ttftMs: 30_000, tbtMs: 100 } as const;

/** Replays a whole trace on a cluster. */
export function replayCluster(trace: Trace, options: ClusterOptions): ClusterRow {
  const steps = clusterSteps(trace, options);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** The same in slices, so that a worker can report and stop. */
export function* clusterSteps(trace: Trace, options: ClusterOptions): Generator<ReplayProgress, ClusterRow> {
  const cluster = new Cluster(trace, options);
  for (let steps = 0; cluster.step(); steps++)
    if (steps % PROGRESS_EVERY === 0) yield { done: cluster.doneCount, total: trace.requests.length };
  return cluster.row();
}

class Cluster {
  private readonly trace: Trace;
  private readonly options: ClusterOptions;
  private readonly events = new EventQueue();
  private readonly cost: ClusterCost;
  private readonly conductor: Conductor;
  private readonly admission: Admission;
  private readonly objectives: Objectives;
  private readonly prefills: readonly PrefillInstance[];
  private readonly decodes: readonly DecodeInstance[];
  /** Requests whose prompts are not computed yet, by the decode instance that they go to. */
  private readonly arriving: readonly Set<Job>[];
  private readonly outcomes: Outcomes;
  private sampledMs = 0;

  constructor(trace: Trace, options: ClusterOptions) {
    const { model, machine = a800Node, selection, seed = 1, scheduler, instances } = options;
    this.trace = trace;
    this.options = options;
    this.cost = new ClusterCost(model, machine);
    this.cost.check(trace);
    this.conductor = new Conductor(selection, this.cost, new Random(seed));
    this.admission = new Admission({
      mode: scheduler,
      threshold: LOAD_THRESHOLD,
      tbtMs: (rows, contextTokens) => this.cost.decodeMs(rows, contextTokens),
    });
    this.objectives = { ttftMs: options.ttftMs, tbtMs: options.tbtMs };
    this.prefills = Array.from({ length: instances.prefill }, (_, i) => this.newPrefill(i));
    this.decodes = Array.from({ length: instances.decode }, () => this.newDecode());
    this.arriving = this.decodes.map(() => new Set());
    this.outcomes = new Outcomes(trace.requests.length, options);
    this.planArrivals();
  }

  get doneCount(): number {
    return this.outcomes.doneCount;
  }

  /** Lets the next thing happen; false if nothing is left. */
  step(): boolean {
    while (this.sampledMs <= Math.min(this.events.nextMs, this.arrivalMs(this.trace.requests.length - 1)))
      this.sample();
    return this.events.step();
  }

  row(): ClusterRow {
    const left = [...this.prefills, ...this.decodes].filter((instance) => !instance.isIdle).length;
    assert(left === 0, `${left} instances still hold something at the end`);
    return this.outcomes.row();
  }

  private newPrefill(index: number): PrefillInstance {
    const { events, cost, trace } = this;
    const { policy = "lru", model, machine = a800Node } = this.options;
    const { symbolTokens } = trace;
    const { cache } = createPrefixCache({
      ...{ policy, cost: scaleCost(model, symbolTokens), blockTokens: 1, capacityBytes: machine.hostBytes },
      keepsViews: sequencesOf(trace).isKept,
    });
    const owner = {
      starts: (job: Job) => this.starts(job),
      ended: (job: Job, run: PromptRun) => this.prefilled(job, run),
    };
    return new PrefillInstance(index, { cache, symbolTokens, events, cost, owner });
  }

  private newDecode(): DecodeInstance {
    return new DecodeInstance(this.events, this.cost, {
      finished: (job, startedMs, gapsMs) => {
        this.admission.decodeTimes.add(this.events.nowMs - startedMs);
        this.outcomes.finished(job, this.events.nowMs, gapsMs);
      },
    });
  }

  private arrivalMs(id: number): number {
    const { requests } = this.trace;
    return ((requests[id]?.timestampMs ?? 0) - (requests[0]?.timestampMs ?? 0)) / this.options.speed;
  }

  private planArrivals(): void {
    const sequences = sequencesOf(this.trace);
    this.trace.requests.forEach(({ inputTokens, outputTokens, inputSymbols }, id) => {
      const arrivedMs = this.arrivalMs(id);
      this.events.at(arrivedMs, () => {
        const symbols = sequences.at(id).subarray(0, inputSymbols);
        this.arrive({
          ...NEW_JOB,
          ...{ id, arrivedMs, symbols },
          ...{ inputTokens: Math.max(1, inputTokens), outputTokens: Math.max(1, outputTokens) },
        });
      });
    });
  }

  private arrive(job: Job): void {
    const { nowMs } = this.events;
    const views = this.prefills.map((instance) => instance.view(job.symbols, job.inputTokens));
    const choice = this.conductor.choose(job.inputTokens, views);
    job.decode = this.leastLoadedDecode(job);
    const decision = this.admission.decide(this.arrivalOf(job, choice, views[choice.instance]!.queueMs));
    if (!decision.accepted) return this.outcomes.rejected(job.id, nowMs, decision.reason, false);
    this.outcomes.accepted(job.id, nowMs);
    job.estimateMs = this.cost.prefillMs(job.inputTokens - choice.prefixTokens, choice.prefixTokens);
    job.predictedTtftMs = choice.ttftMs;
    job.expectedEndMs = nowMs + choice.ttftMs;
    this.arriving[job.decode]!.add(job);
    const source = choice.source === undefined ? undefined : this.prefills[choice.source];
    this.prefills[choice.instance]!.push(job, choice.prefixTokens, source);
  }

  private arrivalOf(
    { inputTokens, decode }: Job,
    { ttftMs, prefixTokens }: Choice,
    queueMs: number,
  ): Arrival {
    const computedTokens = inputTokens - prefixTokens;
    const prefillMs = this.cost.prefillMs(computedTokens, prefixTokens);
    return {
      ...{ nowMs: this.events.nowMs, objectives: this.objectives, promptTokens: inputTokens },
      prediction: {
        ...{ ttftMs, tbtMs: NaN, computedTokens, cachedTokens: { ram: prefixTokens }, ahead: 0 },
        parts: { queueMs, loadMs: ttftMs - queueMs - prefillMs, prefillMs, decodeMs: 0 },
      },
      decode: [this.decodeLoad(decode)],
    };
  }

  private decodeLoad(index: number): DecodeLoad {
    const arriving = [...this.arriving[index]!];
    return {
      running: this.decodes[index]!.all,
      arriving: arriving.map((job) => ({ atMs: job.expectedEndMs, contextTokens: job.inputTokens })),
    };
  }

  /** With those that are on their way to it. */
  private leastLoadedDecode({ inputTokens }: Job): number {
    const stepMs = this.decodes.map((instance, i) => {
      const coming = this.arriving[i]!;
      let tokens = inputTokens;
      for (const job of coming) tokens += job.inputTokens;
      return instance.stepMs(coming.size + 1, tokens);
    });
    return stepMs.indexOf(Math.min(...stepMs));
  }

  private starts(job: Job): boolean {
    const { nowMs } = this.events;
    const { arrivedMs } = job;
    const decision = this.admission.decideStart({ nowMs, arrivedMs, objectives: this.objectives });
    if (decision.accepted) return true;
    this.arriving[job.decode]!.delete(job);
    this.outcomes.rejected(job.id, nowMs, decision.reason, false);
    return false;
  }

  /** Its KV has been sent while it was computed, layer by layer, so that little is left to be sent. */
  private prefilled(job: Job, { instance, startMs, hitTokens }: PromptRun): void {
    const { nowMs } = this.events;
    const { id, arrivedMs, inputTokens } = job;
    job.firstTokenMs = nowMs;
    this.arriving[job.decode]!.delete(job);
    this.outcomes.prefilled({
      ...{ id, instance, startMs, endMs: nowMs, inputTokens, hitTokens },
      ...{ predictedTtftMs: job.predictedTtftMs, ttftMs: nowMs - arrivedMs },
    });
    const decode = [{ running: this.decodes[job.decode]!.all, arriving: [] }];
    const turn = { nowMs, objectives: this.objectives, promptTokens: inputTokens, decode };
    const decision = this.admission.decideDecode(turn);
    if (!decision.accepted) return this.outcomes.rejected(id, nowMs, decision.reason, true);
    const sentMs = Math.max(nowMs, startMs + this.cost.transferMs(inputTokens));
    this.decodes[job.decode]!.push(job, sentMs);
  }

  private sample(): void {
    const { ttftMs, tbtMs } = this.options;
    const limits = {
      ttftMs: ttftMs === Infinity ? USUAL_OBJECTIVES.ttftMs : ttftMs,
      tbtMs: tbtMs === Infinity ? USUAL_OBJECTIVES.tbtMs : tbtMs,
    };
    this.outcomes.sample({
      atMs: this.sampledMs,
      prefillLoad: meanOf(this.prefills, ({ maxTtftMs }) => maxTtftMs / limits.ttftMs),
      decodeLoad: meanOf(this.decodes, (instance) => instance.stepMs() / limits.tbtMs),
      prompts: this.prefills.map(({ length }) => length),
      batches: this.decodes.map(({ length }) => length),
    });
    this.sampledMs += SAMPLE_MS;
  }
}

function meanOf<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0) / items.length;
}
