/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The caller's handle: load, generate, chat, count, score, close. All work happens in a worker on the other side of
 * `wire/protocol.ts`; this file owns the worker's port and no GPU code.
 */
import { chatOptions, embedOptions, generateOptions, loadOptions, renderOptions } from "./arguments.ts";
import { assert, background, onAbort, RUNTIME } from "../base.ts";
import { text as textRule } from "../check.ts";
import { fromWire, TidepoolError, toWire } from "../errors.ts";
import type { ChatOptions, EmbedOptions, GenerateOptions, LoadOptionsOf, Model } from "./options.ts";
import { Generation, GenerationFeed } from "./generation.ts";
import type {
  Call,
  ChatMessage,
  EmbedInput,
  EngineInfo,
  EngineStats,
  FromWorker,
  GenerateParams,
  LoadProgress,
  Notice,
  PredictedRequest,
  PrefillCall,
  PromptUsage,
  RenderedChat,
  RequestInput,
  ScoreOptions,
  ScoreResult,
  StatsOptions,
  ToWorker,
  WarmOptions,
} from "../wire/protocol.ts";
import { EngineCache, promptInput } from "./engine-cache.ts";
import { chatInput, modelSpec } from "./headers.ts";
import { fetchOf } from "../openai/http.ts";
import { OpenAi } from "../openai/openai.ts";
import { oneModel } from "../openai/source.ts";
import { endLoading, loaded } from "./loading.ts";
import {
  embedInputs,
  promptTokens,
  scoreOptions,
  statsOptions,
  textOrTokens,
  warmOptions,
} from "../wire/arguments.ts";
import { startWorker, type WorkerPort } from "../wire/port.ts";

/**
 * The options of `Engine.load`: the engine's own settings, callbacks, and a signal that cancels the load.
 *
 * @example
 * ```ts
 * const options: LoadOptions = {
 *   cache: { directory: "kv" },
 *   signal: AbortSignal.timeout(60_000),
 *   onProgress: ({ phase, done, total }) => console.log(`${phase}: ${done} of ${total}`),
 * };
 * await using engine = await Engine.load("tide-dense.gguf", options);
 * ```
 */
export type LoadOptions = LoadOptionsOf<Engine>;

/** How long a worker may take to close: what waits for the disk is written, within limits of its own. */
const CLOSE_LIMIT_MS = 20_000;

interface PendingCall {
  resolve(value: unknown): void;
  reject(error: TidepoolError): void;
}

/**
 * Whether an engine can be used. "recovering": the GPU device was lost, or the tab that ran the shared engine is gone, and the
 * model is being loaded again while requests wait. "failed": the engine cannot recover. "closed": `close()` was called.
 */
export type EngineState = "ready" | "recovering" | "failed" | "closed";

/**
 * Calls for tests and debugging pages.
 *
 * @example
 * ```ts
 * await engine.generate("The tide was low and", { maxTokens: 4 }).result();
 * console.log(await engine.debug.check()); // { requests: 0, blocks: 0 }
 * ```
 */
export interface EngineDebug {
  /** Destroys the GPU device, as if the driver had lost it. The engine recovers from one loss a minute. */
  loseDevice(): Promise<void>;
  /**
   * Checks that requests under way hold all seats, blocks, states and outputs that are taken. Resolves to the number of requests
   * and of the KV blocks that they hold.
   * @throws TidepoolError `internal` if something has no holder, or two.
   */
  check(): Promise<{ requests: number; blocks: number }>;
}

/** A request that the worker can take. */
interface Submission {
  input: RequestInput;
  params: GenerateParams;
  signal: AbortSignal | undefined;
}

/**
 * A loaded model that answers requests. All work happens in a worker, so the caller's thread stays free.
 *
 * @example
 * ```ts
 * const engine = await Engine.load("tide-dense.gguf");
 * for await (const { text } of engine.generate("The tide was low and", { maxTokens: 8 })) console.log(text);
 * await engine.close();
 * ```
 */
