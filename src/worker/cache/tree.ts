/**
 * The tree as the caller sees it: what the GPU holds, with the tiers that have copies, and behind it what only slower tiers
 * still hold. The outline is taken at one moment; hashing and looking up go on in slices, so that no decode step waits long.
 * Nothing is changed by it, not even the order of use.
 */
import { assert, systemClock } from "../../base.ts";
import { Outliner, type OutlineNode } from "../../cache/tree/outline.ts";
import type { PrefixCache } from "../../cache/prefix.ts";
import { recordKey, type Key } from "../../tier/record/keys.ts";
import type { StoredTiers, TierStore } from "../../tier/store/store.ts";
import {
  TIER_DISK,
  TIER_GPU,
  TIER_RAM,
  type CachePlace,
  type CacheTree,
  type CacheTreeNode,
} from "../../wire/protocol.ts";

/** Work between two looks at what else there is to do. */
const SLICE_MS = 3;

export interface TreeRooms {
  cache: PrefixCache;
  /** The lower tiers, and the key before a sequence's first block. */
  lower: { store: TierStore; root: Key } | undefined;
  /** Milliseconds since a logical time; -1: not known. */
  idleMsOf(clock: number): number;
}

export class TreeReader {
  private readonly rooms: TreeRooms;
  private readonly outliner = new Outliner();
  /** The keys of the blocks on an edge, by its label: while a label is in the tree, what stands before it is the same. */
  private readonly keys = new WeakMap<Int32Array, readonly Key[]>();
  /** Ids of chains that only lower tiers have, by their first key: of the reading before, so that they stay. */
  private chainIds = new Map<Key, number>();
  private nextChainId = -1;
  /** The places that a block can be in, with their bits. */
  private readonly places: readonly CachePlace[];

  constructor(rooms: TreeRooms) {
    this.rooms = rooms;
    this.places = placesOf(rooms.lower?.store.tierNames ?? []);
  }

  private bitsOf(tiers: readonly string[]): number {
    return this.places.reduce((bits, { name, bit }) => (tiers.includes(name) ? bits | bit : bits), 0);
  }

  /** @param limit blocks at most, and nodes; what was used last goes first. */
  async read(limit: number): Promise<CacheTree> {
    const { cache, lower } = this.rooms;
    const { blockTokens } = cache.tree;
    const { nodes: edges, omittedBlocks } = this.outliner.outline(cache.tree, limit);
    const bytesPerBlock = cache.cost.bytesPerToken * blockTokens;
    const { bytesPerSnapshot } = cache.cost;
    const reading = new Reading(limit, blockTokens);
    for (const edge of edges) reading.nodes.push(this.nodeOf(edge));
    const facts = { blockTokens, bytesPerBlock, bytesPerSnapshot, tiers: this.places };
    if (!lower) return { ...facts, nodes: reading.nodes, omittedBlocks, moreStored: false };
    await this.addTiers(edges, reading, lower);
    const moreStored = await this.addStored(reading, lower.store);
    return { ...facts, nodes: reading.nodes, omittedBlocks, moreStored };
  }

  private nodeOf({
    id,
    parent,
    start,
    end,
    blocks,
    hasSnapshot,
    pins,
    uses,
    lastAccess,
  }: OutlineNode): CacheTreeNode {
    const tiers = new Uint8Array(blocks).fill(TIER_GPU);
    const idleMs = this.rooms.idleMsOf(lastAccess);
    return { id, parent, start, end, tiers, snapshot: hasSnapshot ? TIER_GPU : 0, pins, uses, idleMs };
  }

  /** Which lower tiers have copies of the GPU's blocks and snapshots. */
  private async addTiers(
    edges: readonly OutlineNode[],
    reading: Reading,
    { store, root }: { store: TierStore; root: Key },
  ): Promise<void> {
    const paths = new Map<number, Path>([[0, { key: root, tail: new Int32Array(0) }]]);
    reading.ends.push({ key: root, node: 0, at: 0 });
    for (const [index, edge] of edges.entries()) {
      const before = paths.get(edge.parent) as Path;
      const keys = this.keys.get(edge.label) ?? (await this.hash(edge, before, reading));
      this.keys.set(edge.label, keys);
      const node = reading.nodes[index] as CacheTreeNode;
      for (const [block, key] of keys.entries()) {
        node.tiers[block]! |= this.bitsOf(store.tiersOf(key));
        reading.ends.push({ key, node: node.id, at: reading.endOf(edge.start, block) });
        reading.seen.add(key);
      }
      const path = { key: keys.at(-1) ?? before.key, tail: this.tailOf(edge, before, keys.length, reading) };
      paths.set(edge.id, path);
      if (node.snapshot !== 0) node.snapshot |= this.snapshotBits(path, store, reading);
      await reading.breathe();
    }
  }

  private snapshotBits({ key, tail }: Path, store: TierStore, reading: Reading): number {
    const state = recordKey("snapshot", key, tail);
    reading.seen.add(state);
    return this.bitsOf(store.tiersOf(state));
  }

  private async hash(edge: OutlineNode, before: Path, reading: Reading): Promise<Key[]> {
    const tokens = concat(before.tail, edge.label);
    const keys: Key[] = [];
    for (let block = 0; block < edge.blocks; block++) {
      const part = tokens.subarray(block * reading.blockTokens, (block + 1) * reading.blockTokens);
      keys.push(recordKey("block", keys.at(-1) ?? before.key, part));
      await reading.breathe();
    }
    return keys;
  }

  /** The tokens behind the last full block at an edge's end. */
  private tailOf(
    { label, end }: OutlineNode,
    { tail }: Path,
    blocks: number,
    { blockTokens }: Reading,
  ): Int32Array {
    const length = end % blockTokens;
    if (blocks === 0) return concat(tail, label);
    return label.subarray(label.length - length);
  }

