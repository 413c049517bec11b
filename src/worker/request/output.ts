/**
 * One request's output under way: tokens -> text that never holds half a character or a piece of a stop string, counts
 * and times. It belongs to the session; scheduling knows nothing of it.
 */
import { systemClock } from "../../base.ts";
import type { SampledRow } from "../../model/sampler.ts";
import type { SamplingParams } from "../../model/sampling.ts";
import { StopMatcher } from "../../text/stop.ts";
import type {
  GenerationResult,
  Pace,
  PromptUsage,
  Resume,
  StepOutput,
  TokenLogprob,
} from "../../wire/protocol.ts";

/** Turns ids into text piece by piece. */
export interface Decoder {
  push(id: number): string;
  end(): string;
}

export class Output {
  readonly id: number;
  readonly sampling: SamplingParams;
  /** A stop string has been met. */
  stopped = false;
  private readonly decoder: Decoder;
  private readonly matcher: StopMatcher;
  private readonly wantsLogprobs: boolean;
  private text = "";
  private readonly tokens: number[] = [];
  private readonly logprobs: TokenLogprob[] = [];
  /** Prompt tokens that came from a prefill service. */
  prefilledTokens: number | undefined;
  /** When the request came. */
  private readonly arrivedMs: number;
  private prefillMs: number | undefined;
  private firstMs: number | undefined;
  private lastMs = 0;
  /** Tokens that were there before: they took no time of ours. */
  private resumedTokens = 0;

  constructor(
    id: number,
    arrivedMs: number,
    decoder: Decoder,
    sampling: SamplingParams,
    stop: readonly string[],
  ) {
    this.id = id;
    this.arrivedMs = arrivedMs;
    this.decoder = decoder;
    this.sampling = sampling;
    this.matcher = new StopMatcher(stop);
    this.wantsLogprobs = sampling.logprobs !== undefined;
  }

  /** The first chunk of its prompt is about to run. */
  startPrefill(): void {
    this.prefillMs ??= systemClock.nowMs();
  }

  /** Takes in what was generated and shown before. */
  resume({ tokens, logprobs = [] }: Resume): void {
    for (const token of tokens) this.push(token);
    this.logprobs.push(...logprobs);
    this.resumedTokens = tokens.length;
  }

  /** Takes in an accepted token; gives what may be shown of it. */
  accept(row: SampledRow): StepOutput | undefined {
    this.lastMs = systemClock.nowMs();
    this.firstMs ??= this.lastMs;
    const logprobs =
      row.logprob === undefined ? undefined : [{ token: row.token, logprob: row.logprob, top: row.top }];
    if (logprobs) this.logprobs.push(...logprobs);
    return { id: this.id, text: this.push(row.token), tokens: [row.token], ...(logprobs && { logprobs }) };
  }

  private push(token: number): string {
    this.tokens.push(token);
    const { text, stopped } = this.matcher.push(this.decoder.push(token));
    this.stopped = stopped !== undefined;
    this.text += text;
    return text;
  }

  /** What was held back and is shown after all, because the request ended. */
  flush(): StepOutput | undefined {
    if (this.stopped) return undefined;
    const last = this.matcher.push(this.decoder.end());
    this.stopped = last.stopped !== undefined;
    const text = last.text + (this.stopped ? "" : this.matcher.end().text);
    this.text += text;
    return text === "" ? undefined : { id: this.id, text, tokens: [] };
  }

  result(
    finishReason: GenerationResult["finishReason"],
    prompt: PromptUsage,
    pace: Pace | undefined,
  ): GenerationResult {
    const completionTokens = this.tokens.length;
    const firstMs = this.firstMs ?? systemClock.nowMs();
    const prefillMs = firstMs - (this.prefillMs ?? firstMs);
    const decodeMs = this.lastMs - firstMs;
    return {
      text: this.text,
      tokens: this.tokens,
      finishReason,
      usage: { ...prompt, completionTokens, ...(pace && { pace }) },
      timing: {
        ttftMs: firstMs - this.arrivedMs,
        prefillTokensPerSecond: perSecond(prompt.computedTokens, prefillMs),
        decodeTokensPerSecond: perSecond(completionTokens - this.resumedTokens - 1, decodeMs),
      },
      ...(this.wantsLogprobs && { logprobs: this.logprobs }),
    };
  }
}

/** The result of a request that was aborted before its prompt was known. */
export function nothing(): GenerationResult {
  return {
    text: "",
    tokens: [],
    finishReason: "aborted",
    usage: {
      promptTokens: 0,
      computedTokens: 0,
      cachedTokens: { gpu: 0, ram: 0, disk: 0 },
      completionTokens: 0,
    },
    timing: { ttftMs: 0, prefillTokensPerSecond: 0, decodeTokensPerSecond: 0 },
  };
}

function perSecond(tokens: number, ms: number): number {
  return ms > 0 && tokens > 0 ? (tokens * 1000) / ms : 0;
}
