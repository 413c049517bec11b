/**
 * What callers hand over is checked before anything is posted: every option of every call, by type, range and name. The worker
 * is one that the test plays, so that what would have reached it can be counted.
 */
import { beforeEach, describe, expect, test, vi } from "vitest";
import { Command } from "commander";
import { engineOptions, withEngineOptions, type EngineFlags } from "../../src/api/engine-flags.ts";
import { nearest } from "../../src/check.ts";
import { fromWire, TidepoolError } from "../../src/errors.ts";
import { Engine, inspect, models, StoredCache, tokenize } from "../../src/index.ts";
import {
  defaultWorkloads,
  generate,
  namedModel,
  parseCapacities,
  parsePolicies,
  parseTrace,
  Recorder,
  replay,
  serve,
} from "../../src/sim/index.ts";
import { readAsk } from "../../src/worker/request/asks.ts";
import { cacheOptions, engineFields, generateFields } from "../../src/wire/arguments.ts";
import { LocalEngine } from "../../src/worker/local.ts";
import type { WorkerPort } from "../../src/wire/port.ts";
import type { EngineInfo, FromWorker, ToWorker } from "../../src/wire/protocol.ts";

const told: ToWorker[] = [];

/** Loads at once and answers nothing; messages are cloned as a worker's port does it. */
function playedPort(): WorkerPort {
  let say: (message: FromWorker) => void = () => {};
  return {
    post(message) {
      told.push(structuredClone(message));
      if (message.type === "load") queueMicrotask(() => say({ type: "loaded", info: {} as EngineInfo }));
    },
    listen: (onMessage) => void (say = onMessage),
    keepAlive: () => {},
    terminate: () => Promise.resolve(),
  };
}

vi.mock(import("../../src/wire/port.ts"), async (original) => ({
  ...(await original()),
  startWorker: () => playedPort(),
  askWorker: (question) => {
    told.push(structuredClone(question));
    return Promise.resolve(undefined);
  },
}));

beforeEach(() => void (told.length = 0));

type Any = (...given: unknown[]) => unknown;

/** A public call without its types, as plain JavaScript calls it. */
const plain = (call: unknown): Any => call as Any;

async function errorOf(call: () => unknown): Promise<TidepoolError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof TidepoolError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Every wrong value of the kinds that callers pass by mistake. */
const WRONG: readonly unknown[] = [
  null,
  "yes",
  "",
  -1,
  1.5,
  NaN,
  Infinity,
  1e300,
  true,
  false,
  5n,
  Symbol("x"),
  () => {},
  [],
  [null],
  {},
  new Map(),
  new Date(0),
  Promise.resolve(),
];

/** A value that each option takes, and of which the wrong ones are told apart. */
const RIGHT: Record<string, unknown> = {
  ...{ temperature: 0.5, topK: 4, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1, presencePenalty: -1 },
  ...{ frequencyPenalty: 1, logitBias: { 5: -100 }, seed: 7, logprobs: 3, maxTokens: 3, stop: ["a", "b"] },
  ...{ overflow: "stop", cache: "memory", cacheMaxAgeMs: 0.5, dtype: "f32", kvDtype: "f16", blockTokens: 16 },
  ...{
    chunkTokens: 8,
    maxRequests: 2,
    poolTokens: 64,
    poolBytes: 1e9,
    poolStartTokens: 64,
    memoryBytes: 1e9,
  },
  ...{
    adapter: "llvmpipe",
    subgroups: false,
    tables: "file",
    textTimeoutMs: 1000,
    hub: { baseUrl: "https://hub.example" },
  },
  ...{
    expertMemory: 1e9,
    expertRamBytes: 0,
    expertPolicy: "lfu",
    expertPrediction: false,
    expertPredictor: new Uint8Array(8),
  },
  ...{
    experts: "bounded",
    prefill: false,
    powerPreference: "low-power",
    objectives: { ttftMs: 5000, tbtMs: 0.5, rejection: "early" },
  },
  ...{ ttftMs: 300, tbtMs: 40, deadlineMs: 1e5, priority: "background" },
  ...{ models: { keep: false }, directory: "kv", disk: false, ramBytes: 0, diskBytes: 1, restore: "load" },
  ...{ policy: "lru", namespace: "me", maxAgeMs: 10, atRestBits: 8, atRestStateBits: 16 },
};

