/**
 * The models that are kept on this machine or for this page's origin, for the caller: which there are, fetching one
 * beforehand, checking and removing. Loading one that is not kept fetches it, too (engine.ts).
 */
import { modelsOptions } from "./arguments.ts";
import type { PullResult } from "../load/named-model.ts";
import type { StoredModel, StoredModelFile, VerifyResult } from "../load/download/model-store.ts";
import { modelName } from "../wire/arguments.ts";
import { askWorker } from "../wire/port.ts";
import type { LoadProgress, ModelsCall, SourceOptions } from "../wire/protocol.ts";

export type { PullResult, StoredModel, StoredModelFile, VerifyResult };

export interface ModelsCallOptions extends SourceOptions {
  /** Told how fetching or checking goes on. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends it; what was fetched is kept for the next time. */
  signal?: AbortSignal | undefined;
}

async function ask<T>(call: ModelsCall, given: ModelsCallOptions): Promise<T> {
  const { onProgress, signal, ...options } = modelsOptions.read(given, "");
  if ("model" in call) modelName.read(call.model, "model");
  return (await askWorker({ type: "models", options, call }, { onProgress, signal })) as T;
}

/** The models that are kept. Each call starts a worker of its own and ends it. */
export const models = {
  /** All models that are kept, whole or in part, by name. */
  list: (options: ModelsCallOptions = {}): Promise<StoredModel[]> => ask({ method: "list" }, options),

  /**
   * Fetches a model of the Hub or a URL, finishes one that was begun, or brings a kept one up to date.
   * @throws TidepoolError `not_found`, `invalid_file`, `invalid_argument`, `source`.
   */
  pull: (model: string, options: ModelsCallOptions = {}): Promise<PullResult> =>
    ask({ method: "pull", model }, options),

  /** Forgets a model, or one file of it (`org/repo/file.gguf`). @throws TidepoolError `not_found`, `source` if in use. */
  remove: (model: string, options: ModelsCallOptions = {}): Promise<{ bytesFreed: number }> =>
    ask({ method: "remove", model }, options),

  /** Reads a model's files (all, without a name) and compares hashes; damaged files are removed and reported. */
  verify: (model?: string, options: ModelsCallOptions = {}): Promise<VerifyResult> =>
    ask({ method: "verify", ...(model !== undefined && { model }) }, options),
};
