/**
 * A model's text side: requests in -> token ids, and a decoder out. Encoding runs in the text worker (text/client.ts),
 * decoding here, by table look-up, where no template and no regular expression of the file takes part. A model without a
 * usable tokenizer or template still runs on token ids; the reason is kept and told when text is asked for.
 */
import { fromWire } from "../../errors.ts";
import type { ModelFile } from "../../load/model-file.ts";
import { createDetokenizer, type Detokenizer } from "../../text/detokenizer.ts";
import type { Decoder } from "./output.ts";
import type { Notice, RenderedChat, RequestInput } from "../../wire/protocol.ts";
import { DEFAULT_TEXT_TIMEOUT_MS, TextClient, type TextPort } from "../text/client.ts";
import { hasTokenizer, textParts, type EncodedPrompt, type TextQuestion } from "../text/messages.ts";
import { startTextWorker } from "../text/start.ts";

export interface PromptOptions {
  /** The longest that one text may take to become ids. Default: DEFAULT_TEXT_TIMEOUT_MS. */
  timeoutMs?: number | undefined;
  /** Starts the text worker. */
  start?: () => TextPort;
}

export class Prompts {
  private readonly client: TextClient;
  private readonly detokenizer: Detokenizer | undefined;
  /** Characters of the longest token: no token stands for more. */
  readonly longestToken: number;

  private constructor(client: TextClient) {
    this.client = client;
    const { tokenizer } = client.facts;
    this.detokenizer = "table" in tokenizer ? createDetokenizer(tokenizer.table) : undefined;
    const tokens = "table" in tokenizer ? tokenizer.table.tokens : [];
    this.longestToken = tokens.reduce((most, token = "") => Math.max(most, token.length), 1);
  }

  /** What is wrong with the file stands in the states. */
  static async open(file: ModelFile, options: PromptOptions = {}): Promise<Prompts> {
    const { timeoutMs = DEFAULT_TEXT_TIMEOUT_MS, start = startTextWorker } = options;
    const parts = textParts(file);
    // Without a tokenizer there is nothing to run.
    if (!hasTokenizer(parts))
      return new Prompts(TextClient.inThisThread(parts, "the model has no tokenizer"));
    return new Prompts(await TextClient.open(parts, { timeoutMs }, start));
  }

  get tokenizerState(): string {
    const { tokenizer } = this.client.facts;
    return "problem" in tokenizer ? tokenizer.problem.message : "ready";
  }

  get templateState(): string {
    const { tokenizer, templateProblem } = this.client.facts;
    return "problem" in tokenizer ? tokenizer.problem.message : (templateProblem?.message ?? "ready");
  }

  /** Whether the chat template has a place for reasoning. */
  get reasons(): boolean {
    return this.client.facts.reasons === true;
  }

  /** Where texts are encoded: "own worker", or why there is none. */
  get textState(): string {
    if (this.detokenizer === undefined) return "not needed";
    return this.client.unprotected === undefined
      ? "own worker"
      : `engine's thread: ${this.client.unprotected}`;
  }

  /** What the caller should hear of; none if all is well. */
  get notices(): Notice[] {
    const { tokenizer } = this.client.facts;
    const warnings = "table" in tokenizer ? tokenizer.table.warnings : [];
    const notices = warnings.map((message): Notice => ({ code: "tokenizer", message }));
    if (this.detokenizer === undefined || this.client.unprotected === undefined) return notices;
    const lost = "a chat template or tokenizer that does not finish would stop the engine";
    const message = `there is no worker for text (${this.client.unprotected}): ${lost}; load files of known origin only`;
    return [...notices, { code: "text_unprotected", message }];
  }

  /** Tokens that end a generation. */
  get stopIds(): ReadonlySet<number> {
    return new Set(this.detokenizer?.eosIds ?? []);
  }

  /** A decoder for what follows a prompt; without a tokenizer, one that gives no text. */
  decoder(prompt: readonly number[]): Decoder {
    const { detokenizer } = this;
    if (!detokenizer) return { push: () => "", end: () => "" };
    return detokenizer.stream({ continues: !detokenizer.isControl(prompt.at(-1) as number) });
  }

  /** @throws TidepoolError saying why there is no tokenizer. */
  detokenize(tokens: readonly number[]): string {
    this.check();
    return (this.detokenizer as Detokenizer).decode(tokens);
  }

  /** The bytes that each token adds to a text. @throws TidepoolError saying why there is no tokenizer. */
  bytesOf(tokens: readonly number[]): Uint8Array[] {
    this.check();
    return tokens.map((token) => (this.detokenizer as Detokenizer).bytesOf(token));
  }

  /** Ids of a text without BOS. */
  async tokenize(text: string): Promise<number[]> {
    return (await this.ask({ kind: "plain", text })).tokens;
  }

  /** @throws TidepoolError `timed_out`, `too_long`, or why there is no tokenizer or template. */
  async encode(input: RequestInput, signal?: AbortSignal): Promise<EncodedPrompt> {
    if (input.kind === "tokens") return tokenPrompt(input.tokens);
    return this.ask(input, signal);
  }

  /** The ids of a text with all that the tokenizer puts around one. */
  encodeWhole(text: string, signal?: AbortSignal): Promise<EncodedPrompt> {
    return this.ask({ kind: "whole", text }, signal);
  }

  /** What a conversation becomes. */
  async render(input: Extract<RequestInput, { kind: "chat" }>): Promise<RenderedChat> {
    const { text = "", tokens } = await this.ask({ ...input, withText: true });
    return { text, tokens };
  }

  close(): void {
    this.client.close();
  }

  private async ask(question: TextQuestion, signal?: AbortSignal): Promise<EncodedPrompt> {
    this.check();
    return this.client.ask(question, signal);
  }

  private check(): void {
    const { tokenizer } = this.client.facts;
    if ("problem" in tokenizer) throw fromWire(tokenizer.problem);
  }
}

/** A prompt that is given in tokens. */
export function tokenPrompt(tokens: readonly number[]): EncodedPrompt {
  return { tokens: [...tokens], protectedTokens: 0 };
}
