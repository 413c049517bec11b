/**
 * Steps that the GPU drops or refuses, and requests whose numbers are not finite. Whatever fails, other requests end with
 * the tokens that they have alone, and nothing that was computed by what failed is served from any tier.
 */
import { TidepoolError } from "../../src/errors.ts";
import { findProvider, openGpu } from "../../src/gpu/device.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type {
  EngineOptions,
  GenerateParams,
  KvDtype,
  RequestInput,
  ScoreResult,
} from "../../src/wire/protocol.ts";
import { withNumbers } from "../support/broken-model.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { FaultyGpu, type Fault } from "../support/faulty-gpu.ts";
import { TestSession } from "../support/session.ts";

/** Both have a matrix of logits that is not the embedding's. Their vocabulary is 96 tokens, 64 numbers each. */
const LLAMA = "goldens/models/llama/model.gguf";
const HYBRID = "goldens/models/falconh1/model.gguf";
const HIDDEN = 64;

/** A token that no prompt has unless it is put there. */
const BAD = 95;

const OPTIONS: EngineOptions = {
  ...{ dtype: "f32", blockTokens: 16, chunkTokens: 32, maxRequests: 3, poolTokens: 768 },
  cache: { restore: "load" },
};

const MORE = { maxTokens: 12 } as const satisfies GenerateParams;

function promptOf(start: number, length: number): number[] {
  return Array.from({ length }, (_, index) => (start + 7 * index + ((index * index) % 11)) % 90);
}

const asked = (tokens: readonly number[]): RequestInput => ({ kind: "tokens", tokens });

const PROMPTS = [promptOf(1, 100), promptOf(2, 37), promptOf(3, 70)];
const SHORTEST = 1;

interface Bench {
  session: TestSession;
  faulty: FaultyGpu;
  store: TierStore;
  close(): Promise<void>;
}

async function open(env: CaseEnv, model: Uint8Array, options: EngineOptions = OPTIONS): Promise<Bench> {
  const gpu = await openGpu(await findProvider(), { subgroups: env.gpu.features.subgroups });
  const faulty = new FaultyGpu(gpu);
  const store = await TierStore.open({ ramBytes: 2 ** 26 });
  const session = await TestSession.load(faulty.gpu, model, options, store);
  return {
    ...{ session, faulty, store },
    async close() {
      await session.close();
      gpu.device.destroy();
    },
  };
}

async function withBench(
  env: CaseEnv,
  model: Uint8Array,
  options: EngineOptions,
  run: (bench: Bench) => Promise<void>,
): Promise<void> {
  const bench = await open(env, model, options);
  try {
    await run(bench);
    bench.session.checkIdle();
  } finally {
    await bench.close();
  }
}

/** The tokens of each prompt as they are without a fault and without a cache. */
async function undisturbed({ session }: Bench, prompts: readonly number[][]): Promise<number[][]> {
  const all: number[][] = [];
  for (const prompt of prompts)
    all.push((await session.generate(asked(prompt), { ...MORE, cache: "off" }).done).tokens);
  return all;
}

/** Each prompt again, from the GPU and from RAM. */
async function checkServed(bench: Bench, prompts: readonly number[][], expected: number[][]): Promise<void> {
  const { session } = bench;
  for (const when of ["from the GPU", "from RAM", "from RAM again"]) {
    await session.session.mover?.drain(5000);
    if (when !== "from the GPU") session.session.scheduler.forget();
    for (const [index, prompt] of prompts.entries()) {
      const { tokens } = await session.generate(asked(prompt), MORE).done;
      equal(tokens, expected[index], `prompt ${index} ${when}`);
    }
  }
}

async function errorOf(promise: Promise<unknown>): Promise<TidepoolError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof TidepoolError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

type Moment = readonly [Fault, "prefill" | "decode"];

/** The two halves of all faults at all moments: the normal run tries one with each model, which holds every pair. */
const HALVES: readonly (readonly Moment[])[] = [
  [
    ["dropped", "prefill"],
    ["refused", "decode"],
  ],
  [
    ["refused", "prefill"],
    ["dropped", "decode"],
  ],
];

function faultCase(
  model: string,
  path: string,
  moments: readonly Moment[],
  full: boolean,
  kvDtype: KvDtype = "f32",
): Case {
  const what = moments.map((moment) => moment.join(" in ")).join(" or ");
  return {
    name: `model/failed-steps/${model}${kvDtype === "f32" ? "" : ` in ${kvDtype}`}: a step that is ${what} is computed again`,
    full,
    run: async (env) =>
      withBench(env, await env.shared(path), { ...OPTIONS, kvDtype }, async (bench) => {
        const expected = await undisturbed(bench, PROMPTS);
        for (const [index, [fault, when]] of moments.entries()) {
          await bench.session.session.mover?.store.clear();
          bench.session.session.scheduler.forget();
          const results = await disturbed(bench, fault, when);
          equal(bench.faulty.faults, index + 1, "faults");
          equal(results, expected, `tokens, ${fault} in ${when}`);
          await checkServed(bench, PROMPTS, expected);
        }
      }),
  };
}

