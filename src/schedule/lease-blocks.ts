/** A lease with all blocks that a sequence needs: what the prefix cache knows of it, and new ones for the rest. */
import type { BlockPool } from "../cache/blocks.ts";
import type { Lease, PrefixCache } from "../cache/prefix.ts";

export interface LeaseRequest {
  tokens: readonly number[];
  /** How many of the first tokens may be looked for. */
  limit: number;
  /** Blocks that the sequence needs in all. */
  blocks: number;
  requestId?: number;
}

/**
 * What is known may stand in its own way: the partial block of the snapshot that a sequence starts from is held beside its
 * own blocks until it is copied. If that is one too many for the pool and nobody else will give any back, the sequence is
 * leased without what is known, so that all of the pool can be had.
 * @returns undefined if others hold too many blocks
 */
export function leaseBlocks(cache: PrefixCache, pool: BlockPool, request: LeaseRequest): Lease | undefined {
  const lease = tryToLease(cache, request);
  if (lease || request.limit === 0 || pool.inUseCount > 0) return lease;
  return tryToLease(cache, { ...request, limit: 0 });
}

function tryToLease(
  cache: PrefixCache,
  { tokens, limit, blocks, requestId }: LeaseRequest,
): Lease | undefined {
  const lease = cache.acquire(Int32Array.from(tokens), limit, requestId);
  const missing = blocks - lease.table.length;
  if (missing <= 0 || cache.extend(lease, missing)) return lease;
  cache.release(lease);
  return undefined;
}
