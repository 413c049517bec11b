/**
 * Where requests arrive: predicts how long each would take, accepts or rejects it, and counts whether promises were kept. What
 * is decided, and by which rule, is in schedule/slo/; it plans no steps and measures none.
 */
import { TidepoolError } from "../../errors.ts";
import type { CostModel } from "../../schedule/cost/model.ts";
import type { ChunkLimit } from "../../schedule/queue/chunk.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import type { Request, RequestSpec } from "../../schedule/request.ts";
import { Admission, type DecodeLoad, type Decision } from "../../schedule/slo/admission.ts";
import { Goodput } from "../../schedule/slo/goodput.ts";
import type { Objectives } from "../../schedule/slo/objectives.ts";
import { Lifetimes } from "../../schedule/slo/lifetimes.ts";
import type { SchedulerLoad } from "../../schedule/slo/load.ts";
import { predict, type Prediction } from "../../schedule/slo/prediction.ts";
import { workOff, type First, type Strain, type WorkTerms } from "../../schedule/slo/work-off.ts";
import type {
  EngineObjectives,
  GenerateParams,
  Pace,
  PredictedRequest,
  ScheduleFigures,
} from "../../wire/protocol.ts";
import { Pledge, type Arrival } from "./pledge.ts";
import type { StepClock } from "./step-clock.ts";

/** Whoever is rejected for the sake of those that decode comes back when one of them has ended: not at once, and before long. */
const LEAST_RETRY_MS = 10;
const MOST_RETRY_MS = 1000;

/** What the desk asks of the rooms around it. */
export interface DeskRooms {
  scheduler: Pick<Scheduler, "load">;
  costs: CostModel;
  steps: Pick<StepClock, "busyMs" | "slow" | "mean">;
  nowMs(): number;
  /** Tokens of a prompt's next chunk beside requests that decode. */
  chunkLimit: ChunkLimit;
  /** Prompt tokens that need not be computed, by tier, and how long it takes to load those that are not on the GPU. */
  cached(spec: RequestSpec): { tokens: Record<string, number>; loadMs: number };
}

/** Of a request that was asked for: what is said of time. */
export interface AskedTime {
  params: GenerateParams;
  arrivedMs: number;
}

type Rejected = Extract<Decision, { accepted: false }>;

export class Desk {
  private readonly rooms: DeskRooms;
  private readonly defaults: Objectives;
  private readonly admission: Admission;
  private readonly goodput = new Goodput();
  private accepted = 0;
  /** Tokens of answers that came to their end. */
  private readonly answers = new Lifetimes();
  /** The request that is being judged: what it asks for, and whether prompts are computed beside those that decode. */
  private judged: { objectives: Objectives; isBeside: boolean } = { objectives: {}, isBeside: false };
  /** By the scheduler's ids. */
  private readonly pledges = new Map<number, Pledge>();

  constructor(rooms: DeskRooms, { rejection = "predicted", ...defaults }: EngineObjectives = {}) {
    this.rooms = rooms;
    this.defaults = defaults;
    const tbtMs = (rows: number, context: number): number => this.tbtMs(rows, context);
    this.admission = new Admission({ mode: rejection, tbtMs });
  }

  /**
   * Accepts a request, or rejects it. One that another engine has accepted is taken as it is, and so are the engine's own.
   * @returns what the scheduler is to know of it
   * @throws TidepoolError `rejected` with what was predicted, the limit, and when to try again
   */
  receive(spec: RequestSpec, asked: AskedTime & { id: number; resume: unknown }): Partial<Arrival> {
    if (asked.id < 0) return {};
    const arrival = this.arrivalOf(asked);
    const predicted = asked.resume === undefined ? this.admit(spec, arrival) : undefined;
    this.accepted++;
    this.pledges.set(spec.id, new Pledge(arrival, predicted));
    return arrival;
  }

  /** What would become of a request if it came now. */
  predict(spec: RequestSpec, asked: AskedTime): PredictedRequest {
    const { prediction, decision } = this.judge(spec, this.arrivalOf(asked));
    if (decision.accepted) return prediction;
    const { accepted: _accepted, ...rejection } = decision;
    return { ...prediction, rejection };
  }

  /** Tokens of a request have come. @throws TidepoolError `rejected` if nobody was rejected on arrival and there is no room to decode */
  tokens(request: Request, count: number): void {
    const pledge = count > 0 ? this.pledges.get(request.id) : undefined;
    if (!pledge) return;
    const isFirst = pledge.times.ttftMs === undefined;
    pledge.times.tokens(count, this.rooms.nowMs());
    if (isFirst) this.begins(request, pledge);
  }

  private begins(request: Request, pledge: Pledge): void {
    const { predicted, times } = pledge;
    if (predicted && times.ttftMs !== undefined) this.rooms.costs.firstToken(predicted.ttftMs, times.ttftMs);
    const error = request.status === "done" ? undefined : this.tooLate(request, "decode");
    if (error) throw error;
  }

