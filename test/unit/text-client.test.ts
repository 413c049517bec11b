/** The engine's side of the text worker, with workers that a test plays: deadlines, deaths, order, and no worker at all. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { setBackgroundHandler } from "../../src/base.ts";
import { toWire, TidepoolError } from "../../src/errors.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { Prompts } from "../../src/worker/request/prompts.ts";
import { TextClient, type TextPort } from "../../src/worker/text/client.ts";
import type { FromText, TextParts, ToText } from "../../src/worker/text/messages.ts";
import { TextService } from "../../src/worker/text/service.ts";
import { byteLevelVocab } from "../support/tiny-vocab.ts";

const PARTS: TextParts = { file: "m.gguf", format: "gguf", metadata: byteLevelVocab("gpt-2") };
const LIMITS = { timeoutMs: 1000, openTimeoutMs: 5000 };

/** A worker that does its work at once, but for the texts that it hangs on or dies of. */
class PlayedWorker implements TextPort {
  static all: PlayedWorker[] = [];
  alive = true;
  asked: string[] = [];
  private service: TextService | undefined;
  private onMessage: (message: FromText) => void = () => {};
  private onDeath: (why: string) => void = () => {};

  constructor() {
    PlayedWorker.all.push(this);
    queueMicrotask(() => this.onMessage({ type: "ready" }));
  }

  post(message: ToText): void {
    if (message.type === "open") {
      this.service = new TextService(message.parts);
      const { facts } = this.service;
      queueMicrotask(() => this.onMessage({ type: "opened", facts }));
      return;
    }
    const { question } = message;
    const text = question.kind === "chat" ? String(question.messages[0]?.content) : question.text;
    this.asked.push(text);
    if (text === "hang") return;
    if (text === "die") return void queueMicrotask(() => this.onDeath("out of memory"));
    queueMicrotask(() => this.onMessage(this.answer(question)));
  }

  listen(onMessage: (message: FromText) => void, onDeath: (why: string) => void): void {
    this.onMessage = onMessage;
    this.onDeath = onDeath;
  }

  terminate(): void {
    this.alive = false;
  }

  die(): void {
    this.onDeath("killed");
  }

  private answer(question: Extract<ToText, { type: "ask" }>["question"]): FromText {
    try {
      return { type: "answer", prompt: (this.service as TextService).answer(question) };
    } catch (error) {
      return { type: "refused", error: toWire(error) };
    }
  }
}

beforeEach(() => {
  PlayedWorker.all = [];
  vi.useFakeTimers();
  setBackgroundHandler((error) => {
    throw error;
  });
});
afterEach(() => vi.useRealTimers());

const open = (start: () => TextPort = () => new PlayedWorker(), parts = PARTS) =>
  TextClient.open(parts, LIMITS, start);
const plain = (text: string) => ({ kind: "plain", text }) as const;
const idsOf = (text: string) => new TextService(PARTS).answer(plain(text)).tokens;

test("tools and variables of a chat reach the template, and the text is told if it is asked for", () => {
  const template = "{{ tools[0].function.name if tools else 'none' }}{{ messages[0].content }}{{ x }}";
  const metadata = new Map<string, unknown>([
    ...byteLevelVocab("gpt-2"),
    ["tokenizer.chat_template", template],
  ]);
  const service = new TextService({ file: "m.gguf", format: "gguf", metadata });
  const chat = { kind: "chat", messages: [{ role: "user", content: "hi" }], withText: true } as const;
  const tools = [{ type: "function", function: { name: "find" } }] as const;
  expect(service.answer(chat).text).toBe("nonehi");
  expect(service.answer({ ...chat, tools }).text).toBe("findhi");
  expect(service.answer({ ...chat, template: { tools, x: "!" } }).text).toBe("findhi!");
  expect(service.answer({ ...chat, tools }).tokens).toEqual(idsOf("findhi"));
});