describe("every option", () => {
  const tables = { generate: generateFields, load: engineFields, cache: cacheOptions } as const;
  const fields = Object.entries({ ...engineFields, ...generateFields }).filter(([name]) => name !== "cache");

  test.each(fields)("%s takes what it should, and refuses by name what it does not", (name, rule) => {
    expect(rule.read(RIGHT[name], name)).toEqual(RIGHT[name]);
    const refused = WRONG.filter((value) => {
      try {
        return void rule.read(value, name);
      } catch (error) {
        expect(error).toMatchObject({
          code: "invalid_argument",
          details: { option: expect.stringContaining(name) },
        });
        expect((error as Error).message).toMatch(/ is .*, expected /);
        return true;
      }
    });
    expect(refused.length).toBeGreaterThanOrEqual(WRONG.length - 4);
  });

  test("of the cache too", () => {
    const right = Object.fromEntries(
      Object.entries(RIGHT).filter(([name]) =>
        [
          "directory",
          "disk",
          "ramBytes",
          "diskBytes",
          "restore",
          "policy",
          "namespace",
          "maxAgeMs",
          "atRestBits",
          "atRestStateBits",
        ].includes(name),
      ),
    );
    expect(tables.cache.read(right, "cache")).toEqual(right);
    for (const name of Object.keys(right))
      expect(() => tables.cache.read({ [name]: Symbol("x") }, "cache")).toThrow(`cache.${name} is a symbol`);
  });
});

