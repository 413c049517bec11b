/**
 * A KV pool that starts small and grows when requests need more: what is computed is what a large one computes, the books
 * hold, and memory that runs out is said once. What a model takes is known beforehand.
 */
import { findProvider, openGpu, type Gpu } from "../../src/gpu/device.ts";
import { TidepoolError } from "../../src/errors.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { planMemory } from "../../src/model/memory.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { runnerOptions } from "../../src/worker/options.ts";
import type { CacheStats, EngineOptions, GenerationResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";

const STORIES = "goldens/stories260K/model.gguf";
const HYBRID = "goldens/models/lfm2/model.gguf";

const SMALL: EngineOptions = {
  ...{ dtype: "f32", blockTokens: 16, chunkTokens: 32, maxRequests: 4 },
  poolStartTokens: 32,
  poolTokens: 4096,
};

const tokensOf = (number: number, length: number) =>
  ({ kind: "tokens", tokens: Array.from({ length }, (_, i) => 3 + ((i * 31 + number * 17) % 90)) }) as const;

/** One long prompt, then many at once. */
async function run(session: TestSession): Promise<GenerationResult[]> {
  const check = () => session.session.scheduler.check();
  const long = await session.generate(tokensOf(0, 120), { maxTokens: 40 }, check).done;
  const many = Array.from({ length: 10 }, (_, index) => {
    const params = { maxTokens: 20, temperature: index % 2, seed: index };
    return session.generate(tokensOf(index, 40 + index), params, check).done;
  });
  return [long, ...(await Promise.all(many))];
}

async function blocksOf(session: TestSession): Promise<number> {
  const { gpu } = (await session.session.call({ method: "cacheStats" })) as CacheStats;
  equal(gpu.blocks.total, session.session.runner.pool.slots, "slots of the pool and of its books");
  return gpu.blocks.total;
}

/** Slots of the state pool; 0 in models without recurrent layers. */
function statesOf({ session: { cache, runner } }: TestSession): number {
  equal(cache.snapshots?.slotCount ?? 0, runner.states.slots, "slots of the state pool and of its books");
  return runner.states.slots;
}

/** The states have grown where there are any, to no more than planned, and the info tells them. */
function checkStates(small: TestSession, large: TestSession, first: number): void {
  const { runner, info } = small.session;
  const most = runner.plan.states.maxSlots;
  equal(statesOf(large), most, "states of a full pool");
  const states = statesOf(small);
  equal(most === 0 || (states > first && states <= most), true, `${states} states, ${first} at first`);
  equal(info.memory.statePoolBytes, runner.states.bytes, "bytes of states in the info");
  equal(info.memory.stateMaxBytes, large.session.runner.states.bytes, "bytes of states at most");
}

function growthCase(model: string, path: string, withTiers: boolean): Case {
  return {
    name: `model/pool-growth/${model} from two blocks on${withTiers ? ", with lower tiers" : ""}`,
    async run(env) {
      const bytes = await env.shared(path);
      const store = withTiers ? await TierStore.open({ ramBytes: 2 ** 26 }) : undefined;
      const full = { poolStartTokens: 4096, stateStartSlots: 1000 };
      const large = await TestSession.load(env.gpu, bytes, { ...SMALL, ...full });
      const small = await TestSession.load(env.gpu, bytes, SMALL, store);
      try {
        equal(await blocksOf(small), 2, "blocks at first");
        const first = statesOf(small);
        equal(first, small.session.runner.plan.states.startSlots, "states at first");
        const expected = await run(large);
        const found = await run(small);
        const tokens = (results: GenerationResult[]) => results.map((result) => result.tokens);
        equal(tokens(found), tokens(expected), "tokens");
        const blocks = await blocksOf(small);
        equal(blocks > 16 && blocks <= 256, true, `${blocks} blocks in the end, more than 16`);
        checkStates(small, large, first);
        equal(small.session.info.memory.kvPoolBytes, small.session.runner.pool.bytes, "bytes in the info");
        equal(
          small.posted.some(({ type }) => type === "info"),
          true,
          "told",
        );
        small.checkIdle();
      } finally {
        await small.close();
        await large.close();
      }
    },
  };
}

/** The device says after `grown` more growths that its memory is short. */
async function shortGpu(grown: number): Promise<Gpu> {
  const gpu = await openGpu(await findProvider());
  const { device } = gpu;
  const pop = device.popErrorScope.bind(device);
  let scopes = 0;
  Object.defineProperty(device, "popErrorScope", {
    value: async () => {
      const filter = filters.pop();
      const problem = await pop();
      const isMemory = problem === null && filter === "out-of-memory";
      return isMemory && ++scopes > 1 + grown ? ({ message: "test: no memory" } as GPUError) : problem;
    },
  });
  const filters: GPUErrorFilter[] = [];
  const push = device.pushErrorScope.bind(device);
  Object.defineProperty(device, "pushErrorScope", {
    value: (filter: GPUErrorFilter) => {
      filters.push(filter);
      push(filter);
    },
  });
  return gpu;
}

const shortCase: Case = {
  name: "model/pool-growth/memory runs out: the pool stays, longer requests end there, said once",
  async run(env) {
    const gpu = await shortGpu(2);
    const file = await openModel([openBytes(await env.shared(STORIES), "model.gguf")]);
    const session = await TestSession.open(gpu, file, SMALL);
    try {
      const requests = [60, 20, 20, 30].map((length, index) =>
        session.generate(tokensOf(index, length), { maxTokens: 100 }),
      );
      const tooLong = codeOf(session.generate(tokensOf(9, 400), { maxTokens: 4 }).done);
      const results = await Promise.all(requests.map(({ done }) => done));
      const blocks = await blocksOf(session);
      equal(blocks < 28, true, `${blocks} blocks, fewer than the longest prompt needs`);
      for (const { finishReason, usage } of results) {
        const wanted =
          usage.promptTokens + 100 <= blocks * 16 + 1 ? 100 : blocks * 16 + 1 - usage.promptTokens;
        equal([finishReason, usage.completionTokens], ["length", wanted], "where it ended");
      }
      equal(await tooLong, "out_of_memory", "code of what can never run");
      equal(
        await codeOf(session.generate(tokensOf(9, 400), { maxTokens: 4 }).done),
        "too_long",
        "code later",
      );
      const notices = session.posted.filter((message) => message.type === "notice");
      equal(
        notices.map(({ notice }) => notice.code),
        ["pool_full"],
        "notices",
      );
      session.checkIdle();
    } finally {
      await session.close();
      gpu.device.destroy();
    }
  },
};

/** Not one growth succeeds: two requests at once find states, the others wait, and what is scored takes those of snapshots. */
const shortStatesCase: Case = {
  name: "model/pool-growth/memory runs out for states: snapshots go for requests, which wait, said once",
  async run(env) {
    const bytes = await env.shared(HYBRID);
    const large = await TestSession.load(env.gpu, bytes, { ...SMALL, poolStartTokens: 4096 });
    const gpu = await shortGpu(0);
    const file = await openModel([openBytes(bytes, "model.gguf")]);
    const session = await TestSession.open(gpu, file, { ...SMALL, poolStartTokens: 4096 });
    try {
      const tokens = (results: GenerationResult[]) => results.map((result) => result.tokens);
      equal(tokens(await run(session)), tokens(await run(large)), "tokens");
      equal(statesOf(session), 6, "states");
      const { gpu: stats } = (await session.session.call({ method: "cacheStats" })) as CacheStats;
      equal(stats.snapshots.evicted > 0, true, "snapshots evicted");
      const given = tokensOf(1, 60).tokens;
      await session.session.call({ method: "score", tokens: given, from: 0, logits: false });
      const notices = session.posted.flatMap((message) =>
        message.type === "notice" ? [message.notice] : [],
      );
      equal(
        notices.map(({ code, message }) => [code, /recurrent states/.test(message)]),
        [["pool_full", true]],
        "notices",
      );
      session.checkIdle();
    } finally {
      await session.close();
      await large.close();
      gpu.device.destroy();
    }
  },
};

/** States of snapshots find memory, and the exact newest blocks beside packed ones do not: as if neither did. */
const shortTailsCase: Case = {
  name: "model/pool-growth/memory runs out for the tails of snapshots: fewer snapshots, said once",
  async run(env) {
    const bytes = await env.shared(HYBRID);
    const options: EngineOptions = { ...SMALL, kvDtype: "q8", poolStartTokens: 4096, maxRequests: 1 };
    const large = await TestSession.load(env.gpu, bytes, options);
    const gpu = await shortGpu(1);
    const file = await openModel([openBytes(bytes, "model.gguf")]);
    const session = await TestSession.open(gpu, file, options);
    try {
      for (let index = 0; index < 40; index++) {
        const ask = (of: TestSession) => of.generate(tokensOf(index, 20), { maxTokens: 2 }).done;
        equal((await ask(session)).tokens, (await ask(large)).tokens, `tokens of request ${index}`);
      }
      const { states, pool, plan } = session.session.runner;
      equal(pool.partial.slots, plan.startTails, "tails");
      equal(statesOf(session), plan.states.startSlots, "states, which grow with tails alone");
      const notices = session.posted.flatMap((message) =>
        message.type === "notice" ? [message.notice] : [],
      );
      equal(
        notices.map(({ code, message }) => [code, /last blocks in exact form/.test(message)]),
        [["pool_full", true]],
        "notices",
      );
      equal(states.slots < large.session.runner.states.slots, true, "fewer than with memory");
      session.checkIdle();
    } finally {
      await session.close();
      await large.close();
      gpu.device.destroy();
    }
  },
};

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    if (error instanceof TidepoolError) return error.code;
    throw error;
  }
}

