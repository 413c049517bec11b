/**
 * A device that is destroyed under a session: it loads the model on another, requests go on where they were and say what
 * they would have said, and a second loss within a minute is an error. Each case has devices of its own.
 */
import { openGpu, findProvider, type Gpu, type GpuOptions } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { TidepoolError } from "../../src/errors.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type {
  EngineOptions,
  GenerateParams,
  GenerationResult,
  KvDtype,
  RequestInput,
} from "../../src/wire/protocol.ts";
import type { RunnerOptions } from "../../src/model/runner.ts";
import { optionsAgain } from "../../src/worker/options.ts";
import type { Reopened } from "../../src/worker/recovery.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { shareOfExperts } from "./experts.cases.ts";
import { TestSession } from "../support/session.ts";

const STORIES = "goldens/stories260K/model.gguf";
const HYBRID = "goldens/models/lfm2/model.gguf";
const WITH_EXPERTS = "goldens/models/qwen3moe/model.gguf";

const OPTIONS: EngineOptions = { dtype: "f32", blockTokens: 16, chunkTokens: 32, maxRequests: 3 };

/** A session whose device may be lost; `gpus`: all that it has opened. */
interface Bench {
  session: TestSession;
  gpus: Gpu[];
  lose(): void;
  close(): Promise<void>;
}

interface BenchOptions {
  path?: string;
  engine?: EngineOptions;
  store?: TierStore;
  /** Awaited before a device is opened again. */
  beforeReopen?: () => Promise<void>;
  /** What the devices that come later are opened with. */
  laterGpu?: GpuOptions;
  /** What the caller asked for, where the device that comes back may do less. Default: nothing is chosen anew. */
  asked?: EngineOptions;
  /** Called with each device that is opened again. */
  onReopen?: (gpu: Gpu) => void;
}

async function open(env: CaseEnv, options: BenchOptions = {}): Promise<Bench> {
  const bytes = await env.shared(options.path ?? STORIES);
  const gpus: Gpu[] = [];
  const openAll = async (): Promise<Reopened> => {
    const gpu = await openGpu(await findProvider(), gpus.length > 0 ? options.laterGpu : {});
    gpus.push(gpu);
    const file = await openModel([openBytes(bytes, "model.gguf")]);
    const { asked } = options;
    const again = asked && ((before: RunnerOptions) => optionsAgain(gpu, asked, before));
    return { gpu, file, close: () => file.close(), ...(again && { again }) };
  };
  const first = await openAll();
  const session = await TestSession.open(first.gpu, first.file, options.engine ?? OPTIONS, options.store, {
    reopen: async () => {
      await options.beforeReopen?.();
      const opened = await openAll();
      options.onReopen?.(opened.gpu);
      return opened;
    },
  });
  return {
    ...{ session, gpus },
    lose: () => session.session.runner.gpu.device.destroy(),
    async close() {
      await session.close();
      for (const { device } of gpus) device.destroy();
    },
  };
}

const text = (prompt: string) => ({ kind: "text", text: prompt }) as const;

/** A prompt as it is, or where the model has no tokenizer as a token a letter, as far as its context goes. */
type Ask = (prompt: string) => RequestInput;

const letters: Ask = (prompt) => ({
  kind: "tokens",
  tokens: [...prompt].slice(0, 200).map((c) => c.charCodeAt(0) % 96),
});

const LONG = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ";

const PROMPTS = [
  `1 ${LONG.repeat(2)}`,
  "Tim had a red ball.",
  `3 ${LONG.repeat(4)}`,
  "The cat sat on",
  `5 ${LONG}`,
];

/** Greedy and sampled ones, more of them than there are seats. */
const paramsOf = (index: number): GenerateParams =>
  index % 2 === 0
    ? { maxTokens: 24 }
    : { maxTokens: 24, temperature: 0.8, seed: 7 + index, repetitionPenalty: 1.1, logprobs: 0 };

