/**
 * When a request would get its first token and those behind it, on one engine whose prefill and decode share the device: a
 * prefill step and a decode step take turns. It follows from the queue as it is, and from what steps cost; who else will
 * arrive is not guessed. Pure arithmetic on a snapshot of the load; it decides nothing.
 */
import type { StepCosts } from "../cost/model.ts";
import { byRank, type Rank } from "../queue/order.ts";
import type { Priority } from "./objectives.ts";

/** Why a request would take how long; crosses the wire. */
export interface Prediction {
  /** From now on. */
  ttftMs: number;
  tbtMs: number;
  /** For the whole answer, if its length is known. */
  totalMs?: number | undefined;
  /** What the time to first token is made of. */
  parts: {
    /** Prompts that go before, and a seat that becomes free. */
    queueMs: number;
    /** Stored blocks that are loaded, beyond what is loaded while others run. */
    loadMs: number;
    /** Its own prompt. */
    prefillMs: number;
    /** Decode steps of others between the chunks. */
    decodeMs: number;
  };
  /** Tokens of the prompt that need not be computed, by tier. */
  cachedTokens: Readonly<Record<string, number>>;
  /** Tokens of the prompt that must be. */
  computedTokens: number;
  /** Requests whose prompts go before. */
  ahead: number;
}

/** A prompt that is not done. */
export interface PromptLoad extends Rank {
  id: number;
  /** Tokens before those that are left. */
  from: number;
  /** As it was told by whoever submitted it. */
  arrivedMs: number;
}

/** A request that decodes. */
export interface RunningLoad {
  id: number;
  contextTokens: number;
  /** When its first token came. */
  startedMs: number;
}

/** What an engine has to do. */
export interface SchedulerLoad {
  /** Waiting, in the order in which they would be computed. */
  waiting: readonly PromptLoad[];
  /** Begun and not done. */
  prefilling: readonly PromptLoad[];
  running: readonly RunningLoad[];
  /** Requests that may run at once. */
  seats: number;
}

/** A request that may be submitted. */
export interface Candidate {
  promptTokens: number;
  cachedTokens: Readonly<Record<string, number>>;
  /** Loading what lower tiers have of it. */
  loadMs?: number;
  priority?: Priority;
  /** Tokens of its answer, if they can be told. */
  newTokens?: number;
}

export interface PredictionTerms {
  costs: StepCosts;
  nowMs: number;
  /** Tokens of a prompt's next chunk while others decode, and while nobody does. */
  chunkTokens: { besideDecodes: number; alone: number };
  /** How long a request decodes, as far as is known. */
  decodeMs?: number | undefined;
  /** What steps that are submitted already still take. */
  busyMs?: number;
}

export function predict(candidate: Candidate, load: SchedulerLoad, terms: PredictionTerms): Prediction {
  const { costs, busyMs = 0 } = terms;
  const { promptTokens, cachedTokens, newTokens } = candidate;
  const cached = Object.values(cachedTokens).reduce((sum, tokens) => sum + tokens, 0);
  const computedTokens = Math.max(1, promptTokens - cached);
  const ahead = promptsAhead(computedTokens, candidate, load);
  const isAlone = load.running.length === 0;
  const chunk = Math.max(1, isAlone ? terms.chunkTokens.alone : terms.chunkTokens.besideDecodes);
  const before = ahead.map(({ remainingTokens, from }) => promptTime(remainingTokens, from, chunk, costs));
  const own = promptTime(computedTokens, promptTokens - computedTokens, chunk, costs);
  const chunks = own.chunks + before.reduce((sum, each) => sum + each.chunks, 0);
  const beforeMs = busyMs + before.reduce((sum, { ms }) => sum + ms, 0);
  const queueMs = Math.max(beforeMs, seatMs(load, ahead, terms));
  const loadMs = Math.max(0, (candidate.loadMs ?? 0) - queueMs);
  const decodeMs = stepsBetween(chunks, before, isAlone) * meanStepMs(load, ahead, costs);
  const ttftMs = queueMs + loadMs + own.ms + decodeMs;
  const tbtMs = tbtBeside(promptTokens, load, ahead, terms);
  return {
    ...{ ttftMs, tbtMs },
    ...(newTokens !== undefined && { totalMs: ttftMs + Math.max(0, newTokens - 1) * tbtMs }),
    parts: { queueMs, loadMs, prefillMs: own.ms, decodeMs },
    ...{ cachedTokens, computedTokens, ahead: ahead.length },
  };
}

