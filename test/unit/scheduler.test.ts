/**
 * The scheduler against a fake model: the next token is a function of the tokens before it, so whatever the order of
 * steps, aborts and pre-emptions, every request must end with the tokens that it would have alone.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { GiveWayCosts } from "../../src/schedule/queue/pre-emption.ts";
import type { Request } from "../../src/schedule/request.ts";
import type { RestoreTerms } from "../../src/schedule/restore/restore.ts";
import {
  Scheduler,
  type FullBlock,
  type LowerTiers,
  type Move,
  type Plan,
  type SchedulerOptions,
  type Sequence,
} from "../../src/schedule/scheduler.ts";
import { alone, nextToken, STOP } from "../support/fake-model.ts";
import { testSeed } from "../support/seed.ts";

/** What the GPU would hold: tokens by (slot, offset), written by steps in order, and the last token of each seat. */
class FakeGpu {
  readonly memory = new Map<number, number>();
  readonly seats = new Map<number, number>();
  private readonly blockTokens: number;

  constructor(blockTokens: number) {
    this.blockTokens = blockTokens;
  }

  /** Runs a plan as it was when it was made: slots and seats are read at once, like a submitted step. */
  run({ phase, spans }: Plan): number[][] {
    return spans.map(({ request, from, count, samples }) => {
      if (phase === "decode") this.write(request, from, this.seats.get(request.seat as number) as number);
      else for (let at = from; at < from + count; at++) this.write(request, at, request.tokens[at] as number);
      return samples > 0 ? [this.sample(request, from + count)] : [];
    });
  }

  /** What a load brings. */
  fill({ request, block }: Move): void {
    const start = block * this.blockTokens;
    for (let at = start; at < start + this.blockTokens; at++)
      this.write(request, at, request.tokens[at] as number);
  }

  read(slot: number): number[] {
    return Array.from(
      { length: this.blockTokens },
      (_, at) => this.memory.get(slot * this.blockTokens + at) as number,
    );
  }

  private write(request: Request, position: number, token: number): void {
    const slot = request.slots[Math.floor(position / this.blockTokens)];
    if (slot === undefined) throw new Error(`position ${position} of request ${request.id} has no slot`);
    this.memory.set(slot * this.blockTokens + (position % this.blockTokens), token);
  }

  private sample(request: Request, length: number): number {
    const context = Array.from({ length }, (_, position) => {
      const slot = request.slots[Math.floor(position / this.blockTokens)] as number;
      return this.memory.get(slot * this.blockTokens + (position % this.blockTokens)) as number;
    });
    const token = nextToken(context);
    this.seats.set(request.seat as number, token);
    return token;
  }
}

const COST = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };

function makeScheduler(slots: number, options: SchedulerOptions): Scheduler {
  const pool = new BlockPool(slots);
  const { cache } = createPrefixCache({ policy: "lru", blockTokens: options.blockTokens, cost: COST, pool });
  return new Scheduler(cache, pool, options);
}

interface World {
  scheduler: Scheduler;
  gpu: FakeGpu;
  inFlight: { plan: Plan; samples: number[][] }[];
  lower: FakeTiers;
}

/** Lower tiers that hold some blocks by content, lose some, and answer loads late and in any order. */
class FakeTiers implements LowerTiers {
  readonly held = new Set<string>();
  readonly loading: Move[] = [];
  mode: RestoreTerms["mode"] = "both";
  private clockMs = 0;
  private readonly gpu: FakeGpu;
  private readonly blockTokens: number;

  constructor(gpu: FakeGpu, blockTokens: number) {
    this.gpu = gpu;
    this.blockTokens = blockTokens;
  }

  storedBlocks({ tokens }: Sequence, from: number): number {
    let count = 0;
    while (this.held.has(this.keyOf(tokens, from + count))) count++;
    return count;
  }

  /** Its clock ticks whenever it is looked at. */
  restoreTerms(_request: Sequence, _from: number, blocks: number): RestoreTerms {
    const loadMs = Array.from({ length: blocks }, () => 2);
    return { mode: this.mode, loadMs, computeMs: () => 3, nowMs: () => this.clockMs++ };
  }

