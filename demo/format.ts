/** Numbers as the page says them, and what it says of an error. */
import { TidepoolError, type ErrorCode } from "../src/index.ts";

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
