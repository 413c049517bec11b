/**
 * Chooses, from combinations of settings, a few that still hold every pair of settings: most faults need one setting or two
 * together. The combinations are given as a list, so that some may be missing (a type that needs a feature). The choice
 * is greedy: always the same for the same list, and not always the smallest. It knows no test case.
 */

/** The setting of each dimension; all combinations of a list have the same dimensions. */
export type Combination = readonly (string | number | boolean)[];

/** How many settings together: of two dimensions, or each alone. */
export type Strength = 2 | 1;

/**
 * The indices, in ascending order, of combinations in which every pair of settings of two dimensions occurs that occurs
 * in any of them; with strength 1, every setting. Of combinations that add equally many it takes the one whose pairs
 * were taken least so far.
 */
export function coveringPairs(combinations: readonly Combination[], strength: Strength = 2): number[] {
  const partsOf = combinations.map((settings) => partsIn(settings, strength));
  const taken = new Map<string, number>();
  const chosen: number[] = [];
  const partCount = new Set(partsOf.flat()).size;
  while (taken.size < partCount) {
    const best = bestOf(partsOf, taken);
    for (const part of partsOf[best] ?? []) taken.set(part, (taken.get(part) ?? 0) + 1);
    chosen.push(best);
  }
  return chosen.sort((a, b) => a - b);
}

/** Every two settings with their dimensions, or each alone; of a single dimension always the setting alone. */
function partsIn(settings: Combination, strength: Strength): string[] {
  if (strength === 1 || settings.length === 1)
    return settings.map((setting, dimension) => JSON.stringify([dimension, setting]));
  return settings.flatMap((first, a) =>
    settings.slice(a + 1).map((second, b) => JSON.stringify([a, first, a + 1 + b, second])),
  );
}

/** The index of the combination that adds most; the first of equals. */
function bestOf(partsOf: readonly (readonly string[])[], taken: ReadonlyMap<string, number>): number {
  let best = { index: -1, fresh: 0, used: 0 };
  for (const [index, parts] of partsOf.entries()) {
    const fresh = parts.filter((part) => !taken.has(part)).length;
    const used = parts.reduce((sum, part) => sum + (taken.get(part) ?? 0), 0);
    if (fresh > best.fresh || (fresh === best.fresh && fresh > 0 && used < best.used))
      best = { index, fresh, used };
  }
  return best.index;
}
