/**
 * Scores a model with the evaluation set through the engine: greedy, several requests at once. The rules are those of
 * demo/models/eval/README.md, so that the figures can be compared with PyTorch's.
 */
import { Engine } from "../../src/engine/engine.ts";
import { inspect } from "../../src/engine/headers.ts";
import type { KvDtype } from "../../src/wire/protocol.ts";
import { openModel } from "../../src/load/model-file.ts";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import {
  answerEnded,
  answerIn,
  repeats,
  type AnswerGroup,
  type EvalGroup,
  type EvalSet,
  type GroupScore,
  type LoopsGroup,
  type PerplexityGroup,
  type Scores,
} from "./eval-set.ts";

/** Requests that decode at once, each with room for a whole context. */
const MAX_REQUESTS = 8;

/** Told of each group as it is done. */
export type OnGroup = (name: string, score: GroupScore, wrong: readonly string[]) => void;

/** @param path of a model that the engine runs. */
export async function scoreWithEngine(
  path: string,
  set: EvalSet,
  kvDtype: KvDtype | undefined,
  onGroup: OnGroup,
): Promise<Scores> {
  const report = await inspect(path);
  const contextTokens = report.shape?.contextTokens ?? 0;
  const tokenizer = await tokenizerOf(path);
  const engine = await Engine.load(path, {
    ...(kvDtype !== undefined && { kvDtype }),
    maxRequests: MAX_REQUESTS,
    poolTokens: MAX_REQUESTS * (contextTokens + 64),
  });
  const scores: Scores = {};
  try {
    for (const group of set.groups) {
      const wrong: string[] = [];
      const score = await scoreOf(engine, tokenizer, group, set.maxNewTokens, wrong);
      scores[group.name] = score;
      onGroup(group.name, score, wrong);
    }
  } finally {
    await engine.close();
  }
  return scores;
}

function scoreOf(
  engine: Engine,
  tokenizer: Tokenizer,
  group: EvalGroup,
  maxNewTokens: number,
  wrong: string[],
): Promise<GroupScore> {
  if (group.kind === "perplexity") return perplexity(engine, tokenizer, group);
  if (group.kind === "loops") return loops(engine, tokenizer, group);
  return accuracy(engine, tokenizer, group, maxNewTokens, wrong);
}

export async function tokenizerOf(path: string): Promise<Tokenizer> {
  const file = await openModel(path);
  try {
    return createTokenizer(file);
  } finally {
    await file.close();
  }
}

/** exp of the mean of -ln p over all tokens of all texts but the first of each. */
async function perplexity(engine: Engine, tokenizer: Tokenizer, group: PerplexityGroup): Promise<GroupScore> {
  let total = 0;
  let count = 0;
  for (const { text } of group.items) {
    const { logprobs } = await engine.score(tokenizer.encode(text, { special: true }));
    for (const logprob of logprobs) total -= logprob;
    count += logprobs.length;
  }
  return { items: group.items.length, perplexity: Math.exp(total / count) };
}

/** Share of the runs that stood before in the same continuation, and how many continuations ended by themselves. */
async function loops(engine: Engine, tokenizer: Tokenizer, group: LoopsGroup): Promise<GroupScore> {
  const { tokens: maxTokens, gram, items } = group;
  const prompts = items.map(({ prompt }) => tokenizer.encode(prompt, { special: true }));
  const made = await Promise.all(prompts.map((prompt) => engine.generate(prompt, { maxTokens }).result()));
  const parts = made.map(({ tokens }) => repeats(tokens, gram));
  const sum = (pick: (part: (typeof parts)[number]) => number): number =>
    parts.reduce((total, part) => total + pick(part), 0);
  return {
    items: items.length,
    repeated:
      sum(({ again }) => again) /
      Math.max(
        1,
        sum(({ grams }) => grams),
      ),
    ended: made.filter(({ finishReason }) => finishReason !== "length").length,
  };
}

async function accuracy(
  engine: Engine,
  tokenizer: Tokenizer,
  group: AnswerGroup,
  maxNewTokens: number,
  wrong: string[],
): Promise<GroupScore> {
  const { contextTokens } = engine.info.model;
  const prompts = group.items.map(({ prompt }) => tokenizer.encode(prompt, { special: true }));
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  if (longest + maxNewTokens > contextTokens) {
    return {
      skipped: `${longest} tokens and ${maxNewTokens} new ones are over the context of ${contextTokens}`,
    };
  }
  const answers = await Promise.all(prompts.map((prompt) => answerTo(engine, prompt, maxNewTokens)));
  const misses = group.items.flatMap(({ answer }, index) =>
    answers[index] === answer ? [] : [`${index}: "${answers[index]}", not "${answer}"`],
  );
  wrong.push(...misses);
  const items = group.items.length;
  const correct = items - misses.length;
  return { items, correct, accuracy: correct / items };
}

/** Greedy, and ended as soon as the first line is. */
export async function answerTo(engine: Engine, prompt: number[], maxTokens: number): Promise<string> {
  const ended = new AbortController();
  let text = "";
  for await (const chunk of engine.generate(prompt, { maxTokens, signal: ended.signal })) {
    text += chunk.text;
    if (answerEnded(text)) ended.abort();
  }
  return answerIn(text);
}
