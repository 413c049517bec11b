/**
 * Beginning a prompt: whether a seat, blocks for all of it and a recurrent state can be had, and what the cache knows of it.
 * Who is next is prefill-queue.ts's business. Pure.
 */
import type { BlockPool } from "../../cache/blocks.ts";
import type { Lease, PrefixCache } from "../../cache/prefix.ts";
import { leaseBlocks } from "../lease-blocks.ts";
import type { LowerTiers, Sequence } from "../plan.ts";
import type { Request } from "../request.ts";
import type { Restores } from "../restore/restores.ts";
import type { Seats } from "../seats.ts";
import type { Snapshots } from "../snapshots.ts";
import type { SlotTickets } from "../tickets.ts";
import type { Known } from "./place.ts";
import type { PrefillQueue } from "./prefill-queue.ts";

export interface StartParts {
  cache: PrefixCache;
  blocks: BlockPool;
  blockTokens: number;
  lower: LowerTiers | undefined;
  /** In models with recurrent layers. */
  snapshots: Snapshots | undefined;
  /** Where there are several queues. */
  slotTickets: SlotTickets | undefined;
  restores: Restores;
  seats: Seats;
  /** Prompts under way at once, at most. */
  most: number;
}

export class Start {
  private readonly parts: StartParts;
  private readonly queue: PrefillQueue;
  /** The waiting request that found no room; nothing has been freed since. */
  private stuck: Request | undefined;

  constructor(queue: PrefillQueue, parts: StartParts) {
    this.queue = queue;
    this.parts = parts;
  }

  /** Slots have become free, or more can be had. */
  freed(): void {
    this.stuck = undefined;
  }

  /** Prompts that may be under way. */
  get most(): number {
    return this.parts.most;
  }

  /** Whether one more prompt may be under way. */
  get isAllowed(): boolean {
    return this.queue.underWay.length < this.parts.most && this.parts.seats.freeCount > 0;
  }

  /** The waiting request that begins next, room permitting. */
  get next(): Request | undefined {
    return this.isAllowed ? this.queue.toStart() : undefined;
  }

  /** Blocks that the next one takes beyond what the cache has of it. */
  get blocksWanted(): number {
    const request = this.next;
    if (!request) return 0;
    return this.blocksFor(request) - Math.floor(this.onGpu(request) / this.parts.blockTokens);
  }

  /** What cache and lower tiers have of a sequence's tokens; the last one is always computed. */
  known(sequence: Sequence, ids: Int32Array): Known {
    const { cache, lower, blockTokens, snapshots } = this.parts;
    if (sequence.storage === "off") return { gpu: 0, stored: 0 };
    const last = ids.length - 1;
    const gpu = cache.match(ids, last).tokens;
    if (!lower) return { gpu, stored: 0 };
    if (snapshots) return { gpu, stored: Math.max(0, (lower.storedState?.(sequence, gpu, last) ?? 0) - gpu) };
    const from = Math.floor(gpu / blockTokens);
    const most = Math.floor(last / blockTokens) - from;
    return { gpu, stored: most > 0 ? blockTokens * Math.min(most, lower.storedBlocks(sequence, from)) : 0 };
  }

  /** Tokens of a request that wait for it on the GPU. */
  onGpu(request: Request): number {
    if (request.storage === "off") return 0;
    const { tokens } = this.queue.placeOf(request);
    return this.parts.cache.match(tokens, tokens.length - 1).tokens;
  }

  /** Begins a waiting request's prompt, if it finds room. */
  begin(request: Request, queue: number): boolean {
    if (this.stuck === request) return false;
    const { seats, snapshots, restores, lower } = this.parts;
    const lease = this.leaseFor(request, queue);
    const seatState = lease && snapshots?.take(lease);
    if (!lease || (snapshots && !seatState)) {
      if (lease) this.parts.cache.release(lease);
      this.stuck = request;
      return false;
    }
    this.queue.begin(request);
    request.lease = lease;
    request.cachedTokens ??= Math.min(lease.tokens, request.promptLength);
    request.computed = lease.tokens;
    request.seat = seats.take();
    request.queue = queue;
    request.status = "prefilling";
    request.seatState = seatState;
    request.snapshotsAt = [];
    lower?.begin?.(request);
    snapshots?.start(request, lease, this.queue.branchesOf(request.tokens, lease.tokens));
    restores.start(request);
    return true;
  }

  /** How many of the first `limit` tokens may be looked for: not those whose blocks a step of another queue still writes. */
  visibleTokens(tokens: Int32Array, limit: number, queue: number): number {
    const { slotTickets, cache, blockTokens } = this.parts;
    if (!slotTickets) return limit;
    const { blocks } = cache.match(tokens, limit);
    const hidden = blocks.findIndex(({ slot }) => !slotTickets.isVisible(slot, queue));
    return hidden < 0 ? limit : hidden * blockTokens;
  }

  /** What the cache has of a request's tokens (never the last one, whose logits are wanted), and blocks for the rest. */
  private leaseFor(request: Request, queue: number): Lease | undefined {
    const { cache, blocks } = this.parts;
    const { tokens } = this.queue.placeOf(request);
    const limit = request.storage !== "off" ? this.visibleTokens(tokens, tokens.length - 1, queue) : 0;
    const wanted = { tokens: request.tokens, limit, blocks: this.blocksFor(request), requestId: request.id };
    return leaseBlocks(cache, blocks, wanted);
  }

  private blocksFor({ tokens }: Request): number {
    return Math.ceil(tokens.length / this.parts.blockTokens);
  }
}
