/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The caller's handle: load, generate, chat, count, score, close. All work happens in a worker on the other side of
 * `wire/protocol.ts`; this file owns the worker's port and no GPU code.
 */
import { chatOptions, generateOptions, headerOptions, loadOptions, model as modelRule } from "./arguments.ts";
import { assert, RUNTIME, unlessAborted } from "../base.ts";
import { text as textRule } from "../check.ts";
import { fromWire, TidepoolError } from "../errors.ts";
import { Generation, GenerationFeed } from "./generation.ts";
import type {
  Call,
  ChatMessage,
  EngineInfo,
  EngineOptions,
  FromWorker,
  GenerateParams,
  HeaderQuestion,
  LoadProgress,
  ModelReport,
  ModelSpec,
  Notice,
  PromptUsage,
  RenderedChat,
  RequestInput,
  ScoreOptions,
  ScoreResult,
  Tool,
  ToWorker,
  WarmOptions,
} from "../wire/protocol.ts";
import { EngineCache, promptInput } from "./engine-cache.ts";
import {
  chatMessages,
  promptTokens,
  scoreOptions,
  templateVariables,
  textOrTokens,
  tools as toolsRule,
  warmOptions,
} from "../wire/arguments.ts";
import { askWorker, startWorker, type WorkerPort } from "../wire/port.ts";

export { Generation, type GenerationChunk } from "./generation.ts";
export type {
  ArchiveImport,
  CacheEntry,
  CacheEvent,
  CacheOptions,
  CacheScope,
  CacheStats,
  CacheTierStats,
  Capability,
  CacheTree,
  CacheTreeNode,
  ChatMessage,
  ChatRole,
  Dtype,
  EngineInfo,
  EngineOptions,
  GenerateParams,
  GenerationResult,
  HubOptions,
  LoadProgress,
  ModelReport,
  ModelsOptions,
  Notice,
  Overflow,
  PromptUsage,
  RenderedChat,
  ScoreOptions,
  ScoreResult,
  SourceOptions,
  TextPart,
  Timing,
  TokenLogprob,
  Tool,
  ToolCall,
  Usage,
  WarmOptions,
} from "../wire/protocol.ts";

/**
 * What to load: a Hub id (`org/repo`, `org/repo/file.gguf`, with `@revision`), a path (Node, Deno), a URL (`file:` too in
 * Node and Deno), or the files of a model. What comes over the network is kept, and comes from there the next time. In a page a string that
 * begins with `/`, `./` or `../` is an address relative to the page.
 */
export type Model = string | URL | File | readonly File[];

export interface LoadOptions extends EngineOptions {
  /** Told how loading goes on. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Told when the storage is missing, full, lost or back. */
  onNotice?: ((notice: Notice) => void) | undefined;
  /** Told when `state` or `info` has changed: the device is lost, the model is back on one, the KV pool has grown, nothing answers any more. */
  onChange?: ((engine: Engine) => void) | undefined;
  /** Ends the loading; the promise rejects with `aborted`. */
  signal?: AbortSignal | undefined;
  /**
   * Browsers: tabs of one origin that load the same model with the same options and the same name here (true: "shared") share one engine
   * and one copy of the weights on the GPU. One tab's worker has it; when that tab closes or crashes another takes over, and requests
   * go on where they were. `info.role` says which part this tab has. Default: not shared.
   */
  share?: boolean | string | undefined;
}

export interface GenerateOptions extends GenerateParams {
  /** Ends the request, also in the middle of its prompt; the result says `aborted`. */
  signal?: AbortSignal | undefined;
}

export interface ChatOptions extends GenerateOptions {
  /** Handed to the chat template, such as `enable_thinking`. */
  template?: Record<string, unknown> | undefined;
  /** Tools that the model may call, handed to the chat template. Its answer is text; what it means is the caller's to read. */
  tools?: readonly Tool[] | undefined;
}

interface PendingCall {
  resolve(value: unknown): void;
  reject(error: TidepoolError): void;
}

/**
 * Whether an engine can be used: "recovering" while the GPU device was lost, or the tab that has the shared engine is gone, and the
 * model is loaded again (requests wait),
 * "failed" when nothing can be done any more, "closed" after `close()`.
 */
export type EngineState = "ready" | "recovering" | "failed" | "closed";

/** For tests and debugging pages. */
export interface EngineDebug {
  /** Destroys the GPU device, as if the driver had lost it: the engine recovers, once within a minute. */
  loseDevice(): Promise<void>;
  /**
   * The conservation check: seats, blocks, states and outputs are held by requests that are under way, and by nothing else.
   * Resolves to how many requests there are and how many KV blocks they hold.
   * @throws TidepoolError `internal` if something is held by nobody or twice.
   */
  check(): Promise<{ requests: number; blocks: number }>;
}

