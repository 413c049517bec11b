/**
 * The inside of a worker as a port, the same in browsers, Deno and Node: what spawn.ts is on the outside. It knows nothing of
 * what is said.
 */
export interface Scope<In, Out> {
  post(message: Out, transfer?: ArrayBuffer[]): void;
  /** Says who hears; once. */
  listen(onMessage: (message: In) => void): void;
}

/** What is used of a dedicated worker's global scope. */
interface WorkerSelf<In, Out> {
  postMessage(message: Out, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent<In>) => void) | null;
}

/** The message port of whichever worker this is. */
export function workerScope<In, Out>(): Scope<In, Out> {
  // Not by RUNTIME: the same built file may be a browser's worker and Node's thread.
  if ("postMessage" in globalThis) {
    const self = globalThis as unknown as WorkerSelf<In, Out>;
    return {
      post: (message, transfer = []) => self.postMessage(message, transfer),
      listen: (onMessage) => (self.onmessage = (event) => onMessage(event.data)),
    };
  }
  const { parentPort } = process.getBuiltinModule("node:worker_threads");
  if (!parentPort) return processScope();
  return {
    post: (message, transfer = []) => parentPort.postMessage(message, transfer),
    listen: (onMessage) => parentPort.on("message", onMessage),
  };
}

/** In a process of its own, which a thread has started. */
function processScope<In, Out>(): Scope<In, Out> {
  if (!process.send)
    throw new Error("this file runs as a worker thread, or as a process that is sent messages");
  return {
    post: (message) => void (process.connected && process.send?.(message)),
    listen: (onMessage) => process.on("message", (message) => onMessage(message as In)),
  };
}
