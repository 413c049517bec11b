/**
 * The choices of a request while they run: what each adds, in the order in which it comes, and at the end what all of them took. Every
 * door is made of this. It knows nothing of the objects that are sent.
 */
import { TidepoolError } from "../errors.ts";
import type { GenerationResult } from "../wire/protocol.ts";
import { chosenTokens } from "./logprobs.ts";
import type { ChosenToken, FinishReason, OpenAiUsage } from "./objects.ts";
import type { ReasoningSplit } from "./reasoning.ts";
import type { Running, Speaker } from "./source.ts";

/** What was added to a choice. */
export interface Piece {
  index: number;
  content: string;
  reasoning: string;
  logprobs: ChosenToken[] | undefined;
  /** With the last piece of a choice. */
  ended?: { reason: FinishReason; result: GenerationResult; reasoningTokens: number | undefined };
}

/** One choice. */
export interface Choice {
  index: number;
  running: Running;
  /** Of models that reason. */
  split: ReasoningSplit | undefined;
}

/** All pieces of all choices. Whoever stops early aborts the requests themselves. */
export async function* piecesOf(speaker: Speaker, choices: readonly Choice[]): AsyncGenerator<Piece> {
  const sources = choices.map((choice) => piecesOfOne(speaker, choice));
  const next = (i: number) => {
    const read = sources[i]!.next().then(({ done, value }) => ({ i, done, value }));
    read.catch(() => {}); // whoever stops early does not hear of it
    return read;
  };
  const waiting = new Map(sources.map((_, i) => [i, next(i)]));
  while (waiting.size > 0) {
    const { i, done, value } = await Promise.race(waiting.values());
    if (done === true) {
      waiting.delete(i);
      continue;
    }
    waiting.set(i, next(i));
    yield value as Piece;
  }
}

async function* piecesOfOne(speaker: Speaker, { index, running, split }: Choice): AsyncGenerator<Piece> {
  let reasoningTokens = 0;
  for await (const { text, tokens, logprobs } of running) {
    const parts = split?.push(text) ?? { reasoning: "", content: text };
    if (split?.isReasoning) reasoningTokens += tokens.length;
    const chosen = logprobs && (await chosenTokens(speaker, logprobs));
    yield { index, ...parts, logprobs: chosen };
  }
  const result = await running.result();
  const reason = result.finishReason;
  if (reason === "aborted") throw new TidepoolError("aborted", "the request was aborted");
  const rest = split?.end() ?? { reasoning: "", content: "" };
  const ended = { reason, result, reasoningTokens: split?.hasReasoned ? reasoningTokens : undefined };
  yield { index, ...rest, logprobs: undefined, ended };
}

/** Adds up what choices took; those of one prompt share it. */
export class UsageSum {
  private readonly results: { index: number; result: GenerationResult }[] = [];
  private reasoningTokens: number | undefined;
  private readonly perPrompt: number;

  /** @param perPrompt choices of each prompt */
  constructor(perPrompt: number) {
    this.perPrompt = perPrompt;
  }

  add({ index, ended }: Piece): void {
    if (!ended) return;
    const { result, reasoningTokens } = ended;
    this.results.push({ index, result });
    if (reasoningTokens !== undefined) this.reasoningTokens = (this.reasoningTokens ?? 0) + reasoningTokens;
  }

  /** Of what has ended. The first choice of a prompt tells where the prompt's tokens came from. */
  get total(): OpenAiUsage {
    const ordered = [...this.results].sort((a, b) => a.index - b.index).map(({ result }) => result);
    const first = ordered.filter((_, i) => i % this.perPrompt === 0).map(({ usage }) => usage);
    const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
    const cached: OpenAiUsage["tidepool"]["cached_tokens"] = { gpu: 0, ram: 0, disk: 0 };
    for (const { cachedTokens } of first)
      for (const [tier, tokens] of Object.entries(cachedTokens)) cached[tier] = (cached[tier] ?? 0) + tokens;
    const prompt = sum(first.map(({ promptTokens }) => promptTokens));
    const completion = sum(ordered.map(({ usage }) => usage.completionTokens));
    const restore = first.find((usage) => usage.restore)?.restore;
    const prefilled = first.flatMap(({ prefilledTokens = [] }) => prefilledTokens);
    return {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      prompt_tokens_details: { cached_tokens: sum(Object.values(cached)) },
      ...(this.reasoningTokens !== undefined && {
        completion_tokens_details: { reasoning_tokens: this.reasoningTokens },
      }),
      tidepool: {
        computed_tokens: sum(first.map(({ computedTokens }) => computedTokens)),
        cached_tokens: cached,
        ...(restore && { restore }),
        ...(prefilled.length > 0 && { prefilled_tokens: sum(prefilled) }),
        ttft_ms: Math.round((ordered[0]?.timing.ttftMs ?? 0) * 10) / 10,
      },
    };
  }
}
