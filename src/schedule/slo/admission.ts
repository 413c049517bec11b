/**
 * Whether a request is accepted: on arrival by what is predicted for it and by the load of whoever will decode it, and once
 * more when its turn comes and when its prompt is computed. Engine, replay and tests decide by this very object. Pure: it
 * reads no queue and no clock; prediction.ts says when a request would get its first token.
 *
 *     mode        on arrival                                      at its turn     when its prompt is computed
 *     none        --                                              ttft passed?    tbt by the load then
 *     early       ttft predicted, tbt by the load now             --              tbt by the load then
 *     predicted   ttft predicted, tbt by the load at that time    --              tbt by the load then
 *
 * The last is asked by a cluster, whose prefill and decode are apart; the engine asks it in mode none alone, and keeps what it accepted.
 */
import { Lifetimes } from "./lifetimes.ts";
import type { Objectives, RejectionMode, RejectionReason } from "./objectives.ts";
import type { Prediction } from "./prediction.ts";

/** Requests that decode on one instance, and those that will, once their prompts are computed. */
export interface DecodeLoad {
  running: readonly { startedMs: number; contextTokens: number }[];
  arriving: readonly { atMs: number; contextTokens: number }[];
}

/** What decodes together; expected values, and so not whole. */
interface Batch {
  rows: number;
  contextTokens: number;
}

export interface AdmissionOptions {
  mode: RejectionMode;
  /** Between tokens where so many requests decode with so many tokens of context, all together. */
  tbtMs(rows: number, contextTokens: number): number;
  /** Share of an objective that a prediction may come to. Default: 1. */
  threshold?: number;
}

/** A request as it arrives. */
export interface Arrival {
  nowMs: number;
  objectives: Objectives;
  /** Where it would be computed. */
  prediction: Prediction;
  promptTokens: number;
  /** Who could decode it; requests are spread evenly over them. */
  decode: readonly DecodeLoad[];
  /** The largest share of its own time to first token that a request behind it would come to if it went before. */
  othersTtftShare?: number;
}

/** A request that was accepted, later on. */
export interface Turn {
  nowMs: number;
  arrivedMs: number;
  objectives: Objectives;
}

export type Decision =
  | { accepted: true }
  | {
      accepted: false;
      reason: RejectionReason;
      /** What was predicted, and what it was to be at most. */
      predictedMs: number;
      limitMs: number;
      retryAfterMs: number;
    };

/** Nobody is told to come back at once. */
const LEAST_RETRY_MS = 10;
/** Where nothing is known of how long it takes until it is better. */
const UNKNOWN_RETRY_MS = 1000;

const ACCEPTED: Decision = { accepted: true };

export class Admission {
  readonly mode: RejectionMode;
  private readonly options: AdmissionOptions;
  private readonly threshold: number;
  /** Of requests that have decoded to their end; none is taken to end before the first has. */
  readonly decodeTimes = new Lifetimes();

  constructor(options: AdmissionOptions) {
    this.mode = options.mode;
    this.options = options;
    this.threshold = options.threshold ?? 1;
  }

  /** On arrival. */
  decide(arrival: Arrival): Decision {
    if (this.mode === "none") return ACCEPTED;
    const { prediction, objectives, othersTtftShare = 0 } = arrival;
    const { ttftMs, deadlineMs } = objectives;
    if (isOver(prediction.ttftMs, ttftMs, this.threshold))
      return this.rejected("ttft", prediction.ttftMs, ttftMs);
    if (isOver(prediction.totalMs, deadlineMs, this.threshold))
      return this.rejected("deadline", prediction.totalMs, deadlineMs);
    const decode = this.decideTbt(arrival);
    if (!decode.accepted || othersTtftShare <= this.threshold) return decode;
    const limitMs = ttftMs ?? prediction.ttftMs;
    return this.rejected("ttft", limitMs * othersTtftShare, limitMs);
  }

  /** When its turn has come: whether it is too late already. */
  decideStart({ nowMs, arrivedMs, objectives: { ttftMs, deadlineMs } }: Turn): Decision {
    const waitedMs = nowMs - arrivedMs;
    if (this.mode !== "none") return ACCEPTED;
    if (isOver(waitedMs, ttftMs, 1)) return this.rejected("ttft", waitedMs, ttftMs);
    return isOver(waitedMs, deadlineMs, 1) ? this.rejected("deadline", waitedMs, deadlineMs) : ACCEPTED;
  }

