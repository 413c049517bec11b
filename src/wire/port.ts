/**
 * A worker as a port that speaks the protocol, the same in browsers, Deno and Node. It starts it and
 * names its death; how a worker is started on each platform stands in spawn.ts.
 */
import { onAbort } from "../base.ts";
import { fromWire, TidepoolError } from "../errors.ts";
import { spawn } from "../platform/spawn.ts";
import type { FromWorker, LoadProgress, ModelSpec, ToWorker } from "./protocol.ts";

export interface WorkerPort {
  post(message: ToWorker): void;
  /** Says who hears; replaces the listeners before. */
  listen(onMessage: (message: FromWorker) => void, onDeath: (error: TidepoolError) => void): void;
  /** Node: whether the process lives on for the worker's sake; at first it does. */
  keepAlive(on: boolean): void;
  terminate(): Promise<void>;
}

/** Starts the engine's worker. @param model what it will be asked to open, if anything */
export function startWorker(model?: ModelSpec): WorkerPort {
  const worker = spawn<ToWorker, FromWorker>(
    () => new Worker(new URL("../worker/worker.ts", import.meta.url), { type: "module", name: "tidepool" }),
    { file: "./worker.js", here: import.meta.url as string | undefined }, // beside this file in the built library
    model !== undefined && typeof model !== "string",
  );
  return {
    ...worker,
    listen: (onMessage, onDeath) => worker.listen(onMessage, (why) => onDeath(workerDied(why))),
  };
}

export interface AskOptions {
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends what takes long: fetching and checking models. */
  signal?: AbortSignal | undefined;
}

/** Asks one thing of a worker of its own, and ends it. @throws the worker's error. */
export async function askWorker(
  question: Extract<ToWorker, { type: "header" | "store" | "models" }>,
  { onProgress, signal }: AskOptions = {},
): Promise<unknown> {
  const port = startWorker("model" in question ? question.model : undefined);
  let stopListening = (): void => {};
  try {
    return await new Promise((resolve, reject) => {
      port.listen((message) => {
        if (message.type === "header") resolve(message.value);
        else if (message.type === "progress") onProgress?.(message.progress);
        else if (message.type === "failed") reject(fromWire(message.error));
      }, reject);
      port.post(question);
      stopListening = onAbort(signal, () => port.post({ type: "close" }));
    });
  } finally {
    stopListening();
    await port.terminate();
  }
}

function workerDied(why: string): TidepoolError {
  return new TidepoolError("worker_died", `the engine's worker died: ${why}`);
}
