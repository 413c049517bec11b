/** The queue of texts that are to become vectors: batches, order, cutting, and whose failure is whose. */
import { describe, expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import { MAX_BINDING_BYTES } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { stepRows } from "../../src/model/memory.ts";
import type { FeedForward } from "../../src/shape/shape.ts";
import { runnerOptions } from "../../src/worker/options.ts";
import { fakeGpu } from "../support/fake-gpu.ts";
import { tinyEncoder } from "../support/tiny-encoder.ts";
import { Embeds, type Embedded, type EmbedRooms } from "../../src/worker/request/embed.ts";
import type { EmbedParams } from "../../src/wire/protocol.ts";

const LIMIT = 8;

interface Bench {
  embeds: Embeds;
  /** Lengths of the texts of each step. */
  steps: number[][];
  /** Ends the step under way. */
  go(): Promise<void>;
}

/** A text's vector is its token count and its first token. `gated`: a step ends when `go` is called. */
function bench(given: Partial<EmbedRooms> = {}, gated = false): Bench {
  const steps: number[][] = [];
  let open: () => void = () => {};
  const compute = async (texts: readonly (readonly number[])[]): Promise<Embedded[]> => {
    steps.push(texts.map(({ length }) => length));
    if (gated) await new Promise<void>((resolve) => (open = resolve));
    return texts.map((tokens) => Float32Array.of(tokens.length, tokens[0] as number));
  };
  const embeds = new Embeds({
    info: { dimensions: 2, pooling: "mean", maxTokens: LIMIT, tasks: ["query"] },
    tasks: { query: "q: " },
    ...{ stepTokens: LIMIT, stepTexts: 4, compute },
    encode: (text) =>
      Promise.resolve({
        tokens: [101, ...Array.from(text, (char) => char.charCodeAt(0)), 102],
        ...{ protectedTokens: 1, trailingTokens: 1 },
      }),
    checkTokens: (tokens) => {
      if (tokens.includes(-1))
        throw new TidepoolError("invalid_argument", "token -1 is not in the vocabulary");
    },
    ...given,
  });
  const go = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve));
    open();
    await new Promise((resolve) => setTimeout(resolve));
  };
  return { embeds, steps, go };
}

const RAW: EmbedParams = { normalise: false };

async function errorOf(work: Promise<unknown>): Promise<TidepoolError> {
  return (await work.catch((error: unknown) => error)) as TidepoolError;
}

test("vectors come in the order of the texts, long texts are computed first, as many at once as fit", async () => {
  const { embeds, steps } = bench();
  const inputs = [[1], [2, 2, 2], [3, 3], [4, 4, 4, 4, 4], [5]];
  const vectors = await embeds.embed(1, inputs, RAW);
  expect(vectors.map((vector) => [...vector])).toEqual(inputs.map((tokens) => [tokens.length, tokens[0]]));
  expect(steps).toEqual([
    [5, 3],
    [2, 1, 1],
  ]);
  expect(embeds.count).toBe(0);
});

test("no more texts are in a step than it has room for", async () => {
  const { embeds, steps } = bench();
  await embeds.embed(1, Array<number[]>(6).fill([7]), RAW);
  expect(steps).toEqual([
    [1, 1, 1, 1],
    [1, 1],
  ]);
});

test("calls that wait are computed together", async () => {
  const { embeds, steps, go } = bench({}, true);
  const calls = [1, 2, 3].map((id) => embeds.embed(id, [[id], [id]], RAW));
  for (let i = 0; i < 3; i++) await go();
  expect((await Promise.all(calls)).flat().map((vector) => vector[1])).toEqual([1, 1, 2, 2, 3, 3]);
  expect(steps).toEqual([
    [1, 1],
    [1, 1, 1, 1],
  ]);
});

test("no texts, no vectors", async () => {
  expect(await bench().embeds.embed(1, [], {})).toEqual([]);
});

test("vectors are cut, then normalised; zeros stay zeros", async () => {
  const { embeds } = bench();
  const [all] = await embeds.embed(1, [[4, 4, 4]], {});
  expect([...(all as Float32Array)]).toEqual([Math.fround(0.6), Math.fround(0.8)]);
  const [cut] = await embeds.embed(2, [[4, 4, 4]], { dimensions: 1 });
  expect([...(cut as Float32Array)]).toEqual([1]);
  const nothing = bench({ compute: (texts) => Promise.resolve(texts.map(() => new Float32Array(2))) });
  expect((await nothing.embeds.embed(1, [[1]], {}))[0]).toEqual(new Float32Array(2));
});

test("a task's words stand before each text, and not before tokens", async () => {
  const { embeds } = bench();
  const [text, tokens] = await embeds.embed(1, ["ab", [5]], { ...RAW, task: "query" });
  expect(text?.[0]).toBe("q: ab".length + 2);
  expect(tokens?.[0]).toBe(1);
});

