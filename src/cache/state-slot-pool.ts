/**
 * The books of the state pool: which slots hold the state of a sequence that runs (two each, or more), which a snapshot, and which
 * nothing. Sequences and snapshots share the slots; there are never more than `maxSnapshots` snapshots, so that a pool of
 * full size always has slots for its sequences. In a smaller one, too, a sequence can always run alone: only sequences that
 * hold a pair take snapshots, so that snapshots never hold the last two slots. It does not know bytes, buffers or seats,
 * and it never decides what to evict.
 */
import { assert } from "../base.ts";
import { BlockPool, type BlockCounts } from "./blocks.ts";

/** The slots of one running sequence, at least two, which its steps use in turns (schedule/seat-state.ts). */
export type StateRing = readonly number[];

export class StateSlotPool extends BlockPool {
  private most: number;
  private readonly running = new Set<number>();

  /** @param maxSnapshots snapshots at most; default: one a slot, for a pool without running sequences */
  constructor(slots: number, maxSnapshots = slots) {
    super(slots);
    this.most = maxSnapshots;
  }

  get maxSnapshots(): number {
    return this.most;
  }

  /** Another number of slots, all of them unused, and of snapshots at most. No slot may be taken. */
  resetTo(slots: number, maxSnapshots: number): void {
    this.reset(slots);
    this.most = maxSnapshots;
  }

  /** Slots that hold nothing. */
  get unusedCount(): number {
    return super.freeCount;
  }

  /** Slots of running sequences. */
  get runningCount(): number {
    return this.running.size;
  }

  /** Slots of snapshots: cached, being saved or loaded, or about to be read. */
  get snapshotCount(): number {
    return this.slotCount - this.unusedCount - this.running.size;
  }

  /** Snapshots that may still be added before one must go. */
  get snapshotRoom(): number {
    return this.maxSnapshots - this.snapshotCount;
  }

  /** Snapshots alone: how many there may be, and are. */
  snapshotCounts(): BlockCounts {
    const { maxSnapshots: total, snapshotRoom: free, cachedCount: cached } = this;
    return { total, free, cached, inUse: total - free - cached };
  }

  /** Slots that a snapshot may take. */
  override get freeCount(): number {
    return Math.min(this.unusedCount, this.snapshotRoom);
  }

  /** Takes a slot for a snapshot; undefined if none is free for one. */
  override allocateOne(): number | undefined {
    return this.freeCount > 0 ? super.allocateOne() : undefined;
  }

  /** Takes `count` slots for a sequence that is about to run; undefined if fewer are unused. */
  takeRing(count = 2): StateRing | undefined {
    if (this.unusedCount < count) return undefined;
    const ring = Array.from({ length: count }, () => super.allocateOne() as number);
    for (const slot of ring) this.running.add(slot);
    return ring;
  }

  /** Takes a ring back. GPU work that is submitted from now on may overwrite its slots. */
  giveRing(ring: StateRing): void {
    for (const slot of ring) {
      assert(this.running.delete(slot), `state slot ${slot} is given back and no sequence has it`);
      this.release(slot);
    }
  }

  override check(): void {
    super.check();
    for (const slot of this.running) {
      const sound = this.usersOf(slot) === 1 && !this.isKept(slot);
      assert(sound, `state slot ${slot} of a running sequence is shared`);
    }
    assert(this.snapshotRoom >= 0, `${this.snapshotCount} snapshots, at most ${this.maxSnapshots}`);
  }
}
