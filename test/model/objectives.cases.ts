/**
 * Promises of time on a live engine: a request that cannot be kept is rejected with its reasons and takes nothing; what others are
 * promised changes no token; short prompts do not wait for long ones; what was learned of a machine is there the next time.
 */
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { findProvider, openGpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type {
  EngineStats,
  GenerateParams,
  GenerationResult,
  PredictedRequest,
  RequestInput,
} from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession, type TestOptions } from "../support/session.ts";

const OPTIONS: TestOptions = { dtype: "f32", chunkTokens: 64, maxRequests: 4 };

const NEVER: GenerateParams = { ttftMs: 0.001, maxTokens: 2 };

async function open(env: CaseEnv, options: TestOptions = {}): Promise<TestSession> {
  return TestSession.load(env.gpu, await env.shipped("tide-dense.gguf"), { ...OPTIONS, ...options });
}

function promptOf(random: Random, count: number): Extract<RequestInput, { kind: "tokens" }> {
  return { kind: "tokens", tokens: Array.from({ length: count }, () => 3 + random.below(500)) };
}

async function errorOf(work: Promise<unknown>): Promise<TidepoolError> {
  const error = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof TidepoolError) return error;
  throw new Error(`expected an error, got ${String(error)}`);
}

async function scheduleOf({ session }: TestSession): Promise<EngineStats["schedule"]> {
  return ((await session.call({ method: "stats" })) as EngineStats).schedule;
}

async function predicted(
  { session }: TestSession,
  input: RequestInput,
  params: GenerateParams = {},
): Promise<PredictedRequest> {
  return (await session.call({ method: "predict", input, params })) as PredictedRequest;
}

function isAbove(value: unknown, least: number, what: string): void {
  if (!(typeof value === "number" && value > least))
    throw new Error(`${what} is ${String(value)}, expected more than ${least}`);
}

export const cases: Case[] = [
  {
    name: "model/objectives/a rejection tells why and takes nothing",
    async run(env) {
      const session = await open(env);
      try {
        const random = new Random(1);
        const input = promptOf(random, 100);
        const error = await errorOf(session.generate(input, NEVER).done);
        const { reason, predictedMs, limitMs, retryAfterMs } = error.details;
        equal([error.code, reason, limitMs], ["rejected", "ttft", 0.001], "rejection");
        isAbove(predictedMs, 0.001, "predictedMs");
        isAbove(retryAfterMs, 0, "retryAfterMs");
        session.checkIdle();
        const { rejection, computedTokens } = await predicted(session, input, NEVER);
        equal([rejection?.reason, computedTokens], ["ttft", 100], "prediction");
        const { usage } = await session.generate(input, { maxTokens: 6, ttftMs: 1e6, tbtMs: 1e6 }).done;
        equal(
          [usage.pace?.kept, usage.cachedTokens.gpu],
          [true, 0],
          "accepted, and nothing of it was computed",
        );
        isAbove(usage.pace?.predicted?.ttftMs, 0, "predicted time to first token");
        isAbove(usage.pace?.tbtMs, 0, "time between tokens");
        const again = await predicted(session, input);
        equal([again.rejection, again.cachedTokens["gpu"]], [undefined, 96], "prediction, cached");
        const { accepted, goodput, errors } = await scheduleOf(session);
        equal([accepted, goodput.kept, goodput.rejected], [1, 1, { ttft: 1, tbt: 0, deadline: 0 }], "counts");
        equal(errors.ttft.count, 1, "predictions of first tokens");
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/objectives/without early rejection a request that waited too long is rejected, and only that",
    async run(env) {
      const session = await open(env, { objectives: { rejection: "none" } });
      try {
        const random = new Random(2);
        const long = session.generate(promptOf(random, 400), { maxTokens: 2 });
        const late = session.generate(promptOf(random, 450), { maxTokens: 2, ttftMs: 1 });
        const other = session.generate(promptOf(random, 460), { maxTokens: 2 });
        const { code, details } = await errorOf(late.done);
        equal([code, details["reason"], details["limitMs"]], ["rejected", "ttft", 1], "rejection");
        for (const { done } of [long, other]) equal((await done).finishReason, "length", "others");
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/objectives/tokens are the same beside others, in chunks of any size",
    async run(env) {
      const random = new Random(3);
      const prompts = [300, 20, 130, 64, 65, 7].map((length) => promptOf(random, length));
      const params = { maxTokens: 12, cache: "off" as const };
      const tokens = (results: GenerationResult[]) => results.map((result) => result.tokens);
      const session = await open(env, { chunkTokens: 512 });
      try {
        const expected: GenerationResult[] = [];
        for (const prompt of prompts) expected.push(await session.generate(prompt, params).done);
        for (const tbtMs of [undefined, 0.1, 25]) {
          // The first one decodes while the prompts of the others are computed; nobody judges what another engine accepted.
          const first = session.generate(prompts[0]!, { ...params, tbtMs }, () => {}, { tokens: [] });
          const others = prompts.slice(1).map((prompt) => session.generate(prompt, params));
          const results = await Promise.all([first, ...others].map(({ done }) => done));
          equal(tokens(results), tokens(expected), `tokens beside a request with tbtMs ${tbtMs}`);
        }
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/objectives/a short prompt overtakes a long one",
    async run(env) {
      const session = await open(env);
      try {
        const random = new Random(4);
        const order: string[] = [];
        const ask = (name: string, count: number) =>
          session.generate(promptOf(random, count), { maxTokens: 1 }, () => order.push(name)).done;
        await Promise.all([ask("long", 600), ask("longer", 700), ask("short", 20)]);
        equal(order, ["short", "long", "longer"], "order of first tokens");
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/objectives/a request that was accepted is not rejected when the device is lost",
    async run(env) {
      const bytes = await env.shipped("tide-dense.gguf");
      const gpus = [await openGpu(await findProvider())];
      const file = () => openModel([openBytes(bytes, "model.gguf")]);
      const reopen = async () => {
        const gpu = await openGpu(await findProvider());
        gpus.push(gpu);
        const opened = await file();
        return { gpu, file: opened, close: () => opened.close() };
      };
      const session = await TestSession.open(gpus[0]!, await file(), OPTIONS, undefined, { reopen });
      try {
        const random = new Random(5);
        const asked = [80, 200].map((count) =>
          session.generate(promptOf(random, count), { maxTokens: 4, ttftMs: 60_000, deadlineMs: 90_000 }),
        );
        session.session.runner.gpu.device.destroy();
        for (const { done } of asked) equal((await done).finishReason, "length", "accepted");
        session.checkIdle();
      } finally {
        await session.close();
        for (const { device } of gpus) device.destroy();
      }
    },
  },
  {
    name: "model/objectives/what was learned of the machine is there the next time",
    async run(env) {
      const bytes = await env.shipped("tide-dense.gguf");
      const backend = new KeptBackend();
      const load = async () => TestSession.load(env.gpu, bytes, OPTIONS, await backend.openStore());
      const input = promptOf(new Random(6), 200);
      const first = await load();
      await first.generate(input, { maxTokens: 4 }).done;
      const learned = first.session.costs.state();
      equal(learned.prefill.length > 0 && learned.decode.length > 0, true, "something was learned");
      await first.close();
      const second = await load();
      try {
        await second.session.mover?.drain(1000);
        const { prefill, decode } = second.session.costs.state();
        equal([prefill, decode], [learned.prefill, learned.decode], "measurements of the engine before");
      } finally {
        await second.close();
      }
    },
  },
];