describe("the prefill service of an engine", () => {
  const right = { url: "https://service.example:8033/base", key: "secret", when: "always" };
  const refusal = (change: object): string => {
    try {
      engineFields.prefill.read({ ...right, ...change }, "prefill");
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };

  test("is an address and a key", () => {
    expect(engineFields.prefill.read(right, "prefill")).toEqual(right);
    for (const url of ["service.example", "ftp://service.example", "http://me:word@service.example", 5])
      expect(refusal({ url })).toMatch(/^prefill.url is .*, expected an http: or https: address/);
    expect(refusal({ url: undefined })).toMatch(/^prefill.url is missing/);
    expect(refusal({ key: undefined })).toMatch(/^prefill.key is missing/);
    expect(refusal({ when: "never" })).toMatch(/^prefill.when is "never"/);
  });

  test("has a key that no message shows", () => {
    expect(refusal({ key: 123456789 })).not.toContain("123456789");
  });
});

describe("what the reviewers passed", () => {
  test.each([
    [{ max_tokens: 3 }, "max_tokens is not an option: did you mean maxTokens?"],
    [{ top_p: 1 }, "top_p is not an option: did you mean topP?"],
    [{ stop: [""] }, 'stop[0] is "", expected a non-empty string of at most 1024 characters'],
    [{ stop: "x".repeat(2000) }, "stop is "],
    [{ stop: Array<string>(65).fill("x") }, "stop is an array of 65"],
    [{ stop: 5 }, "stop is 5"],
    [{ stop: [null] }, "stop[0] is null"],
    [{ cache: false }, 'cache is false, expected "off", "memory" or "disk"'],
    [{ cache: "none" }, 'cache is "none"'],
    [{ cache: "OFF" }, 'cache is "OFF"'],
    [{ maxTokens: 0 }, "maxTokens is 0, expected a whole number of 1 or more"],
    [{ maxTokens: "3" }, 'maxTokens is "3"'],
    [{ temperature: NaN }, "temperature is NaN, expected a number from 0 to 100"],
    [{ seed: 2 ** 32 }, "seed is 4294967296"],
    [{ logitBias: { x: 1 } }, "logitBias is an object with the name"],
    [{ logitBias: { 3: "1" } }, 'logitBias.3 is "1"'],
    [{ signal: {} }, "signal is an object without properties, expected an AbortSignal"],
    [null, "options is null, expected an object"],
    [5, "options is 5, expected an object"],
    ["x", 'options is "x", expected an object'],
  ])("generate(prompt, %j)", async (options, message) => {
    const engine = await Engine.load("m.gguf");
    told.length = 0;
    const generation = plain(engine.generate.bind(engine))("x", options) as ReturnType<Engine["generate"]>;
    const error = await errorOf(() => generation.result());
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain(message);
    expect(told).toEqual([]);
  });

  test.each([undefined, null, {}, 5, [null], ["a"], [1.5], [-1], Promise.resolve("x")])(
    "generate(%j)",
    async (prompt) => {
      const engine = await Engine.load("m.gguf");
      told.length = 0;
      const generation = plain(engine.generate.bind(engine))(prompt) as ReturnType<Engine["generate"]>;
      expect((await errorOf(() => generation.result())).details["option"]).toMatch(/^prompt/);
      expect(told).toEqual([]);
    },
  );

  test.each([
    [undefined, "messages is undefined"],
    ["hi", 'messages is "hi"'],
    [[], "messages is []"],
    [[null], "messages[0] is null"],
    [[{ role: "usr", content: "x" }], 'messages[0].role is "usr", expected "system", '],
    [[{ role: "user" }], "messages[0].content is missing, expected a string"],
    [[{ role: "user", content: 5 }], "messages[0].content is 5"],
    [[{ role: "user", content: [{ type: "image_url", image_url: "x" }] }], 'content[0].type is "image_url"'],
    [[{ role: "user", content: [{ type: "text" }] }], "messages[0].content[0].text is missing"],
    [[{ role: "user", content: null, tool_calls: [{}] }], "messages[0].tool_calls[0] is an object"],
    [
      [{ role: "user", content: null, tool_calls: [{ function: { name: "f", arguments: 5 } }] }],
      "expected a tool call",
    ],
    [[{ role: "user", text: "x" }], "messages[0].text is not an option"],
    [[{ role: "assistant", content: "x", tokens: ["1"] }], 'messages[0].tokens[0] is "1"'],
  ])("chat(%j)", async (messages, message) => {
    const engine = await Engine.load("m.gguf");
    told.length = 0;
    const generation = plain(engine.chat.bind(engine))(messages) as ReturnType<Engine["chat"]>;
    expect((await errorOf(() => generation.result())).message).toContain(message);
    expect(told).toEqual([]);
  });

  test.each([
    [undefined, undefined, "model is undefined"],
    ["", undefined, 'model is ""'],
    [[], undefined, "model is []"],
    [["a.gguf"], undefined, 'model is ["a.gguf"]'],
    ["m", null, "options is null"],
    ["m", { cache: { dir: "x" } }, "cache.dir is not an option: did you mean directory?"],
    ["m", { cache: "off" }, 'cache is "off", expected an object'],
    ["m", { cache: { ramBytes: "1GB" } }, 'cache.ramBytes is "1GB", expected a whole number from 0 to '],
    ["m", { dtype: "F16" }, 'dtype is "F16", expected "auto", "f32" or "f16"'],
    ["m", { maxRequests: 17 }, "maxRequests is 17, expected a whole number from 1 to 16"],
    ["m", { blockTokens: 33 }, "blockTokens is 33, expected 16, 32 or 64"],
    ["m", { textTimeoutMs: 9 }, "textTimeoutMs is 9"],
    ["m", { share: "" }, 'share is ""'],
    ["m", { share: 1 }, "share is 1, expected true, false or a non-empty string"],
    ["m", { onProgress: true }, "onProgress is true, expected a function"],
    ["m", { hub: { token: 5 } }, "hub.token is of type number"],
    ["m", { models: { dir: "x" } }, "models.dir is not an option: did you mean directory?"],
  ])("Engine.load(%j, %j)", async (model, options, message) => {
    const error = await errorOf(() =>
      plain(Engine.load.bind(Engine))(model, ...(options === undefined ? [] : [options])),
    );
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain(message);
    expect(told).toEqual([]);
  });
});

test("a call's wrong argument never reaches the worker, whichever call it is", async () => {
  const engine = await Engine.load("m.gguf");
  const stored = new StoredCache({ directory: "kv" });
  told.length = 0;
  const { cache } = engine;
  const calls: [string, () => unknown][] = [
    ["text", () => plain(engine.tokenize.bind(engine))(5)],
    ["tokens", () => plain(engine.detokenize.bind(engine))("x")],
    ["tokens[1]", () => engine.detokenize([1, -1])],
    ["prompt", () => plain(engine.countTokens.bind(engine))([1, 2].join)],
    ["template.when", () => engine.countTokens("x", { when: () => {} })],
    ["tokens", () => plain(engine.score.bind(engine))(undefined)],
    ["from", () => engine.score([1], { from: -1 })],
    ["logit", () => plain(engine.score.bind(engine))([1], { logit: true })],
    ["prompt", () => plain(engine.warm.bind(engine))(undefined)],
    ["name_space", () => plain(cache.clear.bind(cache))({ name_space: "x" })],
    ["budgets.ramBytes", () => cache.setBudgets({ ramBytes: -1 })],
    ["budgets.ram", () => plain(cache.setBudgets.bind(cache))({ ram: 1 })],
    ["prompt", () => plain(cache.export.bind(cache))(5)],
    ["archive", () => plain(cache.import.bind(cache))(new ArrayBuffer(8))],
    ["limit", () => cache.tree(0)],
    ["limit", () => cache.tree(10_001)],
    ["timeoutMs", () => cache.drain(-1)],
    ["listener", () => plain(cache.onEvent.bind(cache))(undefined)],
    ["options", () => new (StoredCache as unknown as new (options: unknown) => StoredCache)(undefined)],
    ["dir", () => new (StoredCache as unknown as new (options: unknown) => StoredCache)({ dir: "x" })],
    ["namespace", () => plain(stored.clear.bind(stored))({ namespace: 5 })],
    ["archive", () => plain(stored.import.bind(stored))("x")],
    ["model", () => plain(models.pull)(undefined)],
    ["model", () => models.remove("")],
    ["model", () => plain(models.verify)(5)],
    ["onprogress", () => plain(models.list)({ onprogress: () => {} })],
    ["model", () => plain(inspect)(undefined)],
    ["dtype", () => plain(inspect)("m", { dtype: "f8" })],
    ["text", () => plain(tokenize)("m", undefined)],
  ];
  for (const [option, call] of calls) expect((await errorOf(call)).details).toMatchObject({ option });
  expect(told).toEqual([]);
});

test("right arguments come through as they are, one stop string as a list, and undefined as not given", async () => {
  const engine = await Engine.load("m.gguf", { cache: { directory: "kv" }, onNotice: undefined } as object);
  told.length = 0;
  const { signal } = new AbortController();
  engine.generate("x", { stop: "the", maxTokens: 3, signal, seed: undefined } as object);
  engine.generate(Int32Array.of(1, 2) as unknown as number[], Object.create({ temperature: 1 }) as object);
  expect(told).toEqual([
    { type: "submit", id: 1, input: { kind: "text", text: "x" }, params: { stop: ["the"], maxTokens: 3 } },
    { type: "submit", id: 2, input: { kind: "tokens", tokens: [1, 2] }, params: { temperature: 1 } },
  ]);
});

test("a value in an error is short and shows no secret", async () => {
  const long = await errorOf(() => plain(Engine.load.bind(Engine))("m", { dtype: "f".repeat(1e6) }));
  expect(long.message.length).toBeLessThan(200);
  const name = await errorOf(() => plain(Engine.load.bind(Engine))("m", { ["f".repeat(1e6)]: 1 }));
  expect(name.message.length).toBeLessThan(600);
  const secret = await errorOf(() => plain(Engine.load.bind(Engine))("m", { hub: { token: 123456 } }));
  expect(JSON.stringify([secret.message, secret.details])).not.toContain("123456");
});

test("errors are plain data: they survive the wire", async () => {
  const error = await errorOf(() => plain(Engine.load.bind(Engine))("m", { dtype: () => {} }));
  const { code, message, details } = error;
  expect(fromWire(structuredClone({ code, message, details: { ...details } })).details).toEqual(details);
});

test.each([
  ["max_tokens", "maxTokens"],
  ["max_new_tokens", "maxTokens"],
  ["dir", "directory"],
  ["TEMPERATURE", "temperature"],
  ["temprature", "temperature"],
  ["repeat_penalty", "repetitionPenalty"],
  ["zzz", undefined],
])("%s: did you mean %s?", (name, meant) => {
  expect(nearest(name, [...Object.keys(generateFields), "directory"])).toBe(meant);
});

describe("the worker", () => {
  test("refuses what a guest asks amiss, and nothing else happens", () => {
    const posted: FromWorker[] = [];
    const local = new LocalEngine((message) => void posted.push(message));
    const submit = { type: "submit", id: 3, params: {} };
    const amiss: unknown[] = [
      { ...submit, input: undefined },
      { ...submit, input: {} },
      { ...submit, input: { kind: "text", text: 5 } },
      { ...submit, input: { kind: "text", text: "x" }, params: { stop: [""] } },
      { ...submit, input: { kind: "text", text: "x" }, params: { maxtokens: 3 } },
      { ...submit, input: { kind: "text", text: "x" }, resume: { tokens: ["x"] } },
      { type: "call", id: 3, call: { method: "constructor" } },
      { type: "call", id: 3, call: { method: "cacheDrain", timeoutMs: "x" } },
      { type: "toString", id: 3 },
    ];
    for (const ask of amiss) local.receive(ask as never);
    expect(posted).toHaveLength(amiss.length);
    for (const message of posted)
      expect(message).toMatchObject({ type: "refused", id: 3, error: { code: "invalid_argument" } });
  });

  test("takes what the engine posts", () => {
    const resume = {
      tokens: [1],
      logprobs: [{ token: 1, logprob: -Infinity, top: [{ token: 1, logprob: -1 }] }],
    };
    const submit = { type: "submit", id: 1, input: { kind: "text", text: "x" }, params: {}, resume };
    expect(readAsk(structuredClone(submit))).toEqual(submit);
  });
});

describe("tidepool/sim", () => {
  const trace = generate({ ...defaultWorkloads.chat, sessions: 2 });
  const options = {
    policy: "lru",
    capacity: { blocks: 100 },
    cost: namedModel("nvidia-hybrid-7b")!,
  } as const;
  const cases: [string, () => unknown][] = [
    ["workload", () => plain(generate)(undefined)],
    ["workload.kind", () => plain(generate)({ kind: "chats" })],
    ["workload.sessions", () => generate({ ...defaultWorkloads.chat, sessions: 0 })],
    ["workload.sessions", () => generate({ ...defaultWorkloads.agents, sessions: Infinity })],
    ["workload.turns.median", () => generate({ ...defaultWorkloads.agents, turns: { median: 0, sigma: 1 } })],
    ["workload.shot", () => plain(generate)({ ...defaultWorkloads["few-shot"], shot: 1 })],
    ["workload.seed", () => plain(generate)({ ...defaultWorkloads.documents, seed: "1" })],
    ["trace", () => plain(replay)([], options)],
    ["options", () => plain(replay)(trace)],
    ["policy", () => plain(replay)(trace, { ...options, policy: "LRU" })],
    ["capacity", () => replay(trace, { ...options, capacity: { blocks: 0 } })],
    ["capacity", () => plain(replay)(trace, { ...options, capacity: 100 })],
    ["cost", () => plain(replay)(trace, { ...options, cost: undefined })],
    ["block_tokens", () => plain(replay)(trace, { ...options, block_tokens: 16 })],
    ["blockTokens", () => replay(trace, { ...options, blockTokens: 0 })],
    ["seats", () => serve(trace, { ...options, seats: 0 })],
    ["timing.decodeStepMs", () => plain(serve)(trace, { ...options, timing: { prefillTokensPerSecond: 1 } })],
    ["policies", () => plain(parsePolicies)(undefined)],
    ["capacities", () => plain(parseCapacities)(5)],
    ["text", () => plain(parseTrace)("name", undefined)],
    ["salt", () => new Recorder({ blockTokens: 32, salt: new Uint8Array(8) })],
  ];
  test.each(cases)("refuses a wrong %s by name", async (option, call) => {
    expect(await errorOf(call)).toMatchObject({ code: "invalid_argument", details: { option } });
  });

  test("takes what it should", () => {
    expect(replay(trace, { ...options, capacity: "inf", observe: () => {} }).requests).toBe(
      trace.requests.length,
    );
    expect(
      Object.values(defaultWorkloads).map((each) => generate({ ...each, sessions: 1 }).symbolTokens),
    ).toEqual([1, 1, 1, 1]);
  });
});

test("--power-preference asks for an adapter, and refuses another word", () => {
  const parsed = (...args: string[]) => {
    const command = withEngineOptions(new Command())
      .exitOverride()
      .configureOutput({ writeErr: () => {} });
    return engineOptions(command.parse(args, { from: "user" }).opts<EngineFlags>()).powerPreference;
  };
  expect(parsed("--power-preference", "low-power")).toBe("low-power");
  expect(parsed()).toBeUndefined();
  expect(() => parsed("--power-preference", "weak")).toThrow(/high-performance, low-power/);
});
