/** A made-up tree of a given size that changes from moment to moment, to see how the drawing keeps up. Seeded. */
import { TIER_DISK, TIER_GPU, TIER_RAM, type CacheTree, type CacheTreeNode } from "../../src/index.ts";

const BLOCK_TOKENS = 32;
const MEAN_BLOCKS = 12;

export class SampleTree {
  private state: number;
  private nodes: CacheTreeNode[] = [];
  private nextId = 1;
  private readonly blocks: number;

  constructor(blocks: number, seed = 1) {
    this.blocks = blocks;
    this.state = seed;
    this.fill();
  }

  /** The tree as it is after a moment in which some went and some came. */
  next(): CacheTree {
    const parents = new Set(this.nodes.map(({ parent }) => parent));
    const leaves = this.nodes.filter(({ id }) => !parents.has(id));
    const gone = new Set(leaves.filter(() => this.random() < 0.03).map(({ id }) => id));
    this.nodes = this.nodes.filter(({ id }) => !gone.has(id));
    for (const node of this.nodes) if (this.random() < 0.03) node.tiers = this.tiers(node.tiers.length);
    this.fill();
    return this.tree();
  }

  tree(): CacheTree {
    const nodes = this.nodes.map((node) => ({ ...node }));
    return {
      nodes,
      blockTokens: BLOCK_TOKENS,
      bytesPerBlock: 65_536,
      bytesPerSnapshot: 0,
      tiers: [
        { name: "gpu", bit: TIER_GPU },
        { name: "ram", bit: TIER_RAM },
        { name: "disk", bit: TIER_DISK },
      ],
      omittedBlocks: 0,
      moreStored: false,
    };
  }

  private fill(): void {
    let count = this.nodes.reduce((sum, { tiers }) => sum + tiers.length, 0);
    while (count < this.blocks) {
      const blocks = Math.min(this.blocks - count, 1 + Math.floor(this.random() * 2 * MEAN_BLOCKS));
      this.add(blocks);
      count += blocks;
    }
  }

  private add(blocks: number): void {
    const isNew = this.nodes.length === 0 || this.random() < 0.1;
    const parent = isNew ? undefined : this.nodes[Math.floor(this.random() * this.nodes.length)];
    const start = parent?.end ?? 0;
    const end = start + blocks * BLOCK_TOKENS;
    const snapshot = this.random() < 0.3 ? TIER_GPU : 0;
    const tiers = this.tiers(blocks);
    const base = { pins: 0, uses: 1, idleMs: 0 };
    this.nodes.push({ ...base, id: this.nextId++, parent: parent?.id ?? 0, start, end, tiers, snapshot });
  }

  private tiers(blocks: number): Uint8Array {
    const kinds = [
      TIER_GPU,
      TIER_GPU | TIER_RAM,
      TIER_GPU | TIER_RAM | TIER_DISK,
      TIER_RAM | TIER_DISK,
      TIER_DISK,
    ];
    return new Uint8Array(blocks).fill(kinds[Math.floor(this.random() * kinds.length)] ?? TIER_GPU);
  }

  /** In [0, 1): a linear congruential generator is random enough to look at. */
  private random(): number {
    this.state = (Math.imul(this.state, 1_664_525) + 1_013_904_223) >>> 0;
    return this.state / 2 ** 32;
  }
}
