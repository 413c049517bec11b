/**
 * When a request would get its first token, and those behind it, on one engine whose prefill and decode share the device: from the
 * queue as it is, worked off in advance (work-off.ts). It decides nothing.
 */
import { patienceOf } from "../queue/place.ts";
import type { PromptLoad, SchedulerLoad } from "./load.ts";
import type { Objectives, Priority } from "./objectives.ts";
import { workOff, type Outlook, type WorkTerms } from "./work-off.ts";

/** Why a request would take how long; crosses the wire. */
export interface Prediction {
  /** From now on. */
  ttftMs: number;
  tbtMs: number;
  /** For the whole answer, if its length is known. */
  totalMs?: number | undefined;
  /** What the time to first token is made of. */
  parts: {
    /** Prompts that go before, decode steps between their chunks, and a seat that becomes free. */
    queueMs: number;
    /** Stored blocks that are loaded, beyond what is loaded while others run. */
    loadMs: number;
    /** Its own prompt. */
    prefillMs: number;
    /** Decode steps of others between its chunks. */
    decodeMs: number;
  };
  /** Tokens of the prompt that need not be computed, by tier. */
  cachedTokens: Readonly<Record<string, number>>;
  /** Tokens of the prompt that must be. */
  computedTokens: number;
  /** Requests whose prompts go before. */
  ahead: number;
}

/** A request that may be submitted. */
export interface Candidate {
  promptTokens: number;
  cachedTokens: Readonly<Record<string, number>>;
  /** Loading what lower tiers have of it. */
  loadMs?: number;
  priority?: Priority;
  objectives?: Objectives;
  /** Tokens of its answer, if they can be told. */
  newTokens?: number;
}

/** No request that was submitted has it. */
const CANDIDATE_ID = -Infinity;

/** What would become of a request, and of the others with it. */
export function predict(
  candidate: Candidate,
  load: SchedulerLoad,
  terms: WorkTerms,
): { prediction: Prediction; outlook: Outlook } {
  const {
    promptTokens,
    cachedTokens,
    newTokens,
    objectives = {},
    priority = "interactive",
    loadMs = 0,
  } = candidate;
  const cached = Object.values(cachedTokens).reduce((sum, tokens) => sum + tokens, 0);
  const computedTokens = Math.max(1, promptTokens - cached);
  const prompt: PromptLoad = {
    ...{ id: CANDIDATE_ID, from: promptTokens - computedTokens, remainingTokens: computedTokens, objectives },
    ...{
      priority,
      patience: patienceOf(computedTokens, priority),
      leftTokens: newTokens ?? Infinity,
      isDue: false,
      isResumed: false,
      arrival: Infinity,
      arrivedMs: 0,
    },
  };
  const outlook = workOff(load, terms, { prompt, loadMs });
  const { tbtMs: gapMs, ahead, ...parts } = outlook.own;
  const tbtMs = gapMs || terms.slow.decodeMs(1, promptTokens); // an answer of one token has no gaps
  const ttftMs = parts.queueMs + parts.loadMs + parts.prefillMs + parts.decodeMs;
  return {
    prediction: {
      ...{ ttftMs, tbtMs },
      ...(newTokens !== undefined && { totalMs: ttftMs + Math.max(0, newTokens - 1) * tbtMs }),
      ...{ parts, cachedTokens, computedTokens, ahead },
    },
    outlook,
  };
}
