/** Makes the prefix cache's decisions into events for whoever listens; while nobody does it is not called. */
import type { Cost } from "../shape/cost.ts";
import type { CacheEvent, CacheListener } from "./events.ts";
import type { Lease, Match, NewSnapshot } from "./lease.ts";
import type { RadixNode } from "./tree/radix.ts";

export class PrefixEvents {
  listener: CacheListener | undefined;
  private readonly blockTokens: number;
  private readonly cost: Pick<Cost, "bytesPerToken" | "bytesPerSnapshot">;

  constructor(blockTokens: number, cost: PrefixEvents["cost"]) {
    this.blockTokens = blockTokens;
    this.cost = cost;
  }

  private get bytesPerBlock(): number {
    return this.cost.bytesPerToken * this.blockTokens;
  }

  matched(match: Match, node: RadixNode, requestId: number | undefined, clock: number): void {
    const { tokens } = match;
    const blocks = Math.floor(tokens / this.blockTokens);
    const bytes = blocks * this.bytesPerBlock + (match.snapshot ? this.cost.bytesPerSnapshot : 0);
    const why = tokens === 0 ? "unknown" : node.children.size > 0 ? "branched" : "continued";
    this.tell({ kind: "matched", why, tokens, at: tokens, blocks, bytes, clock }, requestId);
  }

  admitted({ requestId }: Lease, end: number, blocks: number, clock: number): void {
    const tokens = blocks * this.blockTokens;
    const at = Math.floor(end / this.blockTokens) * this.blockTokens;
    const bytes = blocks * this.bytesPerBlock;
    this.tell({ kind: "admitted", why: "computed", tokens, at, blocks, bytes, clock }, requestId);
  }

  snapshot(
    { at, tail, why }: NewSnapshot,
    node: RadixNode,
    requestId: number | undefined,
    clock: number,
  ): void {
    const bytes = this.cost.bytesPerSnapshot + (tail >= 0 ? this.bytesPerBlock : 0);
    const reason = why ?? (node.children.size > 0 ? "branch" : "end");
    this.tell({ kind: "snapshot", why: reason, tokens: at, at, blocks: 0, bytes, clock }, requestId);
  }

  private tell(event: CacheEvent, requestId: number | undefined): void {
    this.listener?.(requestId === undefined ? event : { ...event, requestId });
  }
}
