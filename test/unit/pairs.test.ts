/** The choice of combinations that hold every pair of settings, and of GPU cases by it, against all pairs one by one. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { allCases } from "../runtime/cases.ts";
import { chooseCases, type Case } from "../support/cases.ts";
import { coveringPairs, type Combination } from "../support/pairs.ts";
import { testSeed } from "../support/seed.ts";
import { PREFIXES } from "../support/setup.ts";

/** Every combination of the settings of each dimension. */
const product = (dimensions: readonly Combination[]): Combination[] =>
  dimensions.reduce<Combination[]>(
    (all, settings) => all.flatMap((given) => settings.map((setting) => [...given, setting])),
    [[]],
  );

const holds = (
  list: readonly Combination[],
  a: number,
  first: unknown,
  b: number,
  second: unknown,
): boolean => list.some((one) => one[a] === first && one[b] === second);

/** Pairs of settings that occur in `all` and not in `chosen`, by trying each two dimensions of each combination. */
function missing(all: readonly Combination[], chosen: readonly Combination[]): string[] {
  const found: string[] = [];
  for (const one of all)
    for (let a = 0; a < one.length; a++)
      for (let b = a + 1; b < one.length; b++)
        if (!holds(chosen, a, one[a], b, one[b])) found.push(`${a}=${one[a]} ${b}=${one[b]}`);
  return found;
}

const chosenOf = (all: readonly Combination[]): Combination[] =>
  coveringPairs(all).map((index) => all[index] as Combination);

const flags = [false, true];
const shapes = ["a", "b", "c", "d", "e", "f", "g"];

test("every GPU case has a name of its own", () => {
  const names = allCases.map(({ name }) => name);
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
});

test("what a runtime leaves to another, and keeps all the same, names cases of the normal run", () => {
  const names = allCases.filter(({ full }) => !full).map(({ name }) => name);
  expect(PREFIXES.filter((prefix) => !names.some((name) => name.startsWith(prefix)))).toEqual([]);
});

describe("the combinations chosen", () => {
  test.each([
    { dimensions: [shapes, flags, flags], count: 14 },
    { dimensions: [shapes, flags, flags, flags], count: 14 },
    { dimensions: [flags, flags, flags], count: 4 },
    { dimensions: [flags, flags], count: 4 },
    {
      dimensions: [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
      ],
      count: 12,
    },
    { dimensions: [shapes], count: 7 },
    { dimensions: [["one"], flags, flags], count: 4 },
  ])("hold every pair: at most $count of $dimensions", ({ dimensions, count }) => {
    const all = product(dimensions);
    const chosen = chosenOf(all);
    expect(missing(all, chosen)).toEqual([]);
    expect(chosen.length).toBeLessThanOrEqual(count);
    expect(new Set(coveringPairs(all)).size).toBe(chosen.length);
  });

  test("hold every pair of any list, holes and all, and no more than there are", () => {
    const random = new Random(testSeed("pairs"));
    for (let round = 0; round < 200; round++) {
      const dimensions = Array.from({ length: 2 + random.below(3) }, () =>
        Array.from({ length: 1 + random.below(5) }, (_, setting) => setting),
      );
      const whole = product(dimensions);
      const all = whole.filter(() => random.below(4) > 0);
      const chosen = chosenOf(all);
      expect(missing(all, chosen)).toEqual([]);
      expect(chosen.length).toBeLessThanOrEqual(all.length);
    }
  });

  test("are none of none", () => expect(coveringPairs([])).toEqual([]));

  test("take each setting of two equally often where that is possible", () => {
    const chosen = chosenOf(product([shapes, flags, flags]));
    for (const dimension of [1, 2])
      expect(chosen.filter((one) => one[dimension] === true)).toHaveLength(shapes.length);
    const both = chosen.filter(([, first, second]) => first === true && second === true);
    expect(both.length).toBeGreaterThanOrEqual(3);
    expect(both.length).toBeLessThanOrEqual(4);
  });

  test("are the same each time", () => {
    const all = product([shapes, flags, flags, [1, 2, 3]]);
    expect(coveringPairs(all)).toEqual(coveringPairs(all.map((one) => [...one])));
  });
});

describe.each([
  { f16: true, subgroups: true },
  { f16: false, subgroups: true },
  { f16: true, subgroups: false },
  { f16: false, subgroups: false },
])("the GPU cases of a normal run, f16 $f16, subgroups $subgroups", (features) => {
  const [full, normal] = [true, false].map((full) => chooseCases(allCases, features, { full })) as [
    Case[],
    Case[],
  ];
  const settingsIn = (cases: readonly Case[], group: string): Combination[] =>
    cases.flatMap(({ varied, full: onlyFull }) =>
      varied?.group === group && !onlyFull ? [varied.settings] : [],
    );

  test("hold every pair of settings that the full run has", () => {
    const groups = new Set(full.flatMap(({ varied }) => (varied ? [varied.group] : [])));
    expect(groups.size).toBeGreaterThan(10);
    for (const group of groups)
      expect(missing(settingsIn(full, group), settingsIn(normal, group)), group).toEqual([]);
  });

  test("hold every setting where another runtime holds the pairs", () => {
    const thin = chooseCases(allCases, features, { cover: "settings" });
    expect(thin.length).toBeLessThan(normal.length);
    for (const group of new Set(thin.map(({ varied }) => varied?.group ?? ""))) {
      const [all, some] = [settingsIn(full, group), settingsIn(thin, group)];
      const lost = all.flatMap((one) =>
        one.filter((setting, dimension) => !some.some((other) => other[dimension] === setting)),
      );
      expect(lost, group).toEqual([]);
    }
  });

  test("are shared out between a runtime with every setting and one with the rest", () => {
    const shared = (["settings", "rest"] as const).flatMap((cover) =>
      chooseCases(allCases, features, { cover }).filter(({ varied }) => varied),
    );
    const names = shared.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(normal.filter((one) => one.varied && !shared.includes(one))).toEqual([]);
  });

  test("are dealt out to processes so that each runs once", () => {
    const parts = [0, 1, 2].map((index) => chooseCases(allCases, features, { part: { index, of: 3 } }));
    const names = (cases: readonly Case[]) => cases.map(({ name }) => name).sort();
    expect(names(parts.flat())).toEqual(names(normal));
    for (const part of parts) expect(Math.abs(part.length - normal.length / 3)).toBeLessThan(1);
  });

  test("are among those of the full run, and every setting where some are asked for by name", () => {
    expect(normal.filter((one) => !full.includes(one))).toEqual([]);
    const filter = "kernel/attention/decode";
    const named = (cases: readonly Case[]) => cases.filter(({ name }) => name.includes(filter));
    expect(chooseCases(allCases, features, { filter })).toEqual(named(full).filter((one) => !one.full));
    const left = { without: ["kernel/", "model/"], keeping: [filter] };
    expect(chooseCases(allCases, features, left)).toEqual(named(normal));
  });
});
