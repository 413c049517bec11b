/**
 * Blocks on their way between the GPU's slots and the lower tiers: looks stored blocks up by chain hash, loads them into
 * slots, copies full blocks down behind the steps that computed them, and tells the rates of both (schedule/cost/model.ts), so that the
 * scheduler can choose. It decides neither what is evicted (the policies) nor how records lie on the disk (tier/).
 */
import { commonKvLayer } from "../../shape/shape.ts";
import { background } from "../../base.ts";
import type { CacheListener } from "../../cache/events.ts";
import type { NewSnapshot } from "../../cache/prefix.ts";
import { TidepoolError, type ErrorCode } from "../../errors.ts";
import { blankBehind, type KvPool } from "../../gpu/pool.ts";
import type { StatePool } from "../../gpu/state-pool.ts";
import type { Runner } from "../../model/runner.ts";
import type { CostModel } from "../../schedule/cost/model.ts";
import type { LowerTier, Request } from "../../schedule/request.ts";
import type { RestoreMode, RestoreTerms } from "../../schedule/restore/restore.ts";
import type { FullBlock, LowerTiers, Move, Save, Sequence } from "../../schedule/scheduler.ts";
import { recordKey, rootKey, type Key, type RecordKind } from "../../tier/record/keys.ts";
import type { KvLayout } from "../../tier/record/kv-quant.ts";
import { headerBytesOf, type StoredRecord } from "../../tier/record/record.ts";
import type { GetResult, PutDraft, PutOutcome } from "../../tier/store/store-options.ts";
import type { TierStore } from "../../tier/store/store.ts";
import { ReadAhead } from "./read-ahead.ts";

export interface TierMoverOptions {
  store: TierStore;
  pool: KvPool;
  /** Recurrent states, in models that have them. */
  states?: StatePool;
  /** Of everything that decides a block's bytes. */
  fingerprint: Key;
  /** Salts the chain, so that users of one app cannot see each other's prefixes. "" for none. */
  namespace: string;
  /** "auto" chooses by measured rates. */
  restore: RestoreMode | "auto";
  /** FLOPs of one token: what a record is worth when something must be dropped. */
  flopsPerToken: number;
  /** What loads take is told to it, and what is chosen by. */
  costs: CostModel;
  nowMs(): number;
  /** Records expire so long after they were made. Default: never. */
  maxAgeMs?: number;
}

/** Blocks read from the GPU for the lower tiers at once; more are dropped, and counted. */
const MAX_SPILLING_BLOCKS = 512;

/** States read from the GPU for the lower tiers at once; more are dropped, and counted. */
const MAX_SPILLS = 32;

/** Errors by which what lies on the GPU cannot be had. */
const UNREADABLE: readonly ErrorCode[] = ["device_lost", "gpu_failed"];

/** Fields of a record that the tier mover itself fills in. */
type OwnFields = "kind" | "fingerprint" | "namespace" | "expiresAtMs";

export class TierMover implements LowerTiers {
  readonly store: TierStore;
  readonly costs: CostModel;
  /** Another after moveTo() a device that computes otherwise. */
  fingerprint: Key;
  readonly namespace: string;
  /** Told of what was copied down and what came back. */
  listener: CacheListener | undefined;
  /** Blocks that were not copied down because too many were under way, or because their step failed. */
  dropped = 0;
  /** Whether all steps submitted so far have run, once that is known: what they computed is put only then. */
  allGood: () => Promise<boolean> = () => Promise.resolve(true);
  private readonly options: TierMoverOptions;
  private readonly blockTokens: number;
  private keys = new WeakMap<Sequence, Key[]>();
  private readonly spilling = new Set<Promise<void>>();
  /** Keys of blocks on their way from the GPU that are meant for the disk. */
  private readonly underWay = new Set<Key>();
  /** Blocks of a sequence, from its first on, that the disk has been offered. */
  private offered = new WeakMap<Sequence, number>();
  /** How often everything was forgotten, now and when a sequence began. */
  private clears = 0;
  private readonly clearsBefore = new WeakMap<Sequence, number>();
  /** The end of the last copy that was asked for. */
  private lastCopy: Promise<void> = Promise.resolve();
  private spillingBlocks = 0;
  /** Those who wait for the next record. */
  private putting: Signal | undefined;
  private readonly ahead: ReadAhead;

