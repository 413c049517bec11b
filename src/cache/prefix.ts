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
import { onDisk, onRam, refOf, slotOf } from "./tree/block-ref.ts";
import type { BlockCounts, BlockPool } from "./blocks.ts";
import type { Cost } from "../shape/cost.ts";
import { flopsBetween } from "../shape/cost.ts";
import type { Need } from "./evictor.ts";
import type { CacheListener } from "./events.ts";
import { Evictor } from "./evictor.ts";
import { newLease, type Inserted, type Lease, type Match, type NewSnapshot } from "./lease.ts";
import { Paths } from "./tree/prefix-paths.ts";
import type { PrefixPolicy } from "./policy/policy.ts";
import { PrefixEvents } from "./prefix-events.ts";
import type { RadixNode, Snapshot, Walk } from "./tree/radix.ts";
import { RadixTree, startOf } from "./tree/radix.ts";
import type { StateRing, StateSlotPool } from "./state-slot-pool.ts";
import type { PrefixStats } from "./stats.ts";
import { newStats } from "./stats.ts";

export type { BlockState } from "./tree/block-ref.ts";
export { onDisk, onRam } from "./tree/block-ref.ts";
export type { Inserted, Lease, Match, NewSnapshot } from "./lease.ts";
export type { PrefixStats } from "./stats.ts";

export interface PrefixOptions {
  /** Tokens in a block; 1 for Marconi's token-granular tree. */
  blockTokens: number;
  /** Per token of the tree. A `bytesPerSnapshot` above 0 means that only prefixes with a snapshot can be reused. */
  cost: Cost;
  policy: PrefixPolicy;
  /** Whether the sequences that are inserted never change, so that the tree may keep views of them. Default: false. */
  keepsViews?: boolean;
  /** Limit of the tree's bytes; none by default (the pools are the limit then). */
  capacityBytes?: number;
  /** KV slots. Without it the tree carries no block references, and only `capacityBytes` limits it. */
  pool?: BlockPool;
  /** Slots of snapshots, and of running sequences. */
  snapshotPool?: StateSlotPool;
}

const NO_REFS = new Int32Array(0);

export class PrefixCache {
  readonly tree: RadixTree;
  readonly policy: PrefixPolicy;
  readonly cost: Cost;
  readonly stats: PrefixStats = newStats();
  capacityBytes: number;
  private readonly pool: BlockPool | undefined;
  /** Slots of states; undefined in a replay, and in models without recurrent layers. */
  readonly snapshots: StateSlotPool | undefined;
  private readonly withSnapshots: boolean;
  private readonly evictor: Evictor;
  private readonly paths: Paths;
  private readonly events: PrefixEvents;
  private clock = 0;

  constructor(options: PrefixOptions) {
    this.tree = new RadixTree(options.blockTokens, options.pool !== undefined, options.keepsViews);
    this.policy = options.policy;
    this.cost = options.cost;
    this.capacityBytes = options.capacityBytes ?? Infinity;
    this.pool = options.pool;
    this.snapshots = options.snapshotPool;
    this.withSnapshots = options.cost.bytesPerSnapshot > 0;
    const { tree, policy, cost, pool, snapshots: snapshotPool, stats, withSnapshots } = this;
    const { blockTokens } = options;
    this.paths = new Paths(tree, policy, pool !== undefined, withSnapshots);
    this.events = new PrefixEvents(blockTokens, cost);
    this.evictor = new Evictor({
      ...{ tree, policy, cost, pool, snapshotPool, stats, withSnapshots },
    });
  }

  /** Says who hears of decisions, in place of who heard before; undefined: nobody, and then they cost nothing. */
  listen(listener: CacheListener | undefined): void {
    this.events.listener = listener;
    this.evictor.listener = listener;
  }

  private get bytesPerBlock(): number {
    return this.cost.bytesPerToken * this.tree.blockTokens;
  }

  /** The same model from now on computes in other types: tokens cost other bytes. For everyone who has the cost. */
  recost(cost: Cost): void {
    Object.assign(this.cost, cost);
  }

