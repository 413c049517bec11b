/**
 * Whether a message with its documents fits the model's context, and the part of a document that does. It counts with the
 * functions that it is given; it shows nothing.
 */
import type { Engine } from "../../src/index.ts";
import {
  contentOf,
  messagesFor,
  modelKey,
  type AttachedDocument,
  type Conversation,
} from "./conversation/conversation.ts";

/** Tokens that a prompt leaves for its answer, so that there is one worth reading. */
const ANSWER_TOKENS = 64;

/** How often a document is cut again if the part still does not fit. */
const CUTS_LIMIT = 8;

/** A little less than the share that should fit, because tokens are spread unevenly over a text. */
const CUT_MARGIN = 0.98;

export interface Room {
  /** Tokens of the whole request: instructions, turns before, documents, message. */
  neededTokens: number;
  /** Tokens that a request may have here. */
  roomTokens: number;
}

export type CountTokens = (text: string) => Promise<number>;

/** What the conversation's next request needs with these documents, and what the engine has for it. */
export async function roomFor(
  engine: Engine,
  { system, turns }: Conversation,
  documents: readonly AttachedDocument[],
  prompt: string,
): Promise<Room> {
  const asked = [
    ...turns,
    { shape: "answer", prompt: contentOf({ documents, prompt }), documents: [] } as const,
  ];
  const { info } = engine;
  const neededTokens = await engine.countTokens(messagesFor(system, asked, modelKey(info)));
  const limit = Math.min(info.model.contextTokens, info.limits.poolTokens);
  return { neededTokens, roomTokens: limit - ANSWER_TOKENS };
}

export const fits = ({ neededTokens, roomTokens }: Room): boolean => neededTokens <= roomTokens;

/** The beginning of a text that has at most `limit` tokens, cut where a line ends if one does. Empty if none fits. */
async function beginningOf(text: string, limit: number, countTokens: CountTokens): Promise<string> {
  let part = text;
  for (let cuts = 0; cuts < CUTS_LIMIT && limit > 0; cuts++) {
    const tokens = await countTokens(part);
    if (tokens <= limit) return part;
    part = upToLine(part.slice(0, Math.floor((part.length * CUT_MARGIN * limit) / tokens)));
  }
  return "";
}

function upToLine(text: string): string {
  const end = text.lastIndexOf("\n");
  return end > text.length / 2 ? text.slice(0, end + 1) : text;
}

/** Cuts documents from the last one on until they need `excess` tokens less. */
export async function cutDocuments(
  documents: readonly AttachedDocument[],
  excess: number,
  countTokens: CountTokens,
): Promise<AttachedDocument[]> {
  const kept = [...documents];
  for (let left = excess; left > 0 && kept.length > 0;) {
    const last = kept.pop() as AttachedDocument;
    const tokens = await countTokens(last.text);
    const text = await beginningOf(last.text, tokens - left, countTokens);
    left -= tokens;
    if (text !== "") kept.push({ name: partName(last.name), text });
  }
  return kept;
}

const PART = " (first part)";

const partName = (name: string): string => (name.endsWith(PART) ? name : name + PART);
