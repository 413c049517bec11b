/**
 * A model's text side: requests in -> token ids, and a decoder out. A model without a usable tokenizer or template still
 * runs on token ids; the reason is kept and told when text is asked for.
 */
import { TidepoolError } from "../errors.ts";
import type { ModelFile } from "../load/model-file.ts";
import { chatTemplateOf, encodeConversation, type ChatTemplate, type ChatTurn } from "../text/chat.ts";
import { createTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { Decoder } from "./output.ts";
import type { ChatMessage, RequestInput } from "./protocol.ts";

/** A prompt in tokens; `keep` leading ones survive truncation (BOS, the system prompt). */
export interface EncodedPrompt {
  tokens: number[];
  keep: number;
}

type Made<T> = { value: T } | { problem: TidepoolError };

export class Prompts {
  private readonly madeTokenizer: Made<Tokenizer>;
  private readonly madeTemplate: Made<ChatTemplate>;

  constructor(file: ModelFile) {
    this.madeTokenizer = attempt(() => createTokenizer(file));
    this.madeTemplate = attempt(() => chatTemplateOf(file, this.tokenizer));
  }

  /** @throws TidepoolError saying why there is none. */
  get tokenizer(): Tokenizer {
    return got(this.madeTokenizer);
  }

  get tokenizerState(): string {
    return stateOf(this.madeTokenizer);
  }

  get templateState(): string {
    return stateOf(this.madeTemplate);
  }

  /** Tokens that end a generation. */
  get stopIds(): ReadonlySet<number> {
    return new Set("value" in this.madeTokenizer ? this.madeTokenizer.value.eosIds : []);
  }

  /** A decoder for what follows a prompt; without a tokenizer, one that gives no text. */
  decoder(prompt: readonly number[]): Decoder {
    if ("problem" in this.madeTokenizer) return { push: () => "", end: () => "" };
    const { value: tokenizer } = this.madeTokenizer;
    return tokenizer.stream({ continues: !tokenizer.isControl(prompt.at(-1) as number) });
  }

  encode(input: RequestInput): EncodedPrompt {
    switch (input.kind) {
      case "tokens":
        return { tokens: [...input.tokens], keep: 0 };
      case "text": {
        const { bosId, addBos } = this.tokenizer;
        const bos = addBos && bosId !== undefined ? [bosId] : [];
        return { tokens: [...bos, ...this.tokenizer.encode(input.text)], keep: bos.length };
      }
      case "chat":
        return this.encodeChat(input.messages, input.template ?? {});
    }
  }

  private encodeChat(messages: readonly ChatMessage[], variables: Record<string, unknown>): EncodedPrompt {
    if (messages.length === 0)
      throw new TidepoolError("invalid_argument", "a chat needs at least one message");
    const template = got(this.madeTemplate);
    const turns = messages.map(({ tokens, ...message }): ChatTurn => ({
      ...message,
      ...(tokens && { ids: tokens }),
    }));
    const tokens = encodeConversation(template, this.tokenizer, turns, { variables });
    const system = turns.slice(0, 1).filter(({ role }) => role === "system");
    return { tokens, keep: system.length === 0 ? 0 : this.sharedLength(template, system, tokens, variables) };
  }

  /** Tokens that the conversation shares with its system prompt alone. */
  private sharedLength(
    template: ChatTemplate,
    system: readonly ChatTurn[],
    tokens: readonly number[],
    variables: Record<string, unknown>,
  ): number {
    let alone: number[];
    try {
      alone = encodeConversation(template, this.tokenizer, system, { variables, addGenerationPrompt: false });
    } catch {
      return 0; // some templates refuse a conversation without a user turn: then nothing is known to keep
    }
    const differs = alone.findIndex((token, index) => token !== tokens[index]);
    return differs < 0 ? alone.length : differs;
  }
}

function attempt<T>(make: () => T): Made<T> {
  try {
    return { value: make() };
  } catch (error) {
    if (error instanceof TidepoolError) return { problem: error };
    throw error;
  }
}

function got<T>(made: Made<T>): T {
  if ("problem" in made) throw made.problem;
  return made.value;
}

function stateOf(made: Made<unknown>): string {
  return "problem" in made ? made.problem.message : "ready";
}