  /** Ends one load: with the right bytes, or, one time in four, with none. */
  endOne(random: Random, scheduler: Scheduler, gpu: FakeGpu): boolean {
    if (this.loading.length === 0) return false;
    const [move] = this.loading.splice(random.below(this.loading.length), 1) as [Move];
    const ok = random.below(4) > 0;
    if (ok && scheduler.isWanted(move)) gpu.fill(move);
    scheduler.moved(move, ok ? random.pick(["ram", "disk"] as const) : undefined);
    return true;
  }

  /** Keeps what has become full; checks that the bytes are those of the tokens, now and not later. */
  spill(blocks: readonly FullBlock[]): void {
    for (const { sequence, block, slot } of blocks) {
      const start = block * this.blockTokens;
      expect(this.gpu.read(slot)).toEqual(sequence.tokens.slice(start, start + this.blockTokens));
      this.held.add(this.keyOf(sequence.tokens, block));
    }
  }

  private keyOf(tokens: readonly number[], block: number): string {
    const end = (block + 1) * this.blockTokens;
    return end > tokens.length ? "none" : tokens.slice(0, end).join(",");
  }
}

/** What gives way is now worth keeping, now not. */
function randomCosts(random: Random): GiveWayCosts {
  return { recomputeMs: (tokens) => tokens, reloadMs: (blocks) => blocks * random.below(8) };
}

function makeWorld(random: Random): World {
  const blockTokens = random.pick([1, 2, 4]);
  const slots = Math.ceil(48 / blockTokens) + random.below(20);
  const gpu = new FakeGpu(blockTokens);
  const lower = new FakeTiers(gpu, blockTokens);
  lower.mode = random.pick(["load", "compute", "both", "auto"] as const);
  const chunkTokens = 1 + random.below(9);
  const options: SchedulerOptions = {
    ...{ blockTokens, chunkTokens, seats: 1 + random.below(4), lower, maxBlocks: slots },
    promptsUnderWay: 1 + random.below(4),
    ...(random.below(2) === 0 && { chunkLimit: () => 1 + random.below(chunkTokens) }),
    ...(random.below(2) === 0 && { giveWayCosts: randomCosts(random) }),
  };
  const atFirst = random.pick([slots, 1 + random.below(slots)]);
  return { scheduler: makeScheduler(atFirst, options), gpu, inFlight: [], lower };
}

/** The pool grows by what is missing and somewhat more, as far as it may. */
function grow({ scheduler }: World, random: Random): void {
  const { missingBlocks } = scheduler;
  const room = (scheduler.capacityTokens - scheduler.poolTokens) / scheduler.options.blockTokens;
  if (missingBlocks > 0 && room > 0) scheduler.grown(Math.min(room, missingBlocks + random.below(4)));
}

/** The device is lost: the steps in flight and all that it had in memory are gone. Loads under way end late. */
function lose({ scheduler, gpu, inFlight }: World): void {
  inFlight.length = 0;
  gpu.memory.clear();
  gpu.seats.clear();
  scheduler.restart();
  scheduler.check();
  expect(scheduler.usedBlocks).toBe(0);
}

/** Up to two steps in flight, like the loop; loads end now and then, and always where nothing else can go on. */
function step(world: World, random: Random): boolean {
  const { scheduler, gpu, inFlight, lower } = world;
  while (inFlight.length < 2) {
    grow(world, random);
    const plan = scheduler.next();
    lower.loading.push(...scheduler.takeMoves());
    if (!plan) break;
    inFlight.push({ plan, samples: gpu.run(plan) });
    lower.spill(plan.completes);
  }
  const ended = random.below(3) === 0 && lower.endOne(random, scheduler, gpu);
  const oldest = inFlight.shift();
  if (oldest) scheduler.commit(oldest.plan, oldest.samples);
  else if (!ended && !lower.endOne(random, scheduler, gpu)) return false;
  scheduler.check();
  return true;
}

