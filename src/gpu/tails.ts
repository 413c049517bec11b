/**
 * The exact keys and values of blocks that are not complete, beside a KV pool whose slots are packed: which slot's block lies in
 * which tail. A block has a tail from its first row on; the step that completes it packs it into its slot (shaders/kv-pack.wgsl), and
 * the tail serves another block when one is needed. The tails themselves are slots of an exact pool.
 */
import { assert } from "../base.ts";

/** The exact pool whose slots are the tails (pool.ts). */
interface TailPool {
  readonly options: { readonly blockTokens: number };
  readonly slots: number;
  readSlots(slots: readonly number[]): Promise<Uint8Array<ArrayBuffer>[]>;
  writeSlot(slot: number, payload: Uint8Array<ArrayBuffer>): Promise<void>;
  copySlot(from: number, to: number): void;
}

export class KvTails<P extends TailPool = TailPool> {
  readonly pool: P;
  /** Whether what a slot of the packed pool holds is still wanted. Default: always. */
  isHeld: (slot: number) => boolean = () => true;
  /** The tail of each slot that has one. */
  private readonly bySlot = new Map<number, number>();
  private readonly free: number[] = [];
  /** Slots whose blocks are packed, the first packed first. They keep their tails for as long as there are others. */
  private readonly packed = new Set<number>();
  /** Of the step that is being written. */
  private completed: number[] = [];

  constructor(pool: P) {
    this.pool = pool;
    this.addFree(0);
  }

  /** There are more tails than `before`. */
  addFree(before: number): void {
    for (let tail = this.pool.slots - 1; tail >= before; tail--) this.free.push(tail);
  }

  /** The place of a step's row, in the tail of its block. Rows of a block are written in rising order. */
  placeOf(slot: number, offset: number): number {
    const { blockTokens } = this.pool.options;
    const tail = offset === 0 ? this.begin(slot) : this.tailOf(slot);
    if (offset === blockTokens - 1) this.completed.push(slot);
    return tail * blockTokens + offset;
  }

  /** The step whose rows were placed is written. */
  endStep(): void {
    for (const slot of this.completed) this.packed.add(slot);
    this.completed = [];
  }

  /** The slot's block is wanted as it was before it was complete, for as long as the slot is held. */
  keep(slot: number): void {
    this.tailOf(slot);
    this.packed.delete(slot);
  }

  /** The slot is filled with a packed block. */
  filled(slot: number): void {
    const tail = this.bySlot.get(slot);
    if (tail === undefined) return;
    this.release(slot, tail);
  }

  /** A partial block, as a slot of the exact pool. */
  async read(slot: number): Promise<Uint8Array<ArrayBuffer>> {
    const [bytes] = await this.pool.readSlots([this.tailOf(slot)]);
    return bytes as Uint8Array<ArrayBuffer>;
  }

  write(slot: number, payload: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.pool.writeSlot(this.begin(slot), payload);
  }

  copy(from: number, to: number): void {
    const source = this.tailOf(from);
    this.pool.copySlot(source, this.begin(to, from));
  }

  /** The conservation check: every tail is free or one block's. */
  check(): void {
    const all = [...this.free, ...this.bySlot.values()];
    const { slots } = this.pool;
    assert(
      all.length === slots && new Set(all).size === slots,
      `${this.free.length} free tails and ${this.bySlot.size} of blocks, of ${slots}`,
    );
  }

  private tailOf(slot: number): number {
    const tail = this.bySlot.get(slot);
    assert(tail !== undefined, `slot ${slot} holds no partial block`);
    return tail;
  }

  /** A tail for a block that begins in this slot. @param kept a slot whose tail must stay */
  private begin(slot: number, kept?: number): number {
    this.packed.delete(slot);
    const own = this.bySlot.get(slot);
    if (own !== undefined) return own;
    if (this.free.length === 0) this.reclaim(kept);
    const tail = this.free.pop();
    assert(tail !== undefined, `all ${this.pool.slots} tails hold partial blocks`);
    this.bySlot.set(slot, tail);
    return tail;
  }

  /** Frees the tail of the block that was packed first, or those that nobody wants any more. */
  private reclaim(kept: number | undefined): void {
    for (const slot of this.packed) {
      if (slot === kept) continue;
      this.release(slot, this.tailOf(slot));
      return;
    }
    for (const [slot, tail] of this.bySlot)
      if (slot !== kept && !this.completed.includes(slot) && !this.isHeld(slot)) this.release(slot, tail);
  }

  private release(slot: number, tail: number): void {
    this.bySlot.delete(slot);
    this.packed.delete(slot);
    this.free.push(tail);
  }
}
