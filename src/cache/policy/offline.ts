/**
 * `offline`: a bound that knows the future, to compare real policies with. Belady's rule made cost-aware: keep and
 * snapshot only what a later request will use; evict what saves the fewest FLOPs for its bytes and for the time until its
 * next use. The true optimum is NP-hard, so this is what a greedy oracle reaches, not a proven maximum. Only a replay can
 * have it; requests must come in the order that was foretold.
 */
import { assert } from "../../base.ts";
import type { Cost } from "../../shape/cost.ts";
import { isFreeNow, isPrunable, savedFlops } from "./marconi.ts";
import type { Admission, PrefixPolicy } from "./policy.ts";
import { touchPath } from "./policy.ts";
import type { RadixNode, Walk } from "../tree/radix.ts";
import { onlyChild, RadixTree } from "../tree/radix.ts";

export interface FutureRequest {
  sequence: Int32Array;
  inputTokens: number;
}

/** A stretch of the tree of all sequences: where it ends, and the requests whose input passes that end, ascending. */
interface Stretch {
  end: number;
  users: number[];
}

/** When what a candidate alone leads to is used next; right until then, unless what lies below it changes. */
interface NextUse {
  below: Stretch | undefined;
  next: number;
}

/** A candidate with its worth at the time of the current round of evictions. */
interface Scored {
  node: RadixNode;
  worth: number;
}

export class OfflinePolicy implements PrefixPolicy {
  readonly name = "offline";
  readonly mergesChains = false;
  readonly keepsOversize = false;
  readonly snapshotReason = "branch";
  readonly alpha = undefined;
  private readonly cost: Cost;
  /** For each request the stretches that its sequence passes, in order. */
  private readonly paths: Stretch[][];
  private readonly stretchOf = new WeakMap<RadixNode, Stretch>();
  private readonly candidates = new Map<RadixNode, NextUse>();
  /** Candidates by worth, worst last, and those that joined since; rebuilt for each round. */
  private ranked: Scored[] = [];
  private joined: Scored[] = [];
  private round = -1;
  /** The request being served. */
  private request = -1;

  /** @param future walks through all requests of the trace; called twice */
  constructor(cost: Cost, future: () => Iterable<FutureRequest>) {
    this.cost = cost;
    this.paths = readFuture(future);
  }

  begin(): void {
    this.request++;
    assert(this.request < this.paths.length, `request ${this.request} was not foretold`);
  }

  /** Where a later request will part from this one. */
  snapshotPositions(request: Admission): number[] {
    const path = this.paths[this.request]!;
    return path
      .filter((stretch, i) => this.nextUse(stretch, path[i + 1]) !== Infinity)
      .map((stretch) => stretch.end)
      .filter((end) => end > request.reusable && end < request.tokens.length);
  }

  /** The longest prefix that a later input repeats. */
  keepTokens(): number {
    const useful = this.paths[this.request]!.filter((stretch) => this.nextUse(stretch) !== Infinity);
    return useful.at(-1)?.end ?? 0;
  }

  touch(walk: Walk, now: number, why: "match" | "insert"): void {
    touchPath(walk.node, now, why === "match" ? 1 : 0);
  }

  changed(node: RadixNode): void {
    if (node.parent !== undefined && !this.stretchOf.has(node)) {
      const stretch = this.paths[this.request]!.find((candidate) => candidate.end >= node.end);
      assert(stretch !== undefined, `a node at ${node.end} that is not on the request's path`);
      this.stretchOf.set(node, stretch);
    }
    if (!isPrunable(node)) this.candidates.delete(node);
    else {
      if (!this.candidates.has(node)) this.candidates.set(node, { below: undefined, next: -1 });
      const known = this.candidates.get(node)!;
      if (this.round >= 0) this.joined.push({ node, worth: this.worth(node, known) });
    }
  }

  removed(node: RadixNode): void {
    this.candidates.delete(node);
  }

  victim(now: number, fits: (node: RadixNode) => boolean): RadixNode | undefined {
    if (this.round !== now) this.startRound(now);
    this.settleJoined();
    const skipped: Scored[] = [];
    let found: RadixNode | undefined;
    while (found === undefined && this.ranked.length > 0) {
      const scored = this.ranked.pop()!;
      const { node } = scored;
      if (!this.candidates.has(node) || !isFreeNow(node)) continue;
      if (fits(node)) found = node;
      else skipped.push(scored);
    }
    this.joined.push(...skipped);
    return found;
  }

  private startRound(now: number): void {
    this.round = now;
    this.joined = [];
    this.ranked = [];
    for (const [node, known] of this.candidates) this.ranked.push({ node, worth: this.worth(node, known) });
    this.ranked.sort((a, b) => b.worth - a.worth);
  }

  /** Files those that became candidates in this round among the others. */
  private settleJoined(): void {
    for (const scored of this.joined) {
      let [low, high] = [0, this.ranked.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.ranked[middle]!.worth > scored.worth) low = middle + 1;
        else high = middle;
      }
      this.ranked.splice(low, 0, scored);
    }
    this.joined = [];
  }

  /** FLOPs saved at the next use, for each byte that eviction would free and each request until then. */
  private worth(node: RadixNode, known: NextUse): number {
    const child = onlyChild(node);
    const below = child?.snapshot === undefined ? undefined : this.stretchOf.get(child);
    if (known.below !== below || known.next <= this.request) {
      known.below = below;
      known.next = this.nextUse(this.stretchOf.get(node)!, below);
    }
    const { next } = known;
    if (next === Infinity) return 0;
    const kv = child === undefined ? node.label.length * this.cost.bytesPerToken : 0;
    const state = node.snapshot === undefined ? 0 : this.cost.bytesPerSnapshot;
    return savedFlops(node, this.cost) / ((kv + state) * (next - this.request));
  }

  /** The next request that passes the end of `stretch` but not that of `below`; Infinity where there is none. */
  private nextUse(stretch: Stretch, below?: Stretch): number {
    const from = firstAfter(stretch.users, this.request);
    for (let i = from, j = below === undefined ? 0 : firstAfter(below.users, this.request); ; i++, j++) {
      if (i >= stretch.users.length) return Infinity;
      if (below?.users[j] !== stretch.users[i]) return stretch.users[i]!; // those below are a subset
    }
  }
}

function firstAfter(users: number[], request: number): number {
  let [low, high] = [0, users.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (users[middle]! <= request) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Builds the tree of all sequences, with an edge's end wherever two part or an input ends, and returns each request's
 * way through it. */
function readFuture(future: () => Iterable<FutureRequest>): Stretch[][] {
  const tree = new RadixTree(1, false);
  for (const { sequence, inputTokens } of future()) {
    const walk = tree.walk(sequence);
    const node = tree.nodeAt(walk);
    if (walk.tokens < sequence.length) tree.addLeaf(node, sequence.subarray(walk.tokens));
    tree.nodeAt(tree.walk(sequence, inputTokens));
  }
  const stretches = new Map<RadixNode, Stretch>();
  return Array.from(future(), ({ sequence, inputTokens }, request) => {
    const path: Stretch[] = [];
    for (let node = tree.walk(sequence).node; node.parent !== undefined; node = node.parent) {
      const stretch = stretches.get(node) ?? { end: node.end, users: [] };
      stretches.set(node, stretch);
      if (node.end <= inputTokens) stretch.users.push(request);
      path.push(stretch);
    }
    return path.reverse();
  });
}
