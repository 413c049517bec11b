/** Time limits for calls that may never answer. The timer is handed in, so that tests need not wait. */
import type { Timer } from "../base.ts";
import { MediumError } from "./backend.ts";

export { systemTimer, type Timer } from "../base.ts";

/** The promise's result, or MediumError "hung" after `ms`. A late result is dropped. */
export function within<T>(timer: Timer, ms: number, label: string, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const hung = (): void => reject(new MediumError("hung", `${label}: no answer in ${ms} ms`));
    const cancel = timer.after(ms, hung);
    promise.then(resolve, reject).finally(cancel).catch(reject);
  });
}
