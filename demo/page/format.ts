/** Numbers as the page says them, and what it says of an error. */
import { TidepoolError, type ErrorCode, type Notice, type PromptUsage } from "../../src/index.ts";

const UNITS = ["bytes", "KB", "MB", "GB", "TB"];

/** "1.1 MB"; units are powers of 1,000. */
export function bytesText(bytes: number): string {
  const unit = unitOf(bytes);
  return `${inUnit(bytes, unit)} ${UNITS[unit]}`;
}

/** "0.4 of 1.1 MB". */
export function bytesOfText(done: number, total: number): string {
  return `${inUnit(done, unitOf(total))} of ${bytesText(total)}`;
}

/** The index of the largest unit that is not above `bytes`. */
function unitOf(bytes: number): number {
  const fits = UNITS.findLastIndex((_, unit) => bytes >= 1000 ** unit);
  return Math.max(0, fits);
}

const inUnit = (bytes: number, unit: number): string => (bytes / 1000 ** unit).toFixed(unit === 0 ? 0 : 1);

/** "260 thousand", "1.2 billion". */
export function countText(count: number): string {
  return new Intl.NumberFormat("en", { notation: "compact", compactDisplay: "long" }).format(count);
}

export function numberText(value: number): string {
  return new Intl.NumberFormat("en").format(value);
}

/** "0.42 s". */
export function secondsText(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** Where a prompt's tokens come from, the quickest first, and what each is called. */
export const SOURCES = [
  { id: "gpu", from: "from the GPU" },
  { id: "ram", from: "from memory" },
  { id: "disk", from: "from disk" },
  { id: "computed", from: "computed" },
] as const;

export type SourceId = (typeof SOURCES)[number]["id"];

/** The tokens of each source that gave any. */
export function tokensBySource({ computedTokens, cachedTokens }: PromptUsage): [SourceId, number][] {
  const tokens: Record<string, number> = { ...cachedTokens, computed: computedTokens };
  return SOURCES.map(({ id }): [SourceId, number] => [id, tokens[id] ?? 0]).filter(([, count]) => count > 0);
}

/** "480 from disk". */
export function sourceText(source: SourceId, tokens: number): string {
  const found = SOURCES.find(({ id }) => id === source);
  return `${numberText(tokens)} ${found?.from}`;
}

/** "1 token", "1,200 tokens". */
export function countedTokens(tokens: number): string {
  return `${numberText(tokens)} token${tokens === 1 ? "" : "s"}`;
}

/** What the storage's notices mean for the user, and what to do. */
const NOTICES: Record<string, string> = {
  no_opfs:
    "This browser keeps no files for the page, as in private windows: prompts are stored in its database. Use a normal window if they should last.",
  disk_unavailable:
    "Prompts cannot be stored here and are kept in memory until the page closes. Allow the site to store data, use a normal window, or free some room if the disk is full.",
  disk_full:
    "The browser's storage is full: new prompts are kept in memory only. Free some room on the disk, or clear other sites' data.",
  disk_lost:
    "The stored prompts are gone, perhaps because the browser's data was cleared. You need not do anything: new prompts are stored again soon.",
  disk_hung: "The disk does not respond, so prompts are kept in memory. Reload the page if this lasts.",
  disk_back: "Prompts are stored on the disk again.",
  models_no_room:
    "The browser's storage has no room for this model: it works, but is downloaded at each load. Remove models that are kept here, or free some room on the disk.",
  models_not_kept:
    "This browser keeps no files for the page, as in private windows: the model is downloaded at each load. Use a normal window to keep it.",
  device_recovered:
    "The GPU was lost, as when its driver restarts or the machine sleeps. The model was loaded again, and answers continue where they stopped. You need not do anything.",
};

export function noticeText({ code, message }: Notice): string {
  return NOTICES[code] ?? message;
}

/** What a user can do about an error, for the codes where there is something. */
const WAY_ON: Partial<Record<ErrorCode, string>> = {
  no_adapter: "Turn on hardware acceleration in the browser's settings, or use another browser.",
  out_of_memory: "Choose a smaller model, or the same one in a smaller quantisation.",
  source: "Check the address and the connection; a server of another origin must allow cross-origin reads.",
  not_found: "Check the address.",
  too_long:
    "Start a new conversation, attach a shorter document, or lower the number of tokens under Settings.",
  internal: "Load the model again; your conversations stay.",
  timed_out: "Choose another model: this one's own chat template or tokenizer is too slow.",
  invalid_file: "Choose another file, or all files of the model together.",
  device_lost: "Load the model again: what was computed and stored is reused.",
  gpu_failed: "Send it again; if it fails again, load the model again.",
  not_finite: "Choose another file of this model: its weights are damaged or do not suit 16-bit floats.",
  closed: "Load the model again.",
  worker_died: "Load the model again: what was computed and stored is reused.",
};

/** Full storage says itself what to do. */
function wayOnFrom({ code, details }: TidepoolError): string | undefined {
  return details["isFull"] === true ? "Then load it again." : WAY_ON[code];
}

/** What went wrong and what to do, in one or two sentences. */
export function errorText(error: unknown): string {
  const message = (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
  const wayOn = error instanceof TidepoolError ? wayOnFrom(error) : undefined;
  return wayOn === undefined ? `${message}.` : `${message}. ${wayOn}`;
}

/** What a failure of the browser's database means for conversations, and what to do. */
export function storageText(error: Error): string {
  const where = "The conversations stay on this page until it is closed";
  if (error.name === "QuotaExceededError")
    return `The browser's storage is full. ${where}: export what you need, or free some room (delete conversations, clear the cache), then try again.`;
  if (["SecurityError", "InvalidStateError", "UnknownError"].includes(error.name))
    return `This browser keeps no data for the page, as in some private windows. ${where}: export what you need, or use a normal window.`;
  return `The browser's database failed (${error.message || error.name}). ${where}: try again, or export what you need.`;
}

/** "14:05" for today, else "3 Nov 2026". */
export function dayText(ms: number): string {
  const date = new Date(ms);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}
