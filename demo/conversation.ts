/** A conversation as plain data, and how it becomes a request. No DOM, and no engine but as a mark. */
import type { ChatMessage, Engine, GenerationResult } from "../src/index.ts";

/** What was asked and what came back. A turn whose answer has no tokens is no part of later requests. */
export interface Turn {
  prompt: string;
  /** Who answers: tokens mean nothing to another model. */
  by: Engine;
  result?: GenerationResult;
}

/** The messages of the next request. Answers of the same engine carry their tokens, and so are re-used exactly. */
export function messagesFor(turns: readonly Turn[], { prompt, by }: Turn): ChatMessage[] {
  const before = turns.flatMap((turn): ChatMessage[] => {
    if (turn.result === undefined || turn.result.tokens.length === 0) return [];
    const { text, tokens } = turn.result;
    return [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: text, ...(turn.by === by && { tokens }) },
    ];
  });
  return [...before, { role: "user", content: prompt }];
}
