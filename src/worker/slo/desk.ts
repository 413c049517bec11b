/**
 * Where requests arrive: predicts how long each would take, accepts or rejects it, and counts whether promises were kept. What
 * is decided, and by which rule, is in schedule/slo/; it plans no steps and measures none.
 */
import { TidepoolError } from "../../errors.ts";
import type { CostModel } from "../../schedule/cost/model.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import type { Request, RequestSpec } from "../../schedule/request.ts";
import { Admission, type DecodeLoad, type Decision } from "../../schedule/slo/admission.ts";
import { Goodput } from "../../schedule/slo/goodput.ts";
import type { Objectives } from "../../schedule/slo/objectives.ts";
import { predict, type Prediction, type SchedulerLoad } from "../../schedule/slo/prediction.ts";
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

/** Answers over which their mean length is taken. */
const MEAN_OVER = 64;

/** What the desk asks of the rooms around it. */
export interface DeskRooms {
  scheduler: Pick<Scheduler, "load">;
  costs: CostModel;
  steps: Pick<StepClock, "busyMs" | "slow" | "mean">;
  nowMs(): number;
  /** Tokens of a prompt's next chunk beside those that decode, one that asks for `objectives` and those ahead of it among them; and alone. */
  chunkTokens(
    objectives: Objectives,
    ahead?: readonly { contextTokens: number }[],
  ): { besideDecodes: number; alone: number };
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
  /** Of answers that came to their end. */
  private answers = { count: 0, meanTokens: 0 };
  /** What the request asks for that is being judged. */
  private judged: Objectives = {};
  /** By the scheduler's ids. */
  private readonly pledges = new Map<number, Pledge>();

  constructor(rooms: DeskRooms, { rejection = "predicted", ...defaults }: EngineObjectives = {}) {
    this.rooms = rooms;
    this.defaults = defaults;
    const tbtMs = (rows: number, context: number): number => this.tbtMs(rows, context, this.judged);
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
    const { answers } = this;
    this.goodput.finished(times.figures, arrival.objectives);
    answers.count = Math.min(answers.count + 1, MEAN_OVER);
    answers.meanTokens += (generatedCount - answers.meanTokens) / answers.count;
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
    this.judged = objectives;
    const decision =
      when === "start"
        ? this.admission.decideStart({ nowMs, arrivedMs, objectives })
        : this.admission.decideDecode({ nowMs, objectives, ...this.besides(request) });
    if (decision.accepted) return undefined;
    this.pledges.delete(request.id);
    return this.rejected(decision);
  }

  private besides({ id, tokens }: Request): { promptTokens: number; decode: DecodeLoad[] } {
    const running = this.load().running.filter((other) => other.id !== id);
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
    { objectives, priority, arrivedMs, newTokens = this.usualTokens(spec) }: Arrival,
  ): { prediction: Prediction; decision: Decision } {
    const { steps, nowMs: clock, chunkTokens, cached } = this.rooms;
    const nowMs = clock();
    const load = this.load();
    this.judged = objectives;
    const { tokens: cachedTokens, loadMs } = cached(spec);
    const { meanMs: meanDecodeMs } = this.admission.decodeTimes;
    const terms = { costs: steps.mean, nowMs, chunkTokens: chunkTokens(objectives), decodeMs: meanDecodeMs };
    const length = newTokens === undefined ? {} : { newTokens };
    const candidate = { promptTokens: spec.prompt.length, cachedTokens, loadMs, priority, ...length };
    const firsts = this.firstTokens(load, nowMs);
    const ahead = firsts.slice(0, predict(candidate, load, terms).ahead); // they decode when its turn comes
    const chunks = chunkTokens(objectives, ahead);
    const foreseen = { ...terms, chunkTokens: chunks };
    const { tbtMs } = predict(candidate, load, { ...foreseen, costs: steps.slow }); // it is measured by its longest gaps
    const prediction = { ...predict(candidate, load, { ...foreseen, busyMs: steps.busyMs() }), tbtMs };
    const before = nowMs - arrivedMs; // its text became tokens
    const { prefillMs, decodeMs } = prediction.parts;
    const ownMs = prefillMs + decodeMs / (1 + prediction.ahead); // its chunks, and the steps of others between them
    const decision = this.admission.decide({
      ...{ nowMs, prediction: { ...prediction, ttftMs: before + prediction.ttftMs }, objectives },
      promptTokens: spec.prompt.length,
      decode: [{ running: load.running, arriving: ahead }],
      othersTtftShare: this.shareOfOthers(firsts.slice(ahead.length), ownMs),
    });
    if (!decision.accepted || this.admission.mode === "none") return { prediction, decision };
    return {
      prediction,
      decision: this.slowedTooMuch(load, ahead, nowMs + prediction.parts.queueMs) ?? decision,
    };
  }

