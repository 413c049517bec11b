/** Generations in their callers' hands: left early, dropped, very long, with signals that outlive them. The worker is played. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, describe, expect, test, vi } from "vitest";
import { Engine } from "../../src/engine/engine.ts";
import { TidepoolError, toWire } from "../../src/errors.ts";
import { MAX_UNREAD_CHUNKS, type Generation, type GenerationChunk } from "../../src/engine/generation.ts";
import type { WorkerPort } from "../../src/wire/port.ts";
import type { EngineInfo, FromWorker, GenerationResult, ToWorker } from "../../src/wire/protocol.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** A worker that ends a request when it is aborted, and says nothing else by itself. */
class PlayedPort implements WorkerPort {
  asked: ToWorker[] = [];
  say: (message: FromWorker) => void = () => {};

  post(message: ToWorker): void {
    this.asked.push(message);
    if (message.type === "load") queueMicrotask(() => this.say({ type: "loaded", info: {} as EngineInfo }));
    if (message.type === "abort") queueMicrotask(() => this.finish(message.id, "aborted"));
    if (message.type === "close") queueMicrotask(() => this.say({ type: "closed" }));
  }

  listen(onMessage: (message: FromWorker) => void): void {
    this.say = onMessage;
  }

  keepAlive = (): void => {};
  terminate = (): Promise<void> => Promise.resolve();

  step(id: number, token: number): void {
    this.say({ type: "step", outputs: [{ id, text: `${token} `, tokens: [token] }] });
  }

  finish(id: number, finishReason: GenerationResult["finishReason"] = "length"): void {
    this.say({ type: "finished", id, result: { finishReason } as GenerationResult });
  }

  get aborted(): number[] {
    return this.asked.flatMap((message) => (message.type === "abort" ? [message.id] : []));
  }

  get lastId(): number {
    return this.asked.reduce((last, message) => (message.type === "submit" ? message.id : last), 0);
  }
}

let port: PlayedPort;

vi.mock(import("../../src/wire/port.ts"), async (original) => ({
  ...(await original()),
  startWorker: () => (port = new PlayedPort()),
}));

afterEach(() => void vi.restoreAllMocks());

const load = (): Promise<Engine> => Engine.load("model.gguf");

/** Starts a request and gives it `count` chunks. */
function begun(engine: Engine, count = 3): Generation {
  const generation = engine.generate([1, 2]);
  for (let token = 0; token < count; token++) port.step(port.lastId, token);
  return generation;
}

describe("a loop that is left early ends its request", () => {
  test.each<[string, (generation: Generation) => Promise<unknown>]>([
    [
      "by break",
      async (generation) => {
        for await (const _ of generation) break;
      },
    ],
    [
      "by return",
      async (generation) => {
        for await (const chunk of generation) return chunk;
        return undefined;
      },
    ],
    [
      "by an exception",
      async (generation) => {
        for await (const _ of generation) throw new Error("of the caller");
      },
    ],
    ["by abort()", (generation) => Promise.resolve(generation.abort())],
  ])("%s", async (_how, leave) => {
    const generation = begun(await load());
    await leave(generation).catch((error: Error) => expect(error.message).toBe("of the caller"));
    expect(port.aborted).toEqual([port.lastId]);
    expect((await generation.result()).finishReason).toBe("aborted");
  });

  test("while the next chunk is awaited", async () => {
    const generation = begun(await load(), 0);
    const chunks = generation[Symbol.asyncIterator]();
    const next = [chunks.next(), chunks.next()];
    await chunks.return?.();
    expect(port.aborted).toEqual([port.lastId]);
    expect(await Promise.all(next)).toEqual(Array(2).fill({ done: true, value: undefined }));
    expect(await chunks.next()).toEqual({ done: true, value: undefined });
  });

  test("but not one that has ended", async () => {
    const generation = begun(await load());
    port.finish(port.lastId);
    for await (const _ of generation) break;
    expect(port.aborted).toEqual([]);
    expect((await generation.result()).finishReason).toBe("length");
  });
});

describe("a generation that nobody holds any more", () => {
  /** Collects garbage until `until` holds, or for a while. */
  async function collect(until: () => boolean): Promise<void> {
    for (let turn = 0; turn < 50 && !until(); turn++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      collectGarbage();
    }
  }

  test("is aborted, also if a signal that lives on can abort it", async () => {
    const engine = await load();
    const { signal } = new AbortController();
    (() => void engine.generate([1, 2], { signal }))();
    const id = port.lastId;
    await collect(() => port.aborted.length > 0);
    expect(port.aborted).toEqual([id]);
  });

  test("is not aborted while its result is awaited or its chunks are read", async () => {
    const engine = await load();
    const result = begun(engine).result();
    const first = port.lastId;
    let read = 0;
    const reading = (async () => {
      for await (const _ of begun(engine)) read++;
    })();
    await collect(() => false);
    expect(port.aborted).toEqual([]);
    port.finish(first);
    port.finish(port.lastId);
    await Promise.all([result, reading]);
    expect(read).toBe(3);
  });
});