const scoreCase: Case = {
  name: "model/pool-growth/what is scored makes it grow too",
  async run(env) {
    const session = await TestSession.load(env.gpu, await env.shared(STORIES), SMALL);
    try {
      const { tokens } = tokensOf(1, 200);
      await session.session.call({ method: "score", tokens, from: 0, logits: false });
      equal((await blocksOf(session)) >= 13, true, "grown");
      session.checkIdle();
    } finally {
      await session.close();
    }
  },
};

/** What is planned for the golden model is what it takes. */
function planCase(model: string, path: string): Case {
  return {
    name: `model/pool-growth/${model} takes what was planned, and memoryBytes is kept`,
    async run(env) {
      const bytes = await env.shared(path);
      await checkPlan(env, bytes);
      const file = await openModel([openBytes(bytes, "model.gguf")]);
      const options = runnerOptions(env.gpu, SMALL);
      const plan = planMemory(file, shapeOf(file), options);
      const half = plan.startBytes + (plan.maxBytes - plan.startBytes) / 2;
      const less = planMemory(file, shapeOf(file), { ...options, memoryBytes: half, poolMayBeLess: true });
      equal(less.maxBlocks < plan.maxBlocks && less.maxBytes <= half, true, "a pool that fits");
      const load = (memoryBytes: number) => TestSession.load(env.gpu, bytes, { ...SMALL, memoryBytes });
      equal(await codeOf(load(Math.floor(half))), "out_of_memory", "poolTokens that do not fit");
      equal(await codeOf(load(100_000)), "out_of_memory", "weights that do not fit");
    },
  };
}

async function checkPlan(env: CaseEnv, bytes: Uint8Array): Promise<void> {
  const session = await TestSession.load(env.gpu, bytes, SMALL);
  const { plan, memory } = session.session.runner;
  await session.close();
  equal(
    [plan.stateStartBytes, plan.statePoolBytes],
    [memory.statePoolBytes, memory.stateMaxBytes],
    "bytes of states",
  );
  const { stateMaxBytes: _most, ...now } = memory;
  const taken = Object.values(now).reduce((sum, each) => sum + each, 0);
  const ratio = plan.startBytes / taken;
  if (ratio < 0.9 || ratio > 1.2) {
    throw new Error(
      `${plan.startBytes} bytes planned and ${taken} taken: ${JSON.stringify({ plan, memory })}`,
    );
  }
}

export const cases: Case[] = [
  growthCase("stories260K", STORIES, false),
  { ...growthCase("stories260K", STORIES, true), full: true },
  growthCase("lfm2", HYBRID, true),
  shortCase,
  shortStatesCase,
  shortTailsCase,
  scoreCase,
  planCase("stories260K", STORIES),
  planCase("lfm2", HYBRID),
];
