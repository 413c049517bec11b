/**
 * Which layers of a block are on the GPU, and in which slots. The cache and the scheduler count blocks by one number each,
 * the same for all layers; here that number becomes a slot in each group of layers, or none. A model whose layers all keep
 * their blocks together has one group, and the number is the slot. It brings nothing and decides nothing.
 *
 *     block of a sequence     0    1    2    3
 *     number in the pool      7    2    9    4
 *     slots of group 0        7    2    9    4      all layers together: the numbers themselves
 *     slots of group 1        0    -    1    -      "-": these layers of the block are elsewhere
 */
import { assert } from "../base.ts";

/** Layers whose part of a block comes and goes together, and lies in one slot: also layers that share their keys and values. */
export interface LayerGroup {
  /** Layers of the KV pool, in their order. */
  layers: readonly number[];
  /** Slots for this group. Default: one for each block, so that every block has its own for good. */
  slots?: number;
}

/** Stands in a table for a block that a group of layers does not have on the GPU. */
export const ABSENT = -1;

export class Residency {
  readonly groups: readonly LayerGroup[];
  /** Slots of blocks by group; undefined where a group has a slot for every block. */
  private readonly placed: (Placed | undefined)[];

  /** @param groups every layer is in exactly one; default: all layers together */
  constructor(groups: readonly LayerGroup[] = [{ layers: [] }]) {
    const layers = groups.flatMap((group) => group.layers);
    assert(
      groups.length > 0 && new Set(layers).size === layers.length,
      "a layer is in two groups, or there is no group",
    );
    this.groups = groups;
    this.placed = groups.map(({ slots }) => (slots === undefined ? undefined : new Placed(slots)));
  }

  /** Whether every group has all blocks, always. */
  get isWhole(): boolean {
    return this.placed.every((placed) => placed === undefined);
  }

  /** The group of a layer of the KV pool. */
  groupOf(layer: number): number {
    const group = this.groups.findIndex(({ layers }) => layers.includes(layer));
    assert(
      group >= 0 || this.groups.length === 1,
      `layer ${layer} is in none of ${this.groups.length} groups`,
    );
    return Math.max(0, group);
  }

  /** A sequence's block table for each group, from the numbers of its blocks. */
  tablesOf(blocks: readonly number[]): readonly (readonly number[])[] {
    return this.placed.map((placed) => (placed ? blocks.map((block) => placed.slotOf(block)) : blocks));
  }

  /** Those of `blocks` that a step which reads them all would have to wait for in a group. */
  absentIn(group: number, blocks: readonly number[]): number[] {
    const placed = this.placed[group];
    return placed ? blocks.filter((block) => placed.slotOf(block) === ABSENT) : [];
  }

  /** Gives a group's part of a block a slot; undefined if none is free. It keeps the one that it has. */
  place(group: number, block: number): number | undefined {
    const placed = this.placed[group];
    return placed ? placed.place(block) : block;
  }

  /** Takes the slot of a group's part of a block away: it is elsewhere from now on. */
  evict(group: number, block: number): void {
    const placed = this.placed[group];
    assert(placed, `group ${group} keeps all its blocks`);
    assert(placed.slotOf(block) !== ABSENT, `block ${block} is not in group ${group}`);
    placed.drop(block);
  }

  /** A block means nothing any more: its slots are free in all groups. */
  release(block: number): void {
    for (const placed of this.placed) placed?.drop(block);
  }

  freeCount(group: number): number {
    return this.placed[group]?.freeCount ?? Infinity;
  }

  /** The conservation check: each slot of a group is free or one block's. */
  check(): void {
    for (const placed of this.placed) placed?.check();
  }
}

/** The slots of one group. */
class Placed {
  private readonly total: number;
  private readonly slots = new Map<number, number>();
  private readonly free: number[];

  constructor(total: number) {
    this.total = total;
    this.free = Array.from({ length: total }, (_, slot) => total - 1 - slot);
  }

  get freeCount(): number {
    return this.free.length;
  }

  slotOf(block: number): number {
    return this.slots.get(block) ?? ABSENT;
  }

  place(block: number): number | undefined {
    const slot = this.slots.get(block) ?? this.free.pop();
    if (slot !== undefined) this.slots.set(block, slot);
    return slot;
  }

  drop(block: number): void {
    const slot = this.slots.get(block);
    if (slot === undefined) return;
    this.slots.delete(block);
    this.free.push(slot);
  }

  check(): void {
    const distinct = new Set([...this.free, ...this.slots.values()]).size;
    assert(
      distinct === this.total && this.free.length + this.slots.size === this.total,
      `${this.free.length} free and ${this.slots.size} placed of ${this.total} slots`,
    );
  }
}
