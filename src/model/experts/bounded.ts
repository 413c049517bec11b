/**
 * What a layer's router chose, and what of it a step may compute with low-bit copies: an expert that is not there, if none of the
 * step's rows has it among its important choices (shaders/unimportant.wgsl). It knows no device.
 */
import type { ExpertUse } from "../../cache/experts/entry.ts";

/** By choice: the expert, its weight, and the expert once more where it is unimportant. */
export interface LayerChoices {
  experts: Uint32Array;
  weights: Float32Array;
  /** undefined: all are important. */
  unimportant: Uint32Array | undefined;
}

/** Choices (uses of an expert by a token) and the sums of their weights: all, and those that were computed with copies. */
export interface CopyUse {
  choices: number;
  choicesLow: number;
  weight: number;
  weightLow: number;
}

/** Experts of a layer that run as they are, and those that copies stand for. */
export interface SplitUses {
  uses: ExpertUse[];
  low: ExpertUse[];
}

export function splitUses(
  { experts, weights, unimportant }: LayerChoices,
  isThere: (expert: number) => boolean,
): SplitUses {
  const all = usesOf(experts, weights);
  if (!unimportant) return { uses: all, low: [] };
  const important = new Set(experts.filter((expert, choice) => unimportant[choice] !== expert));
  const isLow = ({ expert }: ExpertUse) => !important.has(expert) && !isThere(expert);
  return { uses: all.filter((use) => !isLow(use)), low: all.filter(isLow) };
}

export function countUses(count: CopyUse, { uses, low }: SplitUses): void {
  for (const { tokens, weight } of [...uses, ...low]) {
    count.choices += tokens;
    count.weight += weight;
  }
  for (const { tokens, weight } of low) {
    count.choicesLow += tokens;
    count.weightLow += weight;
  }
}

/** The experts of a layer's choices, each once. */
export function usesOf(choices: Uint32Array, weights: Float32Array): ExpertUse[] {
  const uses = new Map<number, ExpertUse>();
  for (const [at, expert] of choices.entries()) {
    const use = uses.get(expert) ?? { expert, tokens: 0, weight: 0 };
    use.tokens++;
    use.weight += weights[at] as number;
    uses.set(expert, use);
  }
  return [...uses.values()];
}