async function undisturbed(
  bench: Bench,
  prompts: readonly string[],
  ask: Ask = text,
): Promise<GenerationResult[]> {
  const results = [];
  for (const [index, prompt] of prompts.entries()) {
    results.push(await bench.session.generate(ask(prompt), { ...paramsOf(index), cache: "off" }).done);
  }
  return results;
}

/** Runs the prompts together and loses the device when the request `at` has `tokens` tokens. */
async function disturbed(
  bench: Bench,
  prompts: readonly string[],
  [at, tokens]: readonly [number, number],
  ask: Ask,
): Promise<{ results: GenerationResult[]; streamed: string[] }> {
  let isLost = false;
  const requests = prompts.map((prompt, index) => {
    const request = bench.session.generate(ask(prompt), paramsOf(index), () => {
      if (index !== at || isLost || request.steps.length < tokens) return;
      isLost = true;
      bench.lose();
    });
    return request;
  });
  const results = await Promise.all(requests.map(({ done }) => done));
  return { results, streamed: requests.map(({ steps }) => steps.map((step) => step.text).join("")) };
}

function checkSame(
  after: { results: readonly GenerationResult[]; streamed: readonly string[] },
  before: readonly GenerationResult[],
): void {
  equal(
    after.results.map((result) => result.tokens),
    before.map((result) => result.tokens),
    "tokens",
  );
  equal(
    after.streamed,
    before.map((result) => result.text),
    "streamed text",
  );
  for (const { usage } of after.results) {
    const { gpu, ram, disk } = usage.cachedTokens;
    equal(usage.computedTokens + gpu + ram + disk, usage.promptTokens, "sum of usage");
  }
}

function checkRecovered(bench: Bench, losses: number): void {
  equal(bench.gpus.length, 1 + losses, "devices");
  const notices = bench.session.posted.filter((message) => message.type === "notice");
  equal(
    notices.map(({ notice }) => notice.code),
    Array<string>(losses).fill("device_recovered"),
    "notices",
  );
  bench.session.checkIdle();
}

interface MidStream {
  model: string;
  path: string;
  ask: Ask;
  /** A share of the model's experts, the only ones on the GPU. */
  experts?: number;
  kvDtype?: KvDtype;
}

function midStreamCase(
  { model, path, ask, experts, kvDtype = "f32" }: MidStream,
  at: readonly [number, number],
  when: string,
): Case {
  return {
    name: `model/device-loss/${model}, five requests on three seats, lost ${when}`,
    async run(env) {
      const expertMemory =
        experts === undefined ? undefined : await shareOfExperts(await env.shared(path), experts);
      const engine = { ...OPTIONS, kvDtype, ...(expertMemory !== undefined && { expertMemory }) };
      const bench = await open(env, { path, engine });
      try {
        equal(
          bench.session.session.runner.experts !== undefined,
          experts !== undefined,
          "experts off the GPU",
        );
        const before = await undisturbed(bench, PROMPTS, ask);
        checkSame(await disturbed(bench, PROMPTS, at, ask), before);
        checkRecovered(bench, 1);
        const after = await undisturbed(bench, PROMPTS.slice(0, 1), ask);
        checkSame({ results: after, streamed: [before[0]!.text] }, before.slice(0, 1));
        bench.session.session.runner.experts?.cache.check();
      } finally {
        await bench.close();
      }
    },
  };
}

function again(bench: Bench): Promise<GenerationResult> {
  return bench.session.generate(text(PROMPTS[0]!), paramsOf(0)).done;
}

/** The outcome of a promise that must fail. */
async function errorOf(promise: Promise<unknown>): Promise<TidepoolError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof TidepoolError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

const duringPrefill: Case = {
  name: "model/device-loss/in the first chunks of a prompt, and while nothing runs",
  async run(env) {
    const bench = await open(env);
    try {
      const [, , before] = await undisturbed(bench, PROMPTS.slice(0, 3));
      const running = bench.session.generate(text(PROMPTS[2]!), paramsOf(2));
      while (bench.session.session.scheduler.usedBlocks === 0) await turn();
      bench.lose();
      equal((await running.done).tokens, before!.tokens, "tokens");
      checkRecovered(bench, 1);
    } finally {
      await bench.close();
    }
  },
};

