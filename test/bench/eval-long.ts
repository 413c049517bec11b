/**
 * Answers the long set through the engine in one mode after the other, each in an engine of its own: greedy, a document's tokens
 * computed once, and all its questions at once behind them.
 */
import { Engine } from "../../src/engine/engine.ts";
import { inspect } from "../../src/engine/headers.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { answerTo, tokenizerOf } from "./eval-engine.ts";
import type { DocumentScore, LongDocument, LongMode, LongSet, ModeScores } from "./eval-long-set.ts";

/** Requests that decode at once: the questions of a document. */
const MAX_REQUESTS = 16;

/** Tokens of a question and its answer at most. */
const QUESTION_TOKENS = 96;

/** Of a document, the last ones, whose perplexity is measured. */
const SCORED_TOKENS = 256;

/** A document as tokens. */
interface Prompts {
  text: number[];
  questions: { tokens: number[]; answer: string }[];
}

/** @param path of a model that the engine runs */
export async function runLong(
  path: string,
  set: LongSet,
  modes: readonly LongMode[],
  log: (line: string) => void,
): Promise<ModeScores[]> {
  const contextTokens = (await inspect(path)).shape?.contextTokens ?? 0;
  const tokenizer = await tokenizerOf(path);
  const contexts = set.contexts.map(({ tokens, documents }) => ({
    tokens,
    documents: documents.map((document) => promptsOf(tokenizer, document)),
  }));
  const fitting = contexts.filter(({ tokens, documents }) => {
    const longest = Math.max(
      ...documents.flatMap(({ questions }) => questions.map((each) => each.tokens.length)),
    );
    const fits = longest + set.maxNewTokens <= contextTokens;
    if (!fits) log(`left out: ${tokens} (${longest} tokens are over the model's ${contextTokens})`);
    return fits;
  });
  const out: ModeScores[] = [];
  for (const mode of modes) out.push(await runMode(path, mode, fitting, set.maxNewTokens, log));
  return out;
}

function promptsOf(tokenizer: Tokenizer, { text, questions }: LongDocument): Prompts {
  const encode = (prompt: string): number[] => tokenizer.encode(prompt, { special: true });
  return {
    text: encode(text),
    questions: questions.map(({ question, answer }) => ({
      tokens: encode(`${text}\nQuestion: ${question}\nAnswer:`),
      answer,
    })),
  };
}

async function runMode(
  path: string,
  { name, options }: LongMode,
  contexts: readonly { tokens: number; documents: Prompts[] }[],
  maxNewTokens: number,
  log: (line: string) => void,
): Promise<ModeScores> {
  const longest = Math.max(...contexts.flatMap(({ documents }) => documents.map(({ text }) => text.length)));
  const poolTokens = 2 * longest + MAX_REQUESTS * QUESTION_TOKENS;
  const engine = await Engine.load(path, { maxRequests: MAX_REQUESTS, poolTokens, ...options });
  const begun = performance.now();
  const seconds = (): number => Math.round((performance.now() - begun) / 1000);
  const done: ModeScores["contexts"] = [];
  try {
    for (const { tokens, documents } of contexts) {
      const scores: DocumentScore[] = [];
      for (const document of documents) scores.push(await scoreOf(engine, document, maxNewTokens));
      const right = scores.flatMap((score) => score.right);
      log(`${name}, ${tokens}: ${right.filter(Boolean).length} of ${right.length} right, ${seconds()} s`);
      done.push({ tokens, documents: scores });
    }
    const { kvPoolBytes, kvPoolTokens } = engine.info.memory;
    return { mode: name, kvBytesPerToken: kvPoolBytes / kvPoolTokens, seconds: seconds(), contexts: done };
  } finally {
    await engine.close();
  }
}

async function scoreOf(
  engine: Engine,
  { text, questions }: Prompts,
  maxNewTokens: number,
): Promise<DocumentScore> {
  // The state behind a document, which scoring does not keep.
  if (engine.info.memory.statePoolBytes > 0) await engine.generate(text, { maxTokens: 1 }).result();
  const from = Math.max(0, text.length - SCORED_TOKENS - 1);
  const { logprobs } = await engine.score(text, { from });
  const nll = -logprobs.reduce((sum, each) => sum + each, 0) / logprobs.length;
  const answers = await Promise.all(questions.map(({ tokens }) => answerTo(engine, tokens, maxNewTokens)));
  return { right: answers.map((answer, index) => answer === questions[index]?.answer), nll };
}
