/**
 * Models by name in the worker: opens one for a session, and answers what is kept. It turns bytes that arrive into progress
 * with the seconds that are left; the downloading is load/'s.
 */
import { systemClock } from "../base.ts";
import { listModels, needModelFolder, removeModel, verifyModel } from "../load/download/kept/model-store.ts";
import { openNamedModel, pullModel, type OpenedModel } from "../load/named-model.ts";
import type { Retry } from "../load/download/limits.ts";
import { RateMeter } from "../load/download/rate.ts";
import type {
  EngineOptions,
  LoadProgress,
  ModelsCall,
  ModelSpec,
  Notice,
  SourceOptions,
} from "../wire/protocol.ts";
import type { Post } from "./session.ts";

const WAITING: LoadProgress = { phase: "waiting", done: 0, total: 0 };

/** Which server fails and how, at once and each time. */
function retrying({ url, reason, failures, attempts, waitMs }: Retry): LoadProgress {
  const said = `${URL.canParse(url) ? new URL(url).host : url} ${reason}`;
  return { phase: "retrying", reason: said, done: failures, total: attempts, secondsLeft: waitMs / 1000 };
}

/** Passes progress on with the seconds that are left, each phase by its own rate. */
function withSecondsLeft(tell: (progress: LoadProgress) => void): (progress: LoadProgress) => void {
  const meters = new Map<LoadProgress["phase"], RateMeter>();
  return (progress) => {
    const meter = meters.get(progress.phase) ?? new RateMeter();
    meters.set(progress.phase, meter);
    const secondsLeft = meter.secondsLeft(progress.done, progress.total, systemClock.nowMs());
    tell({ ...progress, ...(secondsLeft !== undefined && { secondsLeft }) });
  };
}

/** The session's posts, its progress with the seconds that are left. */
export function timedPost(post: Post): Post {
  const tell = withSecondsLeft((progress) => post({ type: "progress", progress }));
  return (message, transfer) =>
    message.type === "progress" ? tell(message.progress) : post(message, transfer);
}

/** Opens a model to be loaded; its bytes come while it is read. */
export function openForLoad(
  model: ModelSpec,
  { hub, models }: EngineOptions,
  post: Post,
  signal: AbortSignal,
): Promise<OpenedModel> {
  const timed = timedPost(post);
  return openNamedModel(model, {
    ...{ hub, models, signal },
    onProgress: (done, total) => timed({ type: "progress", progress: { phase: "download", done, total } }),
    onNotice: (notice: Notice) => post({ type: "notice", notice }),
    onWaiting: () => post({ type: "progress", progress: WAITING }),
    onRetry: tellRetries(post),
  });
}

/** Opens a model to look at its header; nothing is kept of it. */
export function openForHeader(
  model: ModelSpec,
  { hub, models }: EngineOptions,
  post: Post,
  signal: AbortSignal,
): Promise<OpenedModel> {
  return openNamedModel(model, { hub, models, signal, purpose: "header", onRetry: tellRetries(post) });
}

function tellRetries(post: Post): (retry: Retry) => void {
  return (retry) => post({ type: "progress", progress: retrying(retry) });
}

/** Answers about the models that are kept. */
export async function answerModelsCall(
  { hub, models = {} }: SourceOptions,
  call: ModelsCall,
  post: Post,
  signal: AbortSignal,
): Promise<unknown> {
  const tell = withSecondsLeft((progress) => post({ type: "progress", progress }));
  const onProgress = (done: number, total: number) => tell({ phase: "download", done, total });
  const folder = await needModelFolder(models);
  switch (call.method) {
    case "list":
      return listModels(folder);
    case "remove":
      return removeModel(folder, call.model);
    case "verify":
      return verifyModel(folder, call.model, onProgress);
    case "pull":
      return pullModel(call.model, {
        ...{ hub, models, onProgress, signal, onWaiting: () => tell(WAITING) },
        onRetry: tellRetries(post),
      });
  }
}
