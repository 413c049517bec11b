/**
 * A generated trace in the form of Mooncake's, for where that is not at hand: conversations with long prompts, as many a second as
 * there, whose turns share blocks of 512 tokens. Equal seeds give equal traces. It has no text.
 */
import { Random } from "../../base.ts";
import type { Trace, TraceRequest } from "../trace.ts";

const BLOCK_TOKENS = 512;
const MAX_INPUT_TOKENS = 126_000;

/** Chosen so that the means are near those of the conversation trace: 3.4 requests a second, 12,035 tokens of prompt, 343 of answer. */
const SESSION_MS = 465;
const MORE_TURNS = 0.37;
const PAUSE_MS = 60_000;
const FIRST = { median: 5800, sigma: 1.25 };
const ADDED = { median: 700, sigma: 1.1 };
const ANSWER = { median: 250, sigma: 0.8 };

export function conversationTrace(seed: number, minutes = 60): Trace {
  const random = new Random(seed);
  const length = ({ median, sigma }: typeof FIRST): number =>
    Math.max(1, Math.round(median * Math.exp(sigma * random.normal())));
  const waitMs = (meanMs: number): number => -Math.log(1 - random.next()) * meanMs;
  const requests: TraceRequest[] = [];
  let nextBlock = 1; // block 0 begins every prompt
  for (let startMs = 0; startMs < minutes * 60_000; startMs += waitMs(SESSION_MS)) {
    let blocks = [0];
    let inputTokens = length(FIRST);
    for (let timestampMs = startMs; inputTokens <= MAX_INPUT_TOKENS; timestampMs += waitMs(PAUSE_MS)) {
      while (blocks.length < Math.ceil(inputTokens / BLOCK_TOKENS)) blocks.push(nextBlock++);
      const pieces = [Int32Array.from(blocks), new Int32Array(0)];
      const outputTokens = length(ANSWER);
      requests.push({ timestampMs, inputTokens, outputTokens, inputSymbols: blocks.length, pieces });
      if (random.next() >= MORE_TURNS) break;
      blocks = blocks.slice(0, Math.max(1, Math.floor(inputTokens / BLOCK_TOKENS))); // a partial block is another one then
      inputTokens += outputTokens + length(ADDED);
    }
  }
  requests.sort((a, b) => a.timestampMs - b.timestampMs);
  return { name: `conversation (seed ${seed})`, symbolTokens: BLOCK_TOKENS, requests };
}
