/**
 * Starts the text worker from inside the engine's worker. Apart from client.ts, so that tests may start another. All
 * platforms start the same built file, which bundlers find by the expression `new Worker(new URL(...))` in both places.
 */
import { background, RUNTIME } from "../../base.ts";
import { startWebWorker } from "../../platform/spawn.ts";
import type { TextPort } from "./client.ts";
import type { FromText } from "./messages.ts";

/**
 * What a text worker's JavaScript may hold in Node, MiB: the tokenizer of the largest vocabulary takes a quarter. Browsers and
 * Deno let nobody set this; there the bounds of the template's interpreter and the deadline must do.
 */
const MAX_HEAP_MIB = 2048;

/** @throws where there are no workers in workers. */
export function startTextWorker(): TextPort {
  return RUNTIME === "node" ? startThread() : startWeb();
}

function startWeb(): TextPort {
  if (typeof Worker === "undefined") throw new Error("this platform has no workers inside workers");
  const worker = startWebWorker(
    () => new Worker(new URL("./text-worker.ts", import.meta.url), { type: "module", name: "tidepool-text" }),
  );
  return {
    post: (message) => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.onmessage = (event: MessageEvent<FromText>) => onMessage(event.data);
      worker.onerror = (event) => {
        event.preventDefault();
        onDeath(event.message || "it could not be started");
      };
    },
    terminate: () => worker.terminate(),
  };
}

function startThread(): TextPort {
  const { Worker } = process.getBuiltinModule("node:worker_threads");
  const thread = new Worker(new URL("./text-worker.ts", import.meta.url), {
    name: "tidepool-text",
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
  });
  return {
    post: (message) => thread.postMessage(message),
    listen(onMessage, onDeath) {
      thread.removeAllListeners();
      thread.on("message", onMessage);
      thread.on("error", (error) => onDeath(error instanceof Error ? error.message : String(error)));
      thread.on("exit", (code) => onDeath(`it ended with code ${code}`));
    },
    terminate() {
      thread.removeAllListeners();
      // An error event without a listener would be an uncaught exception.
      thread.on("error", () => {});
      background(thread.terminate(), "text worker");
    },
  };
}