const idleCase: Case = {
  name: "model/device-loss/while nothing runs; then from RAM on the new device",
  async run(env) {
    const store = await TierStore.open({ ramBytes: 2 ** 26 });
    const engine = { ...OPTIONS, cache: { restore: "load" } } as const;
    const bench = await open(env, { store, engine });
    try {
      const before = await again(bench);
      await bench.session.session.mover?.drain(5000);
      bench.lose();
      const after = await again(bench);
      equal(after.tokens, before.tokens, "tokens");
      equal(after.usage.cachedTokens.gpu, 0, "tokens from the GPU that is gone");
      equal(after.usage.cachedTokens.ram >= 16, true, "tokens from RAM");
      checkRecovered(bench, 1);
    } finally {
      await bench.close();
    }
  },
};

const secondCase: Case = {
  name: "model/device-loss/a second loss within a minute is an error, and nothing is tried again",
  async run(env) {
    const bench = await open(env);
    try {
      bench.lose();
      await again(bench);
      const running = bench.session.generate(text(PROMPTS[0]!), { maxTokens: 200 }, () => bench.lose());
      const waiting = bench.session.generate(text(PROMPTS[1]!), { maxTokens: 4 });
      for (const { done } of [running, waiting]) equal((await errorOf(done)).code, "device_lost", "code");
      equal((await errorOf(again(bench))).code, "device_lost", "code of a later request");
      checkRecovered(bench, 1);
      const failed = bench.session.posted.filter((message) => message.type === "failed");
      equal(
        failed.map(({ error }) => error.code),
        ["device_lost"],
        "failures",
      );
    } finally {
      await bench.close();
    }
  },
};

const lostAgainCase: Case = {
  name: "model/device-loss/lost again while the model is loaded again",
  async run(env) {
    const bench = await open(env, { onReopen: ({ device }) => device.destroy() });
    try {
      const running = bench.session.generate(text(PROMPTS[0]!), { maxTokens: 50 }, () => bench.lose());
      equal((await errorOf(running.done)).code, "device_lost", "code");
      equal(bench.gpus.length, 2, "devices");
    } finally {
      await bench.close();
    }
  },
};

const closeCase: Case = {
  name: "model/device-loss/close while the model is loaded again",
  async run(env) {
    let reached: () => void = () => {};
    const isReopening = new Promise<void>((resolve) => (reached = resolve));
    const bench = await open(env, { beforeReopen: () => Promise.resolve(reached()) });
    const running = bench.session.generate(text(PROMPTS[0]!), { maxTokens: 50 }, () => bench.lose());
    await isReopening;
    await bench.close();
    equal((await running.done).finishReason, "aborted", "finish reason");
    equal(
      bench.session.posted.some(({ type }) => type === "failed"),
      false,
      "told as a failure",
    );
  },
};

const scoreCase: Case = {
  name: "model/device-loss/while tokens are scored",
  async run(env) {
    const bench = await open(env);
    try {
      const tokens = Array.from({ length: 100 }, (_, index) => 3 + ((index * 37) % 400));
      const ask = () => bench.session.session.call({ method: "score", tokens, from: 0, logits: false });
      const before = (await ask()) as { logprobs: number[] };
      bench.session.session.scheduler.forget();
      const scoring = ask();
      await turn();
      bench.lose();
      const after = (await scoring) as { logprobs: number[] };
      equal(after.logprobs, before.logprobs, "log-probabilities");
      checkRecovered(bench, 1);
    } finally {
      await bench.close();
    }
  },
};

/** Greedy tokens that a fresh session gives behind these. */
async function continued(env: CaseEnv, engine: EngineOptions, tokens: readonly number[], count: number) {
  const bench = await open(env, { engine });
  try {
    return (await bench.session.generate({ kind: "tokens", tokens }, { maxTokens: count }).done).tokens;
  } finally {
    await bench.close();
  }
}

