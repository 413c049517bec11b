/**
 * The prefix cache as the scheduler sees it: match, acquire, extend, insert, release. It joins the tree, the block
 * pools, the eviction policy and the requests in flight. Pure and synchronous; time is a logical clock that ticks with
 * every call.
 *
 * The tree knows what the GPU holds (in a replay: what the budget holds). What only RAM or disk still hold is found by
 * the store's index, by chain hash, after the match in the tree ends; of a block in the tree the bits `onRam` and
 * `onDisk` say where else it is. It does not move bytes, hash, wait or retry: eviction only frees, because full blocks
 * are written behind.
 *
 *     0          matched          inserted so far     end of the request's tokens
 *     |- shared blocks -|- own blocks, published -|- own blocks, private -|
 *        retained, pinned        kept by the tree        freed by release
 */
import { assert } from "../base.ts";
import type { BlockState } from "./block-ref.ts";
import { onDisk, onRam, refOf, slotOf, stateOf } from "./block-ref.ts";
import type { BlockCounts, BlockPool } from "./blocks.ts";
import type { Cost } from "./cost.ts";
import { flopsBetween } from "./cost.ts";
import type { Need } from "./evictor.ts";
import type { CacheEvent, CacheListener, SnapshotReason } from "./events.ts";
import { Evictor } from "./evictor.ts";
import type { EvictionPolicy } from "./policy.ts";
import type { RadixNode, Snapshot, Walk } from "./radix.ts";
import { RadixTree, startOf } from "./radix.ts";
import type { PrefixStats } from "./stats.ts";
import { newStats } from "./stats.ts";

export type { BlockState } from "./block-ref.ts";
export { onDisk, onRam } from "./block-ref.ts";
export type { PrefixStats } from "./stats.ts";

export interface PrefixOptions {
  /** Tokens in a block; 1 for Marconi's token-granular tree. */
  blockTokens: number;
  /** Per token of the tree. A `bytesPerSnapshot` above 0 means that only prefixes with a snapshot can be reused. */
  cost: Cost;
  policy: EvictionPolicy;
  /** Whether the sequences that are inserted never change, so that the tree may keep views of them. Default: false. */
  keepsViews?: boolean;
  /** Limit of the tree's bytes; none by default (the pools are the limit then). */
  capacityBytes?: number;
  /** KV slots. Without it the tree carries no block references, and only `capacityBytes` limits it. */
  pool?: BlockPool;
  /** Snapshot slots. */
  snapshotPool?: BlockPool;
}

/** What is known of a sequence; valid until the next call that changes the cache. */
export interface Match {
  /** Tokens whose KV (and state) can be reused, and the raw length of the match. */
  tokens: number;
  rawTokens: number;
  /** The full blocks of the reusable prefix; empty without a pool. */
  blocks: BlockState[];
  /** The state at `tokens`; undefined in models without snapshots, or where nothing matched. */
  snapshot: Snapshot | undefined;
}

/** A request's hold on the cache: the pinned path, and its block table. */
export interface Lease extends Match {
  /** Slots of the request's blocks in order: first the shared ones, then its own. */
  table: number[];
  /** The deepest pinned node. */
  node: RadixNode;
  /** A leaf that this lease itself has made and may lengthen. */
  own: RadixNode | undefined;
  /** Whether the state that the request started from has been copied, so that its slot may be evicted. */
  copied: boolean;
  /** Whose it is, for those who listen. */
  requestId: number | undefined;
  released: boolean;
}

/** A state that the request has saved at position `at`. Slots are -1 in a replay; `tail` is the copy of the begun block,
 * -1 where `at` is a multiple of the block. The cache takes over the slots' reference, also of those it cannot use. */
export interface NewSnapshot {
  at: number;
  slot: number;
  tail: number;
  /** Why it is taken, for those who listen. Default: by where it comes to stand in the tree. */
  why?: SnapshotReason;
}

export interface Inserted {
  /** Tokens of the sequence that the tree holds now. */
  tokens: number;
  /** Slots that the tree has taken over, and the request's own slots whose content the tree had already: those become
   * free at release. */
  owned: number[];
  duplicates: number[];
  /** The snapshots that the tree has taken; it had the others already, or no place for them. */
  placed: NewSnapshot[];
}

const noRefs = new Int32Array(0);

