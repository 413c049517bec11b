/** The order of the jobs of the test run. */
import { expect, test } from "vitest";
import { runJobs, type Job } from "../runtime/schedule.ts";

/** Jobs that take `seconds` turns of the event loop; what ran beside what is written down. */
function recorder() {
  const running = new Set<string>();
  const started: string[] = [];
  const beside = new Map<string, Set<string>>();
  const job = (name: string, seconds: number): Job<string> => ({
    seconds,
    async run() {
      started.push(name);
      running.add(name);
      for (let turn = 0; turn < seconds; turn++) {
        for (const one of running) beside.set(one, new Set([...(beside.get(one) ?? []), ...running]));
        await new Promise((resolve) => setImmediate(resolve));
      }
      running.delete(name);
      return name;
    },
  });
  return { job, started, beside };
}

test("the longest come first, and no more run at a time than there are slots", async () => {
  const { job, started, beside } = recorder();
  const jobs = [job("c", 3), job("a", 20), job("d", 2), job("b", 10)];
  const done: string[] = [];
  await runJobs(jobs, 2, (name) => done.push(name));
  expect(started).toEqual(["a", "b", "c", "d"]);
  expect(done).toEqual(["b", "c", "d", "a"]);
  for (const name of ["b", "c", "d"]) expect([...(beside.get(name) ?? [])].sort()).toEqual(["a", name]);
});

test("a job starts behind those that it needs, which come early for its sake", async () => {
  const { job, started, beside } = recorder();
  const [build, other] = [job("build", 2), job("other", 5)];
  const jobs = [other, job("long", 9), { ...job("tests", 12), after: [build, other] }, build];
  await runJobs(jobs, 2, () => {});
  expect(started).toEqual(["other", "build", "long", "tests"]);
  for (const name of ["build", "other"]) expect(beside.get("tests")?.has(name)).toBe(false);
});

test("an error ends the run after what was running has ended", async () => {
  const { job, started } = recorder();
  const broken = { seconds: 9, run: () => Promise.reject(new Error("broken")) };
  const done: string[] = [];
  const run = runJobs([job("a", 10), broken, job("b", 1)], 2, (name) => done.push(name));
  await expect(run).rejects.toThrow("broken");
  expect([started, done]).toEqual([["a"], ["a"]]);
});
