/**
 * Tickets, and two queues that run the scheduler's steps side by side and finish in any order: what one writes and uses must
 * not be read or overwritten by the other before it has run, also where all steps in flight have been dropped and still run.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { Request } from "../../src/schedule/request.ts";
import { Scheduler, type Plan, type Span } from "../../src/schedule/scheduler.ts";
import { maySee, Tickets } from "../../src/schedule/tickets.ts";
import { alone, nextToken, STOP } from "../support/fake-model.ts";
import { testSeed } from "../support/seed.ts";

describe("a ticket", () => {
  it("lets its own queue see at once what it writes, and is told in order that it has run", () => {
    const tickets = new Tickets(2);
    const [first, second] = [tickets.issue(0), tickets.issue(0)];
    expect([maySee(second, 0), maySee(second, 1)]).toEqual([true, false]);
    expect(() => tickets.ran(second)).toThrow(/step 1 of queue 0 has run before step 0/);
    expect(first.status).toBe("planned");
  });

  it("is good behind those before it, whatever other queues do", () => {
    const tickets = new Tickets(2);
    const [first, second, other] = [tickets.issue(0), tickets.issue(0), tickets.issue(1)];
    const heard: boolean[] = [];
    tickets.whenDecided(second, (isGood) => heard.push(isGood));
    tickets.ran(first);
    expect(heard).toEqual([]);
    tickets.ran(second);
    expect(heard).toEqual([true]);
    expect([maySee(second, 1), maySee(other, 0), other.status]).toEqual([true, false, "planned"]);
  });

  it("is void with all that have not run, and over when its own queue says so", () => {
    const tickets = new Tickets(2);
    const [ran, dropped, other] = [tickets.issue(0), tickets.issue(0), tickets.issue(1)];
    const heard: boolean[] = [];
    for (const ticket of [ran, dropped, other]) tickets.whenDecided(ticket, (isGood) => heard.push(isGood));
    tickets.ran(ran);
    tickets.voidAll();
    expect(heard).toEqual([true, false, false]);
    expect([ran, dropped, other].map(({ status }) => status)).toEqual(["good", "void", "void"]);
    expect([maySee(ran, 1), maySee(dropped, 0)]).toEqual([true, false]);
    expect([dropped.isOver, other.isOver]).toEqual([false, false]);
    tickets.ran(dropped);
    expect([dropped.status, dropped.isOver, other.isOver]).toEqual(["void", true, false]);
  });

  it("of a single queue is over as soon as it is void: whatever comes runs behind it", () => {
    const tickets = new Tickets();
    const ticket = tickets.issue(0);
    tickets.voidAll();
    expect(ticket.isOver).toBe(true);
    expect(tickets.last(0)).toBeUndefined();
  });
});

const BLOCK_TOKENS = 2;
const QUEUES = [0, 1];

/** A step as it was submitted: it runs later, on what it was given then. */
interface Submitted {
  plan: Plan;
  isDropped: boolean;
  rows: { span: Span; seat: number; slots: number[]; given: number[] | undefined }[];
}

class TwoQueues {
  readonly scheduler: Scheduler;
  /** Tokens by place, and the last token of each seat. */
  private readonly memory = new Map<number, number>();
  private readonly seats = new Map<number, number>();
  private readonly queues: Submitted[][] = QUEUES.map(() => []);