describe("a generation of 100,000 chunks", () => {
  const COUNT = 100_000;

  /** Milliseconds that a tenth of the chunks take, one tenth after the other. */
  async function tenths(engine: Engine, after: () => Promise<unknown>): Promise<number[]> {
    const id = port.lastId;
    const times: number[] = [];
    for (let token = 0, start = performance.now(); token < COUNT; token++) {
      port.step(id, token);
      await after();
      if ((token + 1) % (COUNT / 10) !== 0) continue;
      times.push(performance.now() - start);
      start = performance.now();
    }
    port.finish(id);
    expect(engine.state).toBe("ready");
    return times;
  }

  test("that is read as it comes: all arrive, the last as quickly as the first", async () => {
    const engine = await load();
    const generation = engine.generate([1, 2]);
    const awaited = [generation.result(), generation.result()];
    const reader = generation[Symbol.asyncIterator]();
    let next = reader.next();
    let sum = 0;
    const times = await tenths(engine, async () => {
      sum += (await next).value?.tokens[0] ?? NaN;
      next = reader.next();
    });
    expect((await next).done).toBe(true);
    await Promise.all(awaited);
    expect(sum).toBe((COUNT * (COUNT - 1)) / 2);
    expect(Math.min(...times.slice(5))).toBeLessThan(5 * Math.min(...times.slice(0, 5)));
  });

  test("that nobody reads meanwhile: none is lost, and at most the bound is kept apart", async () => {
    const engine = await load();
    const generation = engine.generate([1, 2]);
    const result = generation.result();
    const times = await tenths(engine, () => Promise.resolve());
    await result;
    const chunks: GenerationChunk[] = [];
    for await (const chunk of generation) chunks.push(chunk);
    expect(chunks).toHaveLength(MAX_UNREAD_CHUNKS);
    const tokens = chunks.flatMap((chunk) => chunk.tokens);
    expect(tokens).toEqual(Array.from({ length: COUNT }, (_, index) => index));
    expect(chunks.map(({ text }) => text).join("")).toBe(tokens.map((token) => `${token} `).join(""));
    expect(Math.min(...times.slice(5))).toBeLessThan(5 * Math.min(...times.slice(0, 5)));
  });
});

test("a second reader is refused, since each chunk is read once", async () => {
  const generation = begun(await load());
  for await (const _ of generation) break;
  expect(() => generation[Symbol.asyncIterator]()).toThrow(TidepoolError);
});

describe("a caller's signal", () => {
  /** A signal that counts its listeners. */
  function counted() {
    const controller = new AbortController();
    const { signal } = controller;
    const listeners = new Set<unknown>();
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners.add(args[1]), add(...args));
    signal.removeEventListener = (...args: Parameters<typeof add>) => (
      listeners.delete(args[1]),
      remove(...args)
    );
    return { controller, signal, listeners };
  }

  test("is let go when the request has ended, however it ended", async () => {
    const engine = await load();
    const { signal, listeners } = counted();
    const generations = Array.from({ length: 9 }, () => engine.generate([1, 2], { signal }));
    expect(listeners.size).toBe(9);
    const refused = toWire(new TidepoolError("too_long", "a test"));
    for (let id = port.lastId - 8, at = 0; id <= port.lastId; id++, at++) {
      if (at % 2) port.say({ type: "refused", id, error: refused });
      else port.finish(id);
    }
    await Promise.allSettled(generations.map((generation) => generation.result()));
    expect(listeners.size).toBe(0);
    const left = engine.generate([1, 2], { signal });
    await engine.close();
    await left.result().catch(() => {});
    expect(listeners.size).toBe(0);
  });

  test("aborts a request once, and a loading", async () => {
    const engine = await load();
    const { controller, signal } = counted();
    const generation = engine.generate([1, 2], { signal });
    controller.abort();
    generation.abort();
    expect((await generation.result()).finishReason).toBe("aborted");
    expect(port.aborted).toHaveLength(1);
    const late = engine.generate([1, 2], { signal });
    expect((await late.result()).finishReason).toBe("aborted");
  });

  test("is let go when loading has ended", async () => {
    const { signal, listeners } = counted();
    await Engine.load("model.gguf", { signal });
    expect(listeners.size).toBe(0);
  });
});
