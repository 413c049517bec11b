/**
 * Conversations as JSON files: what is written, and the checks on what is read. A file that is not one of ours is
 * refused with the field at fault. No DOM and no storage.
 */
import {
  newConversation,
  type Answer,
  type AttachedDocument,
  type Conversation,
  type Turn,
} from "./conversation.ts";

const FORMAT = "tidepool-conversation";
const VERSION = 1;
/** Bounds on what a file may hold. */
const FILE_BYTES_LIMIT = 32 * 1024 * 1024;
const TURNS_LIMIT = 10_000;

type Fields = Record<string, unknown>;

export function conversationFile(conversation: Conversation): File {
  const { title, isNamed, system, createdAtMs, turns } = conversation;
  const content = { format: FORMAT, version: VERSION, title, isNamed, system, createdAtMs, turns };
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation";
  return new File([JSON.stringify(content, null, 1)], `${name}.json`, { type: "application/json" });
}

/** A new conversation with a file's content. @throws Error naming the file and the field at fault. */
export async function readConversationFile(file: File, nowMs: number): Promise<Conversation> {
  try {
    if (file.size > FILE_BYTES_LIMIT) throw new Error(`it is larger than ${FILE_BYTES_LIMIT} bytes`);
    return conversationOf(parsed(await file.text()), nowMs);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${file.name} is not an exported conversation: ${reason}`);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
}

function conversationOf(value: unknown, nowMs: number): Conversation {
  const fields = object(value, "the file");
  if (fields["format"] !== FORMAT) throw new Error(`"format" is not "${FORMAT}"`);
  if (fields["version"] !== VERSION) throw new Error(`"version" is not ${VERSION}`);
  const turns = list(fields["turns"], "turns").map((turn, i) => turnOf(turn, `turns[${i}]`));
  return {
    ...newConversation(nowMs),
    title: text(fields["title"], "title"),
    isNamed: fields["isNamed"] === true,
    system: text(fields["system"], "system"),
    createdAtMs: number(fields["createdAtMs"], "createdAtMs"),
    turns,
  };
}

function turnOf(value: unknown, at: string): Turn {
  const fields = object(value, at);
  const documents = list(fields["documents"], `${at}.documents`);
  return {
    shape: oneOf(fields["shape"], ["answer", "continuation"], `${at}.shape`),
    prompt: text(fields["prompt"], `${at}.prompt`),
    documents: documents.map((one, i) => documentOf(one, `${at}.documents[${i}]`)),
    ...(fields["answer"] !== undefined && { answer: answerOf(fields["answer"], `${at}.answer`) }),
    ...(fields["failure"] !== undefined && { failure: text(fields["failure"], `${at}.failure`) }),
  };
}

function documentOf(value: unknown, at: string): AttachedDocument {
  const fields = object(value, at);
  return { name: text(fields["name"], `${at}.name`), text: text(fields["text"], `${at}.text`) };
}

function answerOf(value: unknown, at: string): Answer {
  const fields = object(value, at);
  const tokens = list(fields["tokens"], `${at}.tokens`).map((one, i) => token(one, `${at}.tokens[${i}]`));
  return {
    text: text(fields["text"], `${at}.text`),
    tokens,
    model: text(fields["model"], `${at}.model`),
    finishReason: oneOf(fields["finishReason"], ["stop", "length", "aborted"], `${at}.finishReason`),
    usage: usageOf(fields["usage"], `${at}.usage`),
    timing: timingOf(fields["timing"], `${at}.timing`),
    ...(fields["seed"] !== undefined && { seed: number(fields["seed"], `${at}.seed`) }),
  };
}

function usageOf(value: unknown, at: string): Answer["usage"] {
  const fields = object(value, at);
  const cached = object(fields["cachedTokens"], `${at}.cachedTokens`);
  return {
    promptTokens: number(fields["promptTokens"], `${at}.promptTokens`),
    computedTokens: number(fields["computedTokens"], `${at}.computedTokens`),
    completionTokens: number(fields["completionTokens"], `${at}.completionTokens`),
    cachedTokens: {
      gpu: number(cached["gpu"], `${at}.cachedTokens.gpu`),
      ram: number(cached["ram"], `${at}.cachedTokens.ram`),
      disk: number(cached["disk"], `${at}.cachedTokens.disk`),
    },
  };
}

function timingOf(value: unknown, at: string): Answer["timing"] {
  const fields = object(value, at);
  return {
    ttftMs: number(fields["ttftMs"], `${at}.ttftMs`),
    prefillTokensPerSecond: number(fields["prefillTokensPerSecond"], `${at}.prefillTokensPerSecond`),
    decodeTokensPerSecond: number(fields["decodeTokensPerSecond"], `${at}.decodeTokensPerSecond`),
  };
}

function object(value: unknown, at: string): Fields {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields;
  throw new Error(`${at} is not an object`);
}

function list(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw new Error(`"${at}" is not a list`);
  if (at === "turns" && value.length > TURNS_LIMIT)
    throw new Error(`"turns" has more than ${TURNS_LIMIT} entries`);
  return value as unknown[];
}

function text(value: unknown, at: string): string {
  if (typeof value !== "string") throw new Error(`"${at}" is not a string`);
  return value;
}

function number(value: unknown, at: string): number {
  if (typeof value !== "number" || value < 0) throw new Error(`"${at}" is not a number of at least 0`);
  return value;
}

function token(value: unknown, at: string): number {
  if (!Number.isSafeInteger(value)) throw new Error(`"${at}" is not a token`);
  return number(value, at);
}

function oneOf<T extends string>(value: unknown, choices: readonly T[], at: string): T {
  const choice = choices.find((one) => one === value);
  if (choice === undefined) throw new Error(`"${at}" is not one of ${choices.join(", ")}`);
  return choice;
}
