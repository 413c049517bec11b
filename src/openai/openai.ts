/**
 * OpenAI's API as calls: `chat.completions.create` and its neighbours, whole and streamed. They check the body, ask the engine and
 * put what comes into OpenAI's objects. HTTP is http.ts.
 */
import { onAbort } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { GivenAnswers } from "./answers.ts";
import {
  readChat,
  readEmbeddings,
  readText,
  readTokenize,
  type ChatBody,
  type CompletionFields,
  type EmbeddingsBody,
  type GivenChat,
  type GivenText,
  type TextBody,
} from "./bodies.ts";
import { piecesOf, UsageSum, type Choice, type Piece } from "./choices.ts";
import { chatForm, textForm, type Form, type Head } from "./forms.ts";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  EmbeddingList,
  ModelEntry,
  ModelList,
  OpenAiUsage,
  TextCompletion,
  TextCompletionChunk,
} from "./objects.ts";
import { chatParams, templateOf, textParams } from "./params.ts";
import { endsInReasoning, ReasoningSplit } from "./reasoning.ts";
import { noModel, type Lease, type ModelSource, type Speaker } from "./source.ts";

const OWNER = "tidepool";

/** What a call may be given beside its body. */
export interface OpenAiCallOptions {
  /** Ends the request. */
  signal?: AbortSignal | undefined;
}

/** Told of each request that ran to its end. */
export type UsageListener = (model: string, usage: OpenAiUsage) => void;

/** What runs for one request: its choices, and how they look from outside. */
interface Job<W, C> {
  form: Form<W, C>;
  prefix: string;
  perPrompt: number;
  choices: (signal: AbortSignal) => Promise<Choice[]>;
  /** A choice has ended. */
  ended: (pieces: readonly Piece[]) => void;
}

/**
 * OpenAI's API on the models of a source. Errors are `TidepoolError`s; `details.option` names the field.
 *
 * @example
 * ```ts
 * const { openai } = engine;
 * const messages = [{ role: "user", content: "Hello." }] as const;
 * const { choices } = await openai.chat.completions.create({ messages, max_tokens: 4, temperature: 0 });
 * console.log(choices[0]!.message.role); // assistant
 * for await (const chunk of await openai.chat.completions.create({ messages, max_tokens: 4, stream: true }))
 *   console.log(chunk.choices[0]?.delta.content ?? "");
 * ```
 */
export class OpenAi {
  private readonly source: ModelSource;
  private readonly onUsage: UsageListener;
  private readonly answers = new WeakMap<Speaker, GivenAnswers>();
  private readonly createdSeconds = nowSeconds();

  /** @internal `engine.openai` makes one. */
  constructor(source: ModelSource, onUsage: UsageListener = () => {}) {
    this.source = source;
    this.onUsage = onUsage;
  }

  /**
   * Answers to conversations.
   *
   * @example
   * ```ts
   * const messages = [{ role: "user", content: "What is the cargo of the Marlow?" }] as const;
   * const { usage } = await engine.openai.chat.completions.create({ messages, max_tokens: 4 });
   * console.log(usage.completion_tokens); // 4
   * ```
   */
  readonly chat = {
    completions: {
      create: ((body: ChatBody, options: OpenAiCallOptions = {}) =>
        this.complete(body, options, readChat, (given, speaker) =>
          this.chatJob(given, speaker),
        )) as OpenAiCreate<ChatBody, ChatCompletion, ChatCompletionChunk>,
    },
  };

  /**
   * Continuations of prompts.
   *
   * @example
   * ```ts
   * const body = { prompt: "The tide was low and", max_tokens: 4, logprobs: 0 };
   * const { choices } = await engine.openai.completions.create(body);
   * console.log(choices[0]!.logprobs!.tokens.length); // 4
   * ```
   */
  readonly completions = {
    create: ((body: TextBody, options: OpenAiCallOptions = {}) =>
      this.complete(body, options, readText, (given, speaker) =>
        this.textJob(given, speaker),
      )) as OpenAiCreate<TextBody, TextCompletion, TextCompletionChunk>,
  };

  /**
   * Vectors of texts, from models that make them.
   *
   * @example
   * ```ts
   * await using encoder = await Engine.load("minilm.gguf");
   * const { data, usage } = await encoder.openai.embeddings.create({ input: "A boat in the harbour" });
   * console.log(data[0]!.embedding.length, usage.prompt_tokens > 0); // 32 true
   * ```
   */
  readonly embeddings = {
    /** A vector for each text. */
    create: (body: EmbeddingsBody, options: OpenAiCallOptions = {}): Promise<EmbeddingList> =>
      this.embed(body, options),
  };