  /** When its prompt has been computed: whether it may decode beside those that do. */
  decideDecode(turn: Pick<Arrival, "nowMs" | "objectives" | "promptTokens" | "decode">): Decision {
    return this.decideTbtAt(turn, (load) => now(load));
  }

  /** Between tokens, if one more request of so many tokens came to decode at a time to come; the mean over all instances. */
  forecastTbtMs(decode: readonly DecodeLoad[], promptTokens: number, nowMs: number, atMs: number): number {
    return this.meanTbtMs(decode, promptTokens, (load) => this.at(load, nowMs, atMs));
  }

  private decideTbt(arrival: Arrival): Decision {
    const { nowMs, prediction } = arrival;
    if (this.mode === "early") return this.decideTbtAt(arrival, now);
    return this.decideTbtAt(arrival, (load) => this.at(load, nowMs, nowMs + prediction.ttftMs));
  }

  private decideTbtAt(
    { nowMs, objectives: { tbtMs }, promptTokens, decode }: Omit<Arrival, "prediction">,
    batchOf: (load: DecodeLoad) => Batch,
  ): Decision {
    if (tbtMs === undefined) return ACCEPTED;
    const predictedMs = this.meanTbtMs(decode, promptTokens, batchOf);
    if (!isOver(predictedMs, tbtMs, this.threshold)) return ACCEPTED;
    return this.rejected("tbt", predictedMs, tbtMs, this.untilOneEnds(decode, nowMs));
  }

  private meanTbtMs(
    decode: readonly DecodeLoad[],
    promptTokens: number,
    batchOf: (load: DecodeLoad) => Batch,
  ): number {
    const count = Math.max(1, decode.length);
    const each = decode.map((load) => {
      const { rows, contextTokens } = batchOf(load);
      return this.options.tbtMs(rows + 1 / count, contextTokens + promptTokens / count);
    });
    return each.reduce((sum, ms) => sum + ms, 0) / count;
  }

  /** Who is expected to decode at a time to come: each that does, or will by then, as far as it is likely still to do so. */
  private at({ running, arriving }: DecodeLoad, nowMs: number, atMs: number): Batch {
    const batch = { rows: 0, contextTokens: 0 };
    const add = (startedMs: number, fromMs: number, contextTokens: number): void => {
      const share = this.decodeTimes.stillRuns(fromMs - startedMs, atMs - fromMs);
      batch.rows += share;
      batch.contextTokens += share * contextTokens;
    };
    for (const { startedMs, contextTokens } of running) add(startedMs, nowMs, contextTokens);
    for (const { atMs: startsMs, contextTokens } of arriving) {
      const startedMs = Math.max(nowMs, startsMs);
      if (startedMs <= atMs) add(startedMs, startedMs, contextTokens);
    }
    return batch;
  }

  private untilOneEnds(decode: readonly DecodeLoad[], nowMs: number): number | undefined {
    const { mean: meanMs } = this.decodeTimes;
    if (meanMs === undefined) return undefined;
    const left = decode.flatMap(({ running }) => running.map(({ startedMs }) => startedMs + meanMs - nowMs));
    return left.length === 0 ? meanMs : Math.min(...left);
  }

  /** @param retryAfterMs default: by when the queue will have become short enough */
  private rejected(
    reason: RejectionReason,
    predictedMs = 0,
    limitMs = 0,
    retryAfterMs: number | undefined = reason === "tbt" ? UNKNOWN_RETRY_MS : predictedMs - limitMs,
  ): Decision {
    const retry = Math.max(LEAST_RETRY_MS, Math.ceil(retryAfterMs));
    return { accepted: false, reason, predictedMs, limitMs, retryAfterMs: retry };
  }
}

function now({ running }: DecodeLoad): Batch {
  return { rows: running.length, contextTokens: running.reduce((sum, each) => sum + each.contextTokens, 0) };
}

function isOver(predictedMs: number | undefined, limitMs: number | undefined, threshold: number): boolean {
  return predictedMs !== undefined && limitMs !== undefined && predictedMs > limitMs * threshold;
}
