/**
 * What the calls of the engine's door take: models and options. Types alone; the rules that check them are in arguments.ts.
 */
import type {
  EmbedParams,
  EngineOptions,
  GenerateParams,
  LoadProgress,
  Notice,
  PrefillOptions,
  SourceOptions,
  Tool,
} from "../wire/protocol.ts";

/**
 * What to load: a Hub id (`org/repo` or `org/repo/file.gguf`, optionally with `@revision`), a path (Node and Deno), a URL
 * (including `file:` in Node and Deno), or the files of a model. Downloaded files are kept and used by later loads. In a page,
 * a string that begins with `/`, `./` or `../` is an address relative to the page.
 *
 * @example
 * ```ts
 * const models: Model[] = [
 *   "org/repo@main", // the model in a repository of the Hub
 *   "org/repo/model-q4_0.gguf", // one of its files
 *   "./tide-dense.gguf", // a path in Node and Deno, an address in a page
 *   new URL("https://example.com/model.gguf"),
 * ];
 * ```
 */
export type Model = string | URL | File | readonly File[];

/** The fields of `LoadOptions`, whose listener is given the engine; the engine itself is not known here. */
export interface LoadOptionsOf<E> extends EngineOptions {
  /** Called with progress while the model loads. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Called when the storage is missing, full, lost or available again. */
  onNotice?: ((notice: Notice) => void) | undefined;
  /**
   * Called after `state` or `info` has changed: the device was lost, the model was loaded again, the KV pool grew, or the engine
   * failed.
   */
  onChange?: ((engine: E) => void) | undefined;
  /** Cancels the load; the promise then rejects with `aborted`. */
  signal?: AbortSignal | undefined;
  /**
   * Browsers only: shares one engine, and one copy of the weights on the GPU, between the tabs of an origin that load the same
   * model with the same options and the same name (`true` stands for "shared"). One tab's worker runs the engine; if that tab
   * closes or crashes, another tab takes over and requests continue where they stopped. `info.role` is this tab's part.
   * Default: not shared.
   */
  share?: boolean | string | undefined;
  /**
   * Another engine with the same model and settings on another device of this machine (`powerPreference`), which computes long prompts
   * for this one, as a prefill service does; `when` is that of `PrefillOptions`. Both hold the weights. Whoever loaded the other engine
   * closes it, after this one. Not with `share`. Default: none.
   */
  prefillBy?: PrefillEngine<E> | undefined;
}

/**
 * An engine that computes long prompts for another, and when.
 *
 * @example
 * ```ts
 * await using workhorse = await Engine.load("tide-dense.gguf", { powerPreference: "high-performance" });
 * const prefillBy: PrefillEngine<Engine> = { engine: workhorse, when: "faster" };
 * await using engine = await Engine.load("tide-dense.gguf", { powerPreference: "low-power", prefillBy });
 * await engine.generate("The tide was low and", { maxTokens: 4 }).result(); // short: computed here
 * ```
 */
export interface PrefillEngine<E> {
  engine: E;
  when?: PrefillOptions["when"];
}

/**
 * The options of `Engine.generate`: sampling, length, caching, and a signal that ends the request.
 *
 * @example
 * ```ts
 * const options: GenerateOptions = { maxTokens: 8, temperature: 0.7, seed: 1, signal: AbortSignal.timeout(10_000) };
 * const { finishReason } = await engine.generate("The tide was low and", options).result();
 * console.log(finishReason); // length
 * ```
 */
export interface GenerateOptions extends GenerateParams {
  /** Ends the request, even while its prompt is being computed; the result's `finishReason` is then `aborted`. */
  signal?: AbortSignal | undefined;
}

/**
 * The options of `Engine.embed`.
 *
 * @example
 * ```ts
 * const options: EmbedOptions = { dimensions: 16, signal: AbortSignal.timeout(10_000) };
 * await using encoder = await Engine.load("minilm.gguf");
 * console.log((await encoder.embed(["A boat", "A ship"], options)).length); // 2
 * ```
 */
export interface EmbedOptions extends EmbedParams {
  /** Ends the call, which then rejects with `aborted`. */
  signal?: AbortSignal | undefined;
}

/**
 * The options of `Engine.chat`: those of `Engine.generate`, and what the chat template needs.
 *
 * @example
 * ```ts
 * const options: ChatOptions = { maxTokens: 16, template: { enable_thinking: false } };
 * const { text } = await engine.chat([{ role: "user", content: "Hello." }], options).result();
 * ```
 */
export interface ChatOptions extends GenerateOptions {
  /** Variables for the chat template, such as `enable_thinking`. */
  template?: Record<string, unknown> | undefined;
  /** Tools that the model may call, passed to the chat template. The answer is text; the caller parses any tool calls in it. */
  tools?: readonly Tool[] | undefined;
}

/**
 * The options of `inspect` and `tokenize`, which read only a model's header.
 *
 * @example
 * ```ts
 * const options: HeaderOptions = { signal: AbortSignal.timeout(10_000) };
 * console.log((await inspect("tide-dense.gguf", options)).format); // gguf
 * ```
 */
export interface HeaderOptions extends EngineOptions {
  /** Called for each request that failed and is repeated; the phase is "retrying". */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Cancels the call; the promise then rejects with `aborted`. */
  signal?: AbortSignal | undefined;
}

/**
 * What a chat template gets besides the messages.
 *
 * @example
 * ```ts
 * const options: RenderOptions = { template: { enable_thinking: false } };
 * const { text } = await render("tide-dense.gguf", [{ role: "user", content: "Hello." }], options);
 * ```
 */
export interface RenderOptions extends HeaderOptions {
  template?: Record<string, unknown> | undefined;
  tools?: readonly Tool[] | undefined;
}

/**
 * The options of `models`: where models come from and are kept, a progress callback, and a signal.
 *
 * @example
 * ```ts
 * const options: ModelsCallOptions = { models: { directory: "models" }, signal: AbortSignal.timeout(60_000) };
 * console.log(Array.isArray(await models.list(options))); // true
 * ```
 */
export interface ModelsCallOptions extends SourceOptions {
  /** Called with progress while files are fetched or checked. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Cancels the call; what was fetched by then is kept for the next time. */
  signal?: AbortSignal | undefined;
}