describe("with a worker", () => {
  test("answers in order, one question at a time, by one worker", async () => {
    const client = await open();
    const answers = await Promise.all(["a", "bc", "def"].map((text) => client.ask(plain(text))));
    expect(answers.map(({ tokens }) => tokens)).toEqual(["a", "bc", "def"].map(idsOf));
    expect(PlayedWorker.all.map(({ asked }) => asked)).toEqual([["a", "bc", "def"]]);
    expect(client.unprotected).toBeUndefined();
    client.close();
    expect(PlayedWorker.all[0]?.alive).toBe(false);
  });

  test("short texts are answered before long ones, but never those that came much later", async () => {
    const client = await open();
    const hanging = client.ask(plain("hang")).catch(() => undefined);
    const texts = ["a".repeat(500), "b".repeat(2000), "c".repeat(10), "d".repeat(20)];
    const early = texts.map((text) => client.ask(plain(text)));
    await vi.advanceTimersByTimeAsync(1);
    // A millisecond later: behind 500 characters, before 2,000.
    const late = client.ask(plain("e"));
    await vi.advanceTimersByTimeAsync(1000);
    await Promise.all([hanging, ...early, late]);
    expect(PlayedWorker.all.flatMap(({ asked }) => asked.map((text) => text[0]).join(""))).toEqual([
      "h",
      "cdaeb",
    ]);
    client.close();
  });

  test("a late one is ended with its worker and its error names the file; the next has a new worker", async () => {
    const client = await open();
    const hanging = client.ask(plain("hang")).catch((error: unknown) => error);
    const chat = client.ask({ kind: "chat", messages: [{ role: "user", content: "hang" }] });
    const late = chat.catch((error: unknown) => error);
    const next = client.ask(plain("next"));
    await vi.advanceTimersByTimeAsync(999);
    expect(PlayedWorker.all.length).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(await hanging).toMatchObject({
      code: "timed_out",
      message: "the tokenizer of m.gguf did not finish within 1000 ms",
      details: { file: "m.gguf", timeoutMs: 1000 },
    });
    await vi.advanceTimersByTimeAsync(1000);
    expect(await late).toMatchObject({
      code: "timed_out",
      message: "the chat template or tokenizer of m.gguf did not finish within 1000 ms",
    });
    expect((await next).tokens).toEqual(idsOf("next"));
    expect(PlayedWorker.all.map(({ alive }) => alive)).toEqual([false, false, true]);
    client.close();
  });

  test("one that dies of a text fails that text alone", async () => {
    const client = await open();
    const [dead, next] = await Promise.allSettled([client.ask(plain("die")), client.ask(plain("x"))]);
    expect(dead).toMatchObject({
      reason: { code: "invalid_file", message: /m.gguf ended its worker: out of memory/ },
    });
    expect(next).toMatchObject({ value: { tokens: idsOf("x") } });
    client.close();
  });

  test("one that dies between two questions is replaced for the next, which hears nothing of it", async () => {
    const client = await open();
    PlayedWorker.all[0]?.die();
    expect((await client.ask(plain("one"))).tokens).toEqual(idsOf("one"));
    PlayedWorker.all[1]?.die();
    expect((await client.ask(plain("two"))).tokens).toEqual(idsOf("two"));
    expect(PlayedWorker.all.map(({ alive }) => alive)).toEqual([false, false, true]);
    client.close();
  });

  test("an aborted one that waits is never asked; closing ends all, and a late timer finds nothing", async () => {
    const client = await open();
    const stop = new AbortController();
    const first = client.ask(plain("hang")).catch((error: unknown) => error);
    const second = client.ask(plain("second"), stop.signal).catch((error: unknown) => error);
    const third = client.ask(plain("third")).catch((error: unknown) => error);
    stop.abort();
    expect(await second).toMatchObject({ code: "aborted" });
    client.close();
    expect(await first).toMatchObject({ code: "closed" });
    expect(await third).toMatchObject({ code: "closed" });
    expect(vi.getTimerCount()).toBe(0);
    await expect(client.ask(plain("x"))).rejects.toMatchObject({ code: "closed" });
    expect(PlayedWorker.all.flatMap(({ asked }) => asked)).toEqual(["hang"]);
  });

  test("the queue has an end", async () => {
    const client = await open();
    const results = Array.from({ length: 1026 }, () =>
      client.ask(plain("hang")).catch((error: unknown) => error),
    );
    expect(await results[1025]).toMatchObject({ code: "rejected" });
    client.close();
    expect(new Set((await Promise.all(results)).map((error) => (error as TidepoolError).code))).toEqual(
      new Set(["closed", "rejected"]),
    );
  });

  test("what is wrong with a text or the file is an answer, not the end of the worker", async () => {
    const client = await open();
    await expect(client.ask({ kind: "chat", messages: [] })).rejects.toMatchObject({
      code: "invalid_argument",
    });
    expect(client.facts.templateProblem).toMatchObject({ code: "unsupported", message: /^m.gguf: .* chat/ });
    await expect(client.ask(plain("x".repeat(17_000_000)))).rejects.toMatchObject({ code: "too_long" });
    expect(PlayedWorker.all.length).toBe(1);
    client.close();
  });
});