describe("scheduler", () => {
  it("gives every request the tokens it would have alone, through pre-emption, aborts, restores, growth and losses", () => {
    const random = new Random(testSeed("scheduler"));
    for (let round = 0; round < 300; round++) {
      const world = makeWorld(random);
      const prefixes = [0, 1].map(() =>
        Array.from({ length: 4 + random.below(10) }, () => 1 + random.below(20)),
      );
      const submitted: { request: Request; prompt: number[]; max: number }[] = [];
      for (let id = 0; id < 1 + random.below(8); id++) {
        const shared = random.below(3) === 0 ? [] : random.pick(prefixes);
        const prompt = [
          ...shared,
          ...Array.from({ length: 1 + random.below(12) }, () => 1 + random.below(20)),
        ];
        const max = 1 + random.below(20);
        submitted.push({
          request: world.scheduler.submit({
            ...{ id, prompt, maxNewTokens: max, stopIds: new Set([STOP]) },
            priority: random.pick(["interactive", "background"] as const),
          }),
          prompt,
          max,
        });
        for (let steps = random.below(4); steps > 0; steps--) step(world, random);
        if (random.below(6) === 0) world.scheduler.abort(random.pick(submitted).request);
        if (random.below(4) === 0) world.scheduler.forget();
        if (random.below(8) === 0) lose(world);
      }
      let steps = 0;
      while (step(world, random)) {
        expect(++steps).toBeLessThan(5000);
        if (steps % 64 === 0) lose(world);
      }
      world.scheduler.check();
      expect(world.scheduler.activeCount).toBe(0);
      expect(world.scheduler.usedBlocks).toBe(0);
      for (const { request, prompt, max } of submitted) {
        const wanted = alone(prompt, max);
        const got = request.tokens.slice(prompt.length);
        const { ram = 0, disk = 0 } = request.loadedTokens;
        expect((request.cachedTokens ?? 0) + ram + disk).toBeLessThan(prompt.length);
        if (request.finishReason === "aborted") expect(wanted.slice(0, got.length)).toEqual(got);
        else expect(got).toEqual(wanted);
      }
    }
  });

  it("computes a shared prefix once, also where the first request is aborted", () => {
    const scheduler = makeScheduler(50, { blockTokens: 4, chunkTokens: 6, seats: 4 });
    const gpu = new FakeGpu(4);
    const prompt = Array.from({ length: 25 }, (_, index) => index + 1);
    const stopIds = new Set<number>();
    const first = scheduler.submit({ id: 1, prompt, maxNewTokens: 1, stopIds });
    const second = scheduler.submit({ id: 2, prompt, maxNewTokens: 1, stopIds });
    const plan = scheduler.next() as Plan;
    scheduler.commit(plan, gpu.run(plan));
    scheduler.abort(first);
    const computed: number[] = [];
    for (let next = scheduler.next(); next; next = scheduler.next()) {
      if (next.phase === "prefill") computed.push(...next.spans.map(({ from }) => from));
      scheduler.commit(next, gpu.run(next));
    }
    expect(second.cachedTokens).toBe(4);
    expect(computed[0]).toBe(4);
    const third = scheduler.submit({ id: 3, prompt, maxNewTokens: 1, stopIds });
    const last = scheduler.next() as Plan;
    expect(last).toMatchObject({ phase: "prefill", spans: [{ from: 24, count: 1 }] });
    scheduler.commit(last, gpu.run(last));
    expect(third.cachedTokens).toBe(24);
    expect(third.tokens).toEqual(second.tokens);
  });

  it("bounds the time between tokens by one prefill chunk", () => {
    const scheduler = makeScheduler(100, { blockTokens: 4, chunkTokens: 5, seats: 4 });
    const gpu = new FakeGpu(4);
    const stopIds = new Set<number>();
    scheduler.submit({ id: 1, prompt: [1, 2], maxNewTokens: 30, stopIds });
    const kinds: string[] = [];
    for (let count = 0; count < 8; count++) {
      if (count === 1)
        scheduler.submit({ id: 2, prompt: Array<number>(40).fill(3), maxNewTokens: 1, stopIds });
      const plan = scheduler.next() as Plan;
      scheduler.commit(plan, gpu.run(plan));
      kinds.push(plan.phase);
    }
    expect(kinds).toEqual([
      "prefill",
      "decode",
      "prefill",
      "decode",
      "prefill",
      "decode",
      "prefill",
      "decode",
    ]);
  });

  it("lends blocks and wants them back", () => {
    const scheduler = makeScheduler(4, { blockTokens: 4, chunkTokens: 4, seats: 1 });
    const tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    const lease = scheduler.borrow(tokens, 0);
    expect(lease.table).toHaveLength(3);
    scheduler.check();
    expect(() => scheduler.borrow([7, 7, 7, 7, 7], 0)).toThrow(/2 KV blocks are needed and 1 are free/);
    scheduler.giveBack(lease, tokens.length);
    expect(scheduler.usedBlocks).toBe(0);
    expect(scheduler.borrow(tokens, 8).tokens).toBe(8);
  });
});
