/**
 * What every room may lean on: assertions for our own mistakes, a clock, seeded randomness and a place for promises
 * that nobody awaits. It holds no helpers for any one room.
 */

/** Throws if `condition` is false. For our own mistakes only; what a caller can get wrong has a class in errors.ts. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}

/** A source of milliseconds. The pure rooms are handed the time; the outer rooms hold a Clock. */
export interface Clock {
  nowMs(): number;
}

export const systemClock: Clock = { nowMs: () => performance.now() };

/** Calls after a time. Handed in where something waits, so that tests need not. */
export interface Timer {
  /** Calls `run` once after `ms` milliseconds; the returned function calls it off. */
  after(ms: number, run: () => void): () => void;
}

export const systemTimer: Timer = {
  after(ms, run) {
    const handle = setTimeout(run, ms);
    return () => clearTimeout(handle);
  },
};

/**
 * Seeded pseudo-random numbers (SplitMix32): small, fast, equal on every platform. Not for secrets.
 * The same seed gives the same sequence.
 */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** A uniform 32-bit unsigned integer. */
  uint32(): number {
    this.state = (this.state + 0x9e3779b9) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** A uniform number in [0, 1). */
  next(): number {
    return this.uint32() / 0x1_0000_0000;
  }

  /** A uniform integer in [0, bound). */
  below(bound: number): number {
    assert(bound > 0, `Random.below needs a positive bound, got ${bound}`);
    return Math.floor(this.next() * bound);
  }

  /** A standard normal number (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return radius * Math.cos(2 * Math.PI * this.next());
  }

  /** An element of a non-empty list. */
  pick<T>(items: readonly T[]): T {
    assert(items.length > 0, "Random.pick needs a non-empty list");
    return items[this.below(items.length)] as T;
  }
}

declare const BUILT_FOR_BROWSERS: true | undefined;

/** What this program runs in. The build for browsers says so beforehand, and contains nothing for Node and Deno. */
export const RUNTIME: "browser" | "deno" | "node" =
  typeof BUILT_FOR_BROWSERS !== "undefined"
    ? "browser"
    : "Deno" in globalThis
      ? "deno"
      : typeof process !== "undefined" && process.versions?.node !== undefined
        ? "node"
        : "browser";

type BackgroundHandler = (error: unknown, label: string) => void;

let onBackgroundError: BackgroundHandler = (error, label) => {
  globalThis.reportError?.(error instanceof Error ? error : new Error(`${label}: ${String(error)}`));
};

/** Says who hears of failures in `background()` work. The worker and the tests each set their own. */
export function setBackgroundHandler(handler: BackgroundHandler): void {
  onBackgroundError = handler;
}

/** Hands over a promise that nobody will await: its failure is reported under `label` and never lost. */
export function background(promise: Promise<unknown>, label: string): void {
  promise.catch((error: unknown) => onBackgroundError(error, label));
}

/**
 * Calls `act` when the signal fires, at once if it already has. The returned function takes the listener off again: whoever
 * listens calls it when its work has ended, because a signal may outlive many pieces of work.
 */
export function onAbort(signal: AbortSignal | undefined, act: () => void): () => void {
  if (!signal) return () => {};
  if (signal.aborted) act();
  else signal.addEventListener("abort", act, { once: true });
  return () => signal.removeEventListener("abort", act);
}

/** The result of `work`, or the rejection with `reason()` if the signal fires before; the work is then left to itself. */
export function unlessAborted<T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
  reason: () => Error,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () => reject(reason()));
    work.finally(stopListening).then(resolve, reject);
  });
}
