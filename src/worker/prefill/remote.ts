/**
 * Long prompts that somebody else computes: decides which go out, takes their records in while they are computed there, and checks
 * them as tiers check theirs, against keys that follow from this engine's own tokens. The request waits outside of the queues
 * meanwhile, so that others decode and start; then it finds the records in RAM, as a restore does.
 *
 * Whatever goes wrong there costs time at most. What has come until then is used, the rest is computed here:
 *
 *     0 ...... from ............... arrived ............... end    last token
 *     | known  | records, in order  | computed here if the service fails |  always computed here
 */
import { background, onAbort } from "../../base.ts";
import type { PrefixCache } from "../../cache/prefix.ts";
import type { Runner } from "../../model/runner.ts";
import type { Sequence } from "../../schedule/scheduler.ts";
import { ChainReader } from "../../tier/record/chain-reader.ts";
import { PREFILL_VERSION, type PrefillAsk, type PrefillFacts } from "../../wire/prefill.ts";
import type { Notice, PrefillOptions } from "../../wire/protocol.ts";
import type { TierMover } from "../cache/tier-mover.ts";
import { Arrival } from "./arrival.ts";
import { SourceFault, type PrefillSource } from "./source.ts";

/** A prompt never goes out for fewer tokens than this: what is saved would not pay for the way. */
export const MIN_REMOTE_TOKENS = 512;

/** Prompts that are out at once; others are computed here. */
const MAX_FETCHES = 4;

/** Random tokens that are computed here and there when an engine is loaded, to compare the two: one chunk. */
const PROBE_TOKENS = 256;

/** Weight of the newest measurement of the service's computing; less for an answer of fewer tokens than the probe's. */
const RATE_WEIGHT = 0.5;

/** How long the probe may take, and a prompt may wait for it. */
const PROBE_LIMIT_MS = 20_000;
const READY_LIMIT_MS = 3000;

/** Sending out must be expected to take at most this share of computing here. */
const WORTH = 0.9;

/** Once it is not, the service is measured again after this time. */
const MEASURE_AGAIN_MS = 600_000;

/** A silence of so many times the expected one ends an answer; one of MIN_PATIENCE_MS never does. */
const PATIENCE_FACTOR = 4;
const MIN_PATIENCE_MS = 1000;

/** The longest silence in an answer if everything goes out. */
const ALWAYS_PATIENCE_MS = 10_000;

/** An answer is given up when its rest is expected to take so many times longer than computing it here. */
const SLOWER_FACTOR = 1.5;

/** How long a service that failed is left alone: at first, and at most; a wrong key or model is at most at once. */
const FIRST_REST_MS = 15_000;
const LONGEST_REST_MS = 600_000;

export interface RemoteRooms {
  readonly cache: PrefixCache;
  readonly runner: Runner;
  readonly mover: TierMover;
  /** Computes tokens here, and stores nothing. */
  computeHere(tokens: readonly number[]): Promise<unknown>;
  notice(notice: Notice): void;
  nowMs(): number;
}

/** What a prompt lacks, and is asked for. */
interface Wanted {
  sequence: Sequence;
  /** The first block that is missing, and how many are. */
  from: number;
  blocks: number;
  /** Tokens that need not be computed here if all of it comes. */
  tokens: number;
  bytes: number;
}

export class RemotePrefill {
  private readonly source: PrefillSource;
  private readonly when: NonNullable<PrefillOptions["when"]>;
  private readonly rooms: RemoteRooms;
  /** Of the service's computing; undefined until measured. The link's rate is in the cost model. */
  private msPerToken: number | undefined;
  private readonly fetches = new Set<Promise<number>>();
  private readonly stop = new AbortController();
  /** Of the service, since it last answered as it should. */
  private facts: PrefillFacts | undefined;
  private probing: Promise<void> | undefined;
  private measuredAtMs = 0;
  private faults = 0;
  private askAgainAtMs = -Infinity;

  constructor(source: PrefillSource, when: PrefillOptions["when"], rooms: RemoteRooms) {
    this.source = source;
    this.when = when ?? "faster";
    this.rooms = rooms;
    this.probe();
  }