  constructor(random: Random) {
    const pool = new BlockPool(24 + random.below(12));
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: BLOCK_TOKENS, cost, pool });
    this.scheduler = new Scheduler(cache, pool, {
      ...{ blockTokens: BLOCK_TOKENS, chunkTokens: 2 + random.below(8), seats: 2 + random.below(2) },
      ...{
        queues: QUEUES.length,
        maxPromptsPerStep: 1 + random.below(3),
        promptsUnderWay: 1 + random.below(5),
      },
    });
  }

  submit(queue: number): boolean {
    const plan = this.queues[queue]!.length < 3 ? this.scheduler.next(queue) : undefined;
    if (!plan) return false;
    const rows = plan.spans.map((span) => {
      const { request, from, count } = span;
      const given = plan.phase === "prefill" ? request.tokens.slice(from, from + count) : undefined;
      return { span, seat: request.seat as number, slots: [...request.slots], given };
    });
    this.queues[queue]!.push({ plan, isDropped: false, rows });
    return true;
  }

  /** Runs the oldest step of a queue. */
  run(queue: number): boolean {
    const step = this.queues[queue]!.shift();
    if (!step) return false;
    const { plan } = step;
    const accepted = step.rows.map(({ span: { from, count, samples }, seat, slots, given }) => {
      const place = (at: number) =>
        slots[Math.floor(at / BLOCK_TOKENS)]! * BLOCK_TOKENS + (at % BLOCK_TOKENS);
      const fed = given ?? [this.seats.get(seat) as number];
      fed.forEach((token, index) => this.memory.set(place(from + index), token));
      if (samples === 0) return [];
      const token = nextToken(Array.from({ length: from + count }, (_, at) => this.memory.get(place(at))));
      this.seats.set(seat, token);
      return [token];
    });
    if (step.isDropped) this.scheduler.stepRan(plan.ticket);
    else this.scheduler.commit(plan, accepted);
    this.scheduler.check();
    return true;
  }

  /** A step has failed: none in flight counts, and those of both queues run to their ends all the same. */
  fail(): void {
    this.scheduler.restart();
    for (const step of this.queues.flat()) step.isDropped = true;
    this.scheduler.check();
  }

  get hasSteps(): boolean {
    return this.queues.some((queue) => queue.length > 0);
  }
}

function turn(world: TwoQueues, random: Random): void {
  const queue = random.pick(QUEUES);
  if (random.below(2) === 0) world.submit(queue);
  else world.run(queue);
}

describe("two queues that finish out of order", () => {
  it("bring every request the tokens that it has alone, and give back every slot and seat", () => {
    const random = new Random(testSeed("tickets"));
    let cached = 0;
    for (let round = 0; round < 400; round++) {
      const world = new TwoQueues(random);
      const prefixes = [0, 1].map(() => Array.from({ length: 9 }, () => 1 + random.below(20)));
      const submitted: { request: Request; prompt: number[]; max: number }[] = [];
      for (let id = 0; id < 2 + random.below(8); id++) {
        const shared = random.pick(prefixes).slice(0, random.below(10));
        const prompt = [
          ...shared,
          ...Array.from({ length: 1 + random.below(6) }, () => 1 + random.below(20)),
        ];
        const max = 1 + random.below(12);
        const request = world.scheduler.submit({ id, prompt, maxNewTokens: max, stopIds: new Set([STOP]) });
        submitted.push({ request, prompt, max });
        for (let turns = random.below(12); turns > 0; turns--) turn(world, random);
        if (random.below(6) === 0) world.scheduler.abort(random.pick(submitted).request);
        if (random.below(8) === 0) world.scheduler.forget();
        if (random.below(12) === 0) world.fail();
      }
      for (let turns = 0; world.scheduler.activeCount > 0 || world.hasSteps; turns++) {
        expect(turns).toBeLessThan(20_000);
        turn(world, random);
      }
      world.scheduler.check();
      expect(world.scheduler.usedBlocks).toBe(0);
      for (const { request, prompt, max } of submitted) {
        const wanted = alone(prompt, max);
        const got = request.tokens.slice(prompt.length);
        if (request.finishReason === "aborted") expect(wanted.slice(0, got.length)).toEqual(got);
        else expect(got).toEqual(wanted);
        cached += request.cachedTokens ?? 0;
      }
    }
    console.log(`${cached} tokens found in the cache`);
    expect(cached).toBeGreaterThan(1000);
  });

  it("do not share a block before it is written, and share it then", () => {
    const pool = new BlockPool(20);
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: 4, cost, pool });
    const options = { blockTokens: 4, chunkTokens: 16, seats: 3, queues: 2, maxPromptsPerStep: 3 };
    const scheduler = new Scheduler(cache, pool, options);
    const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    const requests = [1, 2, 3].map((id) =>
      scheduler.submit({ id, prompt, maxNewTokens: 1, stopIds: new Set() }),
    );
    const written = scheduler.next(0) as Plan;
    const beside = scheduler.next(1) as Plan;
    expect(written.spans.map(({ from, count }) => [from, count])).toEqual([[0, 9]]);
    expect(beside.spans.map(({ from, count }) => [from, count])).toEqual([[0, 9]]);
    scheduler.commit(written, [[7]]);
    const after = scheduler.next(1) as Plan;
    expect(after.spans.map(({ from, count }) => [from, count])).toEqual([[8, 1]]);
    scheduler.commit(beside, [[7]]);
    scheduler.commit(after, [[7]]);
    expect(requests.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0, 8]);
    scheduler.check();
  });
});
