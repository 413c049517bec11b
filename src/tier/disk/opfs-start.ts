/** Starts the storage worker and gives its Backend. Apart from opfs.ts, so that the worker does not contain its own starter. */
import { startWebWorker } from "../../platform/spawn.ts";
import type { Backend } from "./backend.ts";
import type { OpfsSettings } from "./opfs-worker.ts";
import { RemoteBackend } from "./remote.ts";

/** A Backend on OPFS in a worker of its own; the worker ends with close(). Works on a page and in a worker. */
export function spawnOpfsBackend(settings: OpfsSettings): Backend {
  const worker = startWebWorker(
    () => new Worker(new URL("./opfs-worker.ts", import.meta.url), { type: "module" }),
  );
  const backend = new RemoteBackend("opfs", worker, () => worker.terminate());
  worker.addEventListener("error", (event) => backend.fail(`storage worker: ${event.message}`));
  worker.postMessage(settings);
  return backend;
}
