/**
 * The worker's entry and composition root: opens the GPU and the model, builds the session, answers messages. The same
 * file runs as a Web Worker (browsers, Deno) and as a Node worker thread.
 */
import { background, RUNTIME, setBackgroundHandler } from "../base.ts";
import { TidepoolError, toWire } from "../errors.ts";
import { findProvider, openGpu, type Gpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { OpenedModel } from "../load/named-model.ts";
import { onceMoreIfChanged } from "../load/remote-load.ts";
import type { TierStore } from "../tier/store.ts";
import { gpuOptions, runnerOptions } from "./options.ts";
import { answerStoreCall } from "./cache-calls.ts";
import { missingCapabilities } from "./capabilities.ts";
import { openStore } from "./disk.ts";
import { inspectModel } from "./inspect.ts";
import { answerModelsCall, openForHeader, openForLoad, timedPost } from "./models.ts";
import { Prompts } from "./prompts.ts";
import type {
  CacheOptions,
  Call,
  EngineOptions,
  FromWorker,
  HeaderQuestion,
  ModelsCall,
  Notice,
  SourceOptions,
  StoreCall,
  ModelSpec,
  ToWorker,
} from "./protocol.ts";
import type { Reopen } from "./recovery.ts";
import { Session, type Post } from "./session.ts";

/** What is used of a dedicated worker's global scope. */
interface WorkerSelf {
  postMessage(message: FromWorker, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}

interface Scope {
  post: Post;
  listen(onMessage: (message: ToWorker) => void): void;
}

const scope = findScope();
let session: Session | undefined;
let gpu: Gpu | undefined;
/** Ends a load under way, and with it its downloads, whose lock is given back; `ended` when that is done. */
let loading: { controller: AbortController; ended: Promise<void> } | undefined;

setBackgroundHandler((error, label) => {
  scope.post({ type: "failed", error: toWire(new Error(`${label}: ${String(error)}`, { cause: error })) });
});
scope.listen((message) => background(receive(message), message.type));

async function receive(message: ToWorker): Promise<void> {
  switch (message.type) {
    case "load":
      return load(message.model, message.options);
    case "header":
      return header(message.model, message.options, message.question);
    case "store":
      return askStore(message.options, message.call);
    case "models":
      return askModels(message.options, message.call);
    case "submit":
      return session?.submit(message.id, message.input, message.params, message.resume);
    case "abort":
      return session?.abort(message.id);
    case "call":
      return answer(message.id, message.call);
    case "close":
      return close();
  }
}

async function load(model: ModelSpec, options: EngineOptions): Promise<void> {
  try {
    session = await abortable((signal) => onceMoreIfChanged(() => loadOnce(model, options, signal)));
    scope.post({ type: "loaded", info: session.info });
  } catch (error) {
    scope.post({ type: "failed", error: toWire(error) });
  }
}

/** Work that a "close" ends. */
async function abortable<T>(start: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const work = start(controller.signal);
  loading = { controller, ended: work.then(noResult, noResult) };
  try {
    return await work;
  } finally {
    loading = undefined;
  }
}

function noResult(): void {}

/** Nothing stays open after a throw. */
async function loadOnce(model: ModelSpec, options: EngineOptions, signal: AbortSignal): Promise<Session> {
  const { cache = {} } = options;
  let opened: OpenedModel | undefined;
  let store: TierStore | undefined;
  let loaded: Session | undefined;
  try {
    opened = await openForLoad(model, options, scope.post, signal);
    gpu = await openGpu(await findProvider(), gpuOptions(options));
    const chosen = runnerOptions(gpu, options);
    store = await openStore(cache, (notice) => scope.post({ type: "notice", notice }));
    const more = {
      timeoutMs: options.textTimeoutMs,
      reopen: reopener(model, options),
      capabilities: await missingCapabilities(gpu, options),
    };
    loaded = await Session.load(gpu, opened.file, chosen, timedPost(scope.post), store, cache, more);
    await opened.finish();
    await opened.close();
    return loaded;
  } catch (error) {
    await opened?.close().catch(noResult); // the first failure is the one to tell
    if (loaded) await loaded.close();
    else await store?.close(0);
    gpu?.device.destroy();
    throw error;
  }
}

/** Opens device and model once more, after the device was lost; what was downloaded comes from where it is kept. */
function reopener(model: ModelSpec, options: EngineOptions): Reopen {
  const quiet: Post = (message) => message.type === "notice" && scope.post(message);
  return async (signal) => {
    const opened = await openForLoad(model, options, quiet, signal);
    try {
      gpu = await openGpu(await findProvider(), gpuOptions(options));
    } catch (error) {
      await opened.close().catch(noResult); // the first failure is the one to tell
      throw error;
    }
    const close = async (): Promise<void> => {
      await opened.finish();
      await opened.close();
    };
    return { gpu, file: opened.file, close };
  };
}

/** Answers from the header of a model that is not loaded. */
async function header(model: ModelSpec, options: EngineOptions, question: HeaderQuestion): Promise<void> {
  try {
    const opened = await openForHeader(model, options);
    const { file } = opened;
    const value =
      question.ask === "inspect" ? await inspectModel(file, options) : await tokenize(file, question.text);
    await opened.close();
    scope.post({ type: "header", value });
  } catch (error) {
    scope.post({ type: "failed", error: toWire(error) });
  }
}

async function tokenize(file: ModelFile, text: string): Promise<number[]> {
  const prompts = await Prompts.open(file);
  return prompts.tokenize(text).finally(() => prompts.close());
}

/** Answers about a store that no session has open. */
async function askStore(options: CacheOptions, call: StoreCall): Promise<void> {
  try {
    const notices: Notice[] = [];
    const opened = await openStore(options, (notice) => notices.push(notice));
    const value = await answerStoreCall(opened, call);
    await opened.close();
    const [problem] = notices;
    if (problem) throw new TidepoolError("source", `${problem.code}: ${problem.message}`);
    scope.post({ type: "header", value });
  } catch (error) {
    scope.post({ type: "failed", error: toWire(error) });
  }
}

/** Answers about the models that are kept. */
async function askModels(options: SourceOptions, call: ModelsCall): Promise<void> {
  try {
    const value = await abortable((signal) => answerModelsCall(options, call, scope.post, signal));
    scope.post({ type: "header", value });
  } catch (error) {
    scope.post({ type: "failed", error: toWire(error) });
  }
}

async function answer(id: number, call: Call): Promise<void> {
  try {
    if (!session) throw new TidepoolError("closed", "no model is loaded");
    scope.post({ type: "answer", id, value: await session.call(call) });
  } catch (error) {
    scope.post({ type: "refused", id, error: toWire(error) });
  }
}

async function close(): Promise<void> {
  loading?.controller.abort();
  await loading?.ended;
  await session?.close();
  session = undefined;
  gpu?.device.destroy();
  gpu = undefined;
  scope.post({ type: "closed" });
}

/** The message port of whichever worker this is. */
function findScope(): Scope {
  if (RUNTIME !== "node") {
    const self = globalThis as unknown as WorkerSelf;
    return {
      post: (message, transfer = []) => self.postMessage(message, transfer),
      listen: (onMessage) => (self.onmessage = (event: MessageEvent<ToWorker>) => onMessage(event.data)),
    };
  }
  const { parentPort } = process.getBuiltinModule("node:worker_threads");
  if (!parentPort) throw new Error("worker.js runs as a worker thread only");
  return {
    post: (message: FromWorker, transfer = []) => parentPort.postMessage(message, transfer),
    listen: (onMessage) => parentPort.on("message", onMessage),
  };
}
