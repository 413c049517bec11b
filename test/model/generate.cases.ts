/**
 * Generation on a real trained model (../shared/goldens/stories260K): texts equal to the published ones, requests that
 * run together, aborts, stops, seeds, limits. After each case every block must be free again.
 */
import { TidepoolError } from "../../src/errors.ts";
import type {
  EngineOptions,
  GenerateParams,
  GenerationResult,
  RequestInput,
} from "../../src/wire/protocol.ts";
import { equal } from "../support/equal.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { TestSession } from "../support/session.ts";

const FOLDER = "goldens/stories260K";

interface Story {
  prompt: string;
  promptTokens: number[];
  greedyTokens: number[];
  text: string;
}

/** Several blocks of text. */
const LONG =
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ".repeat(3);

const text = (prompt: string): RequestInput => ({ kind: "text", text: prompt });

/** A case on a session of stories260K, checked for lost blocks at the end. */
function storyCase(
  name: string,
  run: (session: TestSession, stories: Story[], env: CaseEnv) => Promise<void>,
  options: EngineOptions = {},
): Case {
  return {
    name: `model/generate/${name}`,
    async run(env) {
      const model = await env.shared(`${FOLDER}/model.gguf`);
      const stories = JSON.parse(
        new TextDecoder().decode(await env.shared(`${FOLDER}/golden.json`)),
      ) as Story[];
      const session = await TestSession.load(env.gpu, model, { dtype: "f32", ...options });
      try {
        await run(session, stories, env);
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof TidepoolError) return error.code;
    throw error;
  }
  return "no error";
}

const MIXED: [string, GenerateParams][] = [
  ["Once upon a time", { maxTokens: 24 }],
  ["Lily and Tom went to the park", { maxTokens: 17, temperature: 0.9, seed: 7 }],
  ["The cat", { maxTokens: 30, temperature: 1.2, topK: 20, topP: 0.9, seed: 8, repetitionPenalty: 1.2 }],
  ["One day, a little girl named Sue found a big red ball in the garden.", { maxTokens: 21, logprobs: 3 }],
];

export const cases: Case[] = [
  {
    ...storyCase("the published stories, greedily", async (session, stories) => {
      for (const story of stories) {
        const {
          tokens,
          text: continued,
          usage,
        } = await session.generate(text(story.prompt), {
          maxTokens: story.greedyTokens.length,
        }).done;
        equal(tokens, story.greedyTokens, story.prompt);
        equal(continued, story.text, "text");
        equal(usage.promptTokens, story.promptTokens.length, "prompt tokens");
      }
    }),
    full: true, // the normal run has them through the worker: model/engine
  },
  storyCase(
    "four at once are as each alone",
    async (session) => {
      const alone: GenerationResult[] = [];
      for (const [prompt, params] of MIXED) alone.push(await session.generate(text(prompt), params).done);
      const together = await Promise.all(
        MIXED.map(([prompt, params]) => session.generate(text(prompt), params).done),
      );
      together.forEach((result, index) => {
        equal(result.tokens, alone[index]?.tokens, `tokens of request ${index}`);
        equal(result.logprobs, alone[index]?.logprobs, `log-probabilities of request ${index}`);
      });
      session.session.scheduler.check();
    },
    { chunkTokens: 8 },
  ),
  storyCase(
    "requests that pre-empt each other are as each alone",
    async (session) => {
      const prompts = ["Once upon a time", "The dog", "A bird", "Tim had"];
      const alone: number[][] = [];
      for (const prompt of prompts)
        alone.push((await session.generate(text(prompt), { maxTokens: 60 }).done).tokens);
      const together = await Promise.all(
        prompts.map(
          (prompt) =>
            session.generate(text(prompt), { maxTokens: 60 }, () => session.session.scheduler.check()).done,
        ),
      );
      equal(
        together.map(({ tokens }) => tokens),
        alone,
        "tokens",
      );
    },
    { poolTokens: 160, blockTokens: 16 },
  ),
  storyCase(
    "an abort in the middle of a long prompt returns its blocks",
    async (session, stories) => {
      const long = Array.from({ length: 300 }, (_, index) => stories[0]?.greedyTokens[index % 200] as number);
      const { id, done } = session.generate({ kind: "tokens", tokens: long }, { maxTokens: 5 });
      await new Promise((resolve) => setTimeout(resolve, 5));
      session.session.abort(id);
      const { finishReason, tokens } = await done;
      equal(finishReason, "aborted", "reason");
      equal(tokens, [], "tokens");
      session.checkIdle();
      const after = await session.generate(text("Once upon a time"), { maxTokens: 10 }).done;
      equal(after.tokens, stories[1]?.greedyTokens.slice(0, 10), "a request after it");
    },
    { chunkTokens: 4, blockTokens: 16 },
  ),
  storyCase("a prefix computed before is not computed again, and changes no token", async (session) => {
    const prompt = [1, ...((await session.session.call({ method: "tokenize", text: LONG })) as number[])];
    const params = { maxTokens: 20, logprobs: 1 };
    const cold = await session.generate({ kind: "tokens", tokens: prompt }, params).done;
    equal(cold.usage.cachedTokens.gpu, 0, "cached when cold");
    const warm = await session.generate({ kind: "tokens", tokens: prompt }, params).done;
    const blocks = Math.floor((prompt.length - 1) / 32);
    equal(
      [warm.usage.cachedTokens.gpu, warm.usage.computedTokens],
      [blocks * 32, prompt.length - blocks * 32],
      "warm",
    );
    equal(warm.tokens, cold.tokens, "tokens");
    const next = [...prompt, ...cold.tokens, ...prompt.slice(1, 8)];
    const turn = await session.generate({ kind: "tokens", tokens: next }, params).done;
    equal(
      turn.usage.cachedTokens.gpu,
      Math.floor((prompt.length + cold.tokens.length - 1) / 32) * 32,
      "next turn",
    );
    session.session.scheduler.check();
  }),
  storyCase("an abort in decode returns its blocks", async (session) => {
    let seen = 0;
    const request = session.generate(text("Once upon a time"), {}, () => {
      if (++seen === 5) session.session.abort(request.id);
    });
    const { finishReason, tokens } = await request.done;
    equal(finishReason, "aborted", "reason");
    equal(tokens.length, 5, "tokens before the abort");
  }),
  storyCase("the same seed gives the same text, another another", async (session) => {
    const run = async (seed: number) =>
      (await session.generate(text("Once"), { temperature: 1, seed, maxTokens: 25 }).done).text;
    const first = await run(42);
    equal(await run(42), first, "seed 42 twice");
    if ((await run(43)) === first) throw new Error("seeds 42 and 43 give the same text");
  }),
  storyCase("a stop string ends the text before it", async (session, stories) => {
    const whole = stories[1]?.text as string;
    const stop = whole.slice(40, 46);
    const { text: got, finishReason } = await session.generate(text("Once upon a time"), { stop: [stop] })
      .done;
    equal(got, whole.slice(0, whole.indexOf(stop)), "text");
    equal(finishReason, "stop", "reason");
  }),
  storyCase("chunks joined are the text, and hold no half character", async (session) => {
    const { steps, done } = session.generate(text("Once"), { temperature: 1.5, seed: 3, maxTokens: 60 });
    const { text: whole, tokens } = await done;
    equal(steps.map((step) => step.text).join(""), whole, "text");
    equal(
      steps.flatMap((step) => step.tokens),
      tokens,
      "tokens",
    );
  }),
  storyCase("log-probabilities agree with scoring", async (session) => {
    const { tokens, logprobs } = await session.generate(text("Once upon a time"), {
      maxTokens: 12,
      logprobs: 2,
    }).done;
    const ids = [...(await promptIds(session)), ...tokens];
    const scored = (await session.session.call({ method: "score", tokens: ids, from: 0, logits: false })) as {
      logprobs: number[];
    };
    const tail = scored.logprobs.slice(-tokens.length);
    logprobs?.forEach(({ logprob, top }, index) => {
      if (Math.abs(logprob - (tail[index] as number)) > 1e-3)
        throw new Error(`${logprob} against ${tail[index]}`);
      equal(top.length, 2, "top");
    });
  }),
  storyCase("what does not fit is refused before work starts", async (session) => {
    const long = { kind: "tokens" as const, tokens: Array<number>(600).fill(5) };
    equal(await refusal(session.generate(long).done), "too_long", "prompt");
    equal(await refusal(session.generate(text("Once"), { maxTokens: 600 }).done), "too_long", "maxTokens");
    equal(await refusal(session.generate({ kind: "tokens", tokens: [] }).done), "invalid_argument", "empty");
    equal(
      await refusal(session.generate({ kind: "tokens", tokens: [512] }).done),
      "invalid_argument",
      "token",
    );
    equal(
      await refusal(session.generate(text("Once"), { temperature: -1 }).done),
      "invalid_argument",
      "temperature",
    );
    equal(
      await refusal(session.generate({ kind: "chat", messages: [{ role: "user", content: "hi" }] }).done),
      "unsupported",
      "chat",
    );
    const stopped = await session.generate(
      { kind: "tokens", tokens: long.tokens.slice(0, 505) },
      { maxTokens: 50, overflow: "stop" },
    ).done;
    equal([stopped.tokens.length <= 7, stopped.usage.promptTokens], [true, 505], "overflow stop");
    const cut = await session.generate(long, { maxTokens: 8, overflow: "truncateStart" }).done;
    equal(cut.usage.promptTokens, 504, "overflow truncateStart");
  }),
];

async function promptIds(session: TestSession): Promise<number[]> {
  const ids = (await session.session.call({ method: "tokenize", text: "Once upon a time" })) as number[];
  return [1, ...ids];
}