export class PrefixCache {
  readonly tree: RadixTree;
  readonly policy: EvictionPolicy;
  readonly cost: Cost;
  readonly stats: PrefixStats = newStats();
  capacityBytes: number;
  private readonly pool: BlockPool | undefined;
  /** Slots of snapshots; undefined in a replay, and in models without recurrent layers. */
  readonly snapshots: BlockPool | undefined;
  private readonly bytesPerBlock: number;
  private readonly withSnapshots: boolean;
  private readonly evictor: Evictor;
  private listener: CacheListener | undefined;
  private clock = 0;

  constructor(options: PrefixOptions) {
    this.tree = new RadixTree(options.blockTokens, options.pool !== undefined, options.keepsViews);
    this.policy = options.policy;
    this.cost = options.cost;
    this.capacityBytes = options.capacityBytes ?? Infinity;
    this.pool = options.pool;
    this.snapshots = options.snapshotPool;
    this.bytesPerBlock = options.cost.bytesPerToken * options.blockTokens;
    this.withSnapshots = options.cost.bytesPerSnapshot > 0;
    const { tree, policy, pool, snapshots: snapshotPool, stats, bytesPerBlock, withSnapshots } = this;
    const { bytesPerSnapshot } = options.cost;
    this.evictor = new Evictor({
      ...{ tree, policy, pool, snapshotPool, stats, bytesPerBlock, bytesPerSnapshot, withSnapshots },
    });
  }

  /** Says who hears of decisions, in place of who heard before; undefined: nobody, and then they cost nothing. */
  listen(listener: CacheListener | undefined): void {
    this.listener = listener;
    this.evictor.listener = listener;
  }

  /** Bytes that the tree holds: KV of full blocks, begun blocks of snapshots, and states. */
  get bytes(): number {
    const { blockCount, tailCount, snapshotCount } = this.tree;
    return (blockCount + tailCount) * this.bytesPerBlock + snapshotCount * this.cost.bytesPerSnapshot;
  }

  /** How many slots of the pool are free, cached and in use. */
  poolCounts(): BlockCounts {
    return this.pool?.counts() ?? { total: 0, free: 0, cached: 0, inUse: 0 };
  }

  /** The longest reusable prefix of `tokens[0, limit)`. Read-only. An engine passes `tokens.length - 1` or less, because
   * the last token must be computed to give logits. */
  match(tokens: Int32Array, limit = tokens.length): Match {
    return this.matchOf(this.tree.walk(tokens, limit));
  }

  /** Matches, pins the matched path, retains its slots and counts the lookup. Every lease must be released. */
  acquire(tokens: Int32Array, limit = tokens.length, requestId?: number): Lease {
    this.policy.begin?.();
    const walk = this.tree.walk(tokens, limit);
    this.clock++;
    this.policy.touch(this.exact(walk), this.clock, "match");
    const match = this.matchOf(walk);
    const node = this.nodeEndingAt(walk.partial ?? walk.node, match.tokens);
    this.tree.pin(node);
    const table = match.blocks.map((block) => block.slot);
    for (const slot of table) this.pool!.retain(slot);
    this.holdSnapshot(match.snapshot, "retain");
    this.count(tokens, match, node);
    if (this.listener) this.tellMatched(match, node, requestId);
    return newLease(match, table, node, requestId);
  }

  /** Positions in the prompt at which this request's prefill should take a snapshot (besides its end): the policy's, and
   * `wanted`, where waiting requests branch off. Ascending; always empty in models without snapshots. */
  snapshotPositions(tokens: Int32Array, lease: Lease, wanted: readonly number[] = []): number[] {
    if (!this.withSnapshots) return [];
    const raw = Math.max(lease.rawTokens, lease.tokens);
    const own = this.policy.snapshotPositions({ tokens, reusable: lease.tokens, raw });
    return wanted.length === 0 ? own : [...new Set([...own, ...wanted])].sort((a, b) => a - b);
  }

  /** Allocates `blocks` more slots for the request, evicting where needed; false, and nothing changed in its table,
   * where even eviction cannot free enough. */
  extend(lease: Lease, blocks: number): boolean {
    assert(this.pool !== undefined, "extend of a cache without a pool");
    if (!this.evict({ blocks })) return false;
    lease.table.push(...(this.pool.allocate(blocks) as number[]));
    return true;
  }

