/** For those who look at the cache: its decisions while they listen, and its tree when they ask. It changes nothing. */
import type { PrefixCache } from "../../cache/prefix.ts";
import type { AlphaTuner } from "../../cache/policy/alpha-tuner.ts";
import { CacheEvents } from "./events.ts";
import { TreeReader } from "./tree.ts";
import type { TierMover } from "./tier-mover.ts";
import type { CacheEvent, CacheTree } from "../../wire/protocol.ts";

interface Watched {
  cache: PrefixCache;
  mover: TierMover | undefined;
  tuner: AlphaTuner | undefined;
}

export class CacheWatch {
  private readonly watched: Watched;
  private readonly events: CacheEvents;
  private readonly reader: TreeReader;
  /** The reading under way, or the last one: one at a time. */
  private reading: Promise<unknown> = Promise.resolve();

  constructor(watched: Watched, send: (events: CacheEvent[], dropped: number) => void) {
    this.watched = watched;
    this.events = new CacheEvents(send);
    const { cache, mover: lower } = watched;
    this.reader = new TreeReader({ cache, lower, idleMsOf: (clock) => this.events.idleMsOf(clock) });
  }

  /** Begins or ends listening. */
  turn(on: boolean): void {
    const listener = on ? (event: Parameters<CacheEvents["add"]>[0]) => this.events.add(event) : undefined;
    const { cache, mover, tuner } = this.watched;
    cache.listen(listener);
    if (mover) mover.listener = listener;
    if (tuner) tuner.listener = listener;
    if (!on) this.events.stop();
  }

  tree(limit: number): Promise<CacheTree> {
    const result = this.reading.then(() => this.reader.read(limit));
    this.reading = result.catch(() => {}); // reported to its caller
    return result;
  }
}
