/**
 * Log-probabilities of given tokens: runs them through prefill beside the requests' loop, in blocks lent by the
 * scheduler, and reads the logits of the rows that are wanted.
 */
import type { Lease } from "../../cache/prefix.ts";
import { TidepoolError } from "../../errors.ts";
import { guarded } from "../../gpu/guard.ts";
import { notFinite, type Runner, type ScoreStep } from "../../model/runner.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import type { SeatState } from "../../schedule/seat-state.ts";
import type { CacheScope, PromptUsage, ScoreResult } from "../../wire/protocol.ts";

export interface ScoreInput {
  tokens: readonly number[];
  /** Rows from here on are wanted; the tokens before may come from the cache. */
  from: number;
  wantLogits: boolean;
  /** How far the keys and values may go. Default "disk". */
  cache?: CacheScope | undefined;
}

export interface ScoreRooms {
  runner: Runner;
  scheduler: Scheduler;
  /** Makes sure that tokens are computed or brought back from the lower tiers. */
  warm(tokens: readonly number[], cache?: CacheScope): Promise<PromptUsage>;
  /** Lets the KV pool grow where it may. */
  makeRoom(missingBlocks: number): Promise<void>;
  /** Whether all steps that the requests' loop has submitted so far have run, once that is known. */
  allGood(): Promise<boolean>;
  /** @throws TidepoolError where nothing is to be computed any more. */
  checkOpen(): void;
}

/**
 * @throws TidepoolError `invalid_argument`, `too_long`, `out_of_memory`, `not_finite`; `gpu_failed` if its own work did not run,
 * or that of a request which had computed a prefix that it uses.
 */
export async function scoreTokens(rooms: ScoreRooms, input: ScoreInput): Promise<ScoreResult> {
  const { tokens, from, cache = "disk" } = input;
  const { runner, scheduler } = rooms;
  checkInput(tokens, from, Math.min(runner.shape.contextTokens, scheduler.capacityTokens));
  const wanted = { tokens, reusable: Math.min(from, tokens.length - 1), cache, restore: true };
  const { value, usage } = await onLoan(rooms, wanted, (loan) => scoreLent(rooms, loan, input));
  return { from, usage, ...value };
}

/** Tokens to be computed on lent blocks. */
export interface Wanted {
  tokens: readonly number[];
  /** How many of the first ones may come from the cache. */
  reusable: number;
  cache: CacheScope;
  /** Whether they are brought back from the lower tiers, or computed among the requests, before the loan. */
  restore: boolean;
}

/** What work on a loan is given: `done` notes how far the tokens are computed. */
export interface Loan {
  lease: Lease;
  state: SeatState | undefined;
  done(end: number): void;
}

/** Lends blocks for tokens, and a state; takes them back with what `work` has computed there. @throws as `scoreTokens` */
export async function onLoan<T>(
  rooms: ScoreRooms,
  { tokens, reusable: most, cache, restore }: Wanted,
  work: (loan: Loan) => Promise<T>,
): Promise<{ value: T; usage: PromptUsage }> {
  const { runner, scheduler } = rooms;
  const reusable = cache === "off" ? 0 : most;
  const isWarmed = restore && reusable >= runner.options.blockTokens;
  const before = isWarmed ? await rooms.warm(tokens.slice(0, reusable), cache) : undefined;
  await rooms.makeRoom(scheduler.missingToLend(tokens, reusable));
  const lease = scheduler.borrow(tokens, reusable, cache);
  const good = rooms.allGood(); // the steps whose blocks may be lent
  let done = lease.tokens;
  try {
    const loan = scheduler.loanState(lease);
    if (loan?.copyBlock) runner.copyBlock(loan.copyBlock);
    const value = await work({ lease, state: loan?.state, done: (end) => (done = end) });
    if (!(await good)) done = 0;
    if (done === 0 || lease.released) throw voided();
    const cachedTokens = before?.cachedTokens ?? { gpu: lease.tokens, ram: 0, disk: 0 };
    const cached = Object.values(cachedTokens).reduce((sum, tokens) => sum + tokens, 0);
    const usage = { promptTokens: tokens.length, computedTokens: tokens.length - cached, cachedTokens };
    return { value, usage };
  } finally {
    scheduler.giveBack(lease, done);
  }
}

function checkInput(tokens: readonly number[], from: number, limit: number): void {
  if (tokens.length === 0) throw new TidepoolError("invalid_argument", "score needs at least one token");
  if (tokens.length > limit) {
    throw new TidepoolError("too_long", `${tokens.length} tokens are over the limit of ${limit}`, { limit });
  }
  if (!Number.isInteger(from) || from < 0 || from >= tokens.length) {
    throw new TidepoolError("invalid_argument", `from is ${from}, expected 0 to ${tokens.length - 1}`);
  }
}

async function scoreLent(
  rooms: ScoreRooms,
  loan: Loan,
  { tokens, from, wantLogits }: ScoreInput,
): Promise<Pick<ScoreResult, "logprobs" | "logits">> {
  const { runner } = rooms;
  const { vocabSize } = runner.shape;
  const logprobs: number[] = [];
  const kept = wantLogits ? new Float32Array((tokens.length - from) * vocabSize) : undefined;
  for (const chunk of chunksOf(rooms, loan, tokens, runner.scoreRows)) {
    const { position: start, tokens: part } = chunk;
    const firstRow = Math.min(Math.max(from - start, 0), part.length);
    const step = { ...chunk, firstRow };
    const logits = await guarded(runner.gpu.device, "to score", () => runner.score(step));
    for (let row = firstRow; row < part.length; row++) {
      const values = logits.subarray((row - firstRow) * vocabSize, (row - firstRow + 1) * vocabSize);
      if (!values.every(isUsable)) throw notFinite(start + row);
      kept?.set(values, (start + row - from) * vocabSize);
      const next = tokens[start + row + 1];
      if (next !== undefined) logprobs.push(logprobOf(values, next));
    }
    loan.done(start + part.length);
  }
  return { logprobs, ...(kept && { logits: kept }) };
}

/** A part of a prompt that a step computes. */
export type Chunk = Omit<ScoreStep, "firstRow">;

/** The tokens of a loan that are still to be computed, in steps of at most `rows`. */
export function* chunksOf(
  rooms: ScoreRooms,
  { lease, state: seatState }: Loan,
  tokens: readonly number[],
  rows: number,
): Generator<Chunk> {
  for (let start = lease.tokens; start < tokens.length; start += rows) {
    rooms.checkOpen();
    if (lease.released) throw voided();
    const part = tokens.slice(start, start + rows);
    const state = seatState?.step(start + part.length);
    yield { slots: lease.table, position: start, tokens: part, ...(state && { state }) };
  }
}

/** A logit may be minus infinity: that token is never drawn. */
function isUsable(logit: number): boolean {
  return logit < Infinity;
}

function voided(): TidepoolError {
  return new TidepoolError("gpu_failed", "a step that computed a part of the scored tokens failed");
}

/** log softmax(values)[token], in float64. */
function logprobOf(values: Float32Array, token: number): number {
  let max = -Infinity;
  for (const value of values) if (value > max) max = value;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return (values[token] as number) - max - Math.log(sum);
}