export class Engine {
  /**
   * The loaded model, the adapter, and the kernels, memory and limits that the engine chose, with the features that this platform
   * lacks. The engine replaces this object when the KV pool grows and when the model is loaded again.
   *
   * @example
   * ```ts
   * const { model, adapter, kernels, limits } = engine.info;
   * console.log(model.architecture, model.contextTokens); // qwen3 2304
   * console.log(adapter.name, kernels.dtype, limits.blockTokens); // e.g. llvmpipe (LLVM 19.1.7, 256 bits) f32 32
   * ```
   */
  info: EngineInfo;
  /**
   * Calls for tests and debugging pages.
   *
   * @example
   * ```ts
   * await engine.debug.check(); // throws if something that no request uses is still taken
   * ```
   */
  readonly debug: EngineDebug = {
    loseDevice: async () => {
      await this.call({ method: "loseDevice" });
    },
    check: async () => (await this.call({ method: "check" })) as { requests: number; blocks: number },
  };
  /**
   * The KV cache of this engine, in all its tiers.
   *
   * @example
   * ```ts
   * const { ram, disk } = await engine.cache.stats();
   * console.log(`${ram.records} records in RAM, ${disk.records} on disk`);
   * ```
   */
  readonly cache: EngineCache;
  /**
   * OpenAI's API as calls, on this engine: code that was written for OpenAI's client runs with it in its place.
   *
   * @example
   * ```ts
   * const messages = [{ role: "user", content: "Hello." }] as const;
   * const { choices, usage } = await engine.openai.chat.completions.create({ messages, max_tokens: 4 });
   * console.log(choices.length, usage.completion_tokens); // 1 4
   * ```
   */
  readonly openai: OpenAi;
  /**
   * A `fetch` that answers OpenAI's API under any address with this engine, without a server; other addresses are not fetched. With
   * it OpenAI's own client runs on the engine: `new OpenAI({ baseURL, apiKey: "none", fetch: engine.fetch })`.
   *
   * @example
   * ```ts
   * const { data } = (await (await engine.fetch("http://engine/v1/models")).json()) as { data: { id: string }[] };
   * console.log(data[0]!.id === engine.info.model.name); // true
   * ```
   */
  readonly fetch: typeof fetch;
  private readonly port: WorkerPort;
  private readonly running = new Map<number, GenerationFeed>();
  private readonly calls = new Map<number, PendingCall>();
  private nextId = 1;
  /**
   * Notices about the storage, oldest first, each reported once.
   *
   * @example
   * ```ts
   * for (const { code, message } of engine.notices) console.log(`${code}: ${message}`);
   * ```
   */
  readonly notices: Notice[] = [];
  private readonly onNotice: ((notice: Notice) => void) | undefined;
  private readonly onChange: (engine: Engine) => void;
  private readonly onProgress: (progress: LoadProgress) => void;
  /** Computes long prompts for this one. */
  private readonly prefillBy: Engine | undefined;
  private dead: TidepoolError | undefined;
  /** The worker itself has ended: it can be asked nothing more, not even to close. */
  private isGone = false;
  private recovering = false;
  private closing: Promise<void> | undefined;
  private onClosed: () => void = () => {};

