/**
 * What the tabs that share an engine say to each other, over one channel: every message has a sender and an addressee. It
 * checks what comes in by its shape and throws nothing: other versions of this code have channels of their own (the key holds
 * SHARE_VERSION), so that what is not understood is nobody's, and is passed over.
 */
import type { EngineInfo, FromWorker } from "../../wire/protocol.ts";
import type { Ask } from "../local.ts";

/** Raised with every change of these messages, or of those of wire/ that travel in them. */
export const SHARE_VERSION = 4;

/** The addressee of what all should hear. */
export const EVERYONE = "*";

/** Members of one engine beside its owner, at most: each message wakes all of them. */
export const MAX_GUESTS = 32;

/** What a loaded engine says by itself or in answer. */
export type Say = Exclude<FromWorker, { type: "loaded" | "header" | "closed" | "prefillAsk" }>;

/** `ownedSince`: when the owner whom it is from or for became that; 0 where none is known. */
export type ShareMessage = { from: string; to: string; ownedSince: number } & (
  | { kind: "join" } // a member looks for the owner, or has heard of it
  | { kind: "leave" } // a guest ends
  | { kind: "ask"; ask: Ask } // a guest's page asks
  | { kind: "ping" } // a guest that waits wants to know whether the owner lives
  | { kind: "owner" } // a member became the owner: all may join it
  | { kind: "welcome" } // the owner has noted a guest
  | { kind: "ready"; info: EngineInfo } // the owner's model is loaded: guests may ask
  | { kind: "say"; say: Say } // the engine says, to one guest
  | { kind: "pong" }
  | { kind: "leaving" } // the owner closes: nothing more comes from it
);

/** A member's messages without the envelope. */
export type ShareBody = ShareMessage extends infer M
  ? M extends unknown
    ? Omit<M, "from" | "to" | "ownedSince">
    : never
  : never;

type Fields = Record<string, unknown>;

/** The message, or nothing where it has not the shape of one. */
export function readShareMessage(data: unknown): ShareMessage | undefined {
  if (!isFields(data) || typeof data["from"] !== "string" || typeof data["to"] !== "string") return undefined;
  if (!Number.isFinite(data["ownedSince"])) return undefined;
  const isOne = BODIES.get(data["kind"])?.(data) ?? false;
  return isOne ? (data as unknown as ShareMessage) : undefined;
}

type Check = (fields: Fields) => boolean;

const always: Check = () => true;

const BODIES = new Map<unknown, Check>(
  Object.entries({
    join: always,
    leave: always,
    ping: always,
    pong: always,
    leaving: always,
    owner: always,
    welcome: always,
    ready: ({ info }) => isInfo(info),
    ask: ({ ask }) => isFields(ask) && (ASKS.get(ask["type"])?.(ask) ?? false),
    say: ({ say }) => isFields(say) && (SAYS.get(say["type"])?.(say) ?? false),
  } satisfies Record<ShareMessage["kind"], Check>),
);

const ASKS = new Map<unknown, Check>(
  Object.entries({
    submit: ({ id, input, params, resume }) =>
      isId(id) && isFields(input) && isFields(params) && (resume === undefined || isResume(resume)),
    abort: ({ id }) => isId(id),
    call: ({ id, call }) => isId(id) && isFields(call) && typeof call["method"] === "string",
  } satisfies Record<Ask["type"], Check>),
);

const SAYS = new Map<unknown, Check>(
  Object.entries({
    progress: ({ progress }) => isFields(progress),
    recovering: always,
    info: ({ info }) => isInfo(info),
    failed: ({ error }) => isFields(error),
    step: ({ outputs }) => Array.isArray(outputs) && outputs.every(isOutput),
    finished: ({ id, result }) =>
      isId(id) && isFields(result) && typeof result["text"] === "string" && isTokens(result["tokens"]),
    refused: ({ id, error }) => isId(id) && isFields(error),
    answer: ({ id }) => isId(id),
    notice: ({ notice }) => isFields(notice),
    cacheEvents: ({ events, dropped }) => Array.isArray(events) && Number.isFinite(dropped),
  } satisfies Record<Say["type"], Check>),
);

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null;
}

/** 0 is the member's own, for what its page has not asked. */
function isId(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isTokens(value: unknown): boolean {
  return Array.isArray(value) && value.every((token) => Number.isInteger(token));
}

function isResume(value: unknown): boolean {
  if (!isFields(value)) return false;
  return isTokens(value["tokens"]) && (value["logprobs"] === undefined || Array.isArray(value["logprobs"]));
}

function isInfo(value: unknown): boolean {
  return isFields(value) && isFields(value["model"]) && isFields(value["limits"]);
}

function isOutput(value: unknown): boolean {
  return (
    isFields(value) && isId(value["id"]) && typeof value["text"] === "string" && isTokens(value["tokens"])
  );
}
