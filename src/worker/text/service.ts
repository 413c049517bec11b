/**
 * Texts and conversations -> token ids, with one model's tokenizer and chat template. This is what the text worker does,
 * without the worker: it may run for ever on a hostile file, which is for the client to stop (client.ts).
 */
import { inFile, TidepoolError, toWire } from "../../errors.ts";
import {
  chatTemplateOf,
  encodeConversation,
  renderConversation,
  type ChatTemplate,
  type ChatTurn,
  type RenderOptions,
} from "../../text/chat.ts";
import { createTokenizer, type Tokenizer } from "../../text/tokenizer.ts";
import {
  MAX_PROMPT_CHARS,
  MAX_PROMPT_TOKENS,
  type EncodedPrompt,
  type TextFacts,
  type TextParts,
  type TextQuestion,
} from "./messages.ts";

/** What ends a model's reasoning, in the templates of those that reason before they answer. */
const REASONING_END = "</think>";

type Made<T> = { value: T } | { problem: TidepoolError };

export class TextService {
  private readonly file: string;
  private readonly madeTokenizer: Made<Tokenizer>;
  private readonly madeTemplate: Made<ChatTemplate>;

  constructor(parts: TextParts) {
    this.file = parts.file;
    this.madeTokenizer = attempt(this.file, () => createTokenizer(parts));
    this.madeTemplate = attempt(this.file, () => chatTemplateOf(parts, this.tokenizer));
  }

  /** What the other side needs to know: the table to decode with, and what does not work. */
  get facts(): TextFacts {
    const { madeTokenizer: tokenizer, madeTemplate: template } = this;
    return {
      tokenizer:
        "problem" in tokenizer ? { problem: toWire(tokenizer.problem) } : { table: tokenizer.value.table },
      ...("problem" in template
        ? { templateProblem: toWire(template.problem) }
        : { reasons: template.value.source.includes(REASONING_END) }),
    };
  }

  /** @throws TidepoolError naming the file, where it is the file's fault. */
  answer(question: TextQuestion): EncodedPrompt {
    try {
      const prompt = this.encode(question);
      if (prompt.tokens.length > MAX_PROMPT_TOKENS) {
        throw new TidepoolError(
          "too_long",
          `the text is ${prompt.tokens.length} tokens, at most ${MAX_PROMPT_TOKENS} are taken`,
          { limit: MAX_PROMPT_TOKENS },
        );
      }
      return prompt;
    } catch (error) {
      throw inFile(this.file, error);
    }
  }

  private get tokenizer(): Tokenizer {
    return got(this.madeTokenizer);
  }

  private encode(question: TextQuestion): EncodedPrompt {
    if (question.kind === "chat") return this.encodeChat(question);
    const { text } = question;
    if (text.length > MAX_PROMPT_CHARS) {
      throw new TidepoolError(
        "too_long",
        `the text has ${text.length} characters, at most ${MAX_PROMPT_CHARS} are taken`,
        { limit: MAX_PROMPT_CHARS },
      );
    }
    if (question.kind === "whole") return this.encodeWhole(text);
    const { bosId, addBos } = this.tokenizer;
    const bos = question.kind === "text" && addBos && bosId !== undefined ? [bosId] : [];
    const ids = this.tokenizer.encode(text);
    return { tokens: bos.length === 0 ? ids : [...bos, ...ids], protectedTokens: bos.length };
  }

  private encodeWhole(text: string): EncodedPrompt {
    const { before, after } = this.tokenizer.around;
    const tokens = [...before, ...this.tokenizer.encode(text), ...after];
    return { tokens, protectedTokens: before.length, trailingTokens: after.length };
  }

  private encodeChat(question: Extract<TextQuestion, { kind: "chat" }>): EncodedPrompt {
    const { messages, template: variables = {}, tools, withText } = question;
    const options: RenderOptions = { variables, ...(tools && { tools }) };
    if (messages.length === 0)
      throw new TidepoolError("invalid_argument", "a chat needs at least one message");
    const template = got(this.madeTemplate);
    const turns = messages.map(({ tokens, ...message }): ChatTurn => ({
      ...message,
      ...(tokens && { ids: tokens }),
    }));
    const tokens = encodeConversation(template, this.tokenizer, turns, options);
    const system = turns.slice(0, 1).filter(({ role }) => role === "system");
    const protectedTokens = system.length === 0 ? 0 : this.sharedLength(template, system, tokens, options);
    return {
      tokens,
      protectedTokens,
      ...(withText && { text: renderConversation(template, turns, options) }),
    };
  }

  /** Tokens that the conversation shares with its system prompt alone. */
  private sharedLength(
    template: ChatTemplate,
    system: readonly ChatTurn[],
    tokens: readonly number[],
    options: RenderOptions,
  ): number {
    let alone: number[];
    try {
      alone = encodeConversation(template, this.tokenizer, system, {
        ...options,
        addGenerationPrompt: false,
      });
    } catch {
      return 0; // some templates refuse a conversation without a user turn: then nothing is known to keep
    }
    const differs = alone.findIndex((token, index) => token !== tokens[index]);
    return differs < 0 ? alone.length : differs;
  }
}

function attempt<T>(file: string, make: () => T): Made<T> {
  try {
    return { value: make() };
  } catch (error) {
    const named = inFile(file, error);
    if (named instanceof TidepoolError) return { problem: named };
    throw error;
  }
}

function got<T>(made: Made<T>): T {
  if ("problem" in made) throw made.problem;
  return made.value;
}
