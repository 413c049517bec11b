/**
 * The tokens of answers that were given, by their text. Clients send a conversation back as text, and tokenising an answer again may
 * give other tokens, which would void the cached prefix; with these the next turn reuses what was computed. They are used only for a
 * text that is the same, and the engine checks that they decode to it.
 */
import type { ChatMessage } from "../wire/protocol.ts";

/** Answers that are remembered, and tokens of one, at most. */
const MAX_ANSWERS = 256;
const MAX_TOKENS = 16_384;

export class GivenAnswers {
  /** Oldest first. */
  private readonly tokens = new Map<string, readonly number[]>();

  add(text: string, tokens: readonly number[]): void {
    if (text === "" || tokens.length > MAX_TOKENS) return;
    this.tokens.delete(text);
    this.tokens.set(text, tokens);
    if (this.tokens.size > MAX_ANSWERS) this.tokens.delete(this.tokens.keys().next().value as string);
  }

  /** The messages, and of answers that were given here, their tokens. */
  recall(messages: readonly ChatMessage[]): ChatMessage[] {
    return messages.map((message) => {
      const { role, content, tokens } = message;
      const known =
        role === "assistant" && typeof content === "string" ? this.tokens.get(content) : undefined;
      return tokens !== undefined || known === undefined ? message : { ...message, tokens: known };
    });
  }
}