/** A request that the worker can take. */
interface Submission {
  input: RequestInput;
  params: GenerateParams;
  signal: AbortSignal | undefined;
}

export class Engine {
  /**
   * What was loaded and what was chosen: model, adapter, kernels, memory, limits, and what this platform lacks. Replaced by
   * another when the KV pool has grown or the device was lost.
   */
  info: EngineInfo;
  /** For tests and debugging pages only. */
  readonly debug: EngineDebug = {
    loseDevice: async () => {
      await this.call({ method: "loseDevice" });
    },
    check: async () => (await this.call({ method: "check" })) as { requests: number; blocks: number },
  };
  /** What is computed and stored. */
  readonly cache: EngineCache;
  private readonly port: WorkerPort;
  private readonly running = new Map<number, GenerationFeed>();
  private readonly calls = new Map<number, PendingCall>();
  private nextId = 1;
  /** What the storage had to say, oldest first; each once. */
  readonly notices: Notice[] = [];
  private readonly onNotice: ((notice: Notice) => void) | undefined;
  private readonly onChange: (engine: Engine) => void;
  private readonly onProgress: (progress: LoadProgress) => void;
  private dead: TidepoolError | undefined;
  /** The worker itself has ended: it can be asked nothing more, not even to close. */
  private isGone = false;
  private recovering = false;
  private closing: Promise<void> | undefined;
  private onClosed: () => void = () => {};

  private constructor(
    port: WorkerPort,
    info: EngineInfo,
    { onNotice, onChange = () => {}, onProgress = () => {} }: LoadOptions,
  ) {
    this.onNotice = onNotice;
    this.onProgress = onProgress;
    this.onChange = onChange;
    this.port = port;
    this.info = info;
    this.cache = new EngineCache((call) => this.call(call));
    port.listen(
      (message) => this.receive(message),
      (error) => {
        this.isGone = true;
        this.die(error);
        this.onClosed();
      },
    );
    this.keepAlive();
  }

  /**
   * Loads a model and starts the worker that runs it.
   * @throws TidepoolError `not_found`, `invalid_file`, `unsupported`, `no_adapter`, `out_of_memory`, `aborted`.
   */
  static async load(model: Model, options: LoadOptions = {}): Promise<Engine> {
    const spec = modelSpec(model);
    const checked = loadOptions.read(options, "");
    const { onProgress, onNotice: _onNotice, onChange: _onChange, ...more } = checked;
    const { signal, share, ...engineOptions } = more;
    const name = shareName(share);
    if (signal?.aborted) throw new TidepoolError("aborted", "loading was aborted");
    const port = startWorker(spec);
    try {
      const early: Notice[] = [];
      const told = { onProgress, signal, onNotice: (notice: Notice) => void early.push(notice) };
      const message: ToWorker = {
        ...{ type: "load", model: spec, options: engineOptions },
        ...(name !== undefined && { share: name }),
      };
      const engine = new Engine(port, await loaded(port, message, told), checked);
      for (const notice of early) engine.hear(notice);
      return engine;
    } catch (error) {
      if (signal?.aborted) await endLoading(port);
      await port.terminate();
      throw error;
    }
  }

  /** Whether it answers, builds its device anew after a loss, or has come to an end. */
  get state(): EngineState {
    if (this.closing) return "closed";
    if (this.dead) return "failed";
    return this.recovering ? "recovering" : "ready";
  }

  /** Why the state is "failed"; undefined in any other. */
  get failure(): TidepoolError | undefined {
    return this.closing ? undefined : this.dead;
  }

  /** Continues a prompt as it stands (with the model's BOS where it asks for one); token ids are used as they are. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    return this.submit(() => {
      const { signal, ...params } = generateOptions.read(options, "");
      const given = textOrTokens.read(prompt, "prompt");
      const input: RequestInput =
        typeof given === "string" ? { kind: "text", text: given } : { kind: "tokens", tokens: given };
      return { input, params, signal };
    });
  }

  /**
   * Answers a conversation through the model's chat template. Keep the result's `tokens` in the assistant's message, and
   * the next turn re-uses them exactly.
   */
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Generation {
    return this.submit(() => {
      const { signal, template, tools, ...params } = chatOptions.read(options, "");
      const given = chatMessages.read(messages, "messages");
      const extra = { ...(template && { template }), ...(tools && { tools }) };
      return { input: { kind: "chat", messages: given, ...extra }, params, signal };
    });
  }

