/**
 * The tokens of a trace's requests where an engine must be driven with tokens. A token trace has them; in a block trace
 * each block's id stands for as many tokens of its own, also where the last block of a prompt is cut short, and what no
 * block covers is new. It keeps nothing: every call makes its array.
 */
import { assert } from "../base.ts";
import type { Trace } from "./trace.ts";
import { sequenceOf } from "./trace.ts";

/**
 * The number of tokens in a trace's prompts and answers.
 *
 * @example
 * ```ts
 * console.log(tokenCount(trace) > trace.requests.length); // true
 * ```
 */
export function tokenCount(trace: Trace): number {
  return trace.requests.reduce((sum, request) => sum + request.inputTokens + request.outputTokens, 0);
}

/**
 * The first `length` tokens of request `i`: its input, then its output. Equal arguments give equal tokens.
 *
 * @example
 * ```ts
 * console.log(tokensOf(trace, 0, trace.requests[0]!.inputTokens).length === trace.requests[0]!.inputTokens); // true
 * ```
 */
export function tokensOf(trace: Trace, i: number, length: number): Int32Array {
  const request = trace.requests[i]!;
  const symbols = sequenceOf(request);
  if (trace.symbolTokens === 1 && symbols.length >= length) return symbols.subarray(0, length);
  const { symbolTokens } = trace;
  const tokens = new Int32Array(length);
  for (let at = 0; at < length; at++) {
    const block = Math.floor(at / symbolTokens);
    const isCutOff = block < request.inputSymbols && at >= request.inputTokens;
    const known = isCutOff ? undefined : symbols[block];
    tokens[at] = known === undefined ? newToken(i, at) : known * symbolTokens + (at % symbolTokens);
  }
  assert(
    symbols.every((symbol) => symbol < 2 ** 31 / symbolTokens),
    "a block's tokens do not fit in 32 bits",
  );
  return tokens;
}

/** A token that hardly another request has at this place, and never a block's. */
function newToken(request: number, at: number): number {
  return -1 - ((Math.imul(request + 1, 0x9e3779b1) ^ Math.imul(at + 1, 0x85ebca6b)) >>> 1);
}
