/**
 * Who is computing what right now, so that two requests with the same new prefix compute it once: the first is the
 * leader, the others wait for its blocks. It compares token ids only; it knows nothing of the tree, and waiting itself
 * is the scheduler's business.
 */

/** The answer to a claim: compute now, or wait until `leader` has published, finished or been aborted, and claim again. */
export interface Claim {
  /** Set where waiting pays: the request that is computing a longer shared prefix than what is ready. */
  waitFor: number | undefined;
  /** Tokens of the prefix that will be shared with the leader, in full blocks for models without snapshots. */
  sharedTokens: number;
}

interface Leader {
  tokens: Int32Array;
  /** Tokens published in the tree so far. */
  published: number;
  /** Positions at which waiters need a snapshot; only for models with recurrent layers. */
  branches: Set<number>;
}

export class InFlight {
  private readonly leaders = new Map<number, Leader>();
  private readonly blockTokens: number;
  private readonly needsSnapshot: boolean;

  constructor(blockTokens: number, needsSnapshot: boolean) {
    this.blockTokens = blockTokens;
    this.needsSnapshot = needsSnapshot;
  }

  get size(): number {
    return this.leaders.size;
  }

  /** Asks whether request `id` should compute `tokens` itself, of which `ready` are known. If no request is ahead with a
   * longer shared prefix it becomes a leader; calling again with the same id renews the claim. O(leaders x prompt),
   * and leaders are at most the running prefills. */
  claim(id: number, tokens: Int32Array, ready: number): Claim {
    let best: Claim = { waitFor: undefined, sharedTokens: ready };
    for (const [leaderId, leader] of this.leaders) {
      if (leaderId === id) break; // those that came later wait for us, not we for them
      const shared = this.sharedTokens(leader, tokens);
      if (shared > best.sharedTokens) best = { waitFor: leaderId, sharedTokens: shared };
    }
    if (best.waitFor !== undefined) {
      this.leaders.delete(id);
      if (this.needsSnapshot) this.leaders.get(best.waitFor)!.branches.add(best.sharedTokens);
    } else if (!this.leaders.has(id)) {
      this.leaders.set(id, { tokens, published: ready, branches: new Set() });
    }
    return best;
  }

  /** The leader has put its first `tokens` tokens into the tree. */
  published(id: number, tokens: number): void {
    const leader = this.leaders.get(id);
    if (leader !== undefined) leader.published = Math.max(leader.published, tokens);
  }

  /** Positions at which the leader should end a chunk and take a snapshot, because others wait for it; ascending. */
  snapshotPositions(id: number): number[] {
    const leader = this.leaders.get(id);
    return leader === undefined
      ? []
      : [...leader.branches].filter((at) => at > leader.published).sort((a, b) => a - b);
  }

  /** The leader's prefill is complete, or it was aborted: its waiters claim again, and the first becomes the leader. */
  done(id: number): void {
    this.leaders.delete(id);
  }

  /** How much of `tokens` the leader will publish that a second request can use; 0 where it is too late to wait. */
  private sharedTokens(leader: Leader, tokens: Int32Array): number {
    const most = Math.min(leader.tokens.length, tokens.length - 1); // the last token is always computed
    let shared = 0;
    while (shared < most && leader.tokens[shared] === tokens[shared]) shared++;
    if (!this.needsSnapshot) return Math.floor(shared / this.blockTokens) * this.blockTokens;
    return shared > leader.published ? shared : 0; // behind that point the state is gone
  }
}
