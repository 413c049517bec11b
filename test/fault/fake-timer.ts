/** A timer that goes off when the test says so, so that nobody waits for a hang. */
import type { Clock } from "../../src/base.ts";
import type { Timer } from "../../src/tier/disk/timer.ts";

export class FakeTimer implements Timer, Clock {
  private now = 0;
  private readonly pending = new Map<number, { dueMs: number; run: () => void }>();
  private nextId = 0;

  nowMs(): number {
    return this.now;
  }

  after(ms: number, run: () => void): () => void {
    const id = this.nextId++;
    this.pending.set(id, { dueMs: this.now + ms, run });
    return () => this.pending.delete(id);
  }

  /** Lets time pass until the next timer goes off; false if there is none. */
  fireNext(): boolean {
    const next = [...this.pending].sort((a, b) => a[1].dueMs - b[1].dueMs || a[0] - b[0])[0];
    if (next === undefined) return false;
    const [id, { dueMs, run }] = next;
    this.pending.delete(id);
    this.now = Math.max(this.now, dueMs);
    run();
    return true;
  }

  advance(ms: number): void {
    const target = this.now + ms;
    for (;;) {
      const due = [...this.pending.values()].some(({ dueMs }) => dueMs <= target);
      if (!due || !this.fireNext()) break;
    }
    this.now = target;
  }

  get size(): number {
    return this.pending.size;
  }
}

/** A turn of the event loop: all that needs no timer has happened by then. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Waits for a promise; whenever everything stands still, the next timer goes off. "stuck" if even that does not help:
 * the process is dead, or something hangs that nobody bounds. `pause` is how long to stand still is.
 */
export async function settle<T>(timer: FakeTimer, promise: Promise<T>, pause = turn): Promise<T | "stuck"> {
  let done = false;
  const watched = promise.finally(() => (done = true));
  watched.catch(() => undefined); // the caller sees it below
  for (;;) {
    await pause();
    if (done) return watched;
    if (!timer.fireNext()) return "stuck";
  }
}