  /** A slot for a state that is about to be saved, evicting where needed; give it back by `insert` or `dropSnapshotSlot`. */
  snapshotSlot(): number | undefined {
    assert(this.snapshots !== undefined, "snapshotSlot of a cache without a snapshot pool");
    return this.evict({ snapshots: 1 }) ? this.snapshots.allocateOne() : undefined;
  }

  dropSnapshotSlot(slot: number): void {
    this.snapshots!.release(slot);
  }

  /** Slots for a snapshot at token `at`: of the state and, where `at` lies inside a block, of a copy of that block.
   * Undefined where not even eviction can free them. */
  snapshotSlots(at: number): NewSnapshot | undefined {
    const slot = this.snapshotSlot();
    if (slot === undefined) return undefined;
    if (at % this.tree.blockTokens === 0) return { at, slot, tail: -1 };
    const tail = this.evict({ blocks: 1 }) ? this.pool!.allocateOne() : undefined;
    if (tail !== undefined) return { at, slot, tail };
    this.dropSnapshotSlot(slot);
    return undefined;
  }

  /** The request starts from `snapshot`, not from what was matched; it holds its slots until `snapshotCopied`. To be called
   * before `insert` takes them over. */
  startFrom(lease: Lease, { slot, tail }: NewSnapshot): void {
    if (!lease.copied) this.snapshotCopied(lease);
    lease.snapshot = { slot, tail, tiers: 0 };
    lease.copied = false;
    this.holdSnapshot(lease.snapshot, "retain");
  }

  /** Makes what the request has computed findable: `tokens` from its first on, as far as its blocks are complete and
   * accepted, and its snapshots. May be called again with a longer sequence. In a replay, evicts to make room and cuts the
   * sequence short where that is not enough. */
  insert(lease: Lease, tokens: Int32Array, snapshots: readonly NewSnapshot[] = []): Inserted {
    let end = Math.min(this.policy.keepTokens(tokens), this.endOf(tokens, snapshots));
    this.clock += 2; // one for the insertion, one for its lookup, as in Marconi's simulator
    const isAtMatch = lease.node.end === lease.tokens && lease.tokens <= end; // not yet where the lease has inserted
    const walk = this.tree.walk(tokens, end, isAtMatch ? lease.node : this.tree.root);
    this.policy.touch(walk, this.clock, "insert");
    const held = walk.partial ?? walk.node;
    this.tree.pin(held);
    this.clock++;
    if (this.capacityBytes !== Infinity) end = this.fit(walk, end, snapshots);
    const inserted = this.hang(lease, walk, tokens, end);
    const deepest = this.deepest(lease, walk, end);
    if (this.listener && inserted.owned.length > 0) this.tellAdmitted(lease, end, inserted.owned.length);
    const placed = snapshots.filter((snapshot) => this.place(deepest, snapshot, end, lease.requestId));
    this.repin(lease, deepest, held);
    this.stats.bytesPeak = Math.max(this.stats.bytesPeak, this.bytes);
    const { owned, duplicates } = inserted;
    return { owned, duplicates, placed, tokens: Math.max(end, walk.tokens) };
  }

  /** The request has copied the state (and the begun block) that it starts from: the originals may be evicted now. Without
   * this call they are held until `release`. */
  snapshotCopied(lease: Lease): void {
    assert(!lease.copied, "a lease's snapshot is copied twice");
    lease.copied = true;
    this.holdSnapshot(lease.snapshot, "release");
  }

  /** Ends the request's hold: unpins its path and releases all slots of its table. */
  release(lease: Lease): void {
    assert(!lease.released, "a lease is released twice");
    if (!lease.copied) this.snapshotCopied(lease);
    this.unpin(lease.node);
    for (const slot of lease.table) this.pool!.release(slot);
    lease.table = [];
    lease.released = true;
  }

  /** A whole request at once, for replays: acquire its first `inputTokens` tokens, take the snapshots that the policy
   * asks for and one at the end, insert the sequence, release. Returns the tokens that were reused. */
  serve(sequence: Int32Array, inputTokens: number): number {
    const lease = this.acquire(sequence.subarray(0, inputTokens));
    const positions = this.snapshotPositions(sequence, lease);
    if (this.withSnapshots && positions.at(-1) !== sequence.length) positions.push(sequence.length);
    const snapshots = positions.map((at) => ({ at, slot: -1, tail: -1 }));
    this.insert(lease, sequence, snapshots);
    this.release(lease);
    return lease.tokens;
  }