  constructor(options: TierMoverOptions) {
    this.options = options;
    this.store = options.store;
    this.fingerprint = options.fingerprint;
    this.namespace = options.namespace;
    this.blockTokens = options.pool.options.blockTokens;
    this.costs = options.costs;
    this.ahead = new ReadAhead(options.store, () => options.store.memoryBytes / options.pool.slotBytes);
  }

  storedBlocks(sequence: Sequence, from: number): number {
    return this.tiersOf(sequence, from).length;
  }

  /** Of consecutive stored blocks, from block `from` on. */
  private tiersOf(sequence: Sequence, from: number): LowerTier[] {
    const tiers = this.store.has(this.keysOf(sequence).slice(from));
    if (sequence.storage !== "memory") return tiers;
    const outside = tiers.findIndex((tier) => !this.store.isInMemory(tier));
    return outside < 0 ? tiers : tiers.slice(0, outside);
  }

  /** Tokens of a sequence, between those on the GPU and `limit`, that are loaded rather than computed, by tier, and for how long. */
  stored(
    sequence: Sequence,
    from: number,
    limit: number,
  ): { tokens: Record<LowerTier, number>; loadMs: number } {
    const first = Math.floor(from / this.blockTokens);
    const end = this.options.states?.slotBytes ? (this.storedState(sequence, from, limit) ?? from) : limit;
    const most = Math.max(0, Math.floor(end / this.blockTokens) - first);
    const tiers = this.tiersOf(sequence, first).slice(0, most);
    const faster =
      this.options.restore === "compute"
        ? []
        : tiers.filter((tier) => this.costs.loadMs(tier) < this.costs.computeMs());
    const tokens: Record<LowerTier, number> = {};
    for (const tier of faster) tokens[tier] = (tokens[tier] ?? 0) + this.blockTokens;
    return { tokens, loadMs: faster.reduce((sum, tier) => sum + this.costs.loadMs(tier), 0) };
  }

  /** The furthest snapshot in (after, limit] that is stored with all blocks before it. */
  storedState(sequence: Sequence, after: number, limit: number): number | undefined {
    const from = Math.floor(after / this.blockTokens);
    const keys = this.keysOf(sequence);
    for (let block = from + this.storedBlocks(sequence, from); block >= from; block--) {
      const parent = block === 0 ? this.root : (keys[block - 1] as Key);
      const tails = this.store.snapshotTails(parent).filter((tail) => {
        const at = block * this.blockTokens + tail;
        return at > after && at <= limit && this.hasState(sequence, parent, at);
      });
      if (tails.length > 0) return block * this.blockTokens + (tails.at(-1) as number);
    }
    return undefined;
  }

  /** The furthest stored state of a sequence, by its key; undefined if there is none. */
  lastState(sequence: Sequence): { key: Key; at: number } | undefined {
    const at = this.storedState(sequence, 0, sequence.tokens.length);
    return at === undefined ? undefined : { key: this.stateKey(sequence, at), at };
  }

  /** The key of the state behind a sequence's first `at` tokens. */
  stateKey(sequence: Sequence, at: number): Key {
    return recordKey("snapshot", this.parentOf(sequence, at), this.tailOf(sequence, at));
  }

  private hasState(sequence: Sequence, parent: Key, at: number): boolean {
    const [tier] = this.store.has([recordKey("snapshot", parent, this.tailOf(sequence, at))]);
    return tier !== undefined && (sequence.storage !== "memory" || this.store.isInMemory(tier));
  }

  /** The tokens between the last full block and `at`. */
  private tailOf({ tokens }: Sequence, at: number): number[] {
    return tokens.slice(Math.floor(at / this.blockTokens) * this.blockTokens, at);
  }

  private parentOf(sequence: Sequence, at: number): Key {
    const blocks = Math.floor(at / this.blockTokens);
    return blocks === 0 ? this.root : (this.keysOf(sequence)[blocks - 1] as Key);
  }

