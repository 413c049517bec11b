/**
 * Steps that hold chunks of several prompts, and steps that check several drafts at once: the scheduler against a fake GPU
 * whose memory holds tokens and whose states are the very tokens that they have taken in. Whatever is drafted, accepted,
 * pre-empted and evicted, every request must end with the tokens that it has alone.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { StateSlotPool } from "../../src/cache/state-slot-pool.ts";
import type { Request } from "../../src/schedule/request.ts";
import {
  Scheduler,
  type Copy,
  type FullBlock,
  type LowerTiers,
  type Plan,
  type Save,
  type SchedulerOptions,
  type Span,
} from "../../src/schedule/scheduler.ts";
import { alone, nextToken, STOP } from "../support/fake-model.ts";
import { testSeed } from "../support/seed.ts";

/** Memory, states and seats as tokens; what was sent down, by content. */
class FakeGpu implements LowerTiers {
  readonly stored = new Set<string>();
  private readonly memory = new Map<number, number>();
  private readonly states = new Map<number, readonly number[]>();
  private readonly seats = new Map<number, number>();
  private readonly blockTokens: number;
  private readonly random: Random;

  constructor(blockTokens: number, random: Random) {
    this.blockTokens = blockTokens;
    this.random = random;
  }

  /** @returns for each span the tokens that its samples agree on; now and then none of a step that checks drafts */
  run({ phase, spans, saves, completes }: Plan): number[][] {
    const accepted = spans.map((span) => (phase === "prefill" ? this.prefill(span) : this.decode(span)));
    this.save(saves);
    this.spill(completes);
    return accepted;
  }

  private prefill({ request, from, count, samples, states, copyBlock }: Span): number[] {
    if (copyBlock) this.copy(copyBlock);
    request.tokens
      .slice(from, from + count)
      .forEach((token, index) => this.write(request, from + index, token));
    this.takeIn(request, states, from, from + count);
    return samples > 0 ? this.seat(request, [nextToken(this.context(request, from + count))]) : [];
  }

  private decode({ request, from, count, drafts, states }: Span): number[] {
    const fed = [this.seats.get(request.seat as number) as number, ...drafts];
    expect(fed).toHaveLength(count);
    fed.forEach((token, index) => this.write(request, from + index, token));
    this.takeIn(request, states, from, from + count);
    const accepted: number[] = [];
    for (let row = 0; row < count; row++) {
      accepted.push(nextToken(this.context(request, from + row + 1)));
      if (accepted[row] !== drafts[row]) break;
    }
    return this.seat(request, count > 1 && this.random.below(12) === 0 ? [] : accepted);
  }

  /** The seat holds the last token that was accepted. */
  private seat(request: Request, accepted: number[]): number[] {
    const last = accepted.at(-1);
    if (last !== undefined) this.seats.set(request.seat as number, last);
    return accepted;
  }

  /** One state for a run of known tokens, one for each token of a row with drafts. */
  private takeIn(request: Request, states: Span["states"], from: number, to: number): void {
    states.forEach(({ read, write }, index) => {
      const start = states.length > 1 ? from + index : from;
      const end = states.length > 1 ? start + 1 : to;
      expect(read).not.toBe(write);
      const before = read === undefined ? [] : this.states.get(read);
      expect(before, `the state before token ${start}`).toEqual(this.context(request, start));
      this.states.set(write, this.context(request, end));
    });
  }

  save(saves: readonly Save[]): void {
    for (const { sequence, at, state, copyBlock } of saves) {
      expect(this.states.get(state.from)).toEqual(sequence.tokens.slice(0, at));
      this.states.set(state.to, sequence.tokens.slice(0, at));
      if (copyBlock) this.copy(copyBlock);
    }
  }