const noF16Case: Case = {
  name: "model/device-loss/f16 by our own choice, and the device that comes back has none: on in f32",
  needs: { f16: true },
  async run(env) {
    const store = await TierStore.open({ ramBytes: 2 ** 26 });
    const engine = { ...OPTIONS, dtype: "f16", cache: { restore: "load" } } as const;
    const bench = await open(env, { store, engine, laterGpu: { f16: false }, asked: { dtype: "auto" } });
    const ask = () => bench.session.generate(text(PROMPTS[0]!), { maxTokens: 24 });
    try {
      const { mover } = bench.session.session;
      await ask().done;
      await mover?.drain(5000);
      const [stored, fingerprint] = [store.list().length, mover?.fingerprint];
      let isLost = false;
      const running = bench.session.generate(text(PROMPTS[0]!), { maxTokens: 24 }, () => {
        if (isLost || running.steps.length < 8) return;
        isLost = true;
        bench.lose();
      });
      const { tokens, usage } = await running.done;
      equal(tokens.length, 24, "tokens");
      const { dtype, kvDtype } = bench.session.session.info.kernels;
      equal([dtype, kvDtype], ["f32", "f32"], "types after the loss");
      checkRecovered(bench, 1);
      // What it says after the loss is what f32 says behind what it had said before.
      const before = running.steps.slice(0, 8).flatMap((step) => step.tokens);
      const prompt = (await bench.session.session.call({
        method: "tokenize",
        text: PROMPTS[0]!,
      })) as number[];
      const bos = usage.promptTokens > prompt.length ? [1] : [];
      const f32 = { ...OPTIONS, dtype: "f32" } as const;
      const rest = await continued(env, f32, [...bos, ...prompt, ...before], 24 - before.length);
      equal(tokens.slice(before.length), rest, "tokens after the loss");
      // What f16 has stored is neither found nor overwritten.
      equal(mover?.fingerprint === fingerprint, false, "the same fingerprint for f16 and f32");
      await mover?.drain(5000);
      equal(store.list().length >= 2 * stored, true, "records of both");
      const again = await ask().done;
      equal(again.usage.cachedTokens.gpu > 0, true, "tokens from the GPU");
      bench.session.session.scheduler.forget();
      const restored = await ask().done;
      equal(restored.usage.cachedTokens.ram >= 16, true, "tokens from RAM, of f32");
      equal(restored.tokens, again.tokens, "tokens");
    } finally {
      await bench.close();
    }
  },
};

/** f16 and a pool of 40 blocks of 16 tokens; in f32 the same bytes are 20 blocks. */
const SMALL_POOL: EngineOptions = { ...OPTIONS, dtype: "f16", poolBytes: 40 * 16 * 640 };

const smallerPoolCase: Case = {
  name: "model/device-loss/the device that comes back holds half the tokens: what fits goes on, the rest is told",
  needs: { f16: true },
  async run(env) {
    const tokensOf = (start: number, count: number) =>
      Array.from({ length: count }, (_, index) => 3 + ((start + index * 37) % 400));
    const prompts = [tokensOf(1, 290), tokensOf(2, 300), tokensOf(3, 380), tokensOf(4, 20)];
    const plain = await open(env, { engine: { ...OPTIONS, dtype: "f32" } });
    const expected: number[][] = [];
    for (const tokens of prompts)
      expected.push((await plain.session.generate({ kind: "tokens", tokens }, { maxTokens: 8 }).done).tokens);
    await plain.close();
    const bench = await open(env, { engine: SMALL_POOL, laterGpu: { f16: false }, asked: { dtype: "auto" } });
    const { session } = bench.session;
    try {
      equal(session.scheduler.capacityTokens, 640, "tokens at first");
      const ask = (prompt: number[]) =>
        bench.session.generate({ kind: "tokens", tokens: prompt }, { maxTokens: 8 }).done;
      const running = prompts.map(ask);
      for (const each of running) each.catch(() => {});
      while (session.scheduler.usedBlocks === 0) await turn();
      bench.lose();
      const error = await errorOf(running[2]!);
      equal([error.code, error.details["capacityTokens"]], ["out_of_memory", 320], "too long for the pool");
      for (const index of [0, 1, 3])
        equal((await running[index]!).tokens, expected[index], `tokens of request ${index}`);
      const { slots } = session.runner.pool;
      equal(slots <= 20 && session.scheduler.poolTokens === 16 * slots, true, "pool and accounts");
      checkRecovered(bench, 1);
      equal((await errorOf(ask(prompts[2]!))).code, "too_long", "a later request");
      equal((await ask(prompts[1]!)).tokens, expected[1], "a later request that fits");
    } finally {
      await bench.close();
    }
  },
};

