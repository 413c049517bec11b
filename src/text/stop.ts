/**
 * Stop strings in streamed text: text that may be the beginning of one is held back until it is known.
 * It looks at text only; ids that end a generation are the tokenizer's `eosIds`.
 */
import { TidepoolError } from "../errors.ts";

const MAX_STOP_STRINGS = 64;
const MAX_STOP_CHARS = 1024;

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

  /** Throws `invalid_argument` for an empty or overlong stop string, or too many of them. */
  constructor(stops: readonly string[]) {
    if (stops.length > MAX_STOP_STRINGS) refuse(`${stops.length} stop strings, at most ${MAX_STOP_STRINGS}`);
    for (const stop of stops) {
      if (stop.length === 0) refuse("a stop string is empty");
      if (stop.length > MAX_STOP_CHARS)
        refuse(`a stop string has ${stop.length} characters, at most ${MAX_STOP_CHARS}`);
    }
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

function refuse(what: string): never {
  throw new TidepoolError("invalid_argument", what);
}