  /** What is sent down is what its tokens say, now and not later. */
  spill(blocks: readonly FullBlock[]): void {
    for (const { sequence, block, slot } of blocks) {
      const start = block * this.blockTokens;
      const bytes = Array.from({ length: this.blockTokens }, (_, at) =>
        this.memory.get(slot * this.blockTokens + at),
      );
      const tokens = sequence.tokens.slice(start, start + this.blockTokens);
      expect(bytes).toEqual(tokens);
      expect(tokens).toHaveLength(this.blockTokens);
      this.stored.add(sequence.tokens.slice(0, start + this.blockTokens).join());
    }
  }

  storedBlocks(): number {
    return 0;
  }

  restoreTerms(): never {
    throw new Error("nothing is stored");
  }

  private copy({ from, to }: Copy): void {
    for (let at = 0; at < this.blockTokens; at++) {
      const token = this.memory.get(from * this.blockTokens + at);
      if (token !== undefined) this.memory.set(to * this.blockTokens + at, token);
    }
  }

  private context(request: Request, length: number): number[] {
    return Array.from(
      { length },
      (_, position) => this.memory.get(this.placeOf(request, position)) as number,
    );
  }

  private write(request: Request, position: number, token: number): void {
    this.memory.set(this.placeOf(request, position), token);
  }

  private placeOf(request: Request, position: number): number {
    const slot = request.slots[Math.floor(position / this.blockTokens)];
    if (slot === undefined) throw new Error(`position ${position} of request ${request.id} has no slot`);
    return slot * this.blockTokens + (position % this.blockTokens);
  }
}

/** Right, wrong after some tokens, or nothing at all. */
function propose(random: Random, request: Request, most: number): number[] {
  const right = alone(request.tokens, random.below(most + 1));
  if (right.length > 0 && random.below(2) === 0) right[random.below(right.length)] = 1 + random.below(22);
  return right;
}

interface World {
  scheduler: Scheduler;
  gpu: FakeGpu;
  inFlight: { plan: Plan; accepted: number[][] }[];
  seen: Record<"together" | "drafted" | "severalAccepted" | "noneAccepted", number>;
}

function makeWorld(random: Random, withStates: boolean, seen: World["seen"]): World {
  const blockTokens = random.pick([1, 2, 4]);
  const gpu = new FakeGpu(blockTokens, random);
  const most = random.below(5);
  const seats = 2 + random.below(3);
  const pool = new BlockPool(Math.ceil(70 / blockTokens) + random.below(20));
  const options: SchedulerOptions = {
    ...{ blockTokens, chunkTokens: 4 + random.below(12), seats, lower: gpu },
    maxPromptsPerStep: 1 + random.below(4),
    promptsUnderWay: 1 + random.below(5),
    ...(most > 0 && { drafter: { most, propose: (request, limit) => propose(random, request, limit) } }),
    ...(withStates && { states: { save: (saves: readonly Save[]) => gpu.save(saves) } }),
  };
  const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: withStates ? 40 : 0 };
  const snapshotPool = new StateSlotPool((2 + most) * seats + 6, 6);
  const { cache } = createPrefixCache({
    ...{ policy: withStates ? "marconi" : "lru", blockTokens, cost, pool, tunerBytes: 1000 },
    ...(withStates && { snapshotPool }),
  });
  return { scheduler: new Scheduler(cache, pool, options), gpu, inFlight: [], seen };
}

function note({ phase, spans }: Plan, accepted: number[][], seen: World["seen"]): void {
  if (phase === "prefill" && spans.length > 1) seen.together++;
  spans.forEach(({ drafts }, index) => {
    if (drafts.length === 0) return;
    seen.drafted++;
    const count = accepted[index]?.length ?? 0;
    if (count > 1) seen.severalAccepted++;
    if (count === 0) seen.noneAccepted++;
  });
}

/** Every request is in one span at most, and a step takes no more tokens than it may. */
function checkPlan({ phase, spans }: Plan, { options }: Scheduler): void {
  const { chunkTokens, seats, maxPromptsPerStep = 1 } = options;
  expect(new Set(spans.map(({ request }) => request)).size).toBe(spans.length);
  const tokens = spans.reduce((sum, { count }) => sum + count, 0);
  expect(tokens).toBeLessThanOrEqual(phase === "prefill" ? chunkTokens : Math.max(chunkTokens, seats));
  expect(spans.length).toBeLessThanOrEqual(phase === "prefill" ? maxPromptsPerStep : seats);
}

