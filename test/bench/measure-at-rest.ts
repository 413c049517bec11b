/**
 * Measures what storing KV in 8 or 4 bits costs in truth: prefixes are computed, stored, forgotten on the GPU and brought
 * back, and the continuation's logits are compared with those after the same prefix stored as it is. Also how far greedy
 * texts agree, and what a token takes at rest. f32, so that nothing else rounds.
 */
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { ScoreResult } from "../../src/wire/protocol.ts";
import type { TierMover } from "../../src/worker/cache/tier-mover.ts";
import { TestSession } from "../support/session.ts";
import { sharedPath, sharedPresent } from "../support/shared.ts";
import { argmax, nmse } from "../model/golden.ts";
import { readEvalSet } from "./eval-set.ts";
import type { Measurement } from "./report.ts";

interface Subject {
  name: string;
  path: string;
  /** Of the restored part, a multiple of the block. */
  prefixTokens: number;
  /** Whose logits are compared, and as many are generated. */
  nextTokens: number;
  texts(test: TestSession, length: number): Promise<number[][]>;
}

const TIDE_DENSE: Subject = {
  ...{ name: "tide-dense", path: "demo/models/tide-dense.gguf" },
  ...{ prefixTokens: 1024, nextTokens: 128, texts: evalTexts },
};
const STORIES: Subject = {
  ...{ name: "stories260K", path: sharedPath("goldens/stories260K/model.gguf") },
  ...{ prefixTokens: 352, nextTokens: 96, texts: ownTexts },
};

const TEXTS = 4;
const SEED = 23;
const BITS = [8, 4] as const;
const BLOCK_TOKENS = 32;
const STORE_BYTES = 2 ** 28;
const DRAIN_MS = 60_000;

/** @param log told of a model that is absent */
export async function measureAtRest(
  provider: GPU,
  name: string,
  log: (line: string) => void,
): Promise<Measurement[]> {
  const out: Measurement[] = [];
  const gpu = await openGpu(provider);
  if (!sharedPresent) log("SKIPPED stories260K of kv-at-rest: ../shared is absent");
  for (const subject of sharedPresent ? [TIDE_DENSE, STORIES] : [TIDE_DENSE]) {
    const texts = await withSession(gpu, subject, undefined, (test) =>
      subject.texts(test, lengthOf(subject)),
    );
    const plain = await restoredAll(gpu, subject, texts, undefined);
    for (const bits of BITS) {
      const restored = await restoredAll(gpu, subject, texts, bits);
      out.push(...compare(`${name}, ${subject.name} in ${bits} bits`, plain, restored));
    }
  }
  gpu.device.destroy();
  return out;
}

const lengthOf = ({ prefixTokens, nextTokens }: Subject) => prefixTokens + nextTokens;

/** The evaluation set's texts, one after the other. */
async function evalTexts(test: TestSession, length: number): Promise<number[][]> {
  const group = readEvalSet({ limit: Infinity, groups: ["perplexity"] }).groups[0];
  if (group?.kind !== "perplexity") throw new Error("the evaluation set has no texts for perplexity");
  const all = (await test.session.call({
    method: "tokenize",
    text: group.items.map(({ text }) => text).join("\n"),
  })) as number[];
  if (all.length < TEXTS * length) throw new Error(`${all.length} tokens are too few for ${TEXTS} texts`);
  return Array.from({ length: TEXTS }, (_, index) => all.slice(index * length, (index + 1) * length));
}

/** Stories that the model tells, one after the other. */
async function ownTexts(test: TestSession, length: number): Promise<number[][]> {
  const texts: number[][] = [];
  for (let seed = SEED; texts.length < TEXTS;) {
    const tokens: number[] = [];
    while (tokens.length < length) {
      const input = { kind: "text", text: "Once upon a time" } as const;
      const start = (await test.session.call({ method: "tokenize", text: input.text })) as number[];
      const story = await test.generate(input, { temperature: 1, seed: seed++, maxTokens: length }).done;
      tokens.push(...start, ...story.tokens);
    }
    texts.push(tokens.slice(0, length));
  }
  return texts;
}

/** What a model says of a text after its prefix has come back from the store. */
interface Restored {
  /** [rows, vocabulary] of the rows that follow the prefix. */
  logits: Float32Array;
  vocabSize: number;
  logprobs: number[];
  generated: number[];
  bytesPerToken: number;
}