  /** The key before a sequence's first block. */
  get root(): Key {
    return rootKey(this.fingerprint, this.namespace);
  }

  /** Brings what a request will need into RAM while it waits: blocks, and the state of its first `at` tokens if it needs one. */
  prefetch(request: Request, from: number, blocks: number, at?: number): void {
    if (request.storage !== "disk" || this.options.restore === "compute") return;
    const keys = this.keysOf(request).slice(from, from + blocks);
    this.ahead.want(request, at === undefined ? keys : [this.stateKey(request, at), ...keys]);
  }

  begin(sequence: Sequence): void {
    this.ahead.readOn();
    if (!this.clearsBefore.has(sequence)) this.clearsBefore.set(sequence, this.clears);
  }

  /**
   * Nothing of sequences that have begun is stored any more: neither copies under way nor what they compute later. Resolves
   * when the copies under way have come to their end.
   */
  async forgetAll(): Promise<void> {
    this.clears++;
    await Promise.allSettled(this.spilling);
  }

  owed(sequence: Sequence, end: number): number[] {
    if (sequence.storage !== "disk" || !this.store.isLasting) return [];
    const from = this.offered.get(sequence) ?? 0;
    this.offered.set(sequence, Math.max(from, end));
    const keys = this.keysOf(sequence);
    const blocks = Array.from({ length: Math.max(0, end - from) }, (_, index) => from + index);
    return blocks.filter((block) => this.isMissing(sequence, keys[block] as Key));
  }

  owesState(sequence: Sequence, at: number): boolean {
    if (sequence.storage !== "disk" || !this.store.isLasting) return false;
    return this.isMissing(sequence, this.stateKey(sequence, at));
  }

  /** Whether only the GPU has what the disk should have; what RAM has is sent on. */
  private isMissing(sequence: Sequence, key: Key): boolean {
    return this.mayStore(sequence) && !this.underWay.has(key) && !this.store.persist(key);
  }

  private mayStore(sequence: Sequence): boolean {
    return (this.clearsBefore.get(sequence) ?? this.clears) === this.clears;
  }

  restoreTerms(sequence: Sequence, from: number, blocks: number): RestoreTerms {
    const tiers = this.store.has(this.keysOf(sequence).slice(from, from + blocks));
    return {
      mode: this.options.restore,
      loadMs: Array.from({ length: blocks }, (_, index) =>
        this.costs.loadMs(tiers[index] ?? this.store.slowest("anywhere")),
      ),
      computeMs: () => this.costs.computeMs(),
      nowMs: () => this.options.nowMs(),
    };
  }

  /**
   * Blocks and states are elsewhere from now on: the device that had them was lost. What is stored under another
   * fingerprint stays for who computes that way, and is no longer found here.
   */
  moveTo({ pool, states }: Runner, fingerprint: Key): void {
    Object.assign(this.options, { pool, states });
    if (fingerprint === this.fingerprint) return;
    this.fingerprint = fingerprint;
    this.keys = new WeakMap();
    this.offered = new WeakMap();
  }

  /** Brings one block's bytes into its slot if it is still wanted then; the tier they came from, or undefined. */
  async load(move: Move, isWanted: () => boolean): Promise<LowerTier | undefined> {
    if (move.snapshot) return this.loadState(move.request, move.snapshot, isWanted);
    const key = this.keysOf(move.request)[move.block] as Key;
    const [expected = this.store.slowest("anywhere")] = this.store.has([key]);
    const rate = this.costs.loadsOf(expected);
    rate.begin(this.options.nowMs());
    let loaded = 0;
    try {
      const found = await this.find(move);
      if (!found.hit) return undefined;
      if (found.tier === expected) loaded = this.blockTokens;
      const { payload } = found.record;
      if (payload.byteLength !== this.options.pool.slotBytes || !isWanted()) return undefined;
      if (!(await isDone(this.options.pool.writeSlot(move.slot, payload as Uint8Array<ArrayBuffer>))))
        return undefined;
      this.tellRestored(
        move.request,
        found.tier,
        (move.block + 1) * this.blockTokens,
        payload.byteLength,
        false,
      );
      return found.tier;
    } finally {
      rate.end(this.options.nowMs(), loaded);
    }
  }

