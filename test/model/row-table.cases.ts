/**
 * A table of per-layer embeddings off the GPU: read row by row from the file, or kept in RAM while that is on its way. What is
 * generated is what a table on the GPU gives, for one request and for several at once; a file that cannot be read any more
 * ends the requests with its error, and no others.
 */
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes, type Source } from "../../src/load/source.ts";
import { TidepoolError } from "../../src/errors.ts";
import type { EngineOptions } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";

const OPTIONS: EngineOptions = { dtype: "f32", blockTokens: 16, chunkTokens: 16, maxRequests: 3 };

const promptOf = (number: number, length: number) =>
  ({ kind: "tokens", tokens: Array.from({ length }, (_, i) => (i * 31 + number * 17) % 90) }) as const;

/** Requests that overlap: prompts of several chunks, drawn and greedy. */
async function generateAll(session: TestSession): Promise<readonly (readonly number[])[]> {
  const check = () => session.session.scheduler.check();
  const requests = [40, 7, 33, 18].map((length, index) => {
    const params = { maxTokens: 12, temperature: index % 2, seed: index };
    return session.generate(promptOf(index, length), params, check).done;
  });
  return (await Promise.all(requests)).map(({ tokens }) => tokens);
}

async function withSession<T>(
  env: CaseEnv,
  source: Source,
  options: EngineOptions,
  use: (session: TestSession) => Promise<T>,
): Promise<T> {
  const file: ModelFile = await openModel([source]);
  const session = await TestSession.open(env.gpu, file, { ...OPTIONS, ...options });
  try {
    return await use(session);
  } finally {
    await session.close();
  }
}

async function sameTokens(env: CaseEnv): Promise<void> {
  const model = await env.shared("goldens/models/gemma4/model.gguf");
  let reads = 0;
  const atHand = openBytes(model, "model.gguf");
  const counted: Source = {
    ...atHand,
    read: (offset, length, signal) => (reads++, atHand.read(offset, length, signal)),
  };
  const onTheWay: Source = { ...atHand, isAtHand: false };
  const expected = await withSession(env, atHand, { tables: "gpu" }, async (session) => {
    equal(session.session.runner.plan.offGpuBytes, 0, "bytes off the GPU");
    return generateAll(session);
  });
  for (const source of [counted, onTheWay]) {
    await withSession(env, source, { tables: "file" }, async (session) => {
      const before = reads;
      const { runner, info } = session.session;
      equal(runner.plan.offGpuBytes > 0, true, "the table is off the GPU");
      equal(runner.readsFile, source === counted, "whether rows are read from the file");
      equal(info.capabilities.map(({ code }) => code).includes("table_off_gpu"), true, "it is told");
      equal(await generateAll(session), expected, "generated tokens");
      if (source === counted) equal(reads > before, true, "rows were read");
    });
  }
}

/** Too little memory for the whole model keeps the table off the GPU, unasked. */
async function byMemory(env: CaseEnv): Promise<void> {
  const source = openBytes(await env.shared("goldens/models/gemma4/model.gguf"), "model.gguf");
  const pool = { poolTokens: 512 };
  const whole = await withSession(env, source, pool, (session) =>
    Promise.resolve(session.session.runner.plan),
  );
  equal(whole.offGpuBytes, 0, "bytes off the GPU with memory enough");
  const memoryBytes = whole.maxBytes - 1000;
  const less = await withSession(env, source, { ...pool, memoryBytes }, (session) =>
    Promise.resolve(session.session.runner.plan),
  );
  equal(less.offGpuBytes > 0 && less.maxBytes <= memoryBytes, true, "the table makes room");
}

async function brokenFile(env: CaseEnv): Promise<void> {
  const atHand = openBytes(await env.shared("goldens/models/gemma4/model.gguf"), "model.gguf");
  let isBroken = false;
  const breaking: Source = {
    ...atHand,
    read: (offset, length, signal) =>
      isBroken
        ? Promise.reject(new TidepoolError("source", "model.gguf has changed"))
        : atHand.read(offset, length, signal),
  };
  await withSession(env, breaking, { tables: "file" }, async (session) => {
    const expected = await session.generate(promptOf(1, 20), { maxTokens: 4 }).done;
    isBroken = true;
    const error = await session
      .generate(promptOf(5, 30), { maxTokens: 4 })
      .done.catch((each: unknown) => each);
    equal(error instanceof TidepoolError && error.code, "source", "code of the error");
    isBroken = false;
    const again = await session.generate(promptOf(1, 20), { maxTokens: 4 }).done;
    equal(again.tokens, expected.tokens, "tokens when the file is back");
    equal(
      session.session.check(),
      { requests: 0, blocks: session.session.check().blocks },
      "nothing is left",
    );
  });
}

export const cases: Case[] = [
  { name: "model/row-table/tokens are those of a table on the GPU", run: sameTokens },
  { name: "model/row-table/too little memory keeps a table off the GPU", run: byMemory },
  { name: "model/row-table/a file that cannot be read", run: brokenFile },
];
