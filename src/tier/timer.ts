/** Time limits for calls that may never answer. The timer is handed in, so that tests need not wait. */
import { MediumError } from "./backend.ts";

export interface Timer {
  /** Calls `run` once after `ms` milliseconds; the returned function calls it off. */
  after(ms: number, run: () => void): () => void;
}

export const systemTimer: Timer = {
  after(ms, run) {
    const handle = setTimeout(run, ms);
    return () => clearTimeout(handle);
  },
};

/** The promise's result, or MediumError "hung" after `ms`. A late result is dropped. */
export function within<T>(timer: Timer, ms: number, label: string, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const hung = (): void => reject(new MediumError("hung", `${label}: no answer in ${ms} ms`));
    const cancel = timer.after(ms, hung);
    promise.then(resolve, reject).finally(cancel).catch(reject);
  });
}