  /** Prompt tokens that a text or conversation would have. No GPU work. */
  async countTokens(
    prompt: string | readonly ChatMessage[],
    template?: Record<string, unknown>,
  ): Promise<number> {
    return (await this.call({ method: "countTokens", input: promptInput(prompt, template) })) as number;
  }

  /** Token ids of a text, without BOS; special tokens in it are plain text. */
  async tokenize(text: string): Promise<number[]> {
    return (await this.call({ method: "tokenize", text: textRule().read(text, "text") })) as number[];
  }

  /** The text of tokens, marks included. */
  async detokenize(tokens: readonly number[]): Promise<string> {
    const given = promptTokens.read(tokens, "tokens");
    return (await this.call({ method: "detokenize", tokens: given })) as string;
  }

  /**
   * Log-probabilities of given tokens, used as they are. Keys and values are stored as a request's are, unless `cache` says
   * otherwise.
   */
  async score(tokens: readonly number[], options: ScoreOptions = {}): Promise<ScoreResult> {
    const { from = 0, logits = false, cache } = scoreOptions.read(options, "");
    const given = promptTokens.read(tokens, "tokens");
    const call: Call = { method: "score", tokens: given, from, logits, ...(cache && { cache }) };
    return (await this.call(call)) as ScoreResult;
  }

  /** Computes a prompt, or brings it back from the cache, so that it is ready when it is needed. */
  async warm(prompt: string | readonly ChatMessage[], options: WarmOptions = {}): Promise<PromptUsage> {
    const { cache } = warmOptions.read(options, "");
    return (await this.call({
      method: "warm",
      input: promptInput(prompt),
      ...(cache && { cache }),
    })) as PromptUsage;
  }

  /** Ends all requests (as aborted), frees the GPU and stops the worker. May be called more than once. */
  close(): Promise<void> {
    return (this.closing ??= this.closeNow());
  }

  /** `close()`, by `await using engine = await Engine.load(model)`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async closeNow(): Promise<void> {
    if (!this.isGone) {
      this.port.keepAlive(true);
      const closed = new Promise<void>((resolve) => (this.onClosed = resolve));
      const late = setTimeout(() => this.onClosed(), CLOSE_LIMIT_MS);
      this.port.post({ type: "close" });
      await closed;
      clearTimeout(late);
    }
    this.die(new TidepoolError("closed", "the engine is closed"));
    await this.port.terminate();
  }

  /** @param read checks what the caller gave; what is wrong with it is the generation's error */
  private submit(read: () => Submission): Generation {
    const id = this.nextId++;
    const feed = new GenerationFeed(() => this.port.post({ type: "abort", id }));
    try {
      if (this.dead) throw this.dead;
      this.start(id, feed, read());
    } catch (error) {
      if (!(error instanceof TidepoolError)) throw error;
      feed.end({ error });
    }
    return new Generation(feed);
  }

  private start(id: number, feed: GenerationFeed, { input, params, signal }: Submission): void {
    this.running.set(id, feed);
    this.keepAlive();
    this.port.post({ type: "submit", id, input, params });
    feed.follow(signal);
  }

  private call(call: Call): Promise<unknown> {
    if (this.dead) return Promise.reject(this.dead);
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject });
      this.keepAlive();
      this.port.post({ type: "call", id, call });
    });
  }

  /** A script ends by itself, without `close()`, when nothing is under way. */
  private keepAlive(): void {
    this.port.keepAlive(this.running.size + this.calls.size > 0 || this.closing !== undefined);
  }

  private receive(message: FromWorker): void {
    switch (message.type) {
      case "cacheEvents":
        this.cache.hear(message.events, message.dropped);
        break;
      case "step":
        for (const { id, ...chunk } of message.outputs) this.running.get(id)?.push(chunk);
        break;
      case "finished":
        this.running.get(message.id)?.end({ result: message.result });
        this.running.delete(message.id);
        this.keepAlive();
        break;
      case "refused":
        this.refuse(message.id, fromWire(message.error));
        break;
      case "answer":
        this.calls.get(message.id)?.resolve(message.value);
        this.calls.delete(message.id);
        this.keepAlive();
        break;
      case "failed":
        this.die(fromWire(message.error));
        break;
      case "notice":
        this.hear(message.notice);
        break;
      case "recovering":
        this.recovering = true;
        this.onChange(this);
        break;
      case "info":
        this.recovering = false;
        this.info = message.info;
        this.onChange(this);
        break;
      case "closed":
        this.onClosed();
        break;
      case "progress": // of another load: this tab, or another, takes a shared engine over
        this.onProgress(message.progress);
        break;
      case "header":
      case "loaded":
        assert(false, `"${message.type}" after loading`);
    }
  }

  private hear(notice: Notice): void {
    this.notices.push(notice);
    this.onNotice?.(notice);
  }

  private refuse(id: number, error: TidepoolError): void {
    this.running.get(id)?.end({ error });
    this.calls.get(id)?.reject(error);
    this.running.delete(id);
    this.calls.delete(id);
    this.keepAlive();
  }

  private die(error: TidepoolError): void {
    const isFirst = this.dead === undefined;
    this.dead ??= error;
    for (const id of [...this.running.keys(), ...this.calls.keys()]) this.refuse(id, error);
    if (isFirst) this.onChange(this);
  }
}