  /** Hangs behind each known block what only lower tiers have, as far as the limit goes; whether there is more. */
  private async addStored(reading: Reading, store: TierStore): Promise<boolean> {
    const ids = new Map<Key, number>();
    for (let end = reading.ends.pop(); end !== undefined; end = reading.ends.pop()) {
      for (const child of store.childrenOf(end.key)) {
        if (reading.seen.has(child.info.key)) continue;
        reading.seen.add(child.info.key);
        if (reading.blocks >= reading.limit || reading.nodes.length >= reading.limit)
          return this.keepIds(ids, true);
        const id = this.chainIds.get(child.info.key) ?? this.nextChainId--;
        ids.set(child.info.key, id);
        if (child.info.kind === "snapshot") this.addState(reading, end, child, id);
        else await this.addChain(reading, end, child, id, store);
      }
      await reading.breathe();
    }
    return this.keepIds(ids, false);
  }

  private keepIds(ids: Map<Key, number>, more: boolean): boolean {
    this.chainIds = ids;
    return more;
  }

  /** A snapshot that only lower tiers have: at the end of its node where one ends there, else a node of its own. */
  private addState(reading: Reading, end: ChainEnd, { info, tiers }: StoredTiers, id: number): void {
    const at = end.at + info.tokenCount;
    const bits = this.bitsOf(tiers);
    const parent = reading.byId(end.node);
    if (parent?.end === at && parent.snapshot === 0) parent.snapshot = bits;
    else
      reading.add({
        ...storedNode(info.createdAtMs),
        id,
        parent: end.node,
        start: end.at,
        end: at,
        snapshot: bits,
      });
  }

  /** A block with those behind it, as long as there is one way to go. */
  private async addChain(
    reading: Reading,
    from: ChainEnd,
    first: StoredTiers,
    id: number,
    store: TierStore,
  ): Promise<void> {
    const bits: number[] = [];
    let { key } = first.info;
    let next: StoredTiers | undefined = first;
    while (next !== undefined && reading.blocks + bits.length < reading.limit) {
      ({ key } = next.info);
      reading.seen.add(key);
      bits.push(this.bitsOf(next.tiers));
      await reading.breathe();
      const children: StoredTiers[] = store.childrenOf(key);
      const [only] = children;
      next =
        children.length === 1 && only?.info.kind === "block" && !reading.seen.has(only.info.key)
          ? only
          : undefined;
    }
    const end = from.at + bits.length * reading.blockTokens;
    const tiers = Uint8Array.from(bits);
    reading.add({ ...storedNode(first.info.createdAtMs), id, parent: from.node, start: from.at, end, tiers });
    reading.ends.push({ key, node: id, at: end });
  }
}

/** Where an edge ends: the key of its last full block, and the tokens behind it. */
interface Path {
  key: Key;
  tail: Int32Array;
}

/** A block behind which stored ones may stand. */
interface ChainEnd {
  key: Key;
  node: number;
  at: number;
}

/** What has been read so far, and how long it has been at it. */
class Reading {
  readonly nodes: CacheTreeNode[] = [];
  readonly ends: ChainEnd[] = [];
  readonly seen = new Set<Key>();
  readonly limit: number;
  readonly blockTokens: number;
  private readonly nodesById = new Map<number, CacheTreeNode>();
  private counted = 0;
  private indexed = 0;
  private sinceMs = systemClock.nowMs();

  constructor(limit: number, blockTokens: number) {
    this.limit = limit;
    this.blockTokens = blockTokens;
  }

  get blocks(): number {
    this.index();
    return this.counted;
  }

  add(node: CacheTreeNode): void {
    this.nodes.push(node);
  }

  byId(id: number): CacheTreeNode | undefined {
    this.index();
    return this.nodesById.get(id);
  }

  /** The position behind block `block` of an edge that begins at `start`. */
  endOf(start: number, block: number): number {
    return (Math.floor(start / this.blockTokens) + block + 1) * this.blockTokens;
  }

  /** Lets other work go on once a slice's time is over. */
  async breathe(): Promise<void> {
    if (systemClock.nowMs() - this.sinceMs < SLICE_MS) return;
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.sinceMs = systemClock.nowMs();
  }

  private index(): void {
    for (; this.indexed < this.nodes.length; this.indexed++) {
      const node = this.nodes[this.indexed] as CacheTreeNode;
      this.nodesById.set(node.id, node);
      this.counted += node.tiers.length;
    }
  }
}

function storedNode(createdAtMs: number): CacheTreeNode {
  const idleMs = Math.max(0, Date.now() - createdAtMs);
  return {
    id: 0,
    parent: 0,
    start: 0,
    end: 0,
    tiers: new Uint8Array(0),
    snapshot: 0,
    pins: 0,
    uses: 0,
    idleMs,
  };
}

/** The GPU and the tiers below it; those without a bit of their own get the next free ones. A block's bits fit one byte. */
export function placesOf(tiers: readonly string[]): CachePlace[] {
  const fixed: Readonly<Record<string, number>> = { gpu: TIER_GPU, ram: TIER_RAM, disk: TIER_DISK };
  let free = 2 * TIER_GPU;
  return ["gpu", ...tiers].map((name) => {
    const bit = fixed[name] ?? free;
    if (bit === free) free *= 2;
    assert(bit < 256, `more tiers than a block has bits for: ${tiers.join(", ")}`);
    return { name, bit };
  });
}

function concat(a: Int32Array, b: Int32Array): Int32Array {
  if (a.length === 0) return b;
  const both = new Int32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