const askedF16Case: Case = {
  name: "model/device-loss/f16 that was asked for, and the device that comes back has none: an error that says so",
  needs: { f16: true },
  async run(env) {
    const engine = { ...OPTIONS, dtype: "f16" } as const;
    const bench = await open(env, { engine, laterGpu: { f16: false }, asked: engine });
    try {
      const running = bench.session.generate(text(PROMPTS[0]!), { maxTokens: 50 }, () => bench.lose());
      const { code, message } = await errorOf(running.done);
      equal(code, "device_lost", "code");
      equal(/dtype "f16" was asked for.*has no shader-f16/.test(message), true, `message "${message}"`);
    } finally {
      await bench.close();
    }
  },
};

const otherModelCase: Case = {
  name: "model/device-loss/a file that has changed since is not loaded in place of the model",
  async run(env) {
    const [bytes, other] = [await env.shared(STORIES), await env.shared(HYBRID)];
    const files = [bytes, other];
    const gpus: Gpu[] = [];
    const openNext = async (): Promise<Reopened> => {
      gpus.push(await openGpu(await findProvider()));
      const file = await openModel([openBytes(files[gpus.length - 1]!, "model.gguf")]);
      return { gpu: gpus.at(-1)!, file, close: () => file.close() };
    };
    const { gpu, file } = await openNext();
    const session = await TestSession.open(gpu, file, OPTIONS, undefined, { reopen: openNext });
    try {
      gpu.device.destroy();
      const error = await errorOf(session.generate(text("Tim"), { maxTokens: 4 }).done);
      equal(error.code, "device_lost", "code");
      equal(error.message.includes("has changed since"), true, `message "${error.message}"`);
    } finally {
      await session.close();
      for (const { device } of gpus) device.destroy();
    }
  },
};

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1));
}

/** Other moments and models of what the cases of the normal run lose. */
const onlyFull: Case[] = [
  midStreamCase({ model: "stories260K", path: STORIES, ask: text }, [0, 5], "in mid-stream"),
  midStreamCase({ model: "stories260K", path: STORIES, ask: text }, [1, 22], "near the end of some"),
  midStreamCase(
    { model: "a quarter of qwen3moe's experts", path: WITH_EXPERTS, ask: letters, experts: 1 / 4 },
    [0, 5],
    "in mid-stream",
  ),
  midStreamCase(
    { model: "stories260K in q8", path: STORIES, ask: text, kvDtype: "q8" },
    [0, 5],
    "in mid-stream",
  ),
  midStreamCase({ model: "lfm2", path: HYBRID, ask: letters }, [0, 5], "in mid-stream"),
  duringPrefill,
  lostAgainCase,
  scoreCase,
  smallerPoolCase,
];

export const cases: Case[] = [
  midStreamCase({ model: "lfm2 in q4", path: HYBRID, ask: letters, kvDtype: "q4" }, [0, 5], "in mid-stream"),
  idleCase,
  secondCase,
  closeCase,
  noF16Case,
  askedF16Case,
  otherModelCase,
  ...onlyFull.map((one) => ({ ...one, full: true })),
];
