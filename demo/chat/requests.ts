/** How a conversation's last turn becomes a request to the engine, and what is remembered of it for the policy comparison. */
import { TidepoolError, type ChatMessage, type Engine, type Generation } from "../../src/index.ts";
import { messagesFor, modelKey, type Conversation } from "./conversation/conversation.ts";
import type { Sampling } from "./settings.ts";

export const hasTemplate = (engine: Engine): boolean => engine.info.chatTemplate === "ready";

/** Asks the last turn of a conversation. */
export function requestFor(
  conversation: Conversation,
  engine: Engine,
  sampling: Sampling,
  signal: AbortSignal,
): Generation {
  const options = { ...sampling, overflow: "stop", signal } as const;
  const { system, turns } = conversation;
  return hasTemplate(engine)
    ? engine.chat(messagesFor(system, turns, modelKey(engine.info)), options)
    : engine.generate(turns.at(-1)?.prompt ?? "", options);
}

/** Whether the engine itself has ended, and not the request alone. */
export function isOver(error: unknown): boolean {
  return (
    error instanceof TidepoolError &&
    ["closed", "device_lost", "internal", "worker_died"].includes(error.code)
  );
}

interface Recorded {
  recordRequest(sequence: Int32Array, inputTokens: number): Promise<boolean>;
}

const recorded = import.meta.glob<Recorded>("../compare/recorded.ts");

/**
 * Adds the answered last turn to this page's own trace, which holds lengths and salted hashes. The marks that the chat
 * template puts between messages are left out: they are the same in every request.
 */
export async function recordTurn(conversation: Conversation, engine: Engine): Promise<void> {
  const load = recorded["../compare/recorded.ts"];
  const answer = conversation.turns.at(-1)?.answer;
  if (!load || !answer || answer.tokens.length === 0) return;
  const messages = messagesFor(conversation.system, conversation.turns, modelKey(engine.info));
  const tokensOf = async ({ tokens, content }: ChatMessage) =>
    tokens ?? (await engine.tokenize(typeof content === "string" ? content : ""));
  const parts = await Promise.all(messages.map(tokensOf));
  const prompt = parts.flat();
  const sequence = Int32Array.from([...prompt, ...answer.tokens]);
  await (await load()).recordRequest(sequence, prompt.length).catch(unlessFull);
}

/** Full storage is reported where conversations are kept; the trace then misses requests. */
function unlessFull(error: unknown): void {
  if ((error as { name?: unknown } | null)?.name !== "QuotaExceededError") throw error;
}
