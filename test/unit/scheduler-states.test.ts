/**
 * The scheduler of a model with recurrent layers against a fake GPU whose state slots hold the very tokens that they
 * have taken in: every step must start from the state of exactly the tokens before it, whatever was aborted, pre-empted,
 * evicted, saved, stored and restored, and every request must end with the tokens that it has alone.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { PolicyName } from "../../src/cache/policy/policy.ts";
import { StateSlotPool } from "../../src/cache/state-slot-pool.ts";
import type { Request } from "../../src/schedule/request.ts";
import type { RestoreTerms } from "../../src/schedule/restore/restore.ts";
import {
  Scheduler,
  type FullBlock,
  type LowerTiers,
  type Move,
  type Plan,
  type Save,
  type Sequence,
} from "../../src/schedule/scheduler.ts";
import { SeatState, type StateSlots } from "../../src/schedule/seat-state.ts";
import { alone, nextToken, STOP } from "../support/fake-model.ts";
import { tries } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";

const COST = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 40 };
const POLICIES: PolicyName[] = ["marconi", "sglang", "vllm", "lru"];

/** KV by place and states by slot, both as the tokens behind them; plus what the lower tiers hold. */
class FakeMachine implements LowerTiers {
  readonly kv = new Map<number, number>();
  readonly states = new Map<number, readonly number[]>();
  readonly seats = new Map<number, number>();
  readonly storedKv = new Set<string>();
  readonly storedStates = new Map<string, readonly number[]>();
  readonly loading: Move[] = [];
  saved = 0;
  restored = 0;
  mode: RestoreTerms["mode"] = "auto";
  private clockMs = 0;
  private readonly blockTokens: number;
  private readonly random: Random;

  constructor(blockTokens: number, random: Random) {
    this.blockTokens = blockTokens;
    this.random = random;
  }

  run({ phase, spans, saves, completes }: Plan): number[][] {
    const samples = spans.map(({ request, from, count, samples, copyBlock, states: [state] }) => {
      if (copyBlock) this.copyBlock(copyBlock);
      const token = this.seats.get(request.seat as number) as number;
      const tokens = phase === "decode" ? [token] : request.tokens.slice(from, from + count);
      const sampled = this.advance(request, from, tokens, state);
      return samples > 0 ? [sampled] : [];
    });
    this.save(saves);
    this.spill(completes);
    return samples;
  }

  save(saves: readonly Save[]): void {
    for (const { sequence, at, state, copyBlock, tail } of saves) {
      const tokens = this.states.get(state.from);
      expect(tokens, `the state at token ${at}`).toEqual(sequence.tokens.slice(0, at));
      this.states.set(state.to, tokens as number[]);
      if (copyBlock) this.copyBlock(copyBlock);
      const begun = Math.floor(at / this.blockTokens) * this.blockTokens;
      if (tail !== undefined) expect(this.block(tail, at - begun)).toEqual(sequence.tokens.slice(begun, at));
      this.storedStates.set(sequence.tokens.slice(0, at).join(","), sequence.tokens.slice(0, at));
      this.saved++;
    }
  }

  spill(blocks: readonly FullBlock[]): void {
    for (const { sequence, block, slot } of blocks) {
      const start = block * this.blockTokens;
      const wanted = sequence.tokens.slice(start, start + this.blockTokens);
      expect(this.block(slot, this.blockTokens)).toEqual(wanted);
      this.storedKv.add(sequence.tokens.slice(0, start + this.blockTokens).join(","));
    }
  }

  storedBlocks({ tokens }: Sequence, from: number): number {
    let count = 0;
    const end = () => (from + count + 1) * this.blockTokens;
    while (end() <= tokens.length && this.storedKv.has(tokens.slice(0, end()).join(","))) count++;
    return count;
  }

  storedState(sequence: Request, after: number, limit: number): number | undefined {
    const from = Math.floor(after / this.blockTokens);
    const blocks = from + this.storedBlocks(sequence, from);
    const most = Math.min(limit, (blocks + 1) * this.blockTokens - 1);
    for (let at = most; at > after; at--) {
      if (this.storedStates.has(sequence.tokens.slice(0, at).join(","))) return at;
    }
    return undefined;
  }

