/** The library's face, with its worker, in every runtime: load, generate, abort, questions, errors, close. */
import { Engine, inspect, tokenize, TidepoolError } from "../../src/index.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";

async function storyFile(env: CaseEnv): Promise<File> {
  const bytes = await env.shared("goldens/stories260K/model.gguf");
  return new File([bytes.slice()], "stories260K.gguf");
}

async function stories(env: CaseEnv): Promise<{ prompt: string; greedyTokens: number[]; text: string }[]> {
  return JSON.parse(new TextDecoder().decode(await env.shared("goldens/stories260K/golden.json"))) as never;
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof TidepoolError ? error.code : String(error)),
  );
}

export const cases: Case[] = [
  {
    name: "model/engine/published stories through the worker, streamed",
    async run(env) {
      const engine = await Engine.load(await storyFile(env), { dtype: "f32" });
      try {
        for (const story of await stories(env)) {
          let streamed = "";
          const generation = engine.generate(story.prompt, { maxTokens: story.greedyTokens.length });
          for await (const chunk of generation) streamed += chunk.text;
          equal(streamed, story.text, "streamed text");
          equal((await generation.result()).tokens, story.greedyTokens, "tokens");
        }
        equal(await engine.countTokens("Once upon a time"), 5, "countTokens");
        equal(await engine.detokenize(await engine.tokenize("a cat")), "a cat", "there and back");
      } finally {
        await engine.close();
      }
    },
  },
  {
    name: "model/engine/aborts by signal, and goes on",
    async run(env) {
      const engine = await Engine.load(await storyFile(env), { dtype: "f32", chunkTokens: 2 });
      try {
        const before = engine.generate("Once upon a time", { signal: AbortSignal.abort() });
        equal((await before.result()).finishReason, "aborted", "aborted before it started");
        const controller = new AbortController();
        const running = engine.generate("Once upon a time", { signal: controller.signal });
        for await (const { tokens } of running) if (tokens.length > 0) controller.abort();
        equal((await running.result()).finishReason, "aborted", "aborted while it ran");
        const left = engine.generate("The", { maxTokens: 4 });
        equal((await left.result()).tokens.length, 4, "the next request");
      } finally {
        await engine.close();
      }
    },
  },
  {
    name: "model/engine/errors have codes, close ends everything",
    async run(env) {
      const broken = new File([new Uint8Array(100)], "broken.gguf");
      equal(await codeOf(Engine.load(broken)), "invalid_file", "a broken file");
      const engine = await Engine.load(await storyFile(env), { dtype: "f32" });
      equal(await codeOf(engine.generate("x", { topP: 7 }).result()), "invalid_argument", "topP 7");
      equal(await codeOf(engine.score([1, 2], { from: 5 })), "invalid_argument", "from 5 of 2");
      const running = engine.generate("Once upon a time");
      await engine.close();
      equal((await running.result()).finishReason, "aborted", "closed while it ran");
      equal(await codeOf(engine.generate("x").result()), "closed", "after close");
      await engine.close();
    },
  },
  {
    name: "model/engine/the device is lost in the worker: the stream goes on; close while it recovers",
    async run(env) {
      const engine = await Engine.load(await storyFile(env), { dtype: "f32" });
      const ask = () => engine.generate("Once upon a time", { maxTokens: 24 });
      const before = await ask().result();
      equal(engine.state, "ready", "state");
      let chunks = 0;
      let streamed = "";
      for await (const { text } of ask()) {
        streamed += text;
        if (++chunks === 6) await engine.debug.loseDevice();
      }
      equal(streamed, before.text, "text");
      equal(
        engine.notices.map(({ code }) => code),
        ["device_recovered"],
        "notices",
      );
      const other = await Engine.load(await storyFile(env), { dtype: "f32" });
      const running = other.generate("Once upon a time", { maxTokens: 200 });
      await other.debug.loseDevice();
      await Promise.all([other.close(), other.close()]);
      equal((await running.result()).finishReason, "aborted", "closed while it recovered");
      await engine.close();
      equal([engine.state, other.state], ["closed", "closed"], "states");
    },
  },
  {
    name: "model/engine/too little memory is an error with what would fit",
    async run(env) {
      const file = await storyFile(env);
      const { memory, capabilities } = await inspect(file);
      const { maxBytes = 0, startBytes = 0, kvPoolTokens } = memory ?? {};
      equal(
        startBytes > 0 && startBytes < maxBytes,
        true,
        `${startBytes} bytes at first, ${maxBytes} at most`,
      );
      equal(kvPoolTokens, 8192, "tokens that the pool may grow to");
      equal(
        capabilities.some(({ code }) => code === "software_adapter"),
        env.gpu.adapter.software,
        "software adapter told",
      );
      equal(await codeOf(Engine.load(file, { memoryBytes: 200_000 })), "out_of_memory", "less than it needs");
      const report = await inspect(file, { memoryBytes: 200_000 });
      equal([report.runs, report.problems.length], [false, 1], "the report says so");
      const memoryBytes = Math.floor((startBytes + maxBytes) / 2);
      const engine = await Engine.load(file, { memoryBytes });
      equal(engine.info.limits.poolTokens < 8192, true, "a smaller pool");
      await engine.close();
    },
  },
  {
    name: "model/engine/header questions load no weights",
    async run(env) {
      const file = await storyFile(env);
      const report = await inspect(file);
      equal([report.architecture, report.parameters, report.runs], ["llama", 260_032, true], "report");
      equal(await tokenize(file, ""), [], "no text");
      equal((await tokenize(file, "Once upon a time")).length, 4, "tokens");
    },
  },
];