  private find({ request, block }: Move): Promise<GetResult> {
    const start = block * this.blockTokens;
    const tokens = Uint32Array.from(request.tokens.slice(start, start + this.blockTokens));
    return this.store.get(this.keysOf(request)[block] as Key, { tokens, fingerprint: this.fingerprint });
  }

  private async loadState(
    sequence: Sequence,
    { at, slot, tail }: NewSnapshot,
    isWanted: () => boolean,
  ): Promise<LowerTier | undefined> {
    const { pool, states } = this.options;
    const tokens = Uint32Array.from(this.tailOf(sequence, at));
    const key = recordKey("snapshot", this.parentOf(sequence, at), tokens);
    const found = await this.store.get(key, { tokens, fingerprint: this.fingerprint });
    if (!found.hit || !states) return undefined;
    const { payload } = found.record;
    const bytes = states.slotBytes + (tail < 0 ? 0 : pool.partial.slotBytes);
    if (payload.byteLength !== bytes || !isWanted()) return undefined;
    const writes = [states.writeSlot(slot, payload.subarray(0, states.slotBytes) as Uint8Array<ArrayBuffer>)];
    if (tail >= 0)
      writes.push(pool.writePartial(tail, payload.subarray(states.slotBytes) as Uint8Array<ArrayBuffer>));
    if (!(await isDone(Promise.all(writes)))) return undefined;
    this.tellRestored(sequence, found.tier, at, bytes, true);
    return found.tier;
  }

  /**
   * Copies a snapshot down: the state, then the block that was begun there.
   * @param saved rejects if the GPU refused to put the state where it is read
   */
  spillState({ sequence, at, state, tail }: Save, saved: Promise<void>): void {
    if (sequence.storage === "off") return;
    if (this.spilling.size >= MAX_SPILLS) {
      this.dropped++;
      return;
    }
    const read = { slot: state.to, tail, saved };
    this.track(this.spillStateNow(sequence, at, read, this.lastCopy), "spill of a state");
  }

  /** Copies end in the order in which they were asked for, so that a record is stored behind those before it. */
  private track(copy: Promise<void>, label: string): void {
    const work = copy.finally(() => this.spilling.delete(work));
    this.spilling.add(work);
    this.lastCopy = work.catch(() => undefined); // reported in the background
    background(work, label);
  }

  private async spillStateNow(
    sequence: Sequence,
    at: number,
    { slot, tail, saved }: { slot: number; tail: number | undefined; saved: Promise<void> },
    before: Promise<void>,
  ): Promise<void> {
    const { pool, states, flopsPerToken } = this.options;
    const { fingerprint } = this;
    if (!states) return;
    const { epoch } = sequence;
    const reading = Promise.all([
      states.readSlot(slot),
      ...(tail === undefined ? [] : [pool.readPartial(tail)]),
    ]);
    const parts = await this.ifGood(
      Promise.all([reading, saved]).then(([read]) => read),
      1,
      fingerprint,
    );
    await before;
    if (!parts || epoch !== sequence.epoch) return;
    const [, begun] = parts;
    if (begun) blankBehind(begun, pool.partial.options, at % this.blockTokens);
    const draft = {
      parentKey: this.parentOf(sequence, at),
      blockIndex: Math.floor(at / this.blockTokens),
      tokens: this.tailOf(sequence, at),
      payload: joined(parts),
      rebuildCost: flopsPerToken * at,
      stateBytes: states.slotBytes,
    };
    this.put("snapshot", sequence, draft);
  }

  /** Copies full blocks down. The copy on the GPU is ordered behind the steps submitted so far. */
  spill(blocks: readonly FullBlock[]): void {
    const room = MAX_SPILLING_BLOCKS - this.spillingBlocks;
    const taken = blocks.filter(({ sequence }) => sequence.storage !== "off").slice(0, Math.max(0, room));
    this.dropped += blocks.length - taken.length;
    if (taken.length === 0) return;
    this.spillingBlocks += taken.length;
    const forDisk = taken.filter(({ sequence }) => sequence.storage === "disk");
    const keys = forDisk.map(({ sequence, block }) => this.keysOf(sequence)[block] as Key);
    for (const key of keys) this.underWay.add(key);
    const copy = this.spillNow(taken, this.lastCopy).finally(() => {
      this.spillingBlocks -= taken.length;
      for (const key of keys) this.underWay.delete(key);
    });
    this.track(copy, "spill");
  }