  /** Bytes that the tree holds: KV of full blocks, partial blocks of snapshots, and states. */
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
    return this.paths.matchOf(this.tree.walk(tokens, limit));
  }

  /** Matches, pins the matched path, retains its slots and counts the lookup. Every lease must be released. */
  acquire(tokens: Int32Array, limit = tokens.length, requestId?: number): Lease {
    this.policy.begin?.();
    const walk = this.tree.walk(tokens, limit);
    this.clock++;
    this.policy.touch(this.paths.exact(walk), this.clock, "match");
    const match = this.paths.matchOf(walk);
    const node = this.paths.nodeEndingAt(walk.partial ?? walk.node, match.tokens);
    this.tree.pin(node);
    const table = match.blocks.map((block) => block.slot);
    for (const slot of table) this.pool!.retain(slot);
    this.holdSnapshot(match.snapshot, "retain");
    this.count(tokens, match, node);
    if (this.events.listener) this.events.matched(match, node, requestId, this.clock);
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

  /** `count` state slots for a sequence that is about to run, evicting snapshots where needed; undefined if not even that
   * frees as many. Given back by `dropStates`. */
  takeStates(count = 2): StateRing | undefined {
    const { snapshots } = this;
    assert(snapshots !== undefined, "takeStates of a cache without state slots");
    if (snapshots.unusedCount + snapshots.cachedCount < count) return undefined; // evictions would be in vain
    while (snapshots.unusedCount < count) {
      const short: Need = { bytes: 0, blocks: 0, snapshots: count - snapshots.unusedCount };
      if (!this.evictor.takeOne(short, this.clock)) return undefined;
    }
    return snapshots.takeRing(count);
  }

  dropStates(ring: StateRing): void {
    this.snapshots!.giveRing(ring);
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
    if (this.events.listener && inserted.owned.length > 0)
      this.events.admitted(lease, end, inserted.owned.length, this.clock);
    const placed = snapshots.filter((snapshot) => this.place(deepest, snapshot, end, lease.requestId));
    this.repin(lease, deepest, held);
    this.stats.bytesPeak = Math.max(this.stats.bytesPeak, this.bytes);
    const { owned, duplicates } = inserted;
    return { owned, duplicates, placed, tokens: Math.max(end, walk.tokens) };
  }

  /** The request has copied the state (and the partial block) that it starts from: the originals may be evicted now. Without
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

  /** The nodes behind token `from` of a sequence, all branches of them; undefined if the tree has none. */
  behind(tokens: Int32Array, from: number): Set<RadixNode> | undefined {
    const top = this.topBehind(tokens, from);
    return top && new Set(this.tree.below(top));
  }

  /** Forgets what the tree has behind token `from` of a sequence, all branches of it. None of it may be pinned. */
  forgetBehind(tokens: Int32Array, from: number): void {
    const top = this.topBehind(tokens, from);
    if (top) this.evictor.removeAll(this.tree.below(top));
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

  /** The node whose edge begins at token `from` of a sequence; cuts an edge if none does. */
  private topBehind(tokens: Int32Array, from: number): RadixNode | undefined {
    const walk = this.tree.walk(tokens);
    if (walk.tokens <= from) return undefined;
    const parent = from === 0 ? this.tree.root : this.paths.nodeEndingAt(walk.partial ?? walk.node, from);
    return parent.children.get(tokens[from] as number);
  }

  private holdSnapshot(snapshot: Snapshot | undefined, how: "retain" | "release"): void {
    if (snapshot === undefined) return;
    if (snapshot.slot >= 0) this.snapshots![how](snapshot.slot);
    if (snapshot.tail >= 0) this.pool![how](snapshot.tail);
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
    const refs = this.pool === undefined ? NO_REFS : Int32Array.from(owned, refOf);
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
    const known = this.paths.blockStates(walk.partial ?? walk.node, blocks);
    return lease.table.slice(0, blocks).filter((slot, i) => slot !== known[i]!.slot);
  }

  /** The node that holds position `end` after the insertion. */
  private deepest(lease: Lease, walk: Walk, end: number): RadixNode {
    return end > walk.tokens ? lease.own! : (walk.partial ?? walk.node);
  }

  /** Hangs a snapshot on the path of `deepest`, or gives its slots back where the tree has one there already. */
  private place(deepest: RadixNode, snapshot: NewSnapshot, end: number, requestId?: number): boolean {
    const { at, slot, tail } = snapshot;
    const node = at > 0 && at <= end ? this.paths.nodeEndingAt(deepest, at) : undefined;
    const isNew = node !== undefined && node.snapshot === undefined && node.parent !== undefined;
    if (isNew) {
      if (slot >= 0) this.snapshots!.keep(slot);
      if (tail >= 0) this.pool!.keep(tail);
      this.tree.setSnapshot(node, { slot, tail, tiers: 0 });
      this.stats.snapshotsTaken++;
      if (this.events.listener) this.events.snapshot(snapshot, node, requestId, this.clock);
      this.policy.changed(node);
    }
    if (slot >= 0) this.snapshots!.release(slot);
    if (tail >= 0) this.pool!.release(tail);
    return isNew;
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
