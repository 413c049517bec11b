/**
 * The scheduler against a fake model: the next token is a function of the tokens before it, so whatever the order of
 * steps, aborts and pre-emptions, every request must end with the tokens that it would have alone.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import type { Request } from "../../src/schedule/request.ts";
import { Scheduler, type Plan } from "../../src/schedule/scheduler.ts";
import { testSeed } from "../support/seed.ts";

const STOP = 0;

/** The fake model: deterministic, and now and then the stop token. */
function nextToken(tokens: readonly number[]): number {
  let hash = tokens.length;
  for (const token of tokens) hash = (Math.imul(hash, 31) + token) >>> 0;
  return hash % 23;
}

function alone(prompt: readonly number[], maxNewTokens: number): number[] {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + maxNewTokens) {
    const next = nextToken(tokens);
    if (next === STOP) break;
    tokens.push(next);
  }
  return tokens.slice(prompt.length);
}

/** What the GPU would hold: tokens by (slot, offset), written by steps in order, and the last token of each seat. */
class FakeGpu {
  readonly memory = new Map<number, number>();
  readonly seats = new Map<number, number>();
  private readonly blockTokens: number;

  constructor(blockTokens: number) {
    this.blockTokens = blockTokens;
  }

  /** Runs a plan as it was when it was made: slots and seats are read at once, like a submitted step. */
  run(plan: Plan): number[] {
    if (plan.kind === "prefill") {
      const { request, start, count, sample } = plan;
      for (let at = start; at < start + count; at++) this.write(request, at, request.tokens[at] as number);
      return sample ? [this.sample(request, start + count)] : [];
    }
    return plan.rows.map(({ request, position }) => {
      this.write(request, position, this.seats.get(request.seat as number) as number);
      return this.sample(request, position + 1);
    });
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

interface World {
  scheduler: Scheduler;
  gpu: FakeGpu;
  inFlight: { plan: Plan; samples: number[] }[];
}

function makeWorld(random: Random): World {
  const blockTokens = random.pick([1, 2, 4]);
  const blocks = new BlockPool(Math.ceil(48 / blockTokens) + random.below(20));
  const options = { blockTokens, chunkTokens: 1 + random.below(9), seats: 1 + random.below(4) };
  return { scheduler: new Scheduler(blocks, options), gpu: new FakeGpu(blockTokens), inFlight: [] };
}

/** Up to two steps in flight, like the loop. */
function step({ scheduler, gpu, inFlight }: World): boolean {
  while (inFlight.length < 2) {
    const plan = scheduler.next();
    if (!plan) break;
    inFlight.push({ plan, samples: gpu.run(plan) });
  }
  const oldest = inFlight.shift();
  if (!oldest) return false;
  scheduler.commit(oldest.plan, oldest.samples);
  scheduler.check();
  return true;
}

describe("scheduler", () => {
  it("gives every request the tokens it would have alone, through pre-emption and aborts", () => {
    const random = new Random(testSeed("scheduler"));
    for (let round = 0; round < 300; round++) {
      const world = makeWorld(random);
      const submitted: { request: Request; prompt: number[]; max: number }[] = [];
      for (let id = 0; id < 1 + random.below(8); id++) {
        const prompt = Array.from({ length: 1 + random.below(20) }, () => 1 + random.below(20));
        const max = 1 + random.below(20);
        submitted.push({
          request: world.scheduler.submit({ id, prompt, maxNewTokens: max, stopIds: new Set([STOP]) }),
          prompt,
          max,
        });
        for (let steps = random.below(4); steps > 0; steps--) step(world);
        if (random.below(6) === 0) world.scheduler.abort(random.pick(submitted).request);
      }
      let steps = 0;
      while (step(world)) expect(++steps).toBeLessThan(5000);
      world.scheduler.check();
      expect(world.scheduler.activeCount).toBe(0);
      expect(world.scheduler.usedBlocks).toBe(0);
      for (const { request, prompt, max } of submitted) {
        const wanted = alone(prompt, max);
        const got = request.tokens.slice(prompt.length);
        if (request.finishReason === "aborted") expect(wanted.slice(0, got.length)).toEqual(got);
        else expect(got).toEqual(wanted);
      }
    }
  });

  it("bounds the time between tokens by one prefill chunk", () => {
    const scheduler = new Scheduler(new BlockPool(100), { blockTokens: 4, chunkTokens: 5, seats: 4 });
    const gpu = new FakeGpu(4);
    const stopIds = new Set<number>();
    scheduler.submit({ id: 1, prompt: [1, 2], maxNewTokens: 30, stopIds });
    const kinds: string[] = [];
    for (let count = 0; count < 8; count++) {
      if (count === 1)
        scheduler.submit({ id: 2, prompt: Array<number>(40).fill(3), maxNewTokens: 1, stopIds });
      const plan = scheduler.next() as Plan;
      scheduler.commit(plan, gpu.run(plan));
      kinds.push(plan.kind);
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
    const scheduler = new Scheduler(new BlockPool(4), { blockTokens: 4, chunkTokens: 4, seats: 1 });
    const lent = scheduler.borrow(9);
    expect(lent).toHaveLength(3);
    scheduler.check();
    expect(() => scheduler.borrow(8)).toThrow(/2 KV blocks are needed and 1 are free/);
    scheduler.giveBack(lent);
    expect(scheduler.usedBlocks).toBe(0);
  });
});
