/**
 * The models that are kept on this machine or for this page's origin, for the caller: which there are, fetching one
 * beforehand, checking and removing. Loading one that is not kept fetches it, too (engine.ts).
 */
import { modelsOptions } from "./arguments.ts";
import type { PullResult } from "../load/named-model.ts";
import type { StoredModel, StoredModelFile, VerifyResult } from "../load/download/kept/model-store.ts";
import type { ModelsCallOptions } from "./options.ts";
import { modelName } from "../wire/arguments.ts";
import { askWorker } from "../wire/port.ts";
import type { ModelsCall } from "../wire/protocol.ts";

export type { ModelsCallOptions } from "./options.ts";
export type { PullResult, StoredModel, StoredModelFile, VerifyResult };

async function ask<T>(call: ModelsCall, given: ModelsCallOptions): Promise<T> {
  const { onProgress, signal, ...options } = modelsOptions.read(given, "");
  if ("model" in call) modelName.read(call.model, "model");
  return (await askWorker({ type: "models", options, call }, { onProgress, signal })) as T;
}

/**
 * The downloaded models that are kept on this machine, or in this origin's storage. Each call starts a worker and ends it.
 *
 * @example
 * ```ts
 * await models.pull("https://models.example/tide-dense.gguf");
 * await using engine = await Engine.load("https://models.example/tide-dense.gguf"); // needs no network
 * ```
 */
export const models = {
  /**
   * Lists all kept models, complete or not, by name.
   *
   * @example
   * ```ts
   * for (const { name, bytesKept, sizeBytes } of await models.list()) console.log(name, bytesKept / sizeBytes);
   * ```
   */
  list: (options: ModelsCallOptions = {}): Promise<StoredModel[]> => ask({ method: "list" }, options),

  /**
   * Downloads a model by Hub id or URL, completes a partial download, or updates a kept model.
   * @throws TidepoolError `not_found`, `invalid_file`, `invalid_argument`, `source`.
   *
   * @example
   * ```ts
   * const { name, sizeBytes, receivedBytes } = await models.pull("https://models.example/tide-dense.gguf");
   * console.log(`${name}: received ${receivedBytes} of ${sizeBytes} bytes, the rest was here`);
   * ```
   */
  pull: (model: string, options: ModelsCallOptions = {}): Promise<PullResult> =>
    ask({ method: "pull", model }, options),

  /**
   * Removes a kept model, or one of its files (`org/repo/file.gguf`).
   * @throws TidepoolError `not_found`, or `source` if the model is in use.
   *
   * @example
   * ```ts
   * await models.pull("https://models.example/tide-dense.gguf");
   * const { bytesFreed } = await models.remove("https://models.example/tide-dense.gguf");
   * console.log(bytesFreed); // 3323040
   * ```
   */
  remove: (model: string, options: ModelsCallOptions = {}): Promise<{ bytesFreed: number }> =>
    ask({ method: "remove", model }, options),

  /**
   * Reads the files of one model, or of all models, and compares their hashes. Damaged files are removed and reported.
   *
   * @example
   * ```ts
   * await models.pull("https://models.example/tide-dense.gguf");
   * const { checked, bad } = await models.verify("https://models.example/tide-dense.gguf");
   * console.log(checked, bad); // 1 []
   * ```
   */
  verify: (model?: string, options: ModelsCallOptions = {}): Promise<VerifyResult> =>
    ask({ method: "verify", ...(model !== undefined && { model }) }, options),
};
