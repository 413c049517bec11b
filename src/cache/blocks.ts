/**
 * The GPU pool's block table: which slots are free, which are used by running requests, which only the prefix tree
 * still holds. It knows numbers of slots and of references; it does not know tokens, bytes, buffers or tiers, and it
 * never decides what to evict.
 *
 *     free  --allocate-->  in use (users >= 1)  --release-->  free
 *                             |      ^
 *                           keep   retain
 *                             v      |
 *                          cached (kept by the tree, users = 0)  --forget-->  free
 *
 * A slot that is kept *and* used counts as in use. So every slot is free, cached or in use, exactly once; with a fence, a slot
 * on its way to being free is none of them until the fence lets it pass.
 */
import { assert } from "../base.ts";

/** How many slots are in each state; the three add up to `total`. */
export interface BlockCounts {
  total: number;
  free: number;
  cached: number;
  inUse: number;
}

export class BlockPool {
  /** References of running requests, by slot. */
  private users: Int32Array;
  /** 1 where the prefix tree holds its one reference. */
  private kept: Uint8Array;
  /** A stack: the slot that became free last is handed out first. */
  private freeList: Int32Array;
  private freeTop = 0;
  private cachedSlots = 0;
  private slots = 0;
  /** Slots that nobody holds and the fence has not let pass. */
  private returning: number[] = [];
  private fence: ((slot: number) => boolean) | undefined;
  private freed: ((slot: number) => void) | undefined;

  /** @param slots number of blocks that the GPU pool can hold (0 is allowed) */
  constructor(slots: number) {
    this.users = new Int32Array(0);
    this.kept = new Uint8Array(0);
    this.freeList = new Int32Array(0);
    this.grow(slots);
  }

  get slotCount(): number {
    return this.slots;
  }

  get freeCount(): number {
    return this.freeTop;
  }

  get cachedCount(): number {
    return this.cachedSlots;
  }

  get inUseCount(): number {
    return this.slots - this.freeTop - this.cachedSlots - this.returning.length;
  }

  /** Slots become free only when `mayReuse` says so: when they do so, or in a later `collect`. Default: at once. */
  setFence(mayReuse: (slot: number) => boolean): void {
    this.fence = mayReuse;
  }

  /** Tells of each slot when it becomes free. */
  onFree(listener: (slot: number) => void): void {
    this.freed = listener;
  }

  /** Frees slots that the fence lets pass by now; how many. */
  collect(): number {
    const { returning } = this;
    this.returning = [];
    for (const slot of returning) this.free(slot);
    return returning.length - this.returning.length;
  }

  /** Another number of slots, all of them free. None may be in use or cached. */
  reset(slots: number): void {
    const taken = this.slots - this.freeTop - this.returning.length;
    assert(taken === 0, `reset of a pool with ${taken} slots taken`);
    this.returning = [];
    this.users = new Int32Array(0);
    this.kept = new Uint8Array(0);
    this.freeList = new Int32Array(0);
    this.freeTop = 0;
    this.slots = 0;
    this.grow(slots);
  }

  /** Adds `slots` free slots behind the existing ones. */
  grow(slots: number): void {
    assert(Number.isInteger(slots) && slots >= 0, `BlockPool.grow needs a count of slots, got ${slots}`);
    const total = this.slots + slots;
    this.users = copyInto(new Int32Array(total), this.users);
    this.kept = copyInto(new Uint8Array(total), this.kept);
    this.freeList = copyInto(new Int32Array(total), this.freeList);
    for (let slot = total - 1; slot >= this.slots; slot--) this.freeList[this.freeTop++] = slot;
    this.slots = total;
  }

  /** Takes one free slot for a running request (users = 1), or undefined where none is free. */
  allocateOne(): number | undefined {
    if (this.freeTop === 0) return undefined;
    const slot = this.freeList[--this.freeTop] as number;
    this.users[slot] = 1;
    return slot;
  }

  /** Takes `count` free slots, or none at all and undefined where fewer are free. */
  allocate(count: number): number[] | undefined {
    if (count > this.freeTop) return undefined;
    return Array.from({ length: count }, () => this.allocateOne() as number);
  }

  /** One more running request uses `slot`, which must be cached or in use. */
  retain(slot: number): void {
    assert(!this.isFree(slot), `retain of free slot ${slot}`);
    const users = this.usersOf(slot);
    this.users[slot] = users + 1;
    if (users === 0) this.cachedSlots--;
  }

  /** One running request fewer. The slot becomes cached where the tree keeps it, else free. */
  release(slot: number): void {
    assert(this.usersOf(slot) > 0, `release of slot ${slot}, which no request uses`);
    const users = this.usersOf(slot) - 1;
    this.users[slot] = users;
    if (users > 0) return;
    if (this.kept[slot] === 1) this.cachedSlots++;
    else this.free(slot);
  }

  /** The prefix tree takes its one reference to a slot that is in use. */
  keep(slot: number): void {
    assert(this.usersOf(slot) > 0, `keep of slot ${slot}, which no request uses`);
    assert(this.kept[slot] === 0, `slot ${slot} is kept twice`);
    this.kept[slot] = 1;
  }

  /** The prefix tree drops its reference. The slot becomes free unless a request still uses it. */
  forget(slot: number): void {
    assert(this.isKept(slot), `forget of slot ${slot}, which the tree does not keep`);
    this.kept[slot] = 0;
    if (this.users[slot] !== 0) return;
    this.cachedSlots--;
    this.free(slot);
  }

  usersOf(slot: number): number {
    this.assertSlot(slot);
    return this.users[slot] as number;
  }

  isKept(slot: number): boolean {
    this.assertSlot(slot);
    return this.kept[slot] === 1;
  }

  isFree(slot: number): boolean {
    return !this.isKept(slot) && this.users[slot] === 0;
  }

  counts(): BlockCounts {
    return { total: this.slots, free: this.freeTop, cached: this.cachedCount, inUse: this.inUseCount };
  }

  /** The conservation check: recounts every slot; throws with the numbers where they disagree with the books. */
  check(): void {
    const listed = new Uint8Array(this.slots);
    for (let i = 0; i < this.freeTop; i++) listed[this.freeList[i] as number]!++;
    for (const slot of this.returning) listed[slot]!++;
    let free = 0;
    let cached = 0;
    for (let slot = 0; slot < this.slots; slot++) {
      const users = this.users[slot] as number;
      const isFree = users === 0 && this.kept[slot] === 0;
      assert(users >= 0, `slot ${slot} has ${users} users`);
      assert(
        listed[slot] === (isFree ? 1 : 0),
        `slot ${slot} is ${listed[slot]} times in the free list, users ${users}`,
      );
      if (isFree) free++;
      else if (users === 0) cached++;
    }
    const found = `counted ${free} free, ${cached} cached of ${this.slots}`;
    assert(
      free === this.freeTop + this.returning.length && cached === this.cachedSlots,
      `block conservation: ${found}; the books say ${this.freeTop} free, ${this.cachedSlots} cached`,
    );
  }

  private free(slot: number): void {
    if (this.fence && !this.fence(slot)) {
      this.returning.push(slot);
      return;
    }
    this.freeList[this.freeTop++] = slot;
    this.freed?.(slot);
  }

  private assertSlot(slot: number): void {
    assert(
      Number.isInteger(slot) && slot >= 0 && slot < this.slots,
      `no slot ${slot} in a pool of ${this.slots}`,
    );
  }
}

function copyInto<T extends Int32Array | Uint8Array>(target: T, source: T): T {
  target.set(source);
  return target;
}
