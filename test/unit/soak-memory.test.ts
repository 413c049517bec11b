import { describe, expect, test } from "vitest";
import { allowedMiB, growthOf, growthProblem, LEAST_POINTS } from "../support/soak-memory.ts";
import type { MemoryPoint } from "../support/soak-memory.ts";

/** Points of `count` engines, by what a point differs in from 300 MiB, 20 threads, 30 files. */
const points = (count: number, at: (engine: number) => Partial<MemoryPoint>): MemoryPoint[] =>
  Array.from({ length: count }, (_, engine) => ({
    ...{ rssMiB: 300, heapMiB: 5, threads: 20, files: 30 },
    ...at(engine),
  }));

const problem = (list: MemoryPoint[]): string | undefined => growthProblem(growthOf(list));

describe("the memory of a soak", () => {
  for (const count of [LEAST_POINTS, 12, 200]) {
    test(`is flat over ${count} engines whatever the first third was, with single points that stick out`, () => {
      const warm = (engine: number): Partial<MemoryPoint> => {
        if (engine < Math.floor(count / 3)) return { rssMiB: 100 + engine };
        return { rssMiB: engine % 3 === 0 && engine < count - 2 ? 330 : 300 + (engine % 5) };
      };
      expect(problem(points(count, warm))).toBeUndefined();
    });

    test(`is not if ${count} engines leave behind what adds up to more than the bound`, () => {
      const each = (1.5 * allowedMiB(count)) / Math.floor(count / 3);
      expect(problem(points(count, (engine) => ({ rssMiB: 300 + each * engine })))).toContain(
        "the process grew",
      );
    });

    test(`is not if each of ${count} engines leaves a thread or a file`, () => {
      expect(problem(points(count, (engine) => ({ threads: 20 + engine })))).toContain("threads");
      expect(problem(points(count, (engine) => ({ files: 30 + engine })))).toContain("files");
    });
  }

  test("is not judged by fewer engines", () => {
    expect(problem(points(LEAST_POINTS - 1, () => ({})))).toContain(`expected ${LEAST_POINTS}`);
  });

  test("is judged where the system tells nothing of threads and files", () => {
    const unknown = { threads: undefined, files: undefined };
    expect(problem(points(9, () => unknown))).toBeUndefined();
    expect(problem(points(9, (engine) => ({ ...unknown, rssMiB: 50 * engine })))).toContain(
      "the process grew",
    );
  });
});