  /** Evicts until the pools have that many free slots and the budget that many free bytes; false where pins forbid it
   * (what was freed on the way stays free). */
  evict(need: Partial<Need>): boolean {
    const { bytes = 0, blocks = 0, snapshots = 0 } = need;
    for (;;) {
      const short: Need = {
        bytes: this.capacityBytes === Infinity ? 0 : Math.max(0, this.bytes + bytes - this.capacityBytes),
        blocks: Math.max(0, blocks - (this.pool?.freeCount ?? blocks)),
        snapshots: Math.max(0, snapshots - (this.snapshots?.freeCount ?? snapshots)),
      };
      if (short.bytes === 0 && short.blocks === 0 && short.snapshots === 0) return true;
      if (!this.evictor.takeOne(short, this.clock)) return false;
    }
  }

  /** Notes that a lower tier has, or no longer has, copies of the blocks [from, to) of a sequence. */
  mark(tokens: Int32Array, tier: number, present: boolean, from: number, to: number): void {
    assert(tier === onRam || tier === onDisk, `mark of tier ${tier}`);
    const walk = this.tree.walk(tokens, to * this.tree.blockTokens);
    for (let at = walk.partial ?? walk.node; at.parent !== undefined; at = at.parent) {
      const first = Math.floor(startOf(at) / this.tree.blockTokens);
      const last = Math.min(first + at.refs.length, to, Math.floor(walk.tokens / this.tree.blockTokens));
      for (let block = Math.max(first, from); block < last; block++) {
        const ref = at.refs[block - first]!;
        at.refs[block - first] = present ? ref | tier : ref & ~tier;
      }
    }
  }

  /** Forgets everything that is not pinned. */
  clear(): void {
    this.clock++;
    const everything: Need = { bytes: Infinity, blocks: Infinity, snapshots: Infinity };
    while (this.evictor.takeOne(everything, this.clock));
  }

  /** The integrity check: the tree's books, the pools' books, and that both agree on what is cached. */
  check(): void {
    this.tree.check();
    this.pool?.check();
    this.snapshots?.check();
    for (const node of this.tree.nodes()) {
      for (const ref of node.refs) assert(this.pool!.isKept(slotOf(ref)), `slot ${slotOf(ref)} is not kept`);
      const { snapshot } = node;
      if (snapshot === undefined) continue;
      if (this.pool !== undefined && snapshot.tail >= 0) assert(this.pool.isKept(snapshot.tail), "lost tail");
      if (this.snapshots !== undefined) assert(this.snapshots.isKept(snapshot.slot), "lost snapshot");
    }
  }

  private holdSnapshot(snapshot: Snapshot | undefined, how: "retain" | "release"): void {
    if (snapshot === undefined) return;
    if (snapshot.slot >= 0) this.snapshots![how](snapshot.slot);
    if (snapshot.tail >= 0) this.pool![how](snapshot.tail);
  }

  private matchOf(walk: Walk): Match {
    if (!this.withSnapshots) {
      const blocks = Math.floor(walk.tokens / this.tree.blockTokens);
      const states = this.blockStates(walk.partial ?? walk.node, blocks);
      return {
        tokens: blocks * this.tree.blockTokens,
        rawTokens: walk.tokens,
        blocks: states,
        snapshot: undefined,
      };
    }
    let node = walk.node;
    while (node.parent !== undefined && node.snapshot === undefined) node = node.parent;
    const blocks = this.blockStates(node, Math.floor(node.end / this.tree.blockTokens));
    return { tokens: node.end, rawTokens: walk.tokens, blocks, snapshot: node.snapshot };
  }

  private blockStates(node: RadixNode, count: number): BlockState[] {
    if (this.pool === undefined) return [];
    const states = new Array<BlockState>(count);
    for (let at = node; at.parent !== undefined; at = at.parent) {
      const first = Math.floor(startOf(at) / this.tree.blockTokens);
      const last = Math.min(count, first + at.refs.length);
      for (let block = first; block < last; block++) states[block] = stateOf(at.refs[block - first]!);
    }
    return states;
  }