/** Prompts that go before one that arrives now, the next first. */
function promptsAhead(
  remainingTokens: number,
  { priority = "interactive" }: Candidate,
  { prefilling, waiting }: SchedulerLoad,
): PromptLoad[] {
  const rank: Rank = { isDue: false, priority, isResumed: false, remainingTokens, arrival: Infinity };
  return [...prefilling, ...waiting].filter((prompt) => byRank(prompt, rank) < 0);
}

/** A prompt in chunks of equal size: exact, because a chunk's time is linear in where its middle lies. */
function promptTime(
  tokens: number,
  from: number,
  chunk: number,
  costs: StepCosts,
): { chunks: number; ms: number } {
  const chunks = Math.max(1, Math.ceil(tokens / chunk));
  const each = tokens / chunks;
  return { chunks, ms: chunks * costs.prefillMs(each, from + (tokens - each) / 2) };
}

/** Decode steps between the chunks; where nobody decodes, from the first prompt that is done on. */
function stepsBetween(chunks: number, before: readonly { chunks: number }[], isAlone: boolean): number {
  if (!isAlone) return chunks;
  return before.length === 0 ? 0 : chunks - (before[0]?.chunks ?? 0);
}

/** Those ahead join the requests that decode, one after the other. */
function meanStepMs({ running }: SchedulerLoad, ahead: readonly PromptLoad[], costs: StepCosts): number {
  const joining = ahead.reduce((sum, { from, remainingTokens }) => sum + from + remainingTokens, 0);
  const rows = running.length + ahead.length / 2;
  return rows === 0 ? 0 : costs.decodeMs(rows, contextOf(running) + joining / 2);
}

/** With all that go before, and a chunk of those behind if there are any. */
function tbtBeside(
  promptTokens: number,
  { running, prefilling, waiting }: SchedulerLoad,
  ahead: readonly PromptLoad[],
  { costs, chunkTokens }: PredictionTerms,
): number {
  const joining = ahead.reduce((sum, { from, remainingTokens }) => sum + from + remainingTokens, 0);
  const context = contextOf(running) + joining + promptTokens;
  const stepMs = costs.decodeMs(running.length + ahead.length + 1, context);
  const isAlone = prefilling.length + waiting.length === ahead.length;
  return stepMs + (isAlone ? 0 : costs.prefillMs(chunkTokens.besideDecodes, 0));
}

/** Until a seat is free for one behind others: each running request is taken to decode for the same time. */
function seatMs(
  { running, prefilling, seats }: SchedulerLoad,
  ahead: readonly PromptLoad[],
  { nowMs, decodeMs }: PredictionTerms,
): number {
  const holding = new Set([...prefilling, ...ahead]).size; // prompts under way hold seats, whoever is computed first
  const wanting = running.length + holding + 1 - seats;
  if (wanting <= 0 || decodeMs === undefined) return 0;
  const ends = running
    .map(({ startedMs }) => Math.max(0, startedMs + decodeMs - nowMs))
    .sort((a, b) => a - b);
  const rounds = Math.floor((wanting - 1) / Math.max(1, seats));
  return (ends[Math.min(ends.length, wanting) - 1] ?? 0) + rounds * decodeMs;
}

function contextOf(running: readonly RunningLoad[]): number {
  return running.reduce((sum, { contextTokens }) => sum + contextTokens, 0);
}