  /**
   * Brings a prompt's records, if that promises to be faster than computing them here. Never rejects: it resolves to the tokens that
   * have come, when there is no more to wait for. Undefined: there is nothing to wait for.
   * @param asked whether the request wants it; undefined: it does not say
   */
  fetch(sequence: Sequence, signal: AbortSignal, asked?: boolean): Promise<number> | undefined {
    if (!(asked ?? (sequence.storage === "disk" || !this.source.leavesMachine))) return undefined;
    if (sequence.storage === "off" || sequence.tokens.length <= MIN_REMOTE_TOKENS) return undefined;
    if (this.stop.signal.aborted || this.fetches.size >= MAX_FETCHES) return undefined;
    if (this.rooms.nowMs() < this.askAgainAtMs) return undefined;
    const wanted = this.wantedOf(sequence);
    if (!wanted) return undefined;
    const fetching = this.fetchIfWorth(wanted, signal).finally(() => this.fetches.delete(fetching));
    this.fetches.add(fetching);
    return fetching;
  }

  async close(): Promise<void> {
    this.stop.abort();
    await Promise.allSettled([...this.fetches, this.probing]);
    await this.source.close();
  }

  /** Undefined if too little is missing, or if it would not fit into RAM. */
  private wantedOf({ tokens, ...how }: Sequence): Wanted | undefined {
    const { cache, mover, runner } = this.rooms;
    const { blockTokens } = runner.options;
    const withState = runner.states.slotBytes > 0;
    // The last token is always computed. Blocks alone are of use as far as they are full; a state stands where it is needed.
    const end = withState ? tokens.length - 1 : Math.floor((tokens.length - 1) / blockTokens) * blockTokens;
    const sequence = { ...how, tokens: tokens.slice(0, end) };
    const onGpu = cache.match(Int32Array.from(sequence.tokens)).tokens;
    const first = Math.floor(onGpu / blockTokens);
    const from = first + mover.storedBlocks(sequence, first);
    const known = withState ? (mover.storedState(sequence, onGpu, end) ?? onGpu) : from * blockTokens;
    const blocks = Math.floor(end / blockTokens) - from;
    const bytes = (blocks + (withState ? 1 : 0)) * mover.maxRecordBytes;
    if (end - known < MIN_REMOTE_TOKENS || bytes > mover.store.memoryBytes) return undefined;
    return { sequence, from, blocks, tokens: end - known, bytes };
  }

  private async fetchIfWorth(wanted: Wanted, signal: AbortSignal): Promise<number> {
    if (!this.facts) {
      this.probe();
      await atMost(READY_LIMIT_MS, this.probing, signal);
    }
    const { facts } = this;
    if (!facts || signal.aborted || facts.fingerprint !== this.rooms.mover.fingerprint) return 0;
    if (wanted.sequence.tokens.length > facts.maxTokens || !this.isWorth(wanted)) return 0;
    const arrival = new Arrival(this.rooms.nowMs());
    const why = await this.receive(wanted, arrival, signal);
    if (why === undefined) this.faults = 0;
    else if (!signal.aborted && !this.stop.signal.aborted) this.tell(why, arrival.tokens, wanted.tokens);
    return arrival.tokens;
  }

  private isWorth({ tokens, bytes }: Wanted): boolean {
    if (this.when === "always") return true;
    const nowMs = this.rooms.nowMs();
    const isFaster = this.expectedMs(tokens, bytes) <= WORTH * this.hereMs(tokens);
    if (!isFaster && nowMs > this.measuredAtMs + MEASURE_AGAIN_MS) {
      this.facts = undefined; // so that the next prompt's probe measures
      this.probe(true);
    }
    return isFaster;
  }

  /** Takes records in until all are there. @returns why it ended before; undefined if it did not */
  private async receive(wanted: Wanted, arrival: Arrival, signal: AbortSignal): Promise<unknown> {
    const { mover, runner } = this.rooms;
    const { sequence, from, blocks } = wanted;
    const { fingerprint } = mover;
    const { blockTokens } = runner.options;
    const withState = runner.states.slotBytes > 0;
    const storage = sequence.storage === "memory" ? "memory" : "disk";
    const ask = { fingerprint, tokens: sequence.tokens, from, cache: storage } as const;
    const prefix = { fingerprint, blockTokens, tokens: Uint32Array.from(sequence.tokens) };
    const reader = new ChainReader(prefix, from);
    mover.begin(sequence);
    let left = blocks + (withState ? 1 : 0);
    return this.read(ask, wanted, arrival, signal, (bytes) => {
      const record = reader.take(bytes);
      if ("why" in record)
        throw new SourceFault(
          record.isDamaged
            ? `a record fails its check (${record.why})`
            : `a record is not of the prompt: ${record.why}`,
        );
      if (!mover.receive(sequence, record))
        throw new SourceFault(
          `a record of ${record.payload.length} bytes, ${record.coarsest}, is of no use here`,
        );
      const count = record.kind === "block" ? blockTokens : record.tokens.length;
      return { count, isLast: --left === 0 };
    });
  }