  /** Waits until everything computed so far is in the lower tiers, but no longer than `timeoutMs`. */
  async drain(timeoutMs: number): Promise<{ left: number }> {
    await this.settled();
    return this.store.drain(timeoutMs);
  }

  /** Waits until everything computed so far has been handed to the store. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.spilling);
  }

  /** Resolves when the store has been handed one more record. */
  get nextPut(): Promise<void> {
    return (this.putting ??= newSignal()).promise;
  }

  /** Stores a checked record that another engine has computed for a sequence. Whether it is here then, with those before it. */
  receive(sequence: Sequence, record: StoredRecord): boolean {
    const { kind, blockIndex, tokens, payload, coarsest } = record;
    const start = blockIndex * this.blockTokens;
    const isBlock = kind === "block";
    const { slotBytes, partial } = this.options.pool;
    const stateBytes = this.options.states?.slotBytes ?? 0;
    const expected = isBlock ? slotBytes : stateBytes + (tokens.length === 0 ? 0 : partial.slotBytes);
    if (!isBlock && stateBytes === 0) return false;
    if (payload.length !== expected || !this.store.accepts({ coarsest }) || !this.mayStore(sequence))
      return false;
    const work = isBlock ? this.blockTokens : start + tokens.length;
    const outcome = this.put(kind, sequence, {
      ...{ parentKey: this.parentOf(sequence, start), blockIndex, tokens, payload, coarsest },
      rebuildCost: this.options.flopsPerToken * work,
      ...(isBlock ? this.layout() : { stateBytes }),
    });
    return outcome !== "refused";
  }

  /** Bytes of a record at most, header and payload. */
  get maxRecordBytes(): number {
    const { pool, states } = this.options;
    return headerBytesOf(this.blockTokens) + pool.partial.slotBytes + (states?.slotBytes ?? 0);
  }

  /** The keys of all full blocks of a sequence, kept while it lives. */
  keysOf(sequence: Sequence): readonly Key[] {
    const keys = this.keys.get(sequence) ?? [];
    this.keys.set(sequence, keys);
    let parent = keys.at(-1) ?? rootKey(this.fingerprint, this.namespace);
    const { tokens } = sequence;
    for (let end = (keys.length + 1) * this.blockTokens; end <= tokens.length; end += this.blockTokens) {
      parent = recordKey("block", parent, tokens.slice(end - this.blockTokens, end));
      keys.push(parent);
    }
    return keys;
  }

  private async spillNow(blocks: readonly FullBlock[], before: Promise<void>): Promise<void> {
    const slots = blocks.map(({ slot }) => slot);
    const { fingerprint } = this;
    const epochs = blocks.map(({ sequence }) => sequence.epoch);
    const reading = this.options.pool.readSlots(slots, headerBytesOf(this.blockTokens));
    const payloads = await this.ifGood(reading, slots.length, fingerprint);
    await before;
    if (!payloads) return;
    blocks.forEach(({ sequence, block }, index) => {
      if (sequence.epoch !== epochs[index]) return; // a step behind has shown that it cannot be trusted
      const start = block * this.blockTokens;
      this.put("block", sequence, {
        parentKey: this.parentOf(sequence, start),
        blockIndex: block,
        tokens: sequence.tokens.slice(start, start + this.blockTokens),
        payload: payloads[index] as Uint8Array,
        hasHeaderRoom: true,
        rebuildCost: this.options.flopsPerToken * this.blockTokens,
        ...this.layout(),
      });
    });
  }

