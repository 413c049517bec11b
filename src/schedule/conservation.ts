/** The conservation check of KV slots: what the block pool counts as used is what block tables and snapshots hold. */
import { assert } from "../base.ts";
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease } from "../cache/prefix.ts";
import type { Request } from "./request.ts";

/** Block tables, and partial blocks of snapshots that are copied from, or loaded to, soon. */
export function heldSlots(requests: readonly Request[], leases: readonly Lease[]): number[] {
  const partial = leases.map(({ copied, snapshot }) => (copied ? -1 : (snapshot?.tail ?? -1)));
  const loading = requests.map(({ restore }) => restore?.snapshot?.tail ?? -1);
  return [...leases.flatMap(({ table }) => table), ...[...partial, ...loading].filter((slot) => slot >= 0)];
}

/** @param held every slot in use, once for each use */
export function checkUsers(blocks: BlockPool, held: readonly number[]): void {
  const users = new Map<number, number>();
  for (const slot of held) users.set(slot, (users.get(slot) ?? 0) + 1);
  assert(
    users.size === blocks.inUseCount,
    `${users.size} slots in block tables, ${blocks.inUseCount} in use`,
  );
  for (const [slot, count] of users) {
    assert(
      blocks.usersOf(slot) === count,
      `slot ${slot}: ${count} tables, ${blocks.usersOf(slot)} references`,
    );
  }
}
