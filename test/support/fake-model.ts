/** A model without numbers, for tests of the scheduler: the next token follows from all before it. It knows no plan. */

/** The end of an answer. */
export const STOP = 0;

/** Deterministic, and now and then the stop token. A token that is missing, which is a fault, changes what follows. */
export function nextToken(tokens: readonly (number | undefined)[]): number {
  let hash = tokens.length;
  for (const token of tokens) hash = (Math.imul(hash, 31) + (token ?? 99)) >>> 0;
  return hash % 23;
}

/** What a request generates if nobody else is there. */
export function alone(prompt: readonly number[], maxNewTokens: number): number[] {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + maxNewTokens) {
    const next = nextToken(tokens);
    if (next === STOP) break;
    tokens.push(next);
  }
  return tokens.slice(prompt.length);
}