describe("opening", () => {
  test("a file that stops its worker leaves a reason, not a hang", async () => {
    class Stuck extends PlayedWorker {
      override post(): void {}
    }
    const opening = open(() => new Stuck());
    await vi.advanceTimersByTimeAsync(5000);
    const { facts } = await opening;
    expect(facts.tokenizer).toMatchObject({
      problem: { code: "timed_out", message: /building the tokenizer .* of m.gguf .* 5000 ms/ },
    });
    expect(PlayedWorker.all.map(({ alive }) => alive)).toEqual([false]);
  });

  test.each<[name: string, start: () => TextPort, why: RegExp]>([
    [
      "that cannot be made",
      () => {
        throw new Error("no workers inside workers");
      },
      /no workers inside workers/,
    ],
    ["that dies at once", () => deadAtOnce(), /script not found/],
    ["that never speaks", () => silent(), /did not start within 30000 ms/],
  ])("a worker %s: the work is done here, and that is said", async (_name, start, why) => {
    const opening = open(start);
    await vi.advanceTimersByTimeAsync(30_000);
    const client = await opening;
    expect(client.unprotected).toMatch(why);
    expect((await client.ask(plain("here"))).tokens).toEqual(idsOf("here"));
    client.close();
  });
});

describe("prompts", () => {
  const file = (metadata: Map<string, unknown>) =>
    ({ name: "m.gguf", format: "gguf", metadata }) as unknown as ModelFile;
  const none = (): TextPort => {
    throw new Error("no workers here");
  };

  test("say where text is made, and give notice where nothing protects", async () => {
    const safe = await Prompts.open(file(byteLevelVocab("gpt-2")), { start: () => new PlayedWorker() });
    expect([safe.textState, safe.notices]).toEqual(["own worker", []]);
    const bare = await Prompts.open(file(byteLevelVocab("gpt-2")), { start: none });
    expect(bare.textState).toBe("engine's thread: no workers here");
    expect(bare.notices).toMatchObject([{ code: "text_unprotected", message: /no worker for text/ }]);
    expect(bare.detokenize(await bare.tokenize("over here"))).toBe("over here");
    const without = await Prompts.open(file(new Map()), { start: none });
    expect([without.textState, without.notices]).toEqual(["not needed", []]);
    await expect(without.tokenize("x")).rejects.toThrow("m.gguf: tokenizer.ggml.model is missing");
    expect((await without.encode({ kind: "tokens", tokens: [1, 2] })).tokens).toEqual([1, 2]);
    for (const prompts of [safe, bare, without]) prompts.close();
  });
});

function silent(): TextPort {
  return { post: () => {}, listen: () => {}, terminate: () => {} };
}

function deadAtOnce(): TextPort {
  return { ...silent(), listen: (_onMessage, onDeath) => queueMicrotask(() => onDeath("script not found")) };
}