  restoreTerms(_request: Sequence, _from: number, blocks: number): RestoreTerms {
    const loadMs = Array.from({ length: blocks }, () => 2);
    return {
      mode: this.mode,
      loadMs,
      computeMs: () => 30,
      nowMs: () => (this.clockMs += this.random.below(12)),
    };
  }

  /** Ends one load: with the right bytes, or, one time in five, with none. */
  endOne(scheduler: Scheduler): boolean {
    const { random, loading } = this;
    if (loading.length === 0) return false;
    const [move] = loading.splice(random.below(loading.length), 1) as [Move];
    const ok = random.below(5) > 0;
    if (ok && scheduler.isWanted(move)) this.fill(move);
    scheduler.moved(move, ok ? random.pick(["ram", "disk"] as const) : undefined);
    return true;
  }

  private fill({ request, block, slot, snapshot }: Move): void {
    const { tokens } = request;
    if (!snapshot) {
      const start = block * this.blockTokens;
      for (let i = 0; i < this.blockTokens; i++)
        this.kv.set(slot * this.blockTokens + i, tokens[start + i] as number);
      return;
    }
    this.restored++;
    const { at } = snapshot;
    this.states.set(snapshot.slot, tokens.slice(0, at));
    const begun = Math.floor(at / this.blockTokens) * this.blockTokens;
    for (let i = begun; i < at; i++)
      this.kv.set(snapshot.tail * this.blockTokens + i - begun, tokens[i] as number);
  }

  private advance(request: Request, start: number, tokens: readonly number[], state?: StateSlots): number {
    if (!state) throw new Error(`request ${request.id} runs without a state`);
    expect(state.read).not.toBe(state.write);
    const before = state.read === undefined ? [] : this.states.get(state.read);
    tokens.forEach((token, i) => this.kv.set(this.placeOf(request, start + i), token));
    const context = Array.from({ length: start + tokens.length }, (_, at) =>
      this.kv.get(this.placeOf(request, at)),
    );
    expect(before, `the state that request ${request.id} starts from at ${start}`).toEqual(
      context.slice(0, start),
    );
    const after = context as number[];
    this.states.set(state.write, after);
    const token = nextToken(after);
    this.seats.set(request.seat as number, token);
    return token;
  }

  private placeOf(request: Request, position: number): number {
    const slot = request.slots[Math.floor(position / this.blockTokens)];
    if (slot === undefined) throw new Error(`position ${position} of request ${request.id} has no slot`);
    return slot * this.blockTokens + (position % this.blockTokens);
  }

  private block(slot: number, count: number): (number | undefined)[] {
    return Array.from({ length: count }, (_, i) => this.kv.get(slot * this.blockTokens + i));
  }

  private copyBlock({ from, to }: { from: number; to: number }): void {
    this.block(from, this.blockTokens).forEach((token, i) => {
      if (token === undefined) this.kv.delete(to * this.blockTokens + i);
      else this.kv.set(to * this.blockTokens + i, token);
    });
  }
}

interface World {
  scheduler: Scheduler;
  /** The books of the state pool, and how far it grows; fewer than planned where the device has no more. */
  slots: StateSlotPool;
  most: number;
  machine: FakeMachine;
  inFlight: { plan: Plan; samples: number[][] }[];
}

function makeWorld(random: Random): World {
  const blockTokens = random.pick([1, 2, 4]);
  const machine = new FakeMachine(blockTokens, random);
  machine.mode = random.pick(["load", "compute", "auto"] as const);
  const pool = new BlockPool(Math.ceil(60 / blockTokens) + random.below(20));
  const seats = 1 + random.below(4);
  const maxSnapshots = random.below(9);
  const start = 2 + Math.min(4, maxSnapshots);
  const planned = 2 * (seats + 1) + maxSnapshots;
  const most = random.below(3) > 0 ? planned : Math.min(planned, start + random.below(4));
  const slots = new StateSlotPool(start, maxSnapshots);
  const { cache } = createPrefixCache({
    ...{ policy: random.pick(POLICIES), blockTokens, cost: COST, pool },
    snapshotPool: slots,
    tunerBytes: 1000,
  });
  cache.listen((event) => {
    if (event.kind !== "evicted" || event.why !== "snapshot-needed") return;
    const why = `a snapshot went with ${slots.slotCount} of ${most} slots, ${slots.snapshotRoom} more allowed`;
    expect(slots.snapshotRoom <= 0 || slots.slotCount === most, why).toBe(true);
  });
  const scheduler = new Scheduler(cache, pool, {
    ...{ blockTokens, chunkTokens: 1 + random.below(9), seats, promptsUnderWay: 1 + random.below(4) },
    ...(random.below(2) === 0 && {
      giveWayCosts: { recomputeMs: (tokens) => tokens, reloadMs: (blocks) => blocks * random.below(8) },
    }),
    ...(random.below(4) > 0 && { lower: machine }),
    states: { save: (saves) => machine.save(saves) },
  });
  return { scheduler, slots, most, machine, inFlight: [] };
}

