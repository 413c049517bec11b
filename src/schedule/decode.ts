/**
 * The running set: which requests take part in the next decode step, and who gives way when blocks run short. The
 * latest to arrive gives way first, so that the oldest always moves on.
 */
import type { Request } from "./request.ts";
import type { StateSlots } from "./seat-state.ts";

/** A request's part in a decode step: the token at `position` is fed, the one after it is sampled. */
export interface DecodeRow {
  request: Request;
  position: number;
  /** The request's when the plan was made, as in a prefill plan. */
  epoch: number;
  /** Where its recurrent state is read and written, in models that have one. */
  state?: StateSlots;
}

/** Gives a request one more block; false where none can be had. */
export type AddBlock = (request: Request) => boolean;

/**
 * The rows of the next decode step, oldest request first. Where a row needs a block and none is free, the youngest
 * running request is handed to `preempt`, which frees its blocks.
 */
export function decodeRows(
  running: readonly Request[],
  blockTokens: number,
  maxRows: number,
  addBlock: AddBlock,
  preempt: (request: Request) => void,
): DecodeRow[] {
  const rows: DecodeRow[] = [];
  const candidates = running.filter((request) => request.wantsMore);
  while (candidates.length > 0 && rows.length < maxRows) {
    const request = candidates.shift() as Request;
    const row = fitRow(request, candidates, blockTokens, addBlock, preempt);
    if (row) rows.push(row);
  }
  return rows;
}

function fitRow(
  request: Request,
  younger: Request[],
  blockTokens: number,
  addBlock: AddBlock,
  preempt: (request: Request) => void,
): DecodeRow | undefined {
  const position = request.computed;
  while (request.slots.length * blockTokens <= position) {
    if (addBlock(request)) continue;
    const victim = younger.pop() ?? request;
    preempt(victim);
    if (victim === request) return undefined;
  }
  return { request, position, epoch: request.epoch };
}