function step(world: World): boolean {
  const { scheduler, gpu, inFlight } = world;
  while (inFlight.length < 2) {
    const plan = scheduler.next();
    if (!plan) break;
    checkPlan(plan, scheduler);
    const accepted = gpu.run(plan);
    note(plan, accepted, world.seen);
    inFlight.push({ plan, accepted });
  }
  const oldest = inFlight.shift();
  if (!oldest) return false;
  scheduler.commit(oldest.plan, oldest.accepted);
  scheduler.check();
  return true;
}

function serveRound(random: Random, withStates: boolean, seen: World["seen"]): void {
  const world = makeWorld(random, withStates, seen);
  const { scheduler } = world;
  const prefix = Array.from({ length: 4 + random.below(10) }, () => 1 + random.below(20));
  const submitted: { request: Request; prompt: number[]; max: number }[] = [];
  for (let id = 0; id < 2 + random.below(7); id++) {
    const shared = random.below(2) === 0 ? prefix.slice(0, random.below(prefix.length + 1)) : [];
    const prompt = [...shared, ...Array.from({ length: 1 + random.below(12) }, () => 1 + random.below(20))];
    const max = 1 + random.below(20);
    const request = scheduler.submit({ id, prompt, maxNewTokens: max, stopIds: new Set([STOP]) });
    submitted.push({ request, prompt, max });
    for (let steps = random.below(3); steps > 0; steps--) step(world);
    if (random.below(8) === 0) scheduler.abort(random.pick(submitted).request);
  }
  for (let steps = 0; step(world); steps++) expect(steps).toBeLessThan(5000);
  expect([scheduler.activeCount, scheduler.usedBlocks]).toEqual([0, 0]);
  for (const { request, prompt, max } of submitted) {
    const wanted = alone(prompt, max);
    const got = request.tokens.slice(prompt.length);
    if (request.finishReason === "aborted") expect(wanted.slice(0, got.length)).toEqual(got);
    else expect(got).toEqual(wanted);
  }
}