/** As worker/pool-growth.ts does. */
function grow({ scheduler, slots, most }: World): void {
  const missing = scheduler.missingStates();
  if (missing > 0)
    scheduler.statesGrown(
      Math.min(most, Math.max(2 * slots.slotCount, slots.slotCount + missing)) - slots.slotCount,
    );
}

function step(world: World, random: Random): boolean {
  const { scheduler, machine, inFlight } = world;
  while (inFlight.length < 2) {
    grow(world);
    const plan = scheduler.next();
    machine.loading.push(...scheduler.takeMoves());
    if (!plan) break;
    inFlight.push({ plan, samples: machine.run(plan) });
  }
  const ended = random.below(3) === 0 && machine.endOne(scheduler);
  const oldest = inFlight.shift();
  if (oldest) scheduler.commit(oldest.plan, oldest.samples);
  else if (!ended && !machine.endOne(scheduler) && scheduler.activeCount === 0) return false;
  scheduler.check();
  return true;
}

const ROUNDS = tries(600);

describe("scheduler of a model with recurrent layers", () => {
  it("starts every step from the state of exactly the tokens before it", () => {
    const random = new Random(testSeed("scheduler-states"));
    const sums = { saved: 0, restored: 0, cached: 0 };
    for (let round = 0; round < ROUNDS; round++) {
      const world = makeWorld(random);
      const prefixes = [0, 1].map(() =>
        Array.from({ length: 4 + random.below(10) }, () => 1 + random.below(20)),
      );
      const submitted: { request: Request; prompt: number[]; max: number }[] = [];
      for (let id = 0; id < 2 + random.below(9); id++) {
        const former =
          submitted.length > 0 && random.below(3) === 0 ? random.pick(submitted).request.tokens : undefined;
        const shared = former ?? (random.below(3) === 0 ? [] : random.pick(prefixes));
        const prompt = [
          ...shared.slice(0, 30),
          ...Array.from({ length: 1 + random.below(9) }, () => 1 + random.below(20)),
        ];
        const max = 1 + random.below(16);
        const priority = random.pick(["interactive", "background"] as const);
        const spec = { id, prompt, maxNewTokens: max, stopIds: new Set([STOP]), priority };
        submitted.push({ request: world.scheduler.submit(spec), prompt, max });
        for (let steps = random.below(30); steps > 0; steps--) step(world, random);
        if (random.below(6) === 0) world.scheduler.abort(random.pick(submitted).request);
        if (random.below(2) === 0) world.scheduler.forget();
      }
      let steps = 0;
      while (step(world, random)) expect(++steps).toBeLessThan(20_000);
      expect(world.scheduler.activeCount).toBe(0);
      expect(world.scheduler.usedBlocks).toBe(0);
      checkAnswers(submitted);
      sums.saved += world.machine.saved;
      sums.restored += world.machine.restored;
      for (const { request } of submitted) sums.cached += request.cachedTokens ?? 0;
    }
    console.log(
      `${sums.saved} states saved, ${sums.restored} loaded, ${sums.cached} tokens found on the GPU`,
    );
    for (const sum of Object.values(sums)) expect(sum).toBeGreaterThan(tries(30));
  });

  it("computes a new prefix once for two requests that arrive together, also where the first is aborted", () => {
    const random = new Random(testSeed("scheduler-together"));
    for (const policy of POLICIES) {
      const machine = new FakeMachine(4, random);
      const pool = new BlockPool(40);
      const snapshotPool = new StateSlotPool(12, 8);
      const { cache } = createPrefixCache({
        ...{ policy, blockTokens: 4, cost: COST, pool, snapshotPool, tunerBytes: 1000 },
      });
      const scheduler = new Scheduler(cache, pool, {
        ...{ blockTokens: 4, chunkTokens: 8, seats: 2 },
        states: { save: (saves) => machine.save(saves) },
      });
      const world: World = { scheduler, slots: snapshotPool, most: 12, machine, inFlight: [] };
      const prefix = Array.from({ length: 21 }, (_, index) => 1 + index);
      const prompts = [30, 40, 50].map((last) => [...prefix, last, last + 1, last + 2]);
      const submitted = prompts.map((prompt, id) => {
        const spec = { id, prompt, maxNewTokens: 1, stopIds: new Set<number>() };
        return { request: world.scheduler.submit(spec), prompt, max: 1 };
      });
      const [first, second, third] = submitted.map(({ request }) => request) as [Request, Request, Request];
      while (first.status === "waiting" || first.computed <= prefix.length) step(world, random);
      world.scheduler.abort(first);
      while (step(world, random));
      expect([second.cachedTokens, third.cachedTokens]).toEqual([prefix.length, prefix.length]);
      checkAnswers(submitted.slice(1));
    }
  });

  it("evicts snapshots for a second request if the pool cannot grow; a third waits", () => {
    for (const policy of [...POLICIES, "lfu", "length-aware"] as const) {
      const machine = new FakeMachine(2, new Random(1));
      const pool = new BlockPool(200);
      const slots = new StateSlotPool(5, 20);
      const { cache } = createPrefixCache({
        ...{ policy, blockTokens: 2, cost: COST, pool, snapshotPool: slots, tunerBytes: 1000 },
      });
      const scheduler = new Scheduler(cache, pool, {
        ...{ blockTokens: 2, chunkTokens: 8, seats: 3 },
        states: { save: (saves) => machine.save(saves) },
      });
      const world: World = { scheduler, slots, most: 5, machine, inFlight: [] };
      const submit = (id: number, maxNewTokens: number) =>
        scheduler.submit({ id, prompt: [1 + id, 2, 3], maxNewTokens, stopIds: new Set() });
      for (let id = 0; id < 3; id++) {
        submit(id, 2);
        while (step(world, new Random(id)));
      }
      expect([slots.snapshotCount, slots.unusedCount], policy).toEqual([3, 2]);
      const requests = [3, 4, 5].map((id) => submit(id, 20));
      for (let steps = 0; steps < 8; steps++) step(world, new Random(steps));
      expect(requests.map(({ seatState }) => seatState !== undefined)).toEqual([true, true, false]);
      expect(slots.snapshotCount).toBe(1);
      while (step(world, new Random(9)));
      expect(requests.map(({ finishReason }) => finishReason)).toEqual(["length", "length", "length"]);
    }
  });

  it("computes a prompt anew if the pool is too small for it beside the partial block of its snapshot", () => {
    for (const policy of POLICIES.filter((name) => name !== "vllm")) {
      const machine = new FakeMachine(4, new Random(1));
      const pool = new BlockPool(5);
      const slots = new StateSlotPool(6, 4);
      const { cache } = createPrefixCache({
        ...{ policy, blockTokens: 4, cost: COST, pool, snapshotPool: slots, tunerBytes: 1000 },
      });
      const scheduler = new Scheduler(cache, pool, {
        ...{ blockTokens: 4, chunkTokens: 8, seats: 1 },
        states: { save: (saves) => machine.save(saves) },
      });
      const world: World = { scheduler, slots, most: 6, machine, inFlight: [] };
      const finish = (id: number, prompt: readonly number[]): Request => {
        const request = scheduler.submit({ id, prompt, maxNewTokens: 1, stopIds: new Set() });
        for (let steps = 0; step(world, new Random(id)); steps++) expect(steps, policy).toBeLessThan(100);
        expect(request.finishReason, policy).toBe("length");
        return request;
      };
      const prompt = Array.from({ length: 20 }, (_, index) => 1 + index);
      finish(1, prompt.slice(0, 10));
      expect(cache.match(Int32Array.from(prompt), 19).snapshot?.tail, policy).toBeGreaterThanOrEqual(0);
      expect(finish(2, prompt).cachedTokens, policy).toBe(0);
      expect(finish(3, prompt.slice(0, 8)).cachedTokens, policy).toBe(0);

      cache.clear();
      finish(4, prompt.slice(0, 10));
      const lease = scheduler.borrow(prompt, 19);
      expect([lease.tokens, lease.table.length], policy).toEqual([0, 5]);
      scheduler.giveBack(lease, 0);
      scheduler.check();
    }
  });

  it("lends a state to work outside the queues", () => {
    const random = new Random(testSeed("scheduler-loan"));
    const machine = new FakeMachine(4, random);
    const pool = new BlockPool(20);
    const slots = new StateSlotPool(6, 4);
    const { cache } = createPrefixCache({
      ...{
        policy: "marconi",
        blockTokens: 4,
        cost: COST,
        pool,
        snapshotPool: slots,
        tunerBytes: 1000,
      },
    });
    const states = { save: (saves: readonly Save[]) => machine.save(saves) };
    const scheduler = new Scheduler(cache, pool, { blockTokens: 4, chunkTokens: 8, seats: 1, states });
    const prompt = [3, 1, 4, 1, 5, 9, 2];
    scheduler.submit({ id: 1, prompt, maxNewTokens: 1, stopIds: new Set() });
    const plan = scheduler.next() as Plan;
    scheduler.commit(plan, machine.run(plan));
    const lease = scheduler.borrow([...prompt, 6, 5], 8);
    expect(lease.tokens).toBe(7);
    const loan = scheduler.loanState(lease);
    expect(loan?.copyBlock?.to).toBe(lease.table[1]);
    const { read, write } = loan?.state.step(9) as StateSlots;
    expect(machine.states.get(read as number)).toEqual(prompt);
    expect(write).not.toBe(read);
    expect(slots.runningCount).toBe(2);
    scheduler.check();
    scheduler.giveBack(lease, prompt.length + 2);
    expect(slots.runningCount).toBe(0);
    const voided = scheduler.borrow([...prompt, 6, 5], 8);
    scheduler.loanState(voided);
    scheduler.restart();
    expect([slots.runningCount, slots.unusedCount]).toEqual([0, 6]);
    expect(scheduler.usedBlocks).toBe(0);
    scheduler.check();
  });
});

