/** Which experts of a step copies may stand for, and how that is counted and set. */
import { Command } from "commander";
import { expect, test } from "vitest";
import { engineOptions, withEngineOptions, type EngineFlags } from "../../src/api/engine-flags.ts";
import { countUses, splitUses, usesOf, type CopyUse } from "../../src/model/experts/bounded.ts";

/** Two rows of three choices; of the first row expert 2 matters little, of the second 2 and 5. 9: it matters. */
const CHOICES = {
  experts: Uint32Array.of(7, 5, 2, 7, 2, 5),
  weights: Float32Array.of(0.5, 0.25, 0.25, 0.75, 0.125, 0.125),
  unimportant: Uint32Array.of(9, 9, 2, 9, 2, 5),
};

const numbers = (uses: readonly { expert: number }[]) => uses.map(({ expert }) => expert);

test("copies stand for what is not there and matters little to every row that has it", () => {
  const split = splitUses(CHOICES, () => false);
  expect([numbers(split.uses), numbers(split.low)]).toEqual([[7, 5], [2]]);
  expect(split.low).toEqual([{ expert: 2, tokens: 2, weight: 0.375 }]);
});

test("what is there runs as it is, however little it matters", () => {
  const split = splitUses(CHOICES, (expert) => expert === 2);
  expect([numbers(split.uses), numbers(split.low)]).toEqual([[7, 5, 2], []]);
});

test("without copies everything matters", () => {
  const split = splitUses({ ...CHOICES, unimportant: undefined }, () => false);
  expect(split).toEqual({ uses: usesOf(CHOICES.experts, CHOICES.weights), low: [] });
});

test("shares are counted by choices and by weight", () => {
  const count: CopyUse = { choices: 0, choicesLow: 0, weight: 0, weightLow: 0 };
  for (let layer = 0; layer < 2; layer++)
    countUses(
      count,
      splitUses(CHOICES, () => false),
    );
  expect(count).toEqual({ choices: 12, choicesLow: 4, weight: 4, weightLow: 0.75 });
});

test("--experts names the mode, and refuses another", () => {
  const parsed = (...args: string[]) => {
    const command = withEngineOptions(new Command())
      .exitOverride()
      .configureOutput({ writeErr: () => {} });
    return engineOptions(command.parse(args, { from: "user" }).opts<EngineFlags>()).experts;
  };
  expect(parsed("--experts", "bounded")).toBe("bounded");
  expect(parsed()).toBeUndefined();
  expect(() => parsed("--experts", "rough")).toThrow(/exact, bounded/);
});
