/**
 * Reads stored blocks of requests that wait from slow tiers into RAM, so that their turn finds them there. It takes no room on the
 * GPU, and less of RAM than would push out what it has just brought. Which requests and blocks those are is the scheduler's choice.
 */
import { background } from "../../base.ts";
import type { Request } from "../../schedule/request.ts";
import type { Key } from "../../tier/record/keys.ts";
import type { TierStore } from "../../tier/store/store.ts";

/** Reads under way at once: half of what the store allows, so that the restores of prompts under way go on. */
export const MAX_READS_AHEAD = 8;

/** Share of RAM that records read ahead for requests that still wait may take. */
const RAM_SHARE = 1 / 4;

interface Wanted {
  keys: readonly Key[];
  /** Of these, the number looked at. */
  done: number;
}

export class ReadAhead {
  /** Records that were brought into RAM. */
  brought = 0;
  private readonly store: Pick<TierStore, "promote" | "tiersOf" | "isInMemory">;
  private readonly roomRecords: () => number;
  /** In the order in which they were asked for. */
  private readonly wanted = new Map<Pick<Request, "status">, Wanted>();
  private reads = 0;

  /** @param roomRecords records that RAM has room for in all */
  constructor(store: ReadAhead["store"], roomRecords: () => number) {
    this.store = store;
    this.roomRecords = roomRecords;
  }

  /** Brings these records, the first ones first, as long as the request waits. */
  want(request: Pick<Request, "status">, keys: readonly Key[]): void {
    this.wanted.set(request, { keys, done: 0 });
    this.readOn();
  }

  /** A request may have ceased to wait, so that there is room for others'. */
  readOn(): void {
    for (const request of [...this.wanted.keys()])
      if (request.status !== "waiting") this.wanted.delete(request);
    while (this.reads < MAX_READS_AHEAD) {
      const key = this.next();
      if (key === undefined) return;
      this.reads++;
      background(this.bring(key), "reading ahead");
    }
  }

  private async bring(key: Key): Promise<void> {
    try {
      if (await this.store.promote(key)) this.brought++;
    } finally {
      this.reads--;
      this.readOn();
    }
  }

  private next(): Key | undefined {
    let room = Math.floor(this.roomRecords() * RAM_SHARE);
    for (const wanted of this.wanted.values()) {
      while (wanted.done < Math.min(wanted.keys.length, room)) {
        const key = wanted.keys[wanted.done++] as Key;
        if (this.isFar(key)) return key;
      }
      room -= wanted.done;
    }
    return undefined;
  }

  private isFar(key: Key): boolean {
    const tiers = this.store.tiersOf(key);
    return tiers.length > 0 && !tiers.some((tier) => this.store.isInMemory(tier));
  }
}
