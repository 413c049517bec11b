/**
 * A request that another session takes over from the tokens that were generated: it says what it would have said, says none of it
 * twice, and ends where it would have ended; also where the tokens are all there were.
 */
import type { GenerateParams, GenerationResult, RequestInput } from "../../src/wire/protocol.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";

const OPTIONS = { dtype: "f32", blockTokens: 16, chunkTokens: 32, maxRequests: 2 } as const;

const STORY: RequestInput = { kind: "text", text: "Once upon a time, there was a little girl named Lily." };
const IDS: RequestInput = {
  kind: "tokens",
  tokens: Array.from({ length: 40 }, (_, i) => 3 + ((i * 37) % 90)),
};

const GREEDY: GenerateParams = { maxTokens: 20, cache: "off" };
const SAMPLED: GenerateParams = {
  ...GREEDY,
  ...{ temperature: 0.8, seed: 7, repetitionPenalty: 1.1, presencePenalty: 0.2, logprobs: 2 },
};

const MODELS: readonly [string, string, RequestInput][] = [
  ["attention", "goldens/stories260K/model.gguf", STORY],
  ["short convolutions", "goldens/models/lfm2/model.gguf", IDS],
  ["a state-space model", "goldens/models/mamba2/model.gguf", IDS],
  ["gated delta", "goldens/models/qwen35/model.gguf", IDS],
];

interface Resumed {
  result: GenerationResult;
  streamed: { text: string; tokens: number[] };
}

/** Goes on behind the first `count` tokens of a result. */
async function resumeAt(
  session: TestSession,
  input: RequestInput,
  params: GenerateParams,
  { tokens, logprobs }: GenerationResult,
  count: number,
): Promise<Resumed> {
  const given = {
    tokens: tokens.slice(0, count),
    ...(logprobs && { logprobs: logprobs.slice(0, count) }),
  };
  const { done, steps } = session.generate(input, params, undefined, given);
  const result = await done;
  const text = steps.map((step) => step.text).join("");
  return { result, streamed: { text, tokens: steps.flatMap((step) => step.tokens) } };
}

function checkResumed({ result, streamed }: Resumed, whole: GenerationResult, count: number): void {
  equal(result.tokens, whole.tokens, "tokens");
  equal(result.text, whole.text, "text");
  equal(result.finishReason, whole.finishReason, "finish reason");
  equal(
    result.logprobs?.map(({ token, top }) => [token, ...top.map((each) => each.token)]),
    whole.logprobs?.map(({ token, top }) => [token, ...top.map((each) => each.token)]),
    "tokens of the log-probabilities",
  );
  equal(streamed.tokens, whole.tokens.slice(count), "tokens streamed");
  equal(whole.text.endsWith(streamed.text), true, "streamed text is the rest");
  const { computedTokens, cachedTokens, promptTokens } = result.usage;
  const { gpu, ram, disk } = cachedTokens;
  equal(computedTokens + gpu + ram + disk, promptTokens, "sum of usage");
}

function resumeCase([what, path, input]: readonly [string, string, RequestInput]): Case {
  return {
    name: `model/resume/${what}: greedy and sampled, behind any number of tokens`,
    async run(env) {
      const session = await TestSession.load(env.gpu, await env.shared(path), OPTIONS);
      try {
        for (const params of [GREEDY, SAMPLED]) {
          const whole = await session.generate(input, params).done;
          for (const count of [0, 1, 7, whole.tokens.length - 1, whole.tokens.length]) {
            checkResumed(await resumeAt(session, input, params, whole, count), whole, count);
          }
        }
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

const stopCase: Case = {
  name: "model/resume/a stop string that was met, and one that is half said",
  async run(env) {
    const session = await TestSession.load(env.gpu, await env.shared(MODELS[0]![1]), OPTIONS);
    try {
      const plain = await session.generate(STORY, GREEDY).done;
      const stop = plain.text.slice(12, 20);
      const params = { ...GREEDY, stop: [stop] };
      const whole = await session.generate(STORY, params).done;
      equal(whole.finishReason, "stop", "finish reason");
      for (let count = 0; count <= whole.tokens.length; count++) {
        const { result, streamed } = await resumeAt(session, STORY, params, whole, count);
        equal([result.text, result.tokens], [whole.text, whole.tokens], `text and tokens behind ${count}`);
        equal(whole.text.endsWith(streamed.text), true, "streamed text is the rest");
      }
      session.checkIdle();
    } finally {
      await session.close();
    }
  },
};

export const cases: Case[] = [...MODELS.map(resumeCase), stopCase];