  /** A request has come to its end; what is told of its times. */
  ended(request: Request, how: "finished" | "aborted" | "failed"): Pace | undefined {
    const pledge = this.pledges.get(request.id);
    if (!pledge) return undefined;
    this.pledges.delete(request.id);
    if (how === "finished") this.finished(request, pledge);
    else this.goodput.ended(how);
    return pledge.pace(how === "aborted");
  }

  private finished({ generatedCount, startedMs }: Request, { times, arrival }: Pledge): void {
    this.goodput.finished(times.figures, arrival.objectives);
    this.answers.add(generatedCount);
    if (startedMs !== undefined) this.admission.decodeTimes.add(this.rooms.nowMs() - startedMs);
  }

  /** Whether those that wait may become too late, rather than be rejected on arrival. */
  get rejectsLate(): boolean {
    return this.admission.mode === "none" && this.pledges.size > 0;
  }

  /** Why a request that waits, or whose prompt has just been computed, cannot go on; undefined if it can. */
  tooLate(request: Request, when: "start" | "decode"): TidepoolError | undefined {
    const pledge = this.rejectsLate ? this.pledges.get(request.id) : undefined;
    if (!pledge) return undefined;
    const { objectives, arrivedMs } = pledge.arrival;
    const nowMs = this.rooms.nowMs();
    const decision =
      when === "start"
        ? this.admission.decideStart({ nowMs, arrivedMs, objectives })
        : this.admission.decideDecode({ nowMs, objectives, ...this.besides(request, objectives) });
    if (decision.accepted) return undefined;
    this.pledges.delete(request.id);
    return this.rejected(decision);
  }

  private besides(
    { id, tokens }: Request,
    objectives: Objectives,
  ): { promptTokens: number; decode: DecodeLoad[] } {
    const load = this.load();
    this.judged = { objectives, isBeside: hasPrompts(load) };
    const running = load.running.filter((other) => other.id !== id);
    return { promptTokens: tokens.length, decode: [{ running, arriving: [] }] };
  }

  private arrivalOf({ params, arrivedMs }: AskedTime): Arrival {
    const { defaults } = this;
    const { ttftMs = defaults.ttftMs, tbtMs = defaults.tbtMs, deadlineMs = defaults.deadlineMs } = params;
    const { priority = "interactive", maxTokens } = params;
    return { objectives: { ttftMs, tbtMs, deadlineMs }, priority, arrivedMs, newTokens: maxTokens };
  }

  /** What was predicted, from arrival. @throws TidepoolError `rejected` */
  private admit(spec: RequestSpec, arrival: Arrival): Pledge["predicted"] {
    const { prediction, decision } = this.judge(spec, arrival);
    if (!decision.accepted) throw this.rejected(decision);
    const { ttftMs, tbtMs } = prediction;
    return { ttftMs: this.rooms.nowMs() - arrival.arrivedMs + ttftMs, tbtMs };
  }

  private rejected(decision: Rejected): TidepoolError {
    this.goodput.rejected(decision.reason);
    return rejectedError(decision);
  }

  /** What there is to do. A request whose first token is on its way starts now. */
  private load(): SchedulerLoad {
    const load = this.rooms.scheduler.load();
    const nowMs = this.rooms.nowMs();
    const running = load.running.map((each) => ({ ...each, startedMs: each.startedMs || nowMs }));
    return { ...load, running };
  }

  private judge(
    spec: RequestSpec,
    { objectives, priority, arrivedMs, newTokens }: Arrival,
  ): { prediction: Prediction; decision: Decision } {
    const nowMs = this.rooms.nowMs();
    const load = this.load();
    this.judged = { objectives, isBeside: hasPrompts(load) };
    const { tokens: cachedTokens, loadMs } = this.rooms.cached(spec);
    const length = this.answerTokens(spec, newTokens);
    const candidate = { promptTokens: spec.prompt.length, cachedTokens, loadMs, priority, objectives };
    const terms = this.workTerms();
    const { firsts } = workOff(load, terms);
    const { prediction, outlook } = predict({ ...candidate, ...length }, load, terms);
    const before = nowMs - arrivedMs; // its text became tokens
    const decision = this.admission.decide({
      ...{ nowMs, prediction: { ...prediction, ttftMs: before + prediction.ttftMs }, objectives },
      promptTokens: spec.prompt.length,
      decode: [{ running: load.running, arriving: at(nowMs, firsts.slice(0, prediction.ahead)) }],
      othersTtftShare: this.shareOfOthers(firsts, outlook.firsts, nowMs),
    });
    if (!decision.accepted || this.admission.mode === "none") return { prediction, decision };
    const strain = this.admission.mode === "early" ? this.presentStrain(load) : outlook.strain;
    return { prediction, decision: this.slowedTooMuch(strain, load) ?? decision };
  }

