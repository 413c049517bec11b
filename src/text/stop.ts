/**
 * Stop strings in streamed text: text that may be the beginning of one is held back until it is known.
 * It looks at text only; ids that end a generation are the tokenizer's `eosIds`.
 */
import { assert } from "../base.ts";

/** Stop strings of one request, and characters of one, at most. */
export const MAX_STOP_STRINGS = 64;
export const MAX_STOP_CHARS = 1024;

export interface StopResult {
  /** Text that is certain: it holds no stop string nor the beginning of one. */
  text: string;
  /** The stop string that was found; it and all after it are not in any text. */
  stopped: string | undefined;
}

export class StopMatcher {
  private readonly stops: readonly string[];
  private held = "";
  private found: string | undefined;

  /** @param stops none of them empty, and within the limits above */
  constructor(stops: readonly string[]) {
    assert(stops.length <= MAX_STOP_STRINGS, `${stops.length} stop strings`);
    assert(
      stops.every(({ length }) => length > 0 && length <= MAX_STOP_CHARS),
      "a stop string is empty or too long",
    );
    this.stops = [...stops];
  }

  /** Takes the next text. The result does not depend on how the text was cut into pushes. */
  push(text: string): StopResult {
    if (this.found !== undefined) return { text: "", stopped: this.found };
    this.held += text;
    const match = this.firstComplete();
    if (match !== undefined) {
      this.found = match.stop;
      return this.release(match.start);
    }
    return this.release(this.held.length - this.openLength());
  }

  /** The text has ended: what was held back is certain now. */
  end(): StopResult {
    return this.release(this.found === undefined ? this.held.length : 0);
  }

  private release(length: number): StopResult {
    const text = this.held.slice(0, length);
    this.held = this.found === undefined ? this.held.slice(length) : "";
    return { text, stopped: this.found };
  }

  /** The stop string that is complete first; of those that end together, the longest. */
  private firstComplete(): { stop: string; start: number } | undefined {
    let best: { stop: string; start: number; end: number } | undefined;
    for (const stop of this.stops) {
      const start = this.held.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (best === undefined || end < best.end || (end === best.end && start < best.start)) {
        best = { stop, start, end };
      }
    }
    return best;
  }

  /** The length of the longest end of the held text with which a stop string begins. */
  private openLength(): number {
    let longest = 0;
    for (const stop of this.stops) {
      let length = Math.min(stop.length - 1, this.held.length);
      while (length > longest && !this.held.endsWith(stop.slice(0, length))) length--;
      longest = Math.max(longest, length);
    }
    return longest;
  }
}