  /** For models without snapshots a use reaches exactly as far as the match: cut the edge there, so that what lies
   * behind keeps its own history. Elsewhere the walk stays as it is. */
  private exact(walk: Walk): Walk {
    if (this.withSnapshots || walk.partial === undefined) return walk;
    const end = Math.floor(walk.tokens / this.tree.blockTokens) * this.tree.blockTokens;
    if (end <= walk.node.end) return walk;
    const upper = this.tree.split(walk.partial, end);
    walk.node = upper;
    if (end === walk.tokens) walk.partial = undefined;
    this.policy.changed(upper);
    return walk;
  }

  /** The node on the way from `node` to the root that ends at `at`; cuts an edge where none does. */
  private nodeEndingAt(node: RadixNode, at: number): RadixNode {
    let found = node;
    while (found.parent !== undefined && startOf(found) >= at) found = found.parent;
    if (found.parent === undefined || found.end === at) return found;
    const upper = this.tree.split(found, at);
    this.policy.changed(found);
    this.policy.changed(upper);
    return upper;
  }

  private count(tokens: Int32Array, match: Match, node: RadixNode): void {
    this.stats.lookups++;
    this.stats.tokensAsked += tokens.length;
    this.stats.tokensMatched += match.tokens;
    this.stats.flopsSaved += flopsBetween(this.cost, 0, match.tokens);
    if (match.tokens === 0) return;
    if (node.children.size > 1) this.stats.branchHits++;
    else this.stats.endHits++;
  }

  /** Where an insertion may end: behind the last full block, or at a snapshot behind that. */
  private endOf(tokens: Int32Array, snapshots: readonly NewSnapshot[]): number {
    const full = Math.floor(tokens.length / this.tree.blockTokens) * this.tree.blockTokens;
    return snapshots.reduce((end, snapshot) => Math.max(end, snapshot.at), full);
  }

  /** Makes room for an insertion, or says how far it fits: whole blocks of a model without snapshots, else up to the
   * last of its snapshots that fits (-1 where none does: KV without a state is of no use). */
  private fit(walk: Walk, end: number, snapshots: readonly NewSnapshot[]): number {
    const known = walk.partial === undefined && walk.node.snapshot !== undefined ? walk.tokens : -1;
    const bytesTo = (to: number): number => {
      const states = snapshots.filter(({ at }) => at <= to && at > 0 && at !== known).length;
      const blocks = Math.max(0, this.tree.blocksBetween(walk.tokens, to));
      return blocks * this.bytesPerBlock + states * this.cost.bytesPerSnapshot;
    };
    if (this.evict({ bytes: bytesTo(end) })) return end;
    if (this.policy.keepsOversize) return end;
    this.stats.insertsCut++;
    const free = this.capacityBytes - this.bytes;
    if (this.withSnapshots) {
      const ends = snapshots.map((snapshot) => snapshot.at).filter((at) => at <= end && bytesTo(at) <= free);
      return Math.max(-1, ...ends);
    }
    const blocks = Math.max(0, Math.floor(free / this.bytesPerBlock));
    return Math.min(end, walk.tokens + blocks * this.tree.blockTokens);
  }

  /** Puts tokens[walk.tokens, end) into the tree with the lease's blocks. */
  private hang(
    lease: Lease,
    walk: Walk,
    tokens: Int32Array,
    end: number,
  ): Pick<Inserted, "owned" | "duplicates"> {
    const firstNew = Math.floor(walk.tokens / this.tree.blockTokens);
    const duplicates = this.duplicatesIn(lease, walk, firstNew);
    if (end <= walk.tokens) return { owned: [], duplicates };
    const owned =
      this.pool === undefined ? [] : lease.table.slice(firstNew, Math.floor(end / this.tree.blockTokens));
    for (const slot of owned) this.pool!.keep(slot);
    const refs = this.pool === undefined ? noRefs : Int32Array.from(owned, refOf);
    this.grow(lease, walk, tokens.subarray(walk.tokens, end), refs);
    return { owned, duplicates };
  }

  /** Lengthens the lease's own leaf, or hangs a new one where the walk ended. */
  private grow(lease: Lease, walk: Walk, label: Int32Array, refs: Int32Array): void {
    const parent = this.tree.nodeAt(walk);
    if (walk.partial !== undefined) this.policy.changed(walk.partial);
    if (parent === lease.own && parent.children.size === 0 && parent.snapshot === undefined) {
      this.tree.extendLeaf(parent, label, refs);
    } else {
      lease.own = this.tree.addLeaf(parent, label, refs);
      lease.own.uses = 1;
    }
    lease.own.lastAccess = this.clock;
    if (walk.partial !== undefined) parent.lastAccess = this.clock;
    this.policy.changed(parent);
    this.policy.changed(lease.own);
  }