  private workTerms(): WorkTerms {
    const { steps, chunkLimit } = this.rooms;
    const { mean: costs, slow } = steps;
    const answerLeft = (tokens: number): number => this.answers.meanLeft(tokens);
    return { costs, slow, chunkLimit, answerLeft, busyMs: steps.busyMs() };
  }

  /** Tokens of its answer, as far as they can be told. */
  private answerTokens({ maxNewTokens }: RequestSpec, newTokens: number | undefined): { newTokens?: number } {
    const usual = this.answers.mean;
    if (newTokens !== undefined) return { newTokens };
    return usual === undefined ? {} : { newTokens: Math.min(maxNewTokens, Math.ceil(usual)) };
  }

  /** Whether those that decode would miss their time between tokens, with one more prompt and one more answer. */
  private slowedTooMuch(strain: Strain | undefined, { running }: SchedulerLoad): Rejected | undefined {
    if (!strain || strain.predictedMs <= strain.limitMs) return undefined;
    const { mean = Infinity } = this.admission.decodeTimes;
    const soonest = Math.min(...running.map(({ startedMs }) => startedMs + mean)) - this.rooms.nowMs();
    const retryAfterMs = Math.ceil(Math.min(MOST_RETRY_MS, Math.max(LEAST_RETRY_MS, soonest)));
    return { accepted: false, reason: "tbt", ...strain, retryAfterMs };
  }

  /** A chunk between two steps of those that decode now. */
  private presentStrain({ running }: SchedulerLoad): Strain {
    const { slow } = this.rooms.steps;
    const context = running.reduce((sum, { contextTokens }) => sum + contextTokens, 0);
    const limits = running.map(({ objectives: { tbtMs = Infinity } }) => tbtMs);
    const chunk = this.rooms.chunkLimit(0, running.map(decoding));
    const predictedMs = slow.decodeMs(running.length, context) + slow.prefillMs(chunk, 0);
    return { predictedMs, limitMs: Math.min(Infinity, ...limits) };
  }

  /** Of prompts that would be in time without one more, the largest share of their time to first token with it. */
  private shareOfOthers(without: readonly First[], withIt: readonly First[], nowMs: number): number {
    const shareOf = ({ id, atMs, objectives: { ttftMs = Infinity } }: First): number => {
      const arrivedMs = this.pledges.get(id)?.arrival.arrivedMs ?? nowMs;
      return (nowMs + atMs - arrivedMs) / ttftMs;
    };
    const inTime = new Set(without.filter((first) => shareOf(first) <= 1).map(({ id }) => id));
    return Math.max(0, ...withIt.filter(({ id }) => inTime.has(id)).map(shareOf));
  }

  /** Between the tokens of requests that decode, with a chunk of a prompt between two steps where there is one. */
  private tbtMs(rows: number, contextTokens: number): number {
    const { steps, chunkLimit } = this.rooms;
    const { objectives, isBeside } = this.judged;
    const stepMs = steps.slow.decodeMs(rows, contextTokens);
    if (!isBeside) return stepMs;
    const each = { computed: contextTokens / rows, objectives };
    return stepMs + steps.slow.prefillMs(chunkLimit(0, Array<typeof each>(Math.ceil(rows)).fill(each)), 0);
  }

  figures(): ScheduleFigures {
    const { waiting, prefilling, running } = this.load();
    return {
      rejection: this.admission.mode,
      ...{ waiting: waiting.length, prefilling: prefilling.length, decoding: running.length },
      accepted: this.accepted,
      goodput: this.goodput.figures(),
      errors: this.rooms.costs.errors(),
    };
  }
}

function hasPrompts({ prefilling, waiting }: SchedulerLoad): boolean {
  return prefilling.length + waiting.length > 0;
}

function decoding({ contextTokens, objectives }: SchedulerLoad["running"][number]) {
  return { computed: contextTokens, objectives };
}

function at(nowMs: number, firsts: readonly First[]): DecodeLoad["arriving"] {
  return firsts.map(({ atMs, contextTokens }) => ({ atMs: nowMs + atMs, contextTokens }));
}

function rejectedError({ reason, predictedMs, limitMs, retryAfterMs }: Rejected): TidepoolError {
  const ms = (value: number): string => `${Math.ceil(value)} ms`;
  const message = `${WHAT[reason]} would be ${ms(predictedMs)}, and its objective is ${ms(limitMs)}: try again in ${ms(retryAfterMs)}, or allow more`;
  return new TidepoolError("rejected", message, { reason, predictedMs, limitMs, retryAfterMs });
}

const WHAT: Readonly<Record<Rejected["reason"], string>> = {
  ttft: "the request's time to first token",
  tbt: "the request's time between tokens",
  deadline: "the time until the request's last token",
};
