/**
 * A conversation as plain data that can be stored, and how it becomes a request. Each answer keeps its tokens, so that
 * the next turn finds what was computed. No DOM, no storage and no engine.
 */
import type { ChatMessage, EngineInfo, GenerationResult, Timing, Usage } from "../../../src/index.ts";

/** A text file that came with a message. */
export interface AttachedDocument {
  name: string;
  text: string;
}

export interface Answer {
  text: string;
  tokens: readonly number[];
  /** Who answered (`modelKey`): tokens mean nothing to another model. */
  model: string;
  finishReason: GenerationResult["finishReason"];
  usage: Usage;
  timing: Timing;
  /** What chance began with, where there was any. */
  seed?: number;
}

/** An answer below its question, or a text that goes on where the prompt ended. */
export type TurnShape = "answer" | "continuation";

/** What was asked and what came back, if anything did. */
export interface Turn {
  shape: TurnShape;
  prompt: string;
  documents: readonly AttachedDocument[];
  answer?: Answer;
  /** Why there is no answer, in the words that the page showed; gone once the turn is asked again. */
  failure?: string;
}

export interface Conversation {
  id: string;
  title: string;
  /** The title was given by the user, and so stays. */
  isNamed: boolean;
  system: string;
  createdAtMs: number;
  updatedAtMs: number;
  turns: Turn[];
}

/** How long a title made from a message may get, in characters. */
const TITLE_CHARACTERS = 48;
const UNTITLED = "New conversation";

export function newConversation(nowMs: number): Conversation {
  return {
    id: crypto.randomUUID(),
    title: UNTITLED,
    isNamed: false,
    system: "",
    createdAtMs: nowMs,
    updatedAtMs: nowMs,
    turns: [],
  };
}

/** A title from the first message, for a conversation that the user has not named. */
export function titleOf(conversation: Conversation): string {
  const { isNamed, title, turns } = conversation;
  const [first] = turns;
  if (isNamed) return title;
  if (!first) return UNTITLED;
  const line = first.prompt.trim().split("\n", 1)[0] ?? "";
  return line.length > TITLE_CHARACTERS ? `${line.slice(0, TITLE_CHARACTERS).trimEnd()}…` : line;
}

/** Names a model in stored answers. Two models of one name, shape and vocabulary count as the same. */
export function modelKey({ model }: EngineInfo): string {
  return [model.name, model.architecture, model.parameters, model.vocabSize].join("/");
}

/** What the model reads for a message: the documents first, so that other questions about them share their prefix. */
export function contentOf({ documents, prompt }: Pick<Turn, "documents" | "prompt">): string {
  return [...documents.map(({ text }) => text.trimEnd()), prompt].join("\n\n");
}

/**
 * The messages of the request that asks the last turn. Answers of the same model carry their tokens, and so are re-used
 * exactly; a turn whose answer has none is no part of later requests.
 */
export function messagesFor(system: string, turns: readonly Turn[], model: string): ChatMessage[] {
  const last = turns.at(-1);
  const before = turns.slice(0, -1).flatMap((turn): ChatMessage[] => {
    const { answer } = turn;
    if (answer === undefined || answer.tokens.length === 0) return [];
    const { text, tokens } = answer;
    return [
      { role: "user", content: contentOf(turn) },
      { role: "assistant", content: text, ...(answer.model === model && { tokens }) },
    ];
  });
  const opening: ChatMessage[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
  const asked: ChatMessage[] = last ? [{ role: "user", content: contentOf(last) }] : [];
  return [...opening, ...before, ...asked];
}