function checkAnswers(submitted: readonly { request: Request; prompt: number[]; max: number }[]): void {
  for (const { request, prompt, max } of submitted) {
    const wanted = alone(prompt, max);
    const got = request.tokens.slice(prompt.length);
    const { ram = 0, disk = 0 } = request.loadedTokens;
    expect((request.cachedTokens ?? 0) + ram + disk).toBeLessThan(prompt.length);
    if (request.finishReason === "aborted") expect(wanted.slice(0, got.length)).toEqual(got);
    else expect(got).toEqual(wanted);
  }
}

describe("the slots of a seat", () => {
  it("are used in turns, and the one before stays", () => {
    const state = new SeatState([6, 7]);
    state.start();
    expect(state.latest(100)).toBeUndefined();
    expect(state.step(5)).toEqual({ read: undefined, write: 6 });
    expect(state.step(6)).toEqual({ read: 6, write: 7 });
    expect(state.step(7)).toEqual({ read: 7, write: 6 });
    expect(state.latest(6)).toEqual({ slot: 7, at: 6 });
    expect(state.latest(7)).toEqual({ slot: 6, at: 7 });
    state.start(4, 40);
    expect(state.latest(100)).toBeUndefined();
    expect(state.step(9).read).toBe(40);
    expect(() => state.step(9)).toThrow(/behind token 9/);
  });

  it("let as many steps be taken back as there are slots beyond one", () => {
    const state = new SeatState([6, 7, 8, 9]);
    state.start();
    expect(state.step(5).write).toBe(6);
    expect([6, 7, 8].map((end) => state.step(end).write)).toEqual([7, 8, 9]);
    state.rollBack(5);
    expect(state.latest(100)).toEqual({ slot: 6, at: 5 });
    expect(state.step(6)).toEqual({ read: 6, write: 7 });
    expect(state.step(7)).toEqual({ read: 7, write: 8 });
    state.rollBack(7);
    state.rollBack(6);
    expect(state.step(9)).toEqual({ read: 7, write: 8 });
    for (const end of [10, 11, 12]) state.step(end);
    expect(() => state.rollBack(6)).toThrow(/no state of 6 tokens is left/);
    expect(() => new SeatState([6])).toThrow(/1 slots/);
  });
});
