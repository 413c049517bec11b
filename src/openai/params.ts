/** A request in OpenAI's form as one of ours: sampling, length, template. Pure: randomness is handed in. */
import type { GenerateParams } from "../wire/protocol.ts";
import type { GivenChat, GivenText } from "./bodies.ts";

/** OpenAI's defaults where ours differ. */
const TEMPERATURE = 1;
const TEXT_MAX_TOKENS = 16;

const SEEDS = 2 ** 32;

/** The least `topP`: OpenAI's 0 takes the likeliest token alone. */
const LEAST_TOP_P = 1e-6;

/** Of one choice. @param random a seed for a request without one */
function sampling(body: GivenChat | GivenText, choice: number, random: number): GenerateParams {
  const seed = Number(BigInt.asUintN(32, BigInt(body.seed ?? random) + BigInt(choice)));
  const params: GenerateParams = {
    ...body.tidepool,
    temperature: body.temperature ?? TEMPERATURE,
    seed: seed % SEEDS,
    topP: body.top_p === undefined ? undefined : Math.max(body.top_p, LEAST_TOP_P),
    topK: body.top_k === undefined ? undefined : Math.max(0, body.top_k),
    minP: body.min_p,
    repetitionPenalty: body.repetition_penalty,
    frequencyPenalty: body.frequency_penalty,
    presencePenalty: body.presence_penalty,
    logitBias: body.logit_bias,
    stop: body.stop,
  };
  return Object.fromEntries(Object.entries(params).filter(([, value]) => value !== undefined));
}

export function chatParams(body: GivenChat, choice: number, random: number): GenerateParams {
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  return {
    ...sampling(body, choice, random),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(body.logprobs && { logprobs: body.top_logprobs ?? 0 }),
  };
}

export function textParams(body: GivenText, choice: number, random: number): GenerateParams {
  const { logprobs, max_tokens: maxTokens = TEXT_MAX_TOKENS } = body;
  return { ...sampling(body, choice, random), maxTokens, ...(logprobs !== undefined && { logprobs }) };
}

/** Variables of the chat template; undefined if there are none. */
export function templateOf(
  body: Pick<GivenChat, "reasoning_effort" | "enable_thinking" | "chat_template_kwargs">,
): Record<string, unknown> | undefined {
  const { reasoning_effort: effort, enable_thinking: thinks, chat_template_kwargs: more } = body;
  const variables = {
    ...(effort !== undefined && { reasoning_effort: effort }),
    ...(effort === "none" && { enable_thinking: false }),
    ...(thinks !== undefined && { enable_thinking: thinks }),
    ...more,
  };
  return Object.keys(variables).length > 0 ? variables : undefined;
}
