/** What the cache decided, in plain words. Pure: text in, text out; the log draws it. */
import type { CacheEvent } from "../../src/index.ts";
import { bytesText, countedTokens, numberText } from "../page/format.ts";
import { placeOf } from "./places.ts";

/** Requests whose numbers are remembered: older ones are called by their number anew. */
const MAX_NAMES = 1000;

/** Gives the engine's request ids small numbers in the order in which they are heard of. */
export class RequestNames {
  private readonly names = new Map<number, string>();
  private count = 0;

  of(id: number | undefined): string {
    if (id === undefined) return "a prompt";
    const known = this.names.get(id);
    if (known !== undefined) return known;
    const name = `prompt ${++this.count}`;
    this.names.set(id, name);
    const [oldest] = this.names.keys();
    if (this.names.size > MAX_NAMES && oldest !== undefined) this.names.delete(oldest);
    return name;
  }
}

/** "4 minutes", "12 seconds". */
export function durationText(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return counted(Math.max(1, seconds), "second");
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? counted(minutes, "minute") : counted(Math.round(minutes / 60), "hour");
}

export function counted(count: number, noun: string): string {
  return `${numberText(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** One sentence, without its full stop. */
export function wordsOf(event: CacheEvent, names: RequestNames): string {
  switch (event.kind) {
    case "matched":
      return matchedWords(event, names.of(event.requestId));
    case "admitted":
      return `kept ${counted(event.blocks, "block")} of ${names.of(event.requestId)}, up to token ${numberText(event.at)}`;
    case "snapshot":
      return `kept a snapshot at token ${numberText(event.at)}: ${snapshotWords(event, names)}`;
    case "evicted":
      return evictedWords(event);
    case "spilled":
      return `copied ${thing(event)} to ${tierWords(event, "memory and ")}, ${bytesText(event.bytes)}`;
    case "restored":
      return `brought ${thing(event)} back from ${tierWords(event)} for ${names.of(event.requestId)}`;
    case "alpha":
      return `changed the weight of saved computation to ${event.alpha ?? 0}: with it, recent requests would have saved more`;
  }
}

/** The tier of an event in the page's words; `above` goes before a tier that is not in memory. */
function tierWords({ tier = "ram" }: CacheEvent, above = ""): string {
  const name = placeOf(tier).name.toLowerCase();
  return tier === "ram" ? name : `${above}${name}`;
}

function matchedWords({ why, tokens }: CacheEvent, name: string): string {
  if (why === "unknown") return `${name}: none of it is on the GPU`;
  const known = `${name}: its first ${countedTokens(tokens)} are on the GPU`;
  return why === "branched"
    ? `${known}, shared with another conversation`
    : `${known}, left by an earlier one`;
}

function snapshotWords({ why, requestId }: CacheEvent, names: RequestNames): string {
  switch (why) {
    case "branch":
      return "second conversation with this prefix";
    case "end":
      return `${names.of(requestId)} ended here and may continue`;
    case "interval":
      return "the policy keeps one at every block";
    default:
      return "it came back from a lower tier";
  }
}

function evictedWords(event: CacheEvent): string {
  const { why, idleMs } = event;
  if (why === "cleared") return `forgot ${thing(event)}: the cache was cleared`;
  const unused = idleMs === undefined ? "" : ` of a conversation not used for ${durationText(idleMs)}`;
  const reason =
    why === "blocks-needed" ? "its blocks were needed" : "the place was needed for another snapshot";
  return `evicted ${thing(event)}${unused}: ${reason}`;
}

function thing({ blocks, isSnapshot }: CacheEvent): string {
  if (!isSnapshot) return counted(blocks, "block");
  return blocks > 0 ? `${counted(blocks, "block")} with a snapshot` : "a snapshot";
}
