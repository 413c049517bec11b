/**
 * A worker as a port that speaks the protocol, the same in browsers, Deno and Node. It knows how a worker is started
 * and ended on each platform, and nothing of what is said.
 */
import { fromWire, TidepoolError } from "../errors.ts";
import type { FromWorker, ToWorker } from "./protocol.ts";

export interface WorkerPort {
  post(message: ToWorker): void;
  /** Says who hears; replaces the listeners before. */
  listen(onMessage: (message: FromWorker) => void, onDeath: (error: TidepoolError) => void): void;
  terminate(): Promise<void>;
}

/** Starts the engine's worker. */
export async function startWorker(): Promise<WorkerPort> {
  const inNode =
    typeof process !== "undefined" && process.versions?.node !== undefined && !("Deno" in globalThis);
  return inNode ? startNodeWorker() : startWebWorker();
}

/** Asks one thing of a worker of its own, and ends it. @throws the worker's error. */
export async function askWorker(question: Extract<ToWorker, { type: "header" | "store" }>): Promise<unknown> {
  const port = await startWorker();
  try {
    return await new Promise((resolve, reject) => {
      port.listen((message) => {
        if (message.type === "header") resolve(message.value);
        else if (message.type === "failed") reject(fromWire(message.error));
      }, reject);
      port.post(question);
    });
  } finally {
    await port.terminate();
  }
}

function startWebWorker(): WorkerPort {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "tidepool" });
  return {
    post: (message) => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.onmessage = (event: MessageEvent<FromWorker>) => onMessage(event.data);
      worker.onerror = (event) => {
        event.preventDefault();
        onDeath(workerDied(event.message || "it could not be started"));
      };
    },
    terminate() {
      worker.terminate();
      return Promise.resolve();
    },
  };
}

async function startNodeWorker(): Promise<WorkerPort> {
  const { Worker: NodeWorker } = await import("node:worker_threads");
  const file = "./worker.js"; // beside this file in the built library
  const worker = new NodeWorker(new URL(file, import.meta.url), { name: "tidepool" });
  return {
    post: (message) => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.removeAllListeners();
      worker.on("message", onMessage);
      worker.on("error", (error) =>
        onDeath(workerDied(error instanceof Error ? error.message : String(error))),
      );
      worker.on("exit", (code) => onDeath(workerDied(`it ended with code ${code}`)));
    },
    async terminate() {
      worker.removeAllListeners();
      await worker.terminate();
    },
  };
}

function workerDied(why: string): TidepoolError {
  return new TidepoolError("closed", `the engine's worker died: ${why}`);
}