test.each<[string, Parameters<Embeds["embed"]>[1], EmbedParams, string, string]>([
  ["dimensions", [[1]], { dimensions: 3 }, "invalid_argument", "dimensions is 3, expected 1 to 2"],
  ["a task", [[1]], { task: "rank" }, "invalid_argument", 'task is "rank", expected query'],
  ["a long text", [[1], "much too long"], {}, "too_long", "text 1: 15 tokens are over the limit of 8"],
  ["no tokens", [[1], []], {}, "invalid_argument", "text 1: no tokens"],
  ["a token", [[-1]], {}, "invalid_argument", "text 0: token -1 is not in the vocabulary"],
])("%s that cannot be is refused by name", async (_what, inputs, params, code, message) => {
  const { embeds, steps } = bench();
  const error = await errorOf(embeds.embed(1, inputs, params));
  expect([error.code, error.message]).toEqual([code, expect.stringContaining(message)]);
  expect([steps, embeds.count]).toEqual([[], 0]);
});

test("what is truncated keeps what the tokenizer puts at the end", async () => {
  const seen: (readonly number[])[] = [];
  const { embeds } = bench({
    compute: (texts) => {
      seen.push(...texts);
      return Promise.resolve(texts.map(() => new Float32Array(2)));
    },
  });
  await embeds.embed(1, ["abcdefghij", [1, 2, 3, 4, 5, 6, 7, 8, 9]], { truncate: true });
  expect(seen).toEqual([
    [101, ...[..."abcdef"].map((char) => char.charCodeAt(0)), 102],
    [1, 2, 3, 4, 5, 6, 7, 8],
  ]);
});

test("a text that has no vector fails its own call", async () => {
  const { embeds } = bench({
    compute: (texts) =>
      Promise.resolve(
        texts.map(([first]) => (first === 9 ? new TidepoolError("not_finite", "NaN") : new Float32Array(2))),
      ),
  });
  const [good, bad] = [embeds.embed(1, [[1]], RAW), embeds.embed(2, [[2], [9, 9]], RAW)];
  expect(await errorOf(bad)).toMatchObject({
    code: "not_finite",
    message: "text 1: NaN",
    details: { index: 1 },
  });
  expect((await good).length).toBe(1);
});

test("a step that fails is tried text by text", async () => {
  const tried: number[][] = [];
  const { embeds } = bench({
    compute: (texts) => {
      tried.push(texts.map(({ length }) => length));
      if (texts.some(([first]) => first === 9))
        return Promise.reject(new TidepoolError("gpu_failed", "dropped"));
      return Promise.resolve(texts.map(() => new Float32Array(2)));
    },
  });
  const calls = [[[1]], [[2, 2]], [[9]]].map((inputs, id) => embeds.embed(id, inputs, RAW));
  const failed = errorOf(calls[2] as Promise<unknown>);
  expect((await calls[0])?.length).toBe(1);
  expect((await calls[1])?.length).toBe(1);
  expect(await failed).toMatchObject({ code: "gpu_failed" });
  expect(tried).toEqual([[1], [2, 1], [2], [1]]);
});

test("an aborted call ends at once, in the queue and in a step, and others go on", async () => {
  const { embeds, steps, go } = bench({}, true);
  const [under, waits, other] = [1, 2, 3].map((id) => embeds.embed(id, [[id]], RAW));
  await go(); // the first step has the first call alone
  embeds.abort(2);
  expect(await errorOf(waits as Promise<unknown>)).toMatchObject({ code: "aborted" });
  await go();
  expect((await under)?.length).toBe(1);
  expect((await other)?.length).toBe(1);
  expect(steps.flat().length).toBeGreaterThan(1);
  expect(embeds.count).toBe(0);
});

test("the end of the engine ends all calls", async () => {
  const { embeds } = bench({}, true);
  const calls = [1, 2].map((id) => embeds.embed(id, [[id]], RAW));
  await new Promise((resolve) => setTimeout(resolve));
  embeds.close();
  for (const call of calls) expect(await errorOf(call)).toMatchObject({ code: "aborted" });
  expect(embeds.count).toBe(0);
});

describe("rows of an encoder's step", () => {
  const { gpu } = fakeGpu(2 ** 28);

  test("are those of its longest text, where a decoder's chunk is short", async () => {
    const file = await openModel([openBytes(tinyEncoder(), "m.gguf")]);
    const shape = shapeOf(file);
    expect(stepRows(shape, runnerOptions(gpu, {}, shape))).toBe(2048);
    expect(stepRows(shape, runnerOptions(gpu, { chunkTokens: 4096 }, shape))).toBe(4096);
    expect(runnerOptions(gpu, {}).chunkTokens).toBe(256);
    expect(() => runnerOptions(gpu, { chunkTokens: 513 })).toThrow(
      "chunkTokens is 513, expected a whole number from 1 to 512 for this model",
    );
  });

  test("are no more than a binding holds of the widest buffer", async () => {
    const file = await openModel([openBytes(tinyEncoder(), "m.gguf")]);
    const shape = shapeOf(file);
    const layers = shape.layers.map((layer) => ({
      ...layer,
      ffn: { ...layer.ffn, width: 2 ** 14 } as FeedForward,
    }));
    const rows = stepRows({ ...shape, layers }, runnerOptions(gpu, { chunkTokens: 8192 }, shape));
    expect(rows).toBe(MAX_BINDING_BYTES / (2 * 2 ** 14 * 4)); // gate and up
  });
});
