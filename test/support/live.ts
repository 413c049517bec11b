/**
 * Conversations on a live engine: a long shared system prompt, then several conversations of several turns, taken in
 * turns, under one way of caching. Gives what a person would feel (time to first token), what it cost (tokens computed,
 * bytes kept) and what was answered.
 */
import { Random } from "../../src/base.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import type { CacheOptions, CacheStats, GenerationResult } from "../../src/wire/protocol.ts";
import { TestSession } from "./session.ts";

/** "none": no request keeps anything, or looks for it. */
export type Way = NonNullable<CacheOptions["policy"]> | "none";

export interface Workload {
  systemTokens: number;
  conversations: number;
  turns: number;
  questionTokens: number;
  answerTokens: number;
  seed: number;
}

export interface LiveResult {
  way: Way;
  /** Milliseconds of each conversation's first turn, and of later ones. */
  firstTtftMs: number[];
  laterTtftMs: number[];
  promptTokens: number;
  computedTokens: number;
  /** On the GPU at the end: keys and values, and states. */
  kvBytes: number;
  snapshotBytes: number;
  snapshotsTaken: number;
  flopsSaved: number;
  answers: number[][];
}

export async function runLive(
  gpu: Gpu,
  model: Uint8Array,
  way: Way,
  workload: Workload,
): Promise<LiveResult> {
  const cache: CacheOptions = way === "none" ? {} : { policy: way };
  const session = await TestSession.load(gpu, model, { dtype: "f32", poolTokens: 16_384, cache });
  try {
    await session.generate({ kind: "tokens", tokens: [1, 2, 3] }, { maxTokens: 2, cache: "off" }).done; // compiles
    return await converse(session, way, workload);
  } finally {
    await session.close();
  }
}

async function converse(session: TestSession, way: Way, workload: Workload): Promise<LiveResult> {
  const random = new Random(workload.seed);
  const vocab = session.session.info.model.vocabSize;
  const some = (count: number) => Array.from({ length: count }, () => random.below(vocab));
  const system = some(workload.systemTokens);
  const histories = Array.from({ length: workload.conversations }, () => [...system]);
  const results: { turn: number; result: GenerationResult }[] = [];
  for (let turn = 0; turn < workload.turns; turn++) {
    for (const history of histories) {
      history.push(...some(workload.questionTokens));
      const params = { maxTokens: workload.answerTokens, ...(way === "none" && { cache: "off" as const }) };
      const result = await session.generate({ kind: "tokens", tokens: [...history] }, params).done;
      history.push(...result.tokens);
      results.push({ turn, result });
    }
  }
  const { gpu } = (await session.session.call({ method: "cacheStats" })) as CacheStats;
  const ttft = (isFirst: boolean) =>
    results.filter(({ turn }) => (turn === 0) === isFirst).map(({ result }) => result.timing.ttftMs);
  const sum = (of: (usage: GenerationResult["usage"]) => number) =>
    results.reduce((total, { result }) => total + of(result.usage), 0);
  return {
    ...{ way, firstTtftMs: ttft(true), laterTtftMs: ttft(false) },
    promptTokens: sum(({ promptTokens }) => promptTokens),
    computedTokens: sum(({ computedTokens }) => computedTokens),
    kvBytes: way === "none" ? 0 : gpu.bytes,
    ...{
      snapshotBytes: gpu.snapshots.bytes,
      snapshotsTaken: gpu.snapshots.taken,
      flopsSaved: gpu.flopsSaved,
    },
    answers: results.map(({ result }) => result.tokens),
  };
}

/** The middle value. */
export function medianOf(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}