  /**
   * The models that may be asked.
   *
   * @example
   * ```ts
   * const { data } = engine.openai.models.list();
   * console.log(data[0]!.id === engine.info.model.name); // true
   * ```
   */
  readonly models = {
    /** All of them. */
    list: (): ModelList => ({ object: "list", data: this.source.names.map((name) => this.entry(name)) }),
    /** One of them. @throws TidepoolError `not_found` */
    retrieve: (name: string): ModelEntry => {
      if (this.source.names.includes(name)) return this.entry(name);
      throw noModel(name, this.source.names);
    },
  };

  /** @internal The tokens of a text, or of the prompt that a conversation becomes. */
  async tokenize(body: unknown): Promise<{ tokens: number[]; count: number; max_model_len: number }> {
    const { model, content, prompt, messages, ...more } = readTokenize(body);
    const text = content ?? prompt;
    if (messages === undefined && text === undefined)
      throw new TidepoolError("invalid_argument", "content is missing, expected a string", {
        option: "content",
      });
    return this.using(model, async ({ speaker }) => {
      const tokens = messages
        ? (await speaker.render(messages, { template: templateOf(more) })).tokens
        : await speaker.tokenize(text as string);
      return { tokens, count: tokens.length, max_model_len: speaker.info.model.contextTokens };
    });
  }

  private entry(id: string): ModelEntry {
    return { id, object: "model", created: this.createdSeconds, owned_by: OWNER };
  }

  private async using<T>(name: string | undefined, work: (lease: Lease) => Promise<T>): Promise<T> {
    const lease = await this.source.open(name);
    try {
      return await work(lease);
    } finally {
      lease.release();
    }
  }

  private embed(body: unknown, { signal }: OpenAiCallOptions): Promise<EmbeddingList> {
    const { model, input, encoding_format: format, dimensions } = readEmbeddings(body);
    return this.using(model, async ({ name, speaker }) => {
      const vectors = await speaker.embed(input, { signal, ...(dimensions !== undefined && { dimensions }) });
      const counts = await Promise.all(
        input.map(async (text) => (typeof text === "string" ? await speaker.countTokens(text) : text.length)),
      );
      const tokens = counts.reduce((sum, count) => sum + count, 0);
      const coded = (vector: Float32Array): number[] =>
        format === "base64" ? (base64(vector) as unknown as number[]) : [...vector];
      return {
        object: "list",
        model: name,
        data: vectors.map((vector, index) => ({ object: "embedding", index, embedding: coded(vector) })),
        usage: { prompt_tokens: tokens, total_tokens: tokens },
      };
    });
  }

  private async complete<G extends GivenChat | GivenText, W, C>(
    body: unknown,
    { signal }: OpenAiCallOptions,
    read: (body: unknown) => G,
    jobOf: (given: G, speaker: Speaker) => Job<W, C>,
  ): Promise<W | AsyncGenerator<C>> {
    const given = read(body);
    if (signal?.aborted) throw new TidepoolError("aborted", "the request was aborted");
    const lease = await this.source.open(given.model);
    const request = new OpenRequest(lease, jobOf(given, lease.speaker), signal, this.onUsage);
    await request.start();
    if (!given.stream) return request.whole();
    return request.stream(given.stream_options?.include_usage === true);
  }

  private chatJob(body: GivenChat, speaker: Speaker): Job<ChatCompletion, ChatCompletionChunk> {
    const answers = this.answers.get(speaker) ?? new GivenAnswers();
    this.answers.set(speaker, answers);
    const template = templateOf(body);
    const messages = answers.recall(body.messages);
    const [random, count] = [randomSeed(), body.n ?? 1];
    const choices = async (signal: AbortSignal): Promise<Choice[]> => {
      const splitOf = await this.splitter(speaker, messages, template);
      return Array.from({ length: count }, (_, index) => {
        const params = { ...chatParams(body, index, random), signal, ...(template && { template }) };
        return { index, running: speaker.chat(messages, params), split: splitOf() };
      });
    };
    const ended = (pieces: readonly Piece[]): void => {
      const content = pieces.map((piece) => piece.content).join("");
      if (pieces.every(({ reasoning }) => reasoning === ""))
        answers.add(content, pieces.at(-1)!.ended!.result.tokens);
    };
    return { form: chatForm, prefix: "chatcmpl-", perPrompt: count, choices, ended };
  }

  /** Models that reason begin with it or not, as their template lets the prompt end. */
  private async splitter(
    speaker: Speaker,
    messages: Parameters<Speaker["render"]>[0],
    template: Record<string, unknown> | undefined,
  ): Promise<() => ReasoningSplit | undefined> {
    if (!speaker.info.reasons) return () => undefined;
    const starts = endsInReasoning((await speaker.render(messages, { template })).text);
    return () => new ReasoningSplit(starts);
  }

