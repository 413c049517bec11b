/** For promises that nobody awaits, such as those of event handlers: the page's console hears of a failure. */
export function background(promise: Promise<unknown>): void {
  promise.catch((error: unknown) => reportError(error));
}
