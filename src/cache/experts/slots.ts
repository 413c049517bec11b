/** The slots of one class of layers: which are free, and whose the others are. It chooses no victims. */
import { assert } from "../../base.ts";
import type { ExpertEntry } from "./entry.ts";

export class ExpertSlots {
  private readonly owners: (ExpertEntry | undefined)[];
  private readonly free: number[];

  constructor(slots: number) {
    this.owners = Array.from({ length: slots }, () => undefined);
    this.free = Array.from({ length: slots }, (_, slot) => slots - 1 - slot);
  }

  get freeCount(): number {
    return this.free.length;
  }

  get slotCount(): number {
    return this.owners.length;
  }

  /** Gives the entry a free slot; false if there is none. */
  take(entry: ExpertEntry): boolean {
    assert(entry.slot < 0, `expert ${entry.expert} of layer ${entry.layer} has slot ${entry.slot}`);
    const slot = this.free.pop();
    if (slot === undefined) return false;
    entry.slot = slot;
    this.owners[slot] = entry;
    return true;
  }

  give(entry: ExpertEntry): void {
    assert(this.owners[entry.slot] === entry, `slot ${entry.slot} is not that of ${entry.expert}`);
    this.owners[entry.slot] = undefined;
    this.free.push(entry.slot);
    entry.slot = -1;
    entry.arrived = 0;
  }

  /** The conservation check: each slot is free, or the slot of one entry. */
  check(): void {
    const { owners, free } = this;
    const owned = owners.flatMap((entry, slot) => (entry ? [slot] : []));
    assert(
      new Set([...free, ...owned]).size === owners.length && free.length + owned.length === owners.length,
      `${free.length} free and ${owned.length} taken of ${owners.length} slots`,
    );
    for (const slot of owned) assert(owners[slot]!.slot === slot, `the owner of slot ${slot} has another`);
  }
}
