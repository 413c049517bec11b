/**
 * Chooses, from combinations of settings, a few that still hold every pair of settings: most faults need one setting or two
 * together. The combinations are given as a list, so that some may be missing (a type that needs a feature). The choice
 * is greedy: always the same for the same list, and not always the smallest. It knows no test case.
 */

/** The setting of each dimension; all combinations of a list have the same dimensions. */
export type Combination = readonly (string | number | boolean)[];

/**
 * The indices, in ascending order, of combinations in which every pair of settings of two dimensions occurs that occurs
 * in any of them. Of combinations that add equally many pairs it takes the one whose pairs were taken least so far.
 */
export function coveringPairs(combinations: readonly Combination[]): number[] {
  const pairsOf = combinations.map(pairsIn);
  const taken = new Map<string, number>();
  const chosen: number[] = [];
  const pairCount = new Set(pairsOf.flat()).size;
  while (taken.size < pairCount) {
    const best = bestOf(pairsOf, taken);
    for (const pair of pairsOf[best] ?? []) taken.set(pair, (taken.get(pair) ?? 0) + 1);
    chosen.push(best);
  }
  return chosen.sort((a, b) => a - b);
}

/** Every two settings with their dimensions; of a single dimension, the setting alone. */
export function pairsIn(settings: Combination): string[] {
  if (settings.length === 1) return [JSON.stringify(settings)];
  return settings.flatMap((first, a) =>
    settings.slice(a + 1).map((second, b) => JSON.stringify([a, first, a + 1 + b, second])),
  );
}

/** The index of the combination that adds most; the first of equals. */
function bestOf(pairsOf: readonly (readonly string[])[], taken: ReadonlyMap<string, number>): number {
  let best = { index: -1, fresh: 0, used: 0 };
  for (const [index, pairs] of pairsOf.entries()) {
    const fresh = pairs.filter((pair) => !taken.has(pair)).length;
    const used = pairs.reduce((sum, pair) => sum + (taken.get(pair) ?? 0), 0);
    if (fresh > best.fresh || (fresh === best.fresh && fresh > 0 && used < best.used))
      best = { index, fresh, used };
  }
  return best.index;
}
