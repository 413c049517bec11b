/**
 * Runs the jobs of the test run, some at a time, the longest first with what waits for it, so that every core has work until
 * the end. It knows no step.
 */

export interface Job<T> {
  /** About how long it takes on a quiet machine; only the order depends on it. */
  seconds: number;
  /** Jobs of the same run that must have ended before. */
  after?: readonly Job<unknown>[];
  run(): Promise<T>;
}

/**
 * Runs all jobs, at most `slots` at a time.
 * @param done called with each result as it comes
 * @throws the first error, after the jobs that were running have ended
 */
export async function runJobs<T, About extends object = object>(
  jobs: readonly (Job<T> & About)[],
  slots: number,
  done: (result: T, job: Job<T> & About) => void,
): Promise<void> {
  const running = new Map<Job<unknown>, Promise<void>>();
  const waiting = [...jobs].sort((a, b) => untilEnd(b, jobs) - untilEnd(a, jobs));
  const next = (): (Job<T> & About) | undefined => {
    const isBehind = (job: Job<unknown>) => waiting.includes(job as Job<T> & About) || running.has(job);
    const index = waiting.findIndex(({ after = [] }) => !after.some(isBehind));
    return index < 0 ? undefined : waiting.splice(index, 1)[0];
  };
  const errors: unknown[] = [];
  const start = async (job: Job<T> & About): Promise<void> => {
    try {
      done(await job.run(), job);
    } catch (error) {
      errors.push(error);
    } finally {
      running.delete(job);
    }
  };
  while (errors.length === 0) {
    for (let job; running.size < slots && (job = next()) !== undefined;) running.set(job, start(job));
    if (running.size === 0) return;
    await Promise.race(running.values());
  }
  await Promise.all(running.values());
  throw errors[0];
}

/** How long a job and those that wait for it take, one after the other. */
function untilEnd(job: Job<unknown>, jobs: readonly Job<unknown>[]): number {
  const later = jobs.filter(({ after }) => after?.includes(job));
  return job.seconds + Math.max(0, ...later.map((one) => untilEnd(one, jobs)));
}