function restoredAll(
  gpu: Gpu,
  subject: Subject,
  texts: readonly number[][],
  bits: 8 | 4 | undefined,
): Promise<Restored[]> {
  return withSession(gpu, subject, bits, async (test) => {
    const out: Restored[] = [];
    for (const tokens of texts) out.push(await restored(test, subject, tokens));
    return out;
  });
}

async function restored(test: TestSession, subject: Subject, tokens: number[]): Promise<Restored> {
  const { session } = test;
  const { prefixTokens: from, nextTokens } = subject;
  const prefix = tokens.slice(0, from);
  await session.warm(prefix);
  const bytesPerToken = await forgetAllButStore(session.mover as TierMover, () => session.scheduler.forget());
  const scored = (await session.call({ method: "score", tokens, from, logits: true })) as ScoreResult;
  checkRestored(subject, scored.usage.cachedTokens.ram);
  session.scheduler.forget();
  const { tokens: generated } = await test.generate(
    { kind: "tokens", tokens: prefix },
    { maxTokens: nextTokens },
  ).done;
  return {
    ...{ logits: scored.logits as Float32Array, vocabSize: session.info.model.vocabSize },
    ...{ logprobs: scored.logprobs, generated, bytesPerToken },
  };
}

/** @returns bytes a token at rest, headers included. */
async function forgetAllButStore(mover: TierMover, forgetGpu: () => void): Promise<number> {
  const { left } = await mover.drain(DRAIN_MS);
  if (left > 0) throw new Error(`${left} records were not stored`);
  forgetGpu();
  const records = mover.store.list();
  const total = (pick: (each: (typeof records)[number]) => number) =>
    records.reduce((sum, each) => sum + pick(each), 0);
  return total(({ bytes }) => bytes) / total(({ tokenCount }) => tokenCount);
}

/** All blocks of the prefix but the last, of which the last token had to be computed. */
function checkRestored({ name, prefixTokens }: Subject, ram: number): void {
  const expected = prefixTokens - BLOCK_TOKENS;
  if (ram !== expected) throw new Error(`${name}: ${ram} tokens came from the store, expected ${expected}`);
}

async function withSession<T>(
  gpu: Gpu,
  subject: Subject,
  bits: 8 | 4 | undefined,
  work: (test: TestSession) => Promise<T>,
): Promise<T> {
  const store = await TierStore.open({ ramBytes: STORE_BYTES, ...(bits && { atRestBits: bits }) });
  const options = { dtype: "f32", blockTokens: BLOCK_TOKENS, cache: { restore: "load" } } as const;
  const test = await TestSession.open(gpu, await openModel(subject.path), options, store);
  try {
    return await work(test);
  } finally {
    await test.close();
  }
}

function compare(name: string, plain: readonly Restored[], quantised: readonly Restored[]): Measurement[] {
  const each = (metric: string, unit: string, value: (plain: Restored, quantised: Restored) => number) => ({
    ...{ name, metric, unit },
    values: quantised.map((one, index) => value(plain[index] as Restored, one)),
  });
  return [
    each("NMSE of the logits", "", (a, b) => nmse(b.logits, a.logits)),
    each("rows with the same best token", "%", sameBest),
    each("greedy tokens before the first difference", "", (a, b) => commonStart(a.generated, b.generated)),
    each("greedy tokens that agree", "%", (a, b) => agreement(a.generated, b.generated)),
    each("perplexity, of that without", "%", (a, b) => 100 * Math.exp(lossOf(b) - lossOf(a))),
    each("bytes a token at rest", "bytes", (_, b) => b.bytesPerToken),
    each("size, of that without", "%", (a, b) => (100 * b.bytesPerToken) / a.bytesPerToken),
  ];
}

function sameBest(plain: Restored, quantised: Restored): number {
  const { vocabSize, logits } = plain;
  const rows = logits.length / vocabSize;
  const best = (values: Float32Array, row: number) =>
    argmax(values.subarray(row * vocabSize, (row + 1) * vocabSize));
  let same = 0;
  for (let row = 0; row < rows; row++) if (best(logits, row) === best(quantised.logits, row)) same++;
  return (100 * same) / rows;
}

function commonStart(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((token, index) => token !== b[index]);
  return at < 0 ? a.length : at;
}

/** Position by position; of the longer text where one ends early. */
function agreement(a: readonly number[], b: readonly number[]): number {
  return (100 * a.filter((token, index) => token === b[index]).length) / Math.max(a.length, b.length);
}

const lossOf = ({ logprobs }: Restored) => -logprobs.reduce((sum, each) => sum + each, 0) / logprobs.length;
