/**
 * Runs the jobs of the test run, some at a time, the longest first, so that every core has work until the end. It knows
 * no step.
 */

export interface Job<T> {
  /** About how long it takes on a quiet machine; only the order depends on it. */
  seconds: number;
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
  const waiting = [...jobs].sort((a, b) => b.seconds - a.seconds);
  const running = new Map<Job<T>, Promise<void>>();
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
    for (let job; running.size < slots && (job = waiting.shift()) !== undefined;)
      running.set(job, start(job));
    if (running.size === 0) return;
    await Promise.race(running.values());
  }
  await Promise.all(running.values());
  throw errors[0];
}
