/**
 * What the cache decides, on its way to the caller: events get their time, those of one kind that follow each other are
 * joined, and the rest goes out in batches from a bounded queue. It decides nothing, and does nothing while nobody listens.
 */
import { systemClock } from "../../base.ts";
import type { CacheEvent as Decision } from "../../cache/events.ts";
import type { CacheEvent } from "../../wire/protocol.ts";

/** Events that wait to be posted, at most; more are dropped, and counted. */
const MAX_QUEUED_EVENTS = 512;

/** A batch is posted so long after its first event. */
const BATCH_MS = 100;

/** Logical times whose wall time is remembered, at most: older ones count as the oldest of them. */
const MAX_CLOCK_MARKS = 8192;

type Send = (events: CacheEvent[], dropped: number) => void;

export class CacheEvents {
  private readonly send: Send;
  private queue: CacheEvent[] = [];
  private dropped = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly marks = new ClockMarks();

  constructor(send: Send) {
    this.send = send;
  }

  /** Takes in what the cache tells. */
  add(decision: Decision): void {
    const { clock, lastAccess, ...rest } = decision;
    const nowMs = systemClock.nowMs();
    if (clock !== undefined && decision.kind !== "evicted") this.marks.add(clock, nowMs);
    const idle = lastAccess === undefined ? {} : { idleMs: nowMs - this.marks.timeOf(lastAccess, nowMs) };
    this.push({ ...rest, ...idle, timeMs: Date.now() });
    this.timer ??= setTimeout(() => this.flush(), BATCH_MS);
  }

  /** Milliseconds since logical time `clock`, as far back as events were taken in; -1 for what was before. */
  idleMsOf(clock: number): number {
    const nowMs = systemClock.nowMs();
    return this.marks.knows(clock) ? nowMs - this.marks.timeOf(clock, nowMs) : -1;
  }

  /** Posts what waits now. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.queue.length === 0 && this.dropped === 0) return;
    this.send(this.queue, this.dropped);
    this.queue = [];
    this.dropped = 0;
  }

  /** Forgets what waits; nobody listens any more. */
  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.queue = [];
    this.dropped = 0;
  }

  private push(event: CacheEvent): void {
    const last = this.queue.at(-1);
    if (last && joins(last, event)) this.queue[this.queue.length - 1] = joined(last, event);
    else if (this.queue.length < MAX_QUEUED_EVENTS) this.queue.push(event);
    else this.dropped++;
  }
}

/** Blocks that go the same way one by one are one event; lookups, snapshots and changes of alpha stay single. */
function joins(a: CacheEvent, b: CacheEvent): boolean {
  if (a.kind === "matched" || a.kind === "snapshot" || a.kind === "alpha" || a.isSnapshot !== b.isSnapshot)
    return false;
  return a.kind === b.kind && a.why === b.why && a.requestId === b.requestId && a.tier === b.tier;
}

function joined(a: CacheEvent, b: CacheEvent): CacheEvent {
  const idle =
    a.idleMs === undefined || b.idleMs === undefined ? {} : { idleMs: Math.min(a.idleMs, b.idleMs) };
  return {
    ...{ ...a, ...idle, timeMs: b.timeMs, at: Math.max(a.at, b.at) },
    ...{ tokens: a.tokens + b.tokens, blocks: a.blocks + b.blocks, bytes: a.bytes + b.bytes },
  };
}

/** Which wall time the logical times of late had: two ascending lists. */
class ClockMarks {
  private clocks: number[] = [];
  private timesMs: number[] = [];

  add(clock: number, timeMs: number): void {
    if ((this.clocks.at(-1) ?? -1) >= clock) return;
    this.clocks.push(clock);
    this.timesMs.push(timeMs);
    if (this.clocks.length <= MAX_CLOCK_MARKS) return;
    this.clocks = this.clocks.slice(MAX_CLOCK_MARKS / 2);
    this.timesMs = this.timesMs.slice(MAX_CLOCK_MARKS / 2);
  }

  knows(clock: number): boolean {
    return this.clocks.length > 0 && clock >= (this.clocks[0] as number);
  }

  /** The time of the first mark that is not before `clock`. */
  timeOf(clock: number, nowMs: number): number {
    let [low, high] = [0, this.clocks.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.clocks[middle] as number) < clock) low = middle + 1;
      else high = middle;
    }
    return this.timesMs[low] ?? nowMs;
  }
}
