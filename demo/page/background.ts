/** Logs the failure of promises that nobody awaits, such as those of event handlers, to the page's console. */
export function background(promise: Promise<unknown>): void {
  promise.catch((error: unknown) => reportError(error));
}
