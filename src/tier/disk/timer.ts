/** Time limits for calls that may never answer. The timer is handed in, so that tests need not wait. */
import type { Timer } from "../../base.ts";
import { MediumError, type StepSource } from "./backend.ts";

export { systemTimer, type Timer } from "../../base.ts";

/** A call that makes progress is waited for up to this many time limits: five minutes, as the limit is ten seconds. */
export const MAX_LIMITS_WITH_PROGRESS = 30;

/**
 * The promise's result, or MediumError "hung" after `ms` without progress: the time in which the work stood in a queue
 * behind other work that went on does not count. A late result is dropped.
 */
export function within<T>(
  timer: Timer,
  ms: number,
  label: string,
  promise: Promise<T>,
  progress?: StepSource,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const ends: (() => void)[] = [];
    let disarm = (): void => undefined;
    const end = (): void => {
      disarm();
      for (const each of ends) each();
    };
    const hung = (why: string) => (): void => {
      end();
      reject(new MediumError("hung", `${label}: ${why}`));
    };
    const arm = (): void => {
      disarm();
      disarm = timer.after(ms, hung(`no answer in ${ms} ms`));
    };
    arm();
    if (progress) {
      const maxMs = MAX_LIMITS_WITH_PROGRESS * ms;
      ends.push(progress.on(arm), timer.after(maxMs, hung(`at work, but not done in ${maxMs} ms`)));
    }
    promise.then(resolve, reject).finally(end).catch(reject);
  });
}
