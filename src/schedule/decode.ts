/**
 * The running set: which requests take part in the next decode step, and with how many drafts. Interactive ones come first, the
 * oldest of them before all others, so that it always finds the blocks that it needs; who gives way is queue/pre-emption.ts's business.
 */
import type { Request } from "./request.ts";

/** Guesses at the tokens behind a request's next one, to be checked in the same step. */
export interface Drafter {
  /** Drafts of one request in a step, at most. */
  most: number;
  /** Tokens that may follow those of the request, at most `most` of them; none if there is no guess. */
  propose(request: Request, most: number): readonly number[];
}

export interface DecodeOptions {
  blockTokens: number;
  /** Requests in a step, and tokens of all of them together, at most. */
  maxRequests: number;
  maxTokens: number;
  drafter?: Drafter | undefined;
  /** Gives a request one more block, if need be at the cost of `others`; false: it had to give way itself. */
  addBlock(request: Request, others: readonly Request[]): boolean;
  /** The same from free blocks alone: nothing gives way to a guess. */
  addSpareBlock(request: Request): boolean;
}

/** A request's part in a decode step: its next token, then the drafts. */
export interface DecodeRow {
  request: Request;
  drafts: readonly number[];
}

/** The requests of the next decode step, in the order in which they get blocks. */
export function decodeRows(running: readonly Request[], options: DecodeOptions): DecodeRow[] {
  const rows: DecodeRow[] = [];
  const candidates = interactiveFirst(running).filter((request) => mayRun(request, options));
  let room = options.maxTokens - Math.min(candidates.length, options.maxRequests);
  while (candidates.length > 0 && rows.length < options.maxRequests) {
    const request = candidates.shift() as Request;
    if (request.status !== "decoding" || !fits(request, candidates, options)) continue;
    const drafts = draftsFor(request, room, options);
    room -= drafts.length;
    rows.push({ request, drafts });
  }
  return rows;
}

/** With drafts a step can only be planned when it is known how many tokens the one before has brought. */
function mayRun(request: Request, { drafter }: DecodeOptions): boolean {
  return request.wantsMore && (!drafter || request.pending === 0);
}

/** Whether it has, or gets, a block for its next token. */
function fits(request: Request, younger: readonly Request[], options: DecodeOptions): boolean {
  while (roomOf(request, options) < 1) {
    const others = younger.filter(({ status }) => status === "decoding");
    if (!options.addBlock(request, others)) return false;
  }
  return true;
}

function interactiveFirst(running: readonly Request[]): readonly Request[] {
  if (!running.some(({ priority }) => priority === "background")) return running;
  const of = (wanted: Request["priority"]): Request[] =>
    running.filter(({ priority }) => priority === wanted);
  return [...of("interactive"), ...of("background")];
}

function draftsFor(request: Request, room: number, options: DecodeOptions): readonly number[] {
  const { drafter } = options;
  if (!drafter) return NO_DRAFTS;
  const wanted = request.maxNewTokens - request.generatedCount - 1;
  const most = Math.max(0, Math.min(drafter.most, room, wanted));
  const drafts = most > 0 ? drafter.propose(request, most).slice(0, most) : NO_DRAFTS;
  while (roomOf(request, options) < 1 + drafts.length && options.addSpareBlock(request));
  return drafts.slice(0, roomOf(request, options) - 1);
}

/** Positions behind what has been computed for which the request has blocks. */
function roomOf(request: Request, { blockTokens }: DecodeOptions): number {
  return request.slots.length * blockTokens - request.computed;
}

const NO_DRAFTS: readonly number[] = [];