async function disturbed(bench: Bench, fault: Fault, when: "prefill" | "decode"): Promise<number[][]> {
  let isArmed = when === "prefill";
  if (isArmed) bench.faulty.arm(fault, "step");
  const requests = PROMPTS.map((prompt) =>
    bench.session.generate(asked(prompt), MORE, () => {
      if (!isArmed) bench.faulty.arm(fault, "step");
      isArmed = true;
    }),
  );
  return (await Promise.all(requests.map(({ done }) => done))).map(({ tokens }) => tokens);
}

const twiceCase: Case = {
  name: "model/failed-steps/a request whose step fails twice ends by an error, and the others go on",
  run: async (env) =>
    withBench(env, await env.shared(LLAMA), OPTIONS, async (bench) => {
      const expected = await undisturbed(bench, PROMPTS);
      bench.faulty.arm("refused", "step", 3); // two are in flight at once
      const requests = PROMPTS.map((prompt) => bench.session.generate(asked(prompt), MORE));
      // The shortest goes first.
      const failing = requests.splice(SHORTEST, 1)[0]!;
      const error = await errorOf(failing.done);
      equal([error.code, error.details["request"]], ["gpu_failed", failing.id], "error");
      equal(error.message.includes("the GPU refused a prefill step"), true, error.message);
      const results = await Promise.all(requests.map(({ done }) => done));
      equal(
        results.map(({ tokens }) => tokens),
        expected.toSpliced(SHORTEST, 1),
        "tokens of the others",
      );
      await checkServed(bench, PROMPTS, expected);
    }),
};

/**
 * GPU work beside the steps: each label in turn, in one session. A prefix is in the pool before; the next turn of the
 * conversation goes on from what the work has left, on the GPU and below.
 */
function besideCase(model: string, path: string, works: readonly (readonly [string, Fault])[]): Case {
  const prompt = PROMPTS[0]!;
  return {
    name: `model/failed-steps/${model}: work beside the steps that is dropped or refused changes no token`,
    run: async (env) =>
      withBench(env, await env.shared(path), { ...OPTIONS, poolStartTokens: 48 }, async (bench) => {
        const { mover, scheduler } = bench.session.session;
        const ask = async (tokens: number[], cache: "off" | "disk" = "disk") =>
          (await bench.session.generate(asked(tokens), { ...MORE, cache }).done).tokens;
        await bench.session.generate(asked(prompt.slice(0, 40)), { maxTokens: 1 }).done;
        const served: number[][][] = [];
        for (const [index, [label, fault]] of works.entries()) {
          bench.faulty.arm(fault, label);
          const first = await ask(prompt);
          equal(bench.faulty.faults, index + 1, `faults of ${label}`);
          const next = [...prompt, ...first, 1, 2, 3];
          const answers = [first, await ask(next)];
          await mover?.drain(5000);
          scheduler.forget();
          served.push([...answers, await ask(next)]);
          await mover?.store.clear();
          scheduler.forget();
        }
        const first = await ask(prompt, "off");
        const second = await ask([...prompt, ...first, 1, 2, 3], "off");
        for (const [index, answers] of served.entries())
          equal(answers, [first, second, second], `tokens after ${works[index]!.join(" ")}`);
      }),
  };
}

const scoreCase: Case = {
  name: "model/failed-steps/scoring whose step is dropped is computed again",
  run: async (env) =>
    withBench(env, await env.shared(LLAMA), OPTIONS, async ({ session, faulty }) => {
      const call = { method: "score", tokens: PROMPTS[0]!, from: 20, logits: false } as const;
      const before = (await session.session.call(call)) as ScoreResult;
      session.session.scheduler.forget();
      faulty.arm("dropped", "step");
      const after = (await session.session.call(call)) as ScoreResult;
      equal(faulty.faults, 1, "faults");
      equal(after.logprobs, before.logprobs, "log-probabilities");
    }),
};

async function withBadToken(env: CaseEnv, path: string): Promise<Uint8Array> {
  const row = Array.from({ length: HIDDEN }, (_, index) => BAD * HIDDEN + index);
  return withNumbers(await env.shared(path), "token_embd.weight", row.slice(5, 6), NaN);
}