  /**
   * What was read of the GPU, once all steps submitted so far are known to have run; undefined, and counted, if one of them
   * did not, if the reading failed, or if the GPU was replaced by one that computes otherwise: whoever computes it again
   * stores it.
   */
  private async ifGood<T>(reading: Promise<T>, count: number, computedAs: Key): Promise<T | undefined> {
    const good = this.allGood();
    try {
      const [read, isGood] = await Promise.all([reading, good]);
      if (isGood && computedAs === this.fingerprint) return read;
    } catch (error) {
      if (!(error instanceof TidepoolError) || !UNREADABLE.includes(error.code)) throw error;
    }
    this.dropped += count;
    return undefined;
  }

  /** Drops blocks of a sequence, by index, and its states at the given tokens. Those on their way down are held up by its epoch. */
  forget(sequence: Sequence, blocks: readonly number[], states: readonly number[]): void {
    this.offered.delete(sequence);
    const keys = this.keysOf(sequence);
    const blockKeys = blocks.flatMap((block) => keys[block] ?? []);
    const stateKeys = states.map((at) => this.stateKey(sequence, at));
    if (blockKeys.length + stateKeys.length === 0) return;
    background(this.store.drop([...blockKeys, ...stateKeys]), "drop of what cannot be trusted");
  }

  private put(kind: RecordKind, sequence: Sequence, draft: Omit<PutDraft, OwnFields>): PutOutcome {
    if (!this.mayStore(sequence)) return "refused";
    const maxAgeMs = sequence.maxAgeMs ?? this.options.maxAgeMs;
    const expiry = maxAgeMs === undefined ? {} : { expiresAtMs: Date.now() + maxAgeMs };
    const own = { kind, fingerprint: this.fingerprint, namespace: this.namespace };
    const lowest = sequence.storage === "memory" ? this.store.slowest("memory") : undefined;
    const outcome = this.store.put({ ...draft, ...own, ...expiry }, lowest);
    if (this.listener && outcome === "stored")
      this.tellSpilled(kind, sequence, draft, lowest ?? this.store.slowest("anywhere"));
    this.putting?.resolve();
    this.putting = undefined;
    return outcome;
  }

  private tellSpilled(
    kind: RecordKind,
    sequence: Sequence,
    { blockIndex, tokens, payload }: Omit<PutDraft, OwnFields>,
    tier: LowerTier,
  ): void {
    const isSnapshot = kind === "snapshot";
    this.listener?.({
      ...{
        kind: "spilled",
        why: "written-behind",
        tokens: isSnapshot ? 0 : tokens.length,
        blocks: isSnapshot ? 0 : 1,
      },
      ...{ at: blockIndex * this.blockTokens + tokens.length, bytes: payload.byteLength, tier, isSnapshot },
      ...requestOf(sequence),
    });
  }

  private tellRestored(
    sequence: Sequence,
    tier: LowerTier,
    at: number,
    bytes: number,
    isSnapshot: boolean,
  ): void {
    this.listener?.({
      ...{ kind: "restored", why: "asked-for", tokens: isSnapshot ? 0 : this.blockTokens, at },
      ...{ blocks: isSnapshot ? 0 : 1, bytes, tier, isSnapshot, ...requestOf(sequence) },
    });
  }

  /** Lets the store quantise; only where all layers are alike, and blocks are not packed as they are. */
  private layout(): { layout?: KvLayout } {
    const { layers, blockTokens, dtype } = this.options.pool.options;
    const common = commonKvLayer(layers);
    if (!common || (dtype !== "f32" && dtype !== "f16")) return {};
    const { kvHeads, headDim } = common;
    return { layout: { layers: layers.length, kvHeads, headDim, blockTokens, dtype } };
  }
}

function requestOf(sequence: Sequence): { requestId?: number } {
  return "id" in sequence && typeof sequence.id === "number" ? { requestId: sequence.id } : {};
}

interface Signal {
  promise: Promise<void>;
  resolve(): void;
}

function newSignal(): Signal {
  let resolve = (): void => {};
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const [first] = parts;
  if (parts.length === 1 && first) return first;
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.byteLength), 0);
  return whole;
}

/** false if the GPU refused it. */
async function isDone(writing: Promise<unknown>): Promise<boolean> {
  try {
    await writing;
    return true;
  } catch (error) {
    if (error instanceof TidepoolError && UNREADABLE.includes(error.code)) return false;
    throw error;
  }
}
