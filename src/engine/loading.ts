/** Follows a worker that loads a model: until it has, has failed, or is told to stop. The loaded engine is engine.ts. */
import { unlessAborted } from "../base.ts";
import { fromWire, TidepoolError } from "../errors.ts";
import type { EngineInfo, LoadProgress, Notice, ToWorker } from "../wire/protocol.ts";
import type { WorkerPort } from "../wire/port.ts";

/**
 * How long a worker may take to end a load that was called off, before it is ended itself: it stops between two tensors or two
 * pipelines, and a Node process would not outlive a thread that is ended in the middle of one.
 */
const END_LOADING_MS = 10_000;

/** Lets the worker note what it has downloaded, and give its lock back. */
export function endLoading(port: WorkerPort): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, END_LOADING_MS);
    const done = (): void => {
      clearTimeout(timer);
      resolve();
    };
    port.listen((message) => message.type === "closed" && done(), done);
    port.post({ type: "close" });
  });
}

interface LoadListeners {
  onProgress: ((progress: LoadProgress) => void) | undefined;
  onNotice: (notice: Notice) => void;
  signal: AbortSignal | undefined;
}

/** Posts the load message and follows the worker until it is loaded or has failed. */
export function loaded(port: WorkerPort, message: ToWorker, listeners: LoadListeners): Promise<EngineInfo> {
  const { onProgress, onNotice, signal } = listeners;
  const loading = new Promise<EngineInfo>((resolve, reject) => {
    port.listen((answer) => {
      if (answer.type === "progress") onProgress?.(answer.progress);
      else if (answer.type === "notice") onNotice(answer.notice);
      else if (answer.type === "loaded") resolve(answer.info);
      else if (answer.type === "failed") reject(fromWire(answer.error));
    }, reject);
    port.post(message);
  });
  return unlessAborted(loading, signal, () => new TidepoolError("aborted", "loading was aborted"));
}
