/** Numbers as the page says them, and what it says of an error. */
import { TidepoolError, type ErrorCode, type Notice, type Usage } from "../src/index.ts";

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

/** "prompt 512 tokens: 480 from disk, 32 computed". */
export function promptText({ promptTokens, computedTokens, cachedTokens }: Usage): string {
  const { gpu, ram, disk } = cachedTokens;
  const sources: [number, string][] = [
    [gpu, "from the GPU"],
    [ram, "from memory"],
    [disk, "from disk"],
    [computedTokens, "computed"],
  ];
  const parts = sources.filter(([tokens]) => tokens > 0);
  return `prompt ${countedTokens(promptTokens)}: ${parts.map(([tokens, how]) => `${numberText(tokens)} ${how}`).join(", ")}`;
}

/** "1 token", "1,200 tokens". */
export function countedTokens(tokens: number): string {
  return `${numberText(tokens)} token${tokens === 1 ? "" : "s"}`;
}

/** What the storage's notices mean for the user, and what to do. */
const NOTICES: Record<string, string> = {
  opfs_unavailable:
    "This browser keeps no files for the page, as in private windows: prompts are stored in its database. Use a normal window if they should last.",
  disk_unavailable:
    "Prompts cannot be stored here and are kept in memory until the page closes. Allow the site to store data, or use a normal window.",
  disk_full:
    "The browser's storage is full: new prompts are kept in memory only. Free some room on the disk, or clear other sites' data.",
  disk_lost: "The stored prompts are gone, perhaps cleared. Nothing to do: new ones are stored again soon.",
  disk_hung: "The disk does not answer, so prompts are kept in memory. Reload the page if this lasts.",
  disk_back: "Prompts are stored on the disk again.",
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
  too_long: "Clear the conversation, or lower the number of tokens under Settings.",
  invalid_file: "Choose another file, or all files of the model together.",
  device_lost: "Load the model again.",
  closed: "Load the model again.",
};

/** What went wrong and what to do, in one or two sentences. */
export function errorText(error: unknown): string {
  const message = (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
  const wayOn = error instanceof TidepoolError ? WAY_ON[error.code] : undefined;
  return wayOn === undefined ? `${message}.` : `${message}. ${wayOn}`;
}
