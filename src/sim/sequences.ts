/**
 * The sequences of a trace's requests as arrays that never change, made once and shared by all replays of the trace. A
 * turn that only adds to an earlier one shares its numbers: both are views of one array. It knows no cache.
 */
import type { Trace, TraceRequest } from "./trace.ts";
import { sequenceOf } from "./trace.ts";

/** Symbols that are kept for one trace (64 MB); a trace with more makes each sequence anew whenever it is asked for. */
const maxKeptSymbols = 1 << 24;

export interface Sequences {
  /** Whether the same arrays come again, so that they may be kept without copies. */
  readonly isKept: boolean;
  /** Input and output of request `i`. */
  at(i: number): Int32Array;
}

const known = new WeakMap<Trace, Sequences>();

export function sequencesOf(trace: Trace): Sequences {
  const sequences = known.get(trace) ?? makeSequences(trace.requests);
  known.set(trace, sequences);
  return sequences;
}

function makeSequences(requests: readonly TraceRequest[]): Sequences {
  const before = requests.map(() => -1);
  const isContinued = requests.map(() => false);
  const endingWith = new Map<Int32Array, number>();
  requests.forEach(({ pieces }, i) => {
    before[i] = turnBefore(requests, endingWith, pieces);
    if (before[i] >= 0) isContinued[before[i]] = true;
    const last = pieces.at(-1);
    if (last !== undefined && last.length > 0) endingWith.set(last, i);
  });
  const own = requests.filter((_, i) => !isContinued[i]);
  const symbols = own.reduce((sum, request) => sum + lengthOf(request.pieces), 0);
  if (symbols > maxKeptSymbols) return { isKept: false, at: (i) => sequenceOf(requests[i]!) };
  const made = new Array<Int32Array>(requests.length);
  for (let i = requests.length - 1; i >= 0; i--) {
    made[i] ??= sequenceOf(requests[i]!);
    const earlier = before[i]!;
    if (earlier >= 0) made[earlier] ??= made[i]!.subarray(0, lengthOf(requests[earlier]!.pieces));
  }
  return { isKept: true, at: (i) => made[i]! };
}

/** The latest request whose pieces are the first of `pieces`; -1 where there is none. */
function turnBefore(
  requests: readonly TraceRequest[],
  endingWith: ReadonlyMap<Int32Array, number>,
  pieces: readonly Int32Array[],
): number {
  for (let at = pieces.length - 2; at >= 0; at--) {
    const earlier = endingWith.get(pieces[at]!);
    if (earlier === undefined) continue;
    const theirs = requests[earlier]!.pieces;
    if (theirs.length === at + 1 && theirs.every((piece, k) => piece === pieces[k])) return earlier;
  }
  return -1;
}

function lengthOf(pieces: readonly Int32Array[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}