/** Together, so that the ones behind begin on blocks of the one that fails. */
function badTokenCase(model: string, path: string, dtype: "f32" | "f16", at: number): Case {
  const shared = PROMPTS[0]!;
  const bad = [...shared.slice(0, at), BAD, ...promptOf(4, 9)];
  const prompts = [[...shared, 1, 2, 3], PROMPTS[1]!, [...shared.slice(0, 64), 9, 8, 7]];
  return {
    name: `model/failed-steps/${model} ${dtype}: one request of not finite numbers at token ${at} ends alone`,
    needs: { f16: dtype === "f16" },
    run: async (env) =>
      withBench(env, await withBadToken(env, path), { ...OPTIONS, dtype }, async (bench) => {
        const { session, store } = bench;
        const expected = await undisturbed(bench, prompts);
        for (let round = 0; round < 2; round++) {
          const failing = session.generate(asked(bad), MORE);
          const others = prompts.map((prompt) => session.generate(asked(prompt), MORE));
          const error = await errorOf(failing.done);
          equal([error.code, error.details["request"]], ["not_finite", failing.id], "error");
          checkPosition(error, at);
          const results = await Promise.all(others.map(({ done }) => done));
          equal(
            results.map(({ tokens }) => tokens),
            expected,
            "tokens of the others",
          );
          session.session.scheduler.check();
        }
        await session.session.mover?.drain(5000);
        checkForgotten(bench, bad, at);
        equal(store.list().length > 0, true, "records of the others");
        await checkServed(bench, prompts, expected);
        const call = { method: "score", tokens: bad, from: 0, logits: false } as const;
        equal((await errorOf(session.session.call(call))).code, "not_finite", "scoring");
        equal((await errorOf(session.session.warm(bad))).code, "not_finite", "warming");
      }),
  };
}

/** Attention looks at up to 16 rows together. */
function checkPosition({ details }: TidepoolError, at: number): void {
  const position = details["position"] as number;
  if (!(position <= at && position > at - 16)) throw new Error(`position ${position}, expected ${at}`);
}

/** No tier has a block behind the last one that other prompts share. */
function checkForgotten({ session }: Bench, bad: readonly number[], at: number): void {
  const { cache, mover } = session.session;
  const goodBlocks = Math.floor(at / 16);
  const onGpu = cache.match(Int32Array.from(bad)).blocks.length;
  equal(onGpu <= goodBlocks, true, `${onGpu} blocks on the GPU, at most ${goodBlocks}`);
  const below = mover!.storedBlocks({ tokens: bad, storage: "disk" }, 0);
  equal(below <= goodBlocks, true, `${below} blocks below, at most ${goodBlocks}`);
}

/** A prefix that was computed, and found good, before the request that fails stays. */
const prefixCase: Case = {
  name: "model/failed-steps/a prefix computed before a request that fails stays in the cache",
  run: async (env) =>
    withBench(env, await withBadToken(env, LLAMA), OPTIONS, async ({ session }) => {
      const prefix = PROMPTS[0]!.slice(0, 48);
      await session.generate(asked([...prefix, 5]), { maxTokens: 1 }).done;
      const bad = [...prefix, ...promptOf(5, 60), BAD, 1, 2]; // its first chunk is good, and on its way down
      equal((await errorOf(session.generate(asked(bad), MORE).done)).code, "not_finite", "error");
      await session.session.mover?.drain(5000);
      equal(session.session.cache.match(Int32Array.from(bad)).tokens, 48, "tokens on the GPU");
      equal(session.session.mover!.storedBlocks({ tokens: bad, storage: "disk" }, 0), 3, "blocks below");
    }),
};

function normCase(dtype: "f32" | "f16", value: number): Case {
  return {
    name: `model/failed-steps/${value} in output_norm is an error in ${dtype}`,
    needs: { f16: dtype === "f16" },
    async run(env) {
      const model = await withNumbers(await env.shared(LLAMA), "output_norm.weight", [11], value);
      await withBench(env, model, { ...OPTIONS, dtype }, async ({ session }) => {
        const error = await errorOf(session.generate(asked(PROMPTS[1]!), MORE).done);
        equal([error.code, error.details["position"]], ["not_finite", PROMPTS[1]!.length - 1], "error");
        const call = { method: "score", tokens: PROMPTS[1]!, from: 0, logits: false } as const;
        equal((await errorOf(session.session.call(call))).code, "not_finite", "scoring");
      });
    },
  };
}

/** The same faults with the other model, type or number. */
const onlyFull: Case[] = [
  besideCase("falconh1", HYBRID, [
    ["read state", "dropped"],
    ["copy state", "refused"],
  ]),
  badTokenCase("llama", LLAMA, "f32", 90),
  badTokenCase("falconh1", HYBRID, "f32", 70),
  badTokenCase("falconh1", HYBRID, "f16", 90),
  normCase("f32", NaN),
  normCase("f16", NaN),
];

export const cases: Case[] = [
  // The hybrid with packed keys and values, which lie in more places.
  ...HALVES.flatMap((moments, half) => [
    faultCase("llama", LLAMA, moments, half !== 0),
    faultCase("falconh1", HYBRID, moments, half !== 1, "q4"),
  ]),
  ...HALVES.flatMap((moments) => [
    faultCase("llama", LLAMA, moments, true, "q8"),
    faultCase("falconh1", HYBRID, moments, true),
  ]),
  twiceCase,
  besideCase("llama", LLAMA, [
    ["grow the KV pool", "refused"],
    ["read slots", "dropped"],
    ["read slots", "refused"],
  ]),
  scoreCase,
  badTokenCase("llama", LLAMA, "f16", 40),
  prefixCase,
  normCase("f16", Infinity),
  ...onlyFull.map((one) => ({ ...one, full: true })),
];