  /** Reads an answer, as long as that is worth the time. @returns why it ended before its last record */
  private async read(
    ask: PrefillAsk,
    { tokens }: Pick<Wanted, "tokens">,
    arrival: Arrival,
    signal: AbortSignal,
    take: (bytes: Uint8Array) => { count: number; isLast: boolean },
  ): Promise<unknown> {
    const { nowMs, mover } = this.rooms;
    const patience = new Patience(AbortSignal.any([signal, this.stop.signal]));
    const left = (): number => Math.max(0, tokens - arrival.tokens);
    const deadlineMs = this.when === "always" ? Infinity : Math.max(MIN_PATIENCE_MS, this.hereMs(tokens));
    const wait = (): void => {
      const spentMs = nowMs() - arrival.startedMs;
      patience.restart(Math.min(this.patienceMs(left()), Math.max(0, deadlineMs - spentMs)));
    };
    try {
      wait();
      for await (const { bytes, waited } of this.source.records(ask, mover.maxRecordBytes, patience.signal)) {
        if (waited && this.isTooSlow(arrival, left())) return new SlowFault();
        const { count, isLast } = take(bytes);
        arrival.took(count, bytes.length, waited, nowMs());
        if (isLast) return undefined;
        wait();
      }
      return new SourceFault("the answer ended before the last record");
    } catch (error) {
      return patience.isOver ? new SlowFault() : error;
    } finally {
      patience.end();
      this.learn(arrival);
    }
  }

  /** How long the next record may take when so many tokens are left. */
  private patienceMs(left: number): number {
    if (this.when === "always") return ALWAYS_PATIENCE_MS;
    const { mover, runner } = this.rooms;
    const tokens = Math.min(left, PROBE_TOKENS);
    const bytes = (tokens / runner.options.blockTokens) * mover.maxRecordBytes;
    const expectedMs = PATIENCE_FACTOR * this.expectedMs(tokens, bytes);
    return Math.max(MIN_PATIENCE_MS, Math.min(expectedMs, this.hereMs(left)));
  }

  /** By what has come until the chunk that comes now: a chunk arrives at once, and would mislead. */
  private isTooSlow({ tokens, startedMs, lastMs }: Arrival, left: number): boolean {
    if (this.when === "always" || tokens === 0) return false;
    const restMs = ((lastMs - startedMs) / tokens) * left;
    return restMs > SLOWER_FACTOR * Math.max(this.hereMs(left), MIN_PATIENCE_MS);
  }

  // ---- what is expected ----

  /** Until the records of so many tokens, of so many bytes, are here: the link brings a chunk while the next is computed. */
  private expectedMs(tokens: number, bytes: number): number {
    const { costs } = this.rooms.mover;
    const { msPerToken = Infinity } = this;
    return (costs.transferMs(0) ?? 0) + Math.max(tokens * msPerToken, costs.transferMs(bytes) ?? 0);
  }

  /** What computing the last so many tokens of a prompt takes here. */
  private hereMs(tokens: number): number {
    const { runner, mover } = this.rooms;
    const { chunkTokens } = runner.options;
    let ms = 0;
    for (let at = 0; at < tokens; at += chunkTokens)
      ms += mover.costs.prefillMs(Math.min(chunkTokens, tokens - at), at);
    return ms;
  }

  private learn({ computedTokens, computeMs, linkBytes, linkMs }: Arrival): void {
    if (linkBytes > 0) this.rooms.mover.costs.transferred(linkBytes, linkMs);
    if (computedTokens === 0) return;
    this.measuredAtMs = this.rooms.nowMs();
    const measured = computeMs / computedTokens;
    const weight = RATE_WEIGHT * Math.min(1, computedTokens / PROBE_TOKENS);
    const before = this.msPerToken ?? measured;
    this.msPerToken = before ** (1 - weight) * measured ** weight;
  }

  // ---- the probe ----