  private duplicatesIn(lease: Lease, walk: Walk, blocks: number): number[] {
    if (this.pool === undefined) return [];
    const known = this.blockStates(walk.partial ?? walk.node, blocks);
    return lease.table.slice(0, blocks).filter((slot, i) => slot !== known[i]!.slot);
  }

  /** The node that holds position `end` after the insertion. */
  private deepest(lease: Lease, walk: Walk, end: number): RadixNode {
    return end > walk.tokens ? lease.own! : (walk.partial ?? walk.node);
  }

  /** Hangs a snapshot on the path of `deepest`, or gives its slots back where the tree has one there already. */
  private place(deepest: RadixNode, snapshot: NewSnapshot, end: number, requestId?: number): boolean {
    const { at, slot, tail } = snapshot;
    const node = at > 0 && at <= end ? this.nodeEndingAt(deepest, at) : undefined;
    const isNew = node !== undefined && node.snapshot === undefined && node.parent !== undefined;
    if (isNew) {
      if (slot >= 0) this.snapshots!.keep(slot);
      if (tail >= 0) this.pool!.keep(tail);
      this.tree.setSnapshot(node, { slot, tail, tiers: 0 });
      this.stats.snapshotsTaken++;
      if (this.listener) this.tellSnapshot(snapshot, node, requestId);
      this.policy.changed(node);
    }
    if (slot >= 0) this.snapshots!.release(slot);
    if (tail >= 0) this.pool!.release(tail);
    return isNew;
  }

  private tellMatched(match: Match, node: RadixNode, requestId: number | undefined): void {
    const { tokens } = match;
    const blocks = Math.floor(tokens / this.tree.blockTokens);
    const bytes = blocks * this.bytesPerBlock + (match.snapshot ? this.cost.bytesPerSnapshot : 0);
    const why = tokens === 0 ? "unknown" : node.children.size > 0 ? "branched" : "continued";
    this.tell({ kind: "matched", why, tokens, at: tokens, blocks, bytes, clock: this.clock }, requestId);
  }

  private tellAdmitted({ requestId }: Lease, end: number, blocks: number): void {
    const tokens = blocks * this.tree.blockTokens;
    const at = Math.floor(end / this.tree.blockTokens) * this.tree.blockTokens;
    const bytes = blocks * this.bytesPerBlock;
    this.tell({ kind: "admitted", why: "computed", tokens, at, blocks, bytes, clock: this.clock }, requestId);
  }

  private tellSnapshot({ at, tail, why }: NewSnapshot, node: RadixNode, requestId: number | undefined): void {
    const bytes = this.cost.bytesPerSnapshot + (tail >= 0 ? this.bytesPerBlock : 0);
    const reason = why ?? (node.children.size > 0 ? "branch" : "end");
    this.tell(
      { kind: "snapshot", why: reason, tokens: at, at, blocks: 0, bytes, clock: this.clock },
      requestId,
    );
  }

  private tell(event: CacheEvent, requestId: number | undefined): void {
    this.listener?.(requestId === undefined ? event : { ...event, requestId });
  }

  /** Moves the lease's pin to `deepest` and takes the insertion's own pin off. */
  private repin(lease: Lease, deepest: RadixNode, held: RadixNode): void {
    this.tree.pin(deepest);
    this.unpin(held);
    this.unpin(lease.node);
    lease.node = deepest;
  }

  private unpin(node: RadixNode): void {
    const freed: RadixNode[] = [];
    this.tree.unpin(node, (at) => freed.push(at));
    for (const at of freed) this.evictor.settle(at);
  }
}

/** Field by field: spreading objects costs more than all else that a lookup does. */
function newLease(
  { tokens, rawTokens, blocks, snapshot }: Match,
  table: number[],
  node: RadixNode,
  requestId: number | undefined,
): Lease {
  return {
    tokens,
    rawTokens,
    blocks,
    snapshot,
    table,
    node,
    own: undefined,
    copied: false,
    requestId,
    released: false,
  };
}
