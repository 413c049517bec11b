/**
 * The end of a worker in Node before its time: the host's process ends, or the thread that has the engine, or something was
 * thrown here that nobody caught. What waits for the disk is written and the GPU's answers are awaited, so that the host
 * ends with its own exit code. Its other half is spawn-node.ts. It does nothing in browsers and Deno.
 */
import { background, RUNTIME } from "../base.ts";
import { endDawn } from "../gpu/dawn.ts";
import type { ThreadData } from "../platform/spawn-node.ts";

/** How long closing may take when the end has come; what is not on the disk by then is forgotten. */
const CLOSE_LIMIT_MS = 2000;

/** @param close ends all requests, and gives back what is held */
export function endWithHost(close: () => Promise<void>): void {
  if (RUNTIME !== "node") return;
  const { isMainThread, workerData } = process.getBuiltinModule("node:worker_threads");
  if (isMainThread) endWithParent(close);
  else endWithThread(workerData as ThreadData, close);
  endByError();
}

function endWithThread({ end, ended }: ThreadData, close: () => Promise<void>): void {
  const obey = async (): Promise<void> => {
    await endAll(close);
    end.postMessage("ready");
    isReady();
    Atomics.wait(ended, 0, 1); // until it is ended from outside: nothing more is asked of the GPU
  };
  const isReady = (): void => {
    Atomics.store(ended, 0, 1);
    Atomics.notify(ended, 0);
  };
  process.on("exit", isReady); // nobody is to wait for a thread that has ended
  end.once("message", () => background(obey(), "end"));
  end.unref();
}

function endWithParent(close: () => Promise<void>): void {
  process.once("disconnect", () => void endAll(close).finally(() => process.exit()));
  process.on("SIGINT", () => {}); // the terminal tells the parent, too, which decides
}

/** Never rejects. */
async function endAll(close: () => Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_LIMIT_MS)));
  await Promise.race([close().catch(() => {}), late]);
  clearTimeout(timer);
  await endDawn();
}

/** What nobody caught ends this worker, and not the process that it is a thread of. */
function endByError(): void {
  const end = (error: unknown): void => {
    const rethrow = (): void => {
      process.off("uncaughtException", end);
      setImmediate(() => {
        throw error;
      });
    };
    void endDawn().finally(rethrow);
  };
  process.on("uncaughtException", end);
}