  private textJob(body: GivenText, speaker: Speaker): Job<TextCompletion, TextCompletionChunk> {
    const [random, count] = [randomSeed(), body.n ?? 1];
    const choices = (signal: AbortSignal): Promise<Choice[]> =>
      Promise.resolve(
        body.prompt.flatMap((prompt, at) =>
          Array.from({ length: count }, (_, i) => {
            const params = { ...textParams(body, i, random), signal };
            return { index: at * count + i, running: speaker.generate(prompt, params), split: undefined };
          }),
        ),
      );
    return { form: textForm(), prefix: "cmpl-", perPrompt: count, choices, ended: () => {} };
  }
}

/** A call whose result depends on whether the body says `stream: true`. */
export interface OpenAiCreate<B extends CompletionFields, W, C> {
  (body: B & { stream: true }, options?: OpenAiCallOptions): Promise<AsyncGenerator<C>>;
  (body: B & { stream?: false | null | undefined }, options?: OpenAiCallOptions): Promise<W>;
  (body: B, options?: OpenAiCallOptions): Promise<W | AsyncGenerator<C>>;
}

/** A request under way. It holds its model, and gives it back once, however it ends. */
class OpenRequest<W, C> {
  private readonly lease: Lease;
  private readonly job: Job<W, C>;
  private readonly head: Head;
  private readonly stop = new AbortController();
  private readonly stopFollowing: () => void;
  private readonly onUsage: UsageListener;
  private readonly sum: UsageSum;
  /** The pieces of each choice. */
  private readonly seen: Piece[][] = [];
  private pieces: AsyncGenerator<Piece> | undefined;
  /** Read already, so that what is refused fails the call and not its stream. */
  private first: IteratorResult<Piece, void> | undefined;
  private isOver = false;

  constructor(lease: Lease, job: Job<W, C>, signal: AbortSignal | undefined, onUsage: UsageListener) {
    this.lease = lease;
    this.job = job;
    this.onUsage = onUsage;
    this.sum = new UsageSum(job.perPrompt);
    this.head = { id: newId(job.prefix), created: nowSeconds(), model: lease.name };
    this.stopFollowing = onAbort(signal, () => this.stop.abort());
  }

  /** Resolves with the first piece. */
  async start(): Promise<void> {
    try {
      const choices = await this.job.choices(this.stop.signal);
      for (const { index } of choices) this.seen[index] = [];
      this.pieces = piecesOf(this.lease.speaker, choices);
      this.first = await this.pieces.next();
    } catch (error) {
      this.end();
      throw error;
    }
  }

  async whole(): Promise<W> {
    for await (const _ of this.all()) continue;
    return this.job.form.whole(this.head, this.seen, this.sum.total);
  }

  /** Leaving it early ends the request at once, also while a chunk is awaited. */
  stream(withUsage: boolean): AsyncGenerator<C> {
    const chunks = this.chunks(withUsage);
    const leave = chunks.return.bind(chunks);
    chunks.return = (value) => {
      this.end();
      return leave(value);
    };
    return chunks;
  }

  private async *chunks(withUsage: boolean): AsyncGenerator<C> {
    const { form } = this.job;
    const marked = (chunk: C): Awaited<C> => (withUsage ? { ...chunk, usage: null } : chunk) as Awaited<C>; // no chunk is a promise
    try {
      for (const index of this.seen.keys()) {
        const opening = form.opening(this.head, index);
        if (opening !== undefined) yield marked(opening);
      }
      for await (const piece of this.all()) if (!isEmpty(piece)) yield marked(form.chunk(this.head, piece));
      if (withUsage) yield await form.usage(this.head, this.sum.total);
    } finally {
      this.end();
    }
  }

  private async *all(): AsyncGenerator<Piece> {
    try {
      for (let next = this.first!; !next.done; next = await this.pieces!.next()) {
        this.take(next.value);
        yield next.value;
      }
      this.onUsage(this.lease.name, this.sum.total);
    } finally {
      this.end();
    }
  }

  private take(piece: Piece): void {
    const own = this.seen[piece.index]!;
    own.push(piece);
    this.sum.add(piece);
    if (piece.ended) this.job.ended(own);
  }

  private end(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.stopFollowing();
    this.stop.abort(); // choices that still run
    this.lease.release();
  }
}

/** Text that is held back makes pieces with nothing in them. */
function isEmpty({ content, reasoning, logprobs, ended }: Piece): boolean {
  return content === "" && reasoning === "" && logprobs === undefined && ended === undefined;
}

function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

function newId(prefix: string): string {
  return prefix + crypto.getRandomValues(new Uint8Array(12)).reduce((id, byte) => id + hex(byte), "");
}

const hex = (byte: number): string => byte.toString(16).padStart(2, "0");

function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

function base64(vector: Float32Array): string {
  const bytes = new DataView(new ArrayBuffer(4 * vector.length));
  vector.forEach((value, i) => bytes.setFloat32(4 * i, value, true));
  let text = "";
  for (const byte of new Uint8Array(bytes.buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}