/** Options of what a model's header alone answers. */
export interface HeaderOptions extends EngineOptions {
  /** Told of each request that failed and is made again: the phase is "retrying". */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends it; the promise rejects with `aborted`. */
  signal?: AbortSignal | undefined;
}

/** What a model is and needs, and whether it would run here. Reads its header alone. @throws TidepoolError. */
export async function inspect(model: Model, options: HeaderOptions = {}): Promise<ModelReport> {
  return (await askHeader(model, options, { ask: "inspect" })) as ModelReport;
}

/** Token ids of a text, without BOS, special tokens in it being plain text. Reads the model's header alone. */
export async function tokenize(model: Model, text: string, options: HeaderOptions = {}): Promise<number[]> {
  const given = textRule().read(text, "text");
  return (await askHeader(model, options, { ask: "tokenize", text: given })) as number[];
}

/** What a chat template is given besides the messages. */
export interface RenderOptions extends HeaderOptions {
  template?: Record<string, unknown>;
  tools?: readonly Tool[];
}

/** The prompt that a conversation becomes through the model's chat template. Reads the model's header alone. */
export async function render(
  model: Model,
  messages: readonly ChatMessage[],
  options: RenderOptions = {},
): Promise<RenderedChat> {
  const { template, tools: given, ...rest } = options;
  const input: Extract<RequestInput, { kind: "chat" }> = {
    kind: "chat",
    messages: chatMessages.read(messages, "messages"),
    ...(template !== undefined && { template: templateVariables.read(template, "template") }),
    ...(given !== undefined && { tools: toolsRule.read(given, "tools") }),
  };
  return (await askHeader(model, rest, { ask: "render", input })) as RenderedChat;
}

function askHeader(model: Model, given: HeaderOptions, question: HeaderQuestion): Promise<unknown> {
  const { onProgress, signal, ...options } = headerOptions.read(given, "");
  return askWorker({ type: "header", model: modelSpec(model), options, question }, { onProgress, signal });
}

/** @throws TidepoolError `unsupported` outside browsers. */
function shareName(share: boolean | string | undefined): string | undefined {
  if (share === undefined || share === false) return undefined;
  if (RUNTIME !== "browser") {
    const message = `share: only tabs of a browser share an engine, and this is ${RUNTIME}; elsewhere one Engine serves all callers`;
    throw new TidepoolError("unsupported", message);
  }
  return share === true ? "shared" : share;
}

/** @throws TidepoolError `invalid_argument` for what is no model */
function modelSpec(given: Model): ModelSpec {
  const model = modelRule.read(given, "model");
  if (model instanceof URL) {
    const isFile = model.protocol === "file:" && RUNTIME !== "browser";
    return isFile ? process.getBuiltinModule("node:url").fileURLToPath(model) : model.href;
  }
  if (typeof model === "string") {
    const isOnSite = RUNTIME === "browser" && /^\.{0,2}\//.test(model);
    return isOnSite ? new URL(model, globalThis.document?.baseURI ?? location.href).href : model;
  }
  const files = model instanceof File ? [model] : model;
  return files.map((file) => ({ name: file.name, blob: file }));
}

/**
 * How long a worker may take to end a load that was called off, before it is ended itself: it stops between two tensors or two
 * pipelines, and a Node process would not outlive a thread that is ended in the middle of one.
 */
const END_LOADING_MS = 10_000;

/** How long a worker may take to close: what waits for the disk is written, within limits of its own. */
const CLOSE_LIMIT_MS = 20_000;

/** Lets the worker note what it has downloaded, and give its lock back. */
function endLoading(port: WorkerPort): Promise<void> {
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
function loaded(port: WorkerPort, message: ToWorker, listeners: LoadListeners): Promise<EngineInfo> {
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
