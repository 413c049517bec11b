/** The log of the cache's decisions, newest first, of bounded length; changes are drawn once a frame. */
import type { CacheEvent } from "../../src/index.ts";
import { el } from "../page/dom.ts";
import { RequestNames, wordsOf } from "./words.ts";

const MAX_LINES = 500;

/** Events of one kind and request this close to each other share a line. */
const SAME_LINE_MS = 3000;

/** How far back a line may be to be gone on with. */
const NEAR_LINES = 4;

interface Line {
  /** Undefined where the page itself speaks. */
  event: CacheEvent | undefined;
  item: HTMLElement;
}

export class EventLog {
  readonly element: HTMLElement;
  private readonly list = el("ol", { class: "decisions" });
  private readonly empty = el("p", { class: "note" }, "No decisions since this view was opened.");
  private readonly names = new RequestNames();
  private readonly lines: Line[] = [];

  constructor() {
    const scroll = { class: "decisions-scroll", tabindex: 0, role: "region", "aria-label": "Decisions" };
    this.element = el(
      "section",
      { class: "decisions-panel" },
      el("h3", {}, "Decisions"),
      el("div", scroll, this.empty, this.list),
    );
  }

  /** @param dropped events that got lost before these. */
  add(events: readonly CacheEvent[], dropped: number): void {
    if (dropped > 0)
      this.put(undefined, "skip", `… and ${dropped} more decisions, too many to list`, Date.now());
    for (const event of events) this.take(event);
  }

  /** Something that the page itself did. */
  say(words: string): void {
    this.put(undefined, "page", words, Date.now());
  }

  private take(event: CacheEvent): void {
    const line = this.lines.slice(0, NEAR_LINES).find(({ event: other }) => other && goesOn(other, event));
    if (line?.event) {
      line.event = joined(line.event, event);
      line.item.lastElementChild?.replaceChildren(sentence(wordsOf(line.event, this.names)));
    } else this.put(event, event.kind, sentence(wordsOf(event, this.names)), event.timeMs);
  }

  private put(event: CacheEvent | undefined, kind: string, words: string, timeMs: number): void {
    const time = new Date(timeMs).toLocaleTimeString("en-GB");
    const item = el("li", { class: `kind-${kind}` }, el("time", {}, time), el("span", {}, words));
    this.empty.hidden = true;
    this.list.prepend(item);
    this.lines.unshift({ event, item });
    if (this.lines.length > MAX_LINES) this.lines.pop()?.item.remove();
  }
}

/** Whether an event continues an existing line: blocks of one request, kept or moved one by one. */
function goesOn(a: CacheEvent, b: CacheEvent): boolean {
  const single = b.kind === "matched" || b.kind === "snapshot" || b.kind === "alpha" || b.isSnapshot === true;
  if (single || a.kind !== b.kind || a.why !== b.why || a.requestId !== b.requestId) return false;
  return a.tier === b.tier && a.isSnapshot === b.isSnapshot && b.timeMs - a.timeMs < SAME_LINE_MS;
}

function joined(a: CacheEvent, b: CacheEvent): CacheEvent {
  const sums = { tokens: a.tokens + b.tokens, blocks: a.blocks + b.blocks, bytes: a.bytes + b.bytes };
  const idle =
    a.idleMs === undefined || b.idleMs === undefined ? {} : { idleMs: Math.min(a.idleMs, b.idleMs) };
  return { ...b, ...sums, ...idle, at: Math.max(a.at, b.at) };
}

function sentence(words: string): string {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}