  private constructor(
    port: WorkerPort,
    info: EngineInfo,
    { onNotice, onChange = () => {}, onProgress = () => {}, prefillBy }: LoadOptions,
  ) {
    this.onNotice = onNotice;
    this.onProgress = onProgress;
    this.onChange = onChange;
    this.prefillBy = prefillBy?.engine;
    this.port = port;
    this.info = info;
    this.cache = new EngineCache((call) => this.call(call));
    this.openai = new OpenAi(oneModel(this));
    this.fetch = fetchOf(this.openai);
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
   *
   * @example
   * ```ts
   * await using engine = await Engine.load("tide-dense.gguf", { maxRequests: 2, cache: { directory: "kv" } });
   * console.log(engine.state); // ready
   * ```
   *
   * @example In a page
   * ```ts
   * const engine = await Engine.load("org/repo/model-q4_0.gguf", {
   *   share: true, // with the other tabs of this page
   *   onProgress: ({ phase, done, total }) => (document.title = `${phase} ${Math.round((100 * done) / total)}%`),
   * });
   * ```
   */
  static async load(model: Model, options: LoadOptions = {}): Promise<Engine> {
    const spec = modelSpec(model);
    const checked = loadOptions.read(options, "") as unknown as LoadOptions;
    const { onProgress, onNotice: _onNotice, onChange: _onChange, ...more } = checked;
    const { signal, share, prefillBy, ...engineOptions } = more;
    const name = shareName(share);
    if (name !== undefined && prefillBy) {
      const message = "prefillBy: an engine that tabs share may run in another tab, which has no such engine";
      throw new TidepoolError("unsupported", message);
    }
    if (signal?.aborted) throw new TidepoolError("aborted", "loading was aborted");
    const port = startWorker(spec);
    try {
      const early: Notice[] = [];
      const told = { onProgress, signal, onNotice: (notice: Notice) => void early.push(notice) };
      const message: ToWorker = {
        ...{ type: "load", model: spec, options: engineOptions },
        ...(name !== undefined && { share: name }),
        ...(prefillBy && { prefillBy: { when: prefillBy.when } }),
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

  /**
   * Whether the engine can be used.
   *
   * @example
   * ```ts
   * if (engine.state === "failed") throw engine.failure;
   * console.log(engine.state); // ready
   * ```
   */
  get state(): EngineState {
    if (this.closing) return "closed";
    if (this.dead) return "failed";
    return this.recovering ? "recovering" : "ready";
  }

  /**
   * The error that ended the engine if its state is "failed", otherwise undefined.
   *
   * @example
   * ```ts
   * console.log(engine.failure?.code ?? "no failure"); // no failure
   * ```
   */
  get failure(): TidepoolError | undefined {
    return this.closing ? undefined : this.dead;
  }

  /**
   * Continues a prompt. A text gets the model's BOS token if the model asks for one; token ids are used unchanged.
   *
   * @example
   * ```ts
   * const generation = engine.generate("The tide was low and", { maxTokens: 8, stop: "\n" });
   * for await (const { text } of generation) console.log(text);
   * const { usage, timing } = await generation.result();
   * console.log(`${usage.completionTokens} tokens, the first after ${timing.ttftMs} ms`);
   * ```
   */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): Generation {
    return this.submit(() => {
      const { signal, ...params } = generateOptions.read(options, "");
      return { input: plainInput(prompt), params, signal };
    });
  }

  /**
   * Answers a conversation through the model's chat template. Put the result's `tokens` into the assistant's message, so that
   * the next turn reuses exactly what was computed.
   *
   * @example
   * ```ts
   * const system = "You answer questions about the harbour. ".repeat(8);
   * const messages: ChatMessage[] = [
   *   { role: "system", content: system },
   *   { role: "user", content: "What is the cargo of the Marlow?" },
   * ];
   * const { text, tokens } = await engine.chat(messages, { maxTokens: 16 }).result();
   * messages.push({ role: "assistant", content: text, tokens }, { role: "user", content: "And its berth?" });
   * const { usage } = await engine.chat(messages, { maxTokens: 16 }).result();
   * console.log(usage.cachedTokens.gpu > 0); // true
   * ```
   */
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Generation {
    return this.submit(() => {
      const { signal, template, tools, ...params } = chatOptions.read(options, "");
      return { input: chatInput(messages, { template, tools }), params, signal };
    });
  }

  /**
   * Counts the prompt tokens of a text or conversation, without any work on the GPU.
   *
   * @example
   * ```ts
   * console.log(await engine.countTokens("The tide was low")); // 4
   * console.log(await engine.countTokens([{ role: "user", content: "The tide was low" }])); // 12
   * ```
   */
  async countTokens(
    prompt: string | readonly ChatMessage[],
    template?: Record<string, unknown>,
  ): Promise<number> {
    return (await this.call({ method: "countTokens", input: promptInput(prompt, template) })) as number;
  }

  /**
   * The prompt that a conversation becomes through the model's chat template, as text and as tokens.
   *
   * @example
   * ```ts
   * const { text, tokens } = await engine.render([{ role: "user", content: "Hello." }]);
   * console.log(text.includes("Hello."), tokens.length > 0); // true true
   * ```
   */
  async render(
    messages: readonly ChatMessage[],
    options: Pick<ChatOptions, "template" | "tools"> = {},
  ): Promise<RenderedChat> {
    const input = chatInput(messages, renderOptions.read(options, ""));
    return (await this.call({ method: "render", input })) as RenderedChat;
  }

  /**
   * How long a request would take if it came now, why, and whether it would be rejected. Nothing is computed or promised.
   *
   * A prompt that would go to a prefill service is predicted as if it were computed here. The service is used only if that promises to be
   * faster, so this is an upper bound, unless `prefill.when` is "always". Such a request is accepted or rejected when its records are here.
   *
   * @example
   * ```ts
   * const { ttftMs, parts, computedTokens, rejection } = await engine.predict("The tide was low and", { tbtMs: 60_000 });
   * console.log(`first token in ${ttftMs} ms: ${parts.queueMs} ms of waiting, ${computedTokens} tokens to compute`);
   * console.log(rejection); // undefined
   * ```
   */
  async predict(
    prompt: string | readonly number[] | readonly ChatMessage[],
    options: Omit<ChatOptions, "signal"> = {},
  ): Promise<PredictedRequest> {
    const { signal: _signal, template, tools, ...params } = chatOptions.read(options, "");
    const isChat = Array.isArray(prompt) && typeof prompt[0] === "object";
    const input = isChat
      ? chatInput(prompt as readonly ChatMessage[], { template, tools }, "prompt")
      : plainInput(prompt as string | readonly number[]);
    return (await this.call({ method: "predict", input, params })) as PredictedRequest;
  }

  /**
   * What is counted while the engine runs: who waits and runs, which requests were rejected, which kept their objectives, how good
   * predictions are. Of a mixture of experts of which not all are on the GPU, which are there, how often a
   * chosen one was, what was read, and how long steps waited.
   *
   * @example
   * ```ts
   * const { schedule, experts } = await engine.stats();
   * console.log(`${schedule.goodput.kept} of ${schedule.accepted} requests kept their objectives`);
   * // All experts are on the GPU, or the model has none:
   * console.log(experts); // undefined
   * ```
   */
  async stats(options: StatsOptions = {}): Promise<EngineStats> {
    return (await this.call({ method: "stats", ...statsOptions.read(options, "") })) as EngineStats;
  }

  /**
   * The token ids of a text, without BOS. The names of special tokens in the text are plain text.
   *
   * @example
   * ```ts
   * console.log((await engine.tokenize("The tide was low")).length); // 4
   * ```
   */
  async tokenize(text: string): Promise<number[]> {
    return (await this.call({ method: "tokenize", text: textRule().read(text, "text") })) as number[];
  }

  /**
   * The text of token ids, including the names of special tokens.
   *
   * @example
   * ```ts
   * const tokens = await engine.tokenize("The tide was low");
   * console.log(await engine.detokenize(tokens)); // The tide was low
   * ```
   */
  async detokenize(tokens: readonly number[]): Promise<string> {
    const given = promptTokens.read(tokens, "tokens");
    return (await this.call({ method: "detokenize", tokens: given })) as string;
  }

  /** @internal The bytes that each token adds to a text. */
  async tokenBytes(tokens: readonly number[]): Promise<Uint8Array[]> {
    return (await this.call({ method: "tokenBytes", tokens })) as Uint8Array[];
  }

  /**
   * The log-probabilities of given tokens, which are used unchanged. Keys and values are stored as those of a request are, unless
   * `cache` forbids it.
   *
   * @example
   * ```ts
   * const tokens = await engine.tokenize("The tide was low and the harbour was quiet.");
   * const { logprobs } = await engine.score(tokens);
   * const mean = logprobs.reduce((sum, logprob) => sum + logprob, 0) / logprobs.length;
   * console.log(`perplexity ${Math.exp(-mean)}`);
   * ```
   */
  async score(tokens: readonly number[], options: ScoreOptions = {}): Promise<ScoreResult> {
    const { from = 0, logits = false, cache } = scoreOptions.read(options, "");
    const given = promptTokens.read(tokens, "tokens");
    const call: Call = { method: "score", tokens: given, from, logits, ...(cache && { cache }) };
    return (await this.call(call)) as ScoreResult;
  }

  /**
   * One vector for each text, in the order of the texts, from a model that makes such vectors (`info.model.embedding`). Texts get
   * the tokens that the model wants around them; token ids are used unchanged. Texts of about the same length are computed
   * together, also those of several calls, and a text's vector does not depend on the others.
   * @throws TidepoolError `unsupported`, `too_long` naming the text, `invalid_argument`, `rejected`, `aborted`.
   *
   * @example
   * ```ts
   * await using encoder = await Engine.load("minilm.gguf");
   * const [question, answer] = await encoder.embed(["Where is the boat?", "The boat is at sea."]);
   * const cosine = question!.reduce((sum, value, i) => sum + value * answer![i]!, 0);
   * console.log(question!.length === encoder.info.model.embedding?.dimensions, cosine < 1); // true true
   * ```
   */
  async embed(
    texts: EmbedInput | readonly EmbedInput[],
    options: EmbedOptions = {},
  ): Promise<Float32Array<ArrayBuffer>[]> {
    const { signal, ...params } = embedOptions.read(options, "");
    const inputs = embedInputs.read(texts, "texts") as readonly EmbedInput[]; // one becomes a list
    return (await this.call({ method: "embed", inputs, params }, signal)) as Float32Array<ArrayBuffer>[];
  }

  /**
   * Computes a prompt ahead of time, or restores it from the cache, so that later requests that begin with it start at once.
   *
   * @example
   * ```ts
   * const system = { role: "system", content: "You answer questions about the harbour. ".repeat(8) } as const;
   * await engine.warm([system]);
   * const { usage } = await engine.chat([system, { role: "user", content: "Hello." }], { maxTokens: 4 }).result();
   * console.log(usage.cachedTokens.gpu >= 64); // true
   * ```
   */
  async warm(prompt: string | readonly ChatMessage[], options: WarmOptions = {}): Promise<PromptUsage> {
    const { cache } = warmOptions.read(options, "");
    return (await this.call({
      method: "warm",
      input: promptInput(prompt),
      ...(cache && { cache }),
    })) as PromptUsage;
  }

  /**
   * Aborts all requests, frees the GPU and stops the worker. Further calls do nothing.
   *
   * @example
   * ```ts
   * const engine = await Engine.load("tide-dense.gguf");
   * await engine.close();
   * console.log(engine.state); // closed
   * ```
   */
  close(): Promise<void> {
    return (this.closing ??= this.closeNow());
  }

  /**
   * Calls `close()` at the end of the block.
   *
   * @example
   * ```ts
   * {
   *   await using engine = await Engine.load("tide-dense.gguf");
   *   await engine.generate("The tide was low and", { maxTokens: 4 }).result();
   * } // closed here
   * ```
   */
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

  /** @param signal of calls that the worker can end */
  private call(call: Call, signal?: AbortSignal): Promise<unknown> {
    if (this.dead) return Promise.reject(this.dead);
    if (signal?.aborted) return Promise.reject(new TidepoolError("aborted", "the call was aborted"));
    const id = this.nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.calls.set(id, { resolve, reject });
      this.keepAlive();
      this.port.post({ type: "call", id, call });
    });
    const stopListening = onAbort(signal, () => this.port.post({ type: "abort", id }));
    return answer.finally(stopListening);
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
      case "prefillAsk":
        background(this.askOther(message.id, message.call), "prefill by another engine");
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

  /** Hands over what the worker asks of the other engine. */
  private async askOther(id: number, call: PrefillCall): Promise<void> {
    try {
      this.port.post({ type: "prefillAnswer", id, value: await this.prefillBy?.cache.ask(call) });
    } catch (error) {
      this.port.post({ type: "prefillAnswer", id, error: toWire(error) });
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

function plainInput(prompt: string | readonly number[]): RequestInput {
  const given = textOrTokens.read(prompt, "prompt");
  return typeof given === "string" ? { kind: "text", text: given } : { kind: "tokens", tokens: given };
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
