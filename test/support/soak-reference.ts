/**
 * What a soak's answers are compared with: an engine that keeps nothing, asked one request at a time. Tokens must be equal. Keys
 * and values of a prefix may have been computed in other steps than there, so that two tokens of (nearly) one likelihood may
 * change places; where that is so, both engines must have told the same log-probabilities up to it.
 */
import { Engine, TidepoolError, type GenerateParams, type GenerationResult } from "../../src/index.ts";
import type { Ask, PlannedRequest } from "./soak-plan.ts";

/** What a request came to. */
export type Ended = { result: GenerationResult } | { error: TidepoolError };

/** Log-probabilities that are told with each token, and how far two of them may be apart. */
export const LOGPROBS = 4;
const MAX_APART = 2e-3;

/** Answers kept, at most. */
const MAX_KEPT = 4000;

export class Reference {
  private readonly engine: Engine;
  private readonly kept = new Map<string, Promise<Ended>>();
  private last: Promise<unknown> = Promise.resolve();
  tokens = 0;
  /** Answers that parted at two tokens of one likelihood. */
  ties = 0;

  private constructor(engine: Engine) {
    this.engine = engine;
  }

  static async open(model: string): Promise<Reference> {
    const engine = await Engine.load(model, {
      dtype: "f32",
      maxRequests: 1,
      cache: { disk: false, ramBytes: 0 },
    });
    return new Reference(engine);
  }

  close(): Promise<void> {
    return this.engine.close();
  }

  /** The answer to the same question, from nothing. */
  answer({ ask, params }: PlannedRequest): Promise<Ended> {
    const key = JSON.stringify([ask, params]);
    const known = this.kept.get(key);
    if (known) return known;
    if (this.kept.size >= MAX_KEPT) this.kept.clear();
    const options = { ...params, logprobs: LOGPROBS, cache: "off" } as const;
    const answer = this.last.then(() => ended(start(this.engine, ask, options).result()));
    this.last = answer;
    this.kept.set(key, answer);
    return answer;
  }

  /** @throws Error that says how a request's outcome differs from what it should be */
  async compare(request: PlannedRequest, got: Ended, streamed: string | undefined): Promise<void> {
    const want = await this.answer(request);
    if ("error" in got) return compareErrors(got.error, want);
    const { result } = got;
    if ("error" in want)
      throw new Error(`an answer of ${result.tokens.length} tokens, expected ${want.error.message}`);
    if (streamed !== undefined && streamed !== result.text)
      throw new Error(
        `streamed ${JSON.stringify(streamed)}, and the result says ${JSON.stringify(result.text)}`,
      );
    this.tokens += result.tokens.length;
    if (this.parts(result, want.result)) return;
    compareEnds(result, want.result, request);
  }

  /** Whether two answers part at a tie. @throws where they part elsewhere */
  private parts(got: GenerationResult, want: GenerationResult): boolean {
    const at = got.tokens.findIndex((token, index) => token !== want.tokens[index]);
    const common = at < 0 ? got.tokens.length : at;
    for (let index = 0; index < common; index++) checkLogprobs(got, want, index);
    if (at < 0) return false;
    if (want.tokens[at] === undefined) {
      // It ended there by a token that ends it, or by a stop string.
      throw new Error(`${got.tokens.length} tokens, expected ${want.tokens.length}`);
    }
    checkTop(got, want, at);
    this.ties++;
    return true;
  }
}

function checkLogprobs(got: GenerationResult, want: GenerationResult, index: number): void {
  const [a, b] = [got.logprobs?.[index], want.logprobs?.[index]];
  if (!a || !b) throw new Error(`no log-probability of token ${index}`);
  if (!(Math.abs(a.logprob - b.logprob) <= MAX_APART))
    throw new Error(
      `token ${index} of ${got.tokens.length}: log-probability ${a.logprob}, expected ${b.logprob}`,
    );
}

function checkTop(got: GenerationResult, want: GenerationResult, index: number): void {
  const [a, b] = [got.logprobs?.[index]?.top ?? [], want.logprobs?.[index]?.top ?? []];
  const isNear =
    a.length > 0 && a.every(({ logprob }, i) => Math.abs(logprob - (b[i]?.logprob ?? NaN)) <= MAX_APART);
  if (isNear) return;
  const seen = JSON.stringify([got.tokens.slice(0, index + 1), a]);
  throw new Error(
    `token ${index} differs: ${seen}, expected ${JSON.stringify([want.tokens.slice(0, index + 1), b])}`,
  );
}

/** An aborted answer is a beginning; any other has all of it, or ends where a smaller pool does. */
function compareEnds(got: GenerationResult, want: GenerationResult, { params }: PlannedRequest): void {
  const isWhole = got.tokens.length === want.tokens.length && got.finishReason === want.finishReason;
  if (isWhole && got.text === want.text) return;
  const begins = want.text.startsWith(certain(got.text, params.stop));
  if (got.finishReason === "aborted" && begins) return;
  const isCut = params.overflow === "stop" && got.finishReason === "length";
  if (isCut && begins) return;
  const said = ({ text, tokens, finishReason }: GenerationResult) =>
    `${finishReason} after ${tokens.length} tokens: ${JSON.stringify(text)}`;
  throw new Error(`${said(got)}, expected ${said(want)}`);
}

/** What of a text that was cut would have come to more than half a character or the beginning of a stop string. */
function certain(text: string, stop: GenerateParams["stop"] = []): string {
  const longest = Math.max(0, ...[stop].flat().map(({ length }) => length - 1));
  return text.replace(/\ufffd+$/, "").slice(0, longest === 0 ? undefined : -longest);
}

/** The same error, or what a smaller pool cannot hold. */
function compareErrors(got: TidepoolError, want: Ended): void {
  const isTooLong =
    got.code === "too_long" &&
    Number(got.details["promptTokens"]) + Number(got.details["newTokens"]) > Number(got.details["limit"]);
  if (isTooLong || ("error" in want && want.error.code === got.code)) return;
  throw new Error(`${got.code}: ${got.message}`, { cause: got });
}

export function start(engine: Engine, ask: Ask, options: object): ReturnType<Engine["generate"]> {
  return ask.kind === "chat" ? engine.chat(ask.messages, options) : engine.generate(ask.prompt, options);
}

export function ended(result: Promise<GenerationResult>): Promise<Ended> {
  return result.then(
    (value) => ({ result: value }),
    (error: unknown) => {
      if (error instanceof TidepoolError) return { error };
      throw error;
    },
  );
}
