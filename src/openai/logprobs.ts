/** Log-probabilities in OpenAI's forms. Tokens get their bytes from the model's vocabulary, each once. */
import type { TokenLogprob } from "../wire/protocol.ts";
import type { ChosenToken, LikelyToken, TextLogprobs } from "./objects.ts";
import type { Speaker } from "./source.ts";

/** OpenAI's number for what is out of the question; JSON has no minus infinity. */
const LEAST_LOGPROB = -9999;

/** Bytes of tokens, by model; as many as its vocabulary has at most. */
const known = new WeakMap<Speaker, Map<number, Uint8Array>>();

/** @returns what looks a token up among those of the log-probabilities */
async function bytesOf(
  speaker: Speaker,
  logprobs: readonly TokenLogprob[],
): Promise<ReadonlyMap<number, Uint8Array>> {
  const bytes = known.get(speaker) ?? new Map<number, Uint8Array>();
  known.set(speaker, bytes);
  const all = logprobs.flatMap(({ token, top }) => [token, ...top.map((each) => each.token)]);
  const missing = [...new Set(all)].filter((token) => !bytes.has(token));
  if (missing.length === 0) return bytes;
  const found = await speaker.tokenBytes(missing);
  missing.forEach((token, i) => bytes.set(token, found[i]!));
  return bytes;
}

const textOf = (bytes: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);

function likely(
  bytes: ReadonlyMap<number, Uint8Array>,
  { token, logprob }: { token: number; logprob: number },
): LikelyToken {
  const own = bytes.get(token)!;
  return { token: textOf(own), bytes: [...own], logprob: Math.max(logprob, LEAST_LOGPROB) };
}

export async function chosenTokens(
  speaker: Speaker,
  logprobs: readonly TokenLogprob[],
): Promise<ChosenToken[]> {
  const bytes = await bytesOf(speaker, logprobs);
  return logprobs.map((each) => ({
    ...likely(bytes, each),
    top_logprobs: each.top.map((one) => likely(bytes, one)),
  }));
}

/** The older form. @param offset characters of the text before these tokens */
export function asTextLogprobs(tokens: readonly ChosenToken[], offset: number): TextLogprobs {
  const offsets: number[] = [];
  tokens.reduce((at, { token }) => (offsets.push(at), at + token.length), offset);
  return {
    tokens: tokens.map(({ token }) => token),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top_logprobs: top }) =>
      Object.fromEntries(top.map(({ token, logprob }) => [token, logprob])),
    ),
    text_offset: offsets,
  };
}