  /**
   * Whether those that decode would miss their time between tokens, with a chunk of one more prompt between two steps.
   * @param ahead prompts that are computed before it
   * @param atMs when its first chunk is computed
   */
  private slowedTooMuch(
    { running, seats }: SchedulerLoad,
    ahead: readonly { id: number; contextTokens: number; atMs: number }[],
    atMs: number,
  ): Rejected | undefined {
    const {
      mode,
      decodeTimes: { meanMs: decodeMs = Infinity },
    } = this.admission;
    const ends = running.map(({ startedMs }) => startedMs + decodeMs);
    const still = mode === "early" ? running : [...running.filter((_, at) => ends[at]! > atMs), ...ahead];
    const limits = still.map(({ id }) => this.pledges.get(id)?.arrival.objectives.tbtMs ?? Infinity);
    const limitMs = Math.min(...limits);
    const { slow } = this.rooms.steps;
    const context = still.reduce((sum, { contextTokens }) => sum + contextTokens, 0);
    const rows = Math.min(still.length, seats);
    const chunk = this.rooms.chunkTokens({ tbtMs: limitMs }).besideDecodes;
    const predictedMs = slow.decodeMs(rows, context) + slow.prefillMs(chunk, 0);
    if (predictedMs <= limitMs) return undefined;
    const soonest = Math.min(...ends) - this.rooms.nowMs();
    const retryAfterMs = Math.ceil(Math.min(MOST_RETRY_MS, Math.max(LEAST_RETRY_MS, soonest)));
    return { accepted: false, reason: "tbt", predictedMs, limitMs, retryAfterMs };
  }

  private usualTokens({ maxNewTokens }: RequestSpec): number | undefined {
    const { count, meanTokens } = this.answers;
    return count === 0 ? undefined : Math.min(maxNewTokens, Math.ceil(meanTokens));
  }

  /** When prompts that are not done will be, in their order: each decodes beside those behind it. */
  private firstTokens(
    { prefilling, waiting, running, seats }: SchedulerLoad,
    nowMs: number,
  ): { id: number; atMs: number; contextTokens: number }[] {
    const { steps, chunkTokens } = this.rooms;
    const decoding: { contextTokens: number }[] = [...running];
    let atMs = nowMs + steps.busyMs();
    return [...prefilling, ...waiting].map(({ id, remainingTokens, from }, index) => {
      const { besideDecodes, alone } = chunkTokens(
        {},
        decoding.slice(Math.max(running.length, decoding.length - seats)),
      );
      const context = decoding.reduce((sum, { contextTokens }) => sum + contextTokens, 0);
      const rows = Math.min(running.length + index, seats);
      const chunks = Math.max(1, Math.ceil(remainingTokens / (rows === 0 ? alone : besideDecodes)));
      const stepMs = rows === 0 ? 0 : steps.mean.decodeMs(rows, context);
      atMs += chunks * (stepMs + steps.mean.prefillMs(remainingTokens / chunks, from + remainingTokens / 2));
      const first = { id, atMs, contextTokens: from + remainingTokens };
      decoding.push(first);
      return first;
    });
  }

  /** Of prompts that would still be in time, and come later by `delayMs`: the largest share of their time to first token. */
  private shareOfOthers(firsts: readonly { id: number; atMs: number }[], delayMs: number): number {
    const shares = firsts.map(({ id, atMs }) => {
      const { objectives: { ttftMs = Infinity } = {}, arrivedMs = 0 } = this.pledges.get(id)?.arrival ?? {};
      const share = (atMs - arrivedMs) / ttftMs;
      return share > 1 ? 0 : share + delayMs / ttftMs;
    });
    return Math.max(0, ...shares);
  }

  /** Between the tokens of requests that decode, with a chunk of a prompt between two steps. */
  private tbtMs(rows: number, contextTokens: number, objectives: Objectives): number {
    const { chunkTokens } = this.rooms;
    const { slow } = this.rooms.steps;
    const stepMs = slow.decodeMs(rows, contextTokens);
    const { prefilling, waiting } = this.load();
    if (prefilling.length + waiting.length === 0) return stepMs;
    return stepMs + slow.prefillMs(chunkTokens(objectives).besideDecodes, 0);
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
