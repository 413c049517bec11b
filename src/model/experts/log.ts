/**
 * Notes what happens to the experts: sums always, and while somebody asks for them, the last events. It decides nothing.
 */
import { systemClock } from "../../base.ts";
import type { CopyUse } from "./bounded.ts";
import type { ExpertEvent, ExpertEvents, ExpertWaits } from "./figures.ts";

/** Events that are kept, and how long they are noted after somebody last asked. */
const MAX_EVENTS = 4096;
const LISTENING_MS = 10_000;

/** Without its time. */
type Noted<E = ExpertEvent> = E extends ExpertEvent ? Omit<E, "timeMs"> : never;

export class ExpertLog {
  readonly waits: ExpertWaits = {
    ...{ readBacks: 0, readBackMs: 0, stalls: 0, stallMs: 0, guessedRight: 0, guessedWrong: 0 },
  };
  /** In decode. */
  readonly copied: CopyUse = { choices: 0, choicesLow: 0, weight: 0, weightLow: 0 };
  private events: ExpertEvent[] = [];
  /** Number of the first event that is kept. */
  private first = 0;
  private askedMs = -Infinity;

  note(event: Noted): void {
    if (systemClock.nowMs() - this.askedMs > LISTENING_MS) return;
    this.events.push({ timeMs: Date.now(), ...event });
    if (this.events.length <= MAX_EVENTS) return;
    this.first += MAX_EVENTS / 2;
    this.events = this.events.slice(MAX_EVENTS / 2);
  }

  async readBack<T>(reading: Promise<T>): Promise<T> {
    const started = systemClock.nowMs();
    const value = await reading;
    this.waits.readBacks++;
    this.waits.readBackMs += systemClock.nowMs() - started;
    return value;
  }

  async stall(layer: number, arriving: Promise<void>): Promise<void> {
    const started = systemClock.nowMs();
    await arriving;
    const ms = systemClock.nowMs() - started;
    this.waits.stalls++;
    this.waits.stallMs += ms;
    this.note({ kind: "stalled", layer, ms });
  }

  /** Events from number `after` on; from now on they are noted. */
  since(after: number): ExpertEvents {
    this.askedMs = systemClock.nowMs();
    const from = Math.max(0, after - this.first);
    const next = this.first + this.events.length;
    return { events: this.events.slice(from), next, dropped: Math.max(0, this.first - after) };
  }
}
