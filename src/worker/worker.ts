/**
 * The worker's entry and composition root: makes the engine that a page asks for, its own or one that tabs share, and hands it
 * the page's messages. The same file runs as a Web Worker (browsers, Deno) and as a Node worker thread.
 */
import { background, setBackgroundHandler } from "../base.ts";
import { TidepoolError, toWire } from "../errors.ts";
import type { ModelFile } from "../load/model-file.ts";
import { answerStoreCall } from "./cache/calls.ts";
import { openStore } from "./cache/open-store.ts";
import { inspectModel } from "./inspect.ts";
import { endWithHost } from "./ending.ts";
import { endable, LocalEngine, type Ask, type Endable } from "./local.ts";
import { answerModelsCall, openForHeader } from "./models.ts";
import { PageSource } from "./prefill/page-source.ts";
import { Prompts } from "./request/prompts.ts";
import type {
  CacheOptions,
  Capability,
  EngineInfo,
  EngineOptions,
  FromWorker,
  HeaderQuestion,
  ModelsCall,
  Notice,
  PrefillBy,
  SourceOptions,
  StoreCall,
  ModelSpec,
  ToWorker,
} from "../wire/protocol.ts";
import type { Post } from "./session.ts";
import { Share, type SharedEngine } from "./share/member.ts";
import { workerScope } from "../platform/scope.ts";
import { shareKey, sharePlatform } from "./share/platform.ts";

/** What the page asks: an engine of its own, or its part in a shared one. */
interface PageEngine {
  fromPage(ask: Ask): void;
  /** Something of it has failed that nobody waits for. */
  fail(error: unknown): void;
  close(): Promise<void>;
}

type Load = Extract<ToWorker, { type: "load" }>;

const scope = workerScope<ToWorker, FromWorker>();
/** Resolves as soon as it is known which. */
let engine: Promise<PageEngine> | undefined;
/** The page's other engine, if that computes prompts for this one. */
let prefillSource: PageSource | undefined;
/** A question about a model's header, or about kept models, under way. */
let asking: Endable | undefined;

setBackgroundHandler((error, label) => {
  const failure = new Error(`${label}: ${String(error)}`, { cause: error });
  if (!engine) fail(failure);
  engine?.then((open) => open.fail(failure), fail);
});
scope.listen((message) => background(receive(message), message.type));
endWithHost(close);

async function receive(message: ToWorker): Promise<void> {
  switch (message.type) {
    case "load":
      engine = open(message);
      await engine;
      return;
    case "header":
      return header(message.model, message.options, message.question);
    case "store":
      return askStore(message.options, message.call);
    case "models":
      return askModels(message.options, message.call);
    case "submit":
    case "abort":
    case "call":
      return (await engine)?.fromPage(message);
    case "prefillAnswer":
      return prefillSource?.hear(message);
    case "close":
      return close();
  }
}

function open({ model, options, share, prefillBy }: Load): Promise<PageEngine> {
  if (share !== undefined) return openShared(model, options, share);
  return Promise.resolve(openAlone(model, options, [], prefillBy));
}

function openAlone(
  model: ModelSpec,
  options: EngineOptions,
  lacks: readonly Capability[] = [],
  prefillBy?: PrefillBy,
): PageEngine {
  prefillSource = prefillBy && new PageSource(scope.post);
  const prefill = prefillSource && { source: prefillSource, when: prefillBy?.when };
  const local = new LocalEngine(scope.post, lacks, prefill);
  const loaded = (info: EngineInfo): void => {
    scope.post({ type: "loaded", info });
    prefillSource?.start();
  };
  background(local.load(model, options).then(loaded, fail), "load");
  return { fromPage: (ask) => local.receive(ask), fail, close: () => local.close() };
}

/** Where tabs cannot share, an engine for this tab that says so. */
async function openShared(model: ModelSpec, options: EngineOptions, name: string): Promise<PageEngine> {
  const platform = await sharePlatform(shareKey(name, model, options));
  if ("code" in platform) return openAlone(model, options, [platform]);
  const makeEngine = (post: Post): SharedEngine => {
    const local = new LocalEngine(post);
    return {
      load: () => local.load(model, options),
      receive: (ask) => local.receive(ask),
      close: () => local.close(),
    };
  };
  const share = new Share({ ...platform, toPage: scope.post, makeEngine });
  background(share.start(), "share");
  return share;
}

function fail(error: unknown): void {
  scope.post({ type: "failed", error: toWire(error) });
}

/** Answers from the header of a model that is not loaded. */
function header(model: ModelSpec, options: EngineOptions, question: HeaderQuestion): Promise<void> {
  return answered(async (signal) => {
    const opened = await openForHeader(model, options, scope.post, signal);
    try {
      return await askFile(opened.file, options, question);
    } finally {
      await opened.close();
    }
  });
}

function askFile(file: ModelFile, options: EngineOptions, question: HeaderQuestion): Promise<unknown> {
  if (question.ask === "inspect") return inspectModel(file, options);
  return askText<unknown>(file, options, (prompts) =>
    question.ask === "render" ? prompts.render(question.input) : prompts.tokenize(question.text),
  );
}

/** Posts the answer to the one question of this worker, or why there is none; closing ends the work. */
async function answered(ask: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  try {
    const question = endable(ask);
    asking = question;
    scope.post({ type: "header", value: await question.work });
  } catch (error) {
    fail(error);
  }
}

async function askText<T>(
  file: ModelFile,
  options: EngineOptions,
  ask: (prompts: Prompts) => Promise<T>,
): Promise<T> {
  const prompts = await Prompts.open(file, { timeoutMs: options.textTimeoutMs });
  return ask(prompts).finally(() => prompts.close());
}

/** Answers about a store that no session has open. */
async function askStore(options: CacheOptions, call: StoreCall): Promise<void> {
  try {
    const notices: Notice[] = [];
    const opened = await openStore(options, (notice) => notices.push(notice));
    const value = await answerStoreCall(opened, call, options);
    await opened.close();
    const [problem] = notices;
    if (problem) throw new TidepoolError("source", `${problem.code}: ${problem.message}`);
    scope.post({ type: "header", value });
  } catch (error) {
    fail(error);
  }
}

/** Answers about the models that are kept. */
function askModels(options: SourceOptions, call: ModelsCall): Promise<void> {
  return answered((signal) => answerModelsCall(options, call, scope.post, signal));
}

async function close(): Promise<void> {
  asking?.controller.abort();
  await asking?.ended;
  await (await engine)?.close();
  scope.post({ type: "closed" });
}
