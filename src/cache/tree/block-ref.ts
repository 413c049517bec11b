/**
 * What the tree's block references mean: a GPU slot, and which lower tiers hold a copy. The tree itself only stores the
 * numbers.
 */
import type { BlockRef } from "./radix.ts";

/** Bits of the tiers that may hold a copy of a block or a snapshot. */
export const onRam = 1;
export const onDisk = 2;
const TIER_BITS = 2;

export interface BlockState {
  slot: number;
  /** Other tiers that hold a copy: bits of `onRam` and `onDisk`. */
  tiers: number;
}

export function refOf(slot: number): BlockRef {
  return slot << TIER_BITS;
}

export function slotOf(ref: BlockRef): number {
  return ref >> TIER_BITS;
}

export function stateOf(ref: BlockRef): BlockState {
  return { slot: slotOf(ref), tiers: ref & (onRam | onDisk) };
}