describe("a step of several spans", () => {
  it.each(["attention", "recurrent"])(
    "of a model with %s layers brings every request the tokens that it has alone",
    (kind) => {
      const random = new Random(testSeed(`scheduler-spans ${kind}`));
      const seen: World["seen"] = { together: 0, drafted: 0, severalAccepted: 0, noneAccepted: 0 };
      for (let round = 0; round < 120; round++) serveRound(random, kind === "recurrent", seen);
      console.log(`${kind}: ${JSON.stringify(seen)}`);
      for (const count of Object.values(seen)) expect(count).toBeGreaterThan(30);
    },
  );

  const make = (options: Partial<SchedulerOptions>) => {
    const gpu = new FakeGpu(4, new Random(1));
    const pool = new BlockPool(40);
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: 4, cost, pool });
    const scheduler = new Scheduler(cache, pool, {
      ...{ blockTokens: 4, chunkTokens: 16, seats: 4, lower: gpu },
      ...options,
    });
    return { gpu, cache, scheduler };
  };
  const stopIds = new Set<number>();

  it("holds chunks of different prompts, the shortest first", () => {
    const { scheduler, gpu } = make({ maxPromptsPerStep: 3 });
    [9, 6, 7].forEach((length, id) =>
      scheduler.submit({ id, prompt: Array<number>(length).fill(1 + id), maxNewTokens: 1, stopIds }),
    );
    const plan = scheduler.next() as Plan;
    const chunks = plan.spans.map(({ request, from, count, samples }) => [request.id, from, count, samples]);
    expect(chunks).toEqual([
      [1, 0, 6, 1],
      [2, 0, 7, 1],
      [0, 0, 3, 0],
    ]);
    scheduler.check();
    scheduler.commit(plan, gpu.run(plan));
    expect(scheduler.activeCount).toBe(1);
  });

  it("computes a prefix that two prompts share once: the second starts when the first has it", () => {
    const { scheduler, gpu } = make({ maxPromptsPerStep: 2 });
    const shared = Array.from({ length: 20 }, (_, index) => 1 + index);
    const requests = [30, 40].map((last, id) =>
      scheduler.submit({ id, prompt: [...shared, last, last], maxNewTokens: 1, stopIds }),
    );
    for (let plan = scheduler.next(); plan; plan = scheduler.next()) scheduler.commit(plan, gpu.run(plan));
    expect(requests.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 20]);
  });

  it("publishes every block that the accepted tokens fill", () => {
    const firsts = Array.from({ length: 22 }, (_, index) => 1 + index);
    const prompt = firsts.map((first) => [first, 6, 7]).find((tokens) => alone(tokens, 14).length === 14);
    if (!prompt) throw new Error("no prompt with a long answer");
    const { scheduler, gpu } = make({
      drafter: { most: 11, propose: ({ tokens }, most) => alone(tokens, most) },
    });
    const answer = alone(prompt, 13);
    const request = scheduler.submit({ id: 1, prompt, maxNewTokens: 20, stopIds });
    const first = scheduler.next() as Plan;
    scheduler.commit(first, gpu.run(first));
    const checked = scheduler.next() as Plan;
    expect(checked.spans[0]).toMatchObject({ from: 3, count: 12, samples: 12 });
    expect(scheduler.next()).toBeUndefined(); // what comes next is not known yet
    const [outcome] = scheduler.commit(checked, gpu.run(checked));
    expect(outcome?.tokens).toEqual(answer.slice(1));
    const all = [...prompt, ...answer];
    expect(request.tokens).toEqual(all);
    expect(all).toHaveLength(16); // the last block is full when its last token has been fed
    for (const end of [4, 8, 12]) expect(gpu.stored.has(all.slice(0, end).join())).toBe(true);
  });

  it("drops what stands behind a stop token, and no guess takes a block from anyone", () => {
    const { scheduler, cache } = make({
      seats: 2,
      drafter: { most: 8, propose: () => [11, 12, 13, 14, 15, 16, 17] },
    });
    const held = scheduler.borrow(Array<number>(36 * 4).fill(9), 0);
    const request = scheduler.submit({
      id: 1,
      prompt: [1, 2, 3, 4, 5],
      maxNewTokens: 9,
      stopIds: new Set([13]),
    });
    const prefill = scheduler.next() as Plan;
    scheduler.commit(prefill, [[10]]);
    const more = scheduler.borrow([8, 8, 8, 8, 8], 0);
    const plan = scheduler.next() as Plan;
    expect(plan.spans[0]?.drafts).toEqual([11, 12]); // up to the end of its last block
    const [outcome] = scheduler.commit(plan, [[11, 13, 99]]);
    expect(outcome).toMatchObject({ tokens: [11], finished: "stop" });
    expect(request.tokens).toEqual([1, 2, 3, 4, 5, 10, 11]);
    scheduler.giveBack(held, 0);
    scheduler.giveBack(more, 0);
    scheduler.check();
    cache.check();
  });

  it("refuses more tokens than were to come, and a step that brings none where one must", () => {
    const { scheduler } = make({});
    scheduler.submit({ id: 1, prompt: [1, 2, 3], maxNewTokens: 5, stopIds });
    const prefill = scheduler.next() as Plan;
    expect(() => scheduler.commit(prefill, [[]])).toThrow(/0 tokens for request 1, expected 1/);
    expect(() => scheduler.commit(prefill, [[1, 2]])).toThrow(/2 tokens for request 1, expected 1/);
    expect(() => scheduler.commit(prefill, [])).toThrow(/tokens of 0 spans, expected 1/);
  });
});
