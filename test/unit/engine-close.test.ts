/** The engine's handle when its worker fails or dies, and close() in every state, with a worker that the test plays. */
import { beforeEach, expect, test, vi } from "vitest";
import { Engine } from "../../src/engine/engine.ts";
import { TidepoolError, toWire } from "../../src/errors.ts";
import type { WorkerPort } from "../../src/wire/port.ts";
import type { EngineInfo, FromWorker, GenerationResult, ToWorker } from "../../src/wire/protocol.ts";

/** Answers nothing but the loading; what it was told stands in `told`. */
class PlayedPort implements WorkerPort {
  told: ToWorker["type"][] = [];
  terminated = 0;
  isKept = true;
  say: (message: FromWorker) => void = () => {};
  die: (error: TidepoolError) => void = () => {};

  post(message: ToWorker): void {
    this.told.push(message.type);
    if (message.type === "load") queueMicrotask(() => this.say({ type: "loaded", info: {} as EngineInfo }));
  }

  listen(onMessage: (message: FromWorker) => void, onDeath: (error: TidepoolError) => void): void {
    this.say = onMessage;
    this.die = onDeath;
  }

  keepAlive(on: boolean): void {
    this.isKept = on;
  }

  terminate(): Promise<void> {
    this.terminated++;
    return Promise.resolve();
  }
}

let port: PlayedPort;

vi.mock(import("../../src/wire/port.ts"), async (original) => ({
  ...(await original()),
  startWorker: () => (port = new PlayedPort()),
}));

beforeEach(() => void vi.useRealTimers());

const DEATH = new TidepoolError("worker_died", "the engine's worker died: it ended with code 7");
const LOSS = new TidepoolError("device_lost", "for the second time");

/** A request and two calls under way, and what they come to. */
function under(engine: Engine): Promise<unknown>[] {
  return [engine.generate([1, 2]).result(), engine.score([1, 2]), engine.warm("a prompt")].map((promise) =>
    promise.catch((error: unknown) => error),
  );
}

test("a worker that dies rejects all that was asked, and is asked nothing more", async () => {
  const engine = await Engine.load("model.gguf");
  const asked = under(engine);
  port.die(DEATH);
  expect(await Promise.all(asked)).toEqual([DEATH, DEATH, DEATH]);
  expect([engine.state, engine.failure]).toEqual(["failed", DEATH]);
  await expect(engine.generate([1]).result()).rejects.toBe(DEATH);
  await expect(engine.tokenize("x")).rejects.toBe(DEATH);
  await Promise.all([engine.close(), engine.close()]);
  expect(port.told).not.toContain("close");
  expect(port.terminated).toBe(1);
  expect([engine.state, engine.failure]).toEqual(["closed", undefined]);
});

test("close() after a failure lets the worker, which lives, finish its writing", async () => {
  const engine = await Engine.load("model.gguf");
  const asked = under(engine);
  port.say({ type: "failed", error: toWire(LOSS) });
  for (const error of await Promise.all(asked)) expect(error).toMatchObject({ code: "device_lost" });
  expect(engine.state).toBe("failed");
  let isClosed = false;
  const closing = engine.close().then(() => (isClosed = true));
  await new Promise((resolve) => setTimeout(resolve));
  expect(port.told.at(-1)).toBe("close");
  expect([isClosed, port.terminated]).toEqual([false, 0]);
  port.say({ type: "closed" });
  await closing;
  expect(port.terminated).toBe(1);
});

test.each<[string, () => void]>([
  ["dies", () => port.die(DEATH)],
  [
    "fails, and then closes",
    () => (port.say({ type: "failed", error: toWire(LOSS) }), port.say({ type: "closed" })),
  ],
])("close() ends when the worker %s meanwhile, and what is under way is answered", async (_how, end) => {
  const engine = await Engine.load("model.gguf");
  const asked = under(engine);
  const closing = engine.close();
  end();
  await closing;
  for (const error of await Promise.all(asked)) expect(error).toBeInstanceOf(TidepoolError);
  expect(port.terminated).toBe(1);
});

test("a worker that never answers is ended after the bound", async () => {
  const engine = await Engine.load("model.gguf");
  const asked = under(engine);
  vi.useFakeTimers();
  const closing = engine.close();
  await vi.advanceTimersByTimeAsync(20_000);
  await closing;
  for (const error of await Promise.all(asked)) expect(error).toMatchObject({ code: "closed" });
  expect(port.terminated).toBe(1);
});

test("the process lives on for an engine's sake only while something is under way", async () => {
  const engine = await Engine.load("model.gguf");
  expect(port.isKept).toBe(false);
  const asked = under(engine);
  expect(port.isKept).toBe(true);
  port.say({ type: "finished", id: 1, result: {} as GenerationResult });
  expect(port.isKept).toBe(true);
  port.say({ type: "answer", id: 2, value: undefined });
  port.say({ type: "refused", id: 3, error: toWire(LOSS) });
  await Promise.all(asked);
  expect(port.isKept).toBe(false);
  const closing = engine.close();
  expect(port.isKept).toBe(true);
  port.say({ type: "closed" });
  await closing;
});