  /** Asks who the service is, and how fast, unless that is known or under way. */
  private probe(measures = this.msPerToken === undefined): void {
    if (this.probing || this.rooms.nowMs() < this.askAgainAtMs) return;
    this.probing = this.probeNow(measures && this.when === "faster").finally(
      () => (this.probing = undefined),
    );
    background(this.probing, "probe of the prefill service");
  }

  private async probeNow(measures: boolean): Promise<void> {
    const signal = AbortSignal.any([this.stop.signal, AbortSignal.timeout(PROBE_LIMIT_MS)]);
    try {
      const startedMs = this.rooms.nowMs();
      const facts = await this.source.facts(signal);
      this.rooms.mover.costs.transferred(0, this.rooms.nowMs() - startedMs);
      this.checkFacts(facts);
      if (measures) await this.measure(signal);
      this.facts = facts;
    } catch (error) {
      if (this.stop.signal.aborted) return;
      this.tell(signal.aborted ? new SourceFault(`no answer for ${PROBE_LIMIT_MS / 1000} s`) : error);
    }
  }

  /** @throws SourceFault naming what differs */
  private checkFacts(facts: PrefillFacts): void {
    const { mover, runner } = this.rooms;
    const { dtype, kvDtype, blockTokens } = runner.options;
    const ours = { version: PREFILL_VERSION, dtype, kvDtype, blockTokens };
    for (const [name, value] of Object.entries(ours)) {
      const theirs = facts[name as keyof typeof ours];
      if (theirs !== value) throw new SourceFault(`its ${name} is ${theirs}, expected ${value}`, true);
    }
    if (facts.fingerprint === mover.fingerprint) return;
    const message = `its model "${String(facts.model).slice(0, 100)}" has other weights or settings than this one, or is of another version of Tidepool`;
    throw new SourceFault(message, true);
  }

  /** The same random tokens are computed here, unless that rate is known, and there. */
  private async measure(signal: AbortSignal): Promise<void> {
    const { mover, runner, nowMs } = this.rooms;
    const { vocabSize } = runner.shape;
    const words = crypto.getRandomValues(new Uint32Array(PROBE_TOKENS));
    const tokens = Array.from(words, (word) => word % vocabSize);
    if (!mover.costs.isMeasured) await this.rooms.computeHere(tokens);
    const ask = { fingerprint: mover.fingerprint, tokens, from: 0, cache: "memory" } as const;
    const arrival = new Arrival(nowMs());
    const { blockTokens } = runner.options;
    for await (const { bytes, waited } of this.source.records(ask, mover.maxRecordBytes, signal))
      arrival.took(blockTokens, bytes.length, waited, nowMs());
    this.learn(arrival);
  }

  /** Tells what went wrong, and leaves the service alone for a while; one that is only slow is known to be that. */
  private tell(error: unknown, arrived = 0, wanted = 0): void {
    const isSlow = error instanceof SlowFault;
    const rest = Math.min(FIRST_REST_MS * 2 ** this.faults++, LONGEST_REST_MS);
    const restMs = error instanceof SourceFault && error.isLasting ? LONGEST_REST_MS : rest;
    this.askAgainAtMs = this.rooms.nowMs() + restMs;
    if (!isSlow) this.facts = undefined;
    const why = isSlow
      ? "it is slower than computing here, or silent"
      : error instanceof Error
        ? error.message
        : String(error);
    const got = wanted === 0 ? "" : ` (${arrived} of ${wanted} tokens came)`;
    const message = `the prefill service ${this.source.name} is not used for ${restMs / 1000} s: ${why}${got}; prompts are computed here`;
    this.rooms.notice({ code: "prefill_service", message });
  }
}

/** It would take longer than computing here. */
class SlowFault extends Error {}

/** Ends work that says nothing for too long. */
class Patience {
  isOver = false;
  private readonly own = new AbortController();
  readonly signal: AbortSignal;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(outer: AbortSignal) {
    this.signal = AbortSignal.any([outer, this.own.signal]);
  }

  restart(ms: number): void {
    this.end();
    if (ms === Infinity) return;
    this.timer = setTimeout(() => {
      this.isOver = true;
      this.own.abort();
    }, ms);
  }

  end(): void {
    clearTimeout(this.timer);
  }
}

/** Waits for work, but not longer. */
async function atMost(ms: number, work: Promise<void> | undefined, signal: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopListening = (): void => {};
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
    stopListening = onAbort(signal, resolve);
  });
  await Promise.race([work, late]);
  stopListening();
  clearTimeout(timer);
}
