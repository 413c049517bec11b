/**
 * Measures models of which a quarter of the experts is on the GPU, the others on a disk of a given rate: prefill and decode with
 * each part of the expert cache added to the one before, against LRU on demand. All ways are open at once and take turns, so that
 * a ratio is one of neighbours in time. Nothing is kept in RAM: what is not on the GPU is read. The disk sleeps where a real one
 * works, so that only what our own code does takes the processor's time.
 */
import { Random } from "../../src/base.ts";
import type { ExpertAblation } from "../../src/cache/experts/expert-cache.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openPath } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import type { Experts } from "../../src/model/experts/experts.ts";
import { expertsOf, type ModelExperts } from "../../src/model/experts/plan.ts";
import type { EngineOptions } from "../../src/wire/protocol.ts";
import { TestDisk, type DiskSpeed } from "../support/test-disk.ts";
import { TestSession, type TestOptions } from "../support/session.ts";
import type { ActivationHeader, ActivationStep } from "../../src/cache/experts/activations.ts";
import { readEvalSet } from "./eval-set.ts";
import type { Amounts } from "./measure-model.ts";
import { recordExperts } from "./record-experts.ts";
import type { Measurement } from "./report.ts";
import { sleeper } from "./sleep.ts";
import { trainPredictor } from "./train-predictor.ts";

const SEED = 64;
const SHARE_ON_GPU = 1 / 4;

/** Bytes per second, and from a read's start to its first byte. */
const DISKS: Readonly<Record<string, DiskSpeed>> = {
  "slow SSD": { bytesPerSecond: 0.5e9, latencyMs: 0.2 },
  "fast SSD": { bytesPerSecond: 3e9, latencyMs: 0.08 },
};

const BASELINE = "on-demand LRU";
const PLAIN: ExpertAblation = { predicts: false, chunked: false, preempts: false, reorders: false };

interface Way {
  name: string;
  options: Pick<TestOptions, "expertPolicy" | "expertAblation" | "experts">;
  /** Of the experts, beside low-bit copies; less than a step needs: what it needs. Undefined: all. */
  share: number | undefined;
  /** Whether a predictor that was trained for the model takes the place of its routers. */
  isLearned?: boolean;
}

/** What the learned predictor is trained on: prompts, and tokens that are generated behind each. */
const LESSONS = { prompts: 8, newTokens: 48 };
const TRAINING = { distances: [1, 2], width: 32, epochs: 3, batch: 32, seed: 1, learningRate: 0.002 };

/** From the second to the fifth each adds to the one before it; the others stand for themselves. */
const WAYS: readonly Way[] = [
  { name: "no cache", share: 0, options: { expertPolicy: "lru", expertAblation: PLAIN } },
  { name: BASELINE, share: SHARE_ON_GPU, options: { expertPolicy: "lru", expertAblation: PLAIN } },
  ...[
    { name: "prediction", ablation: { ...PLAIN, predicts: true } },
    { name: "and chunks", ablation: { ...PLAIN, predicts: true, chunked: true } },
    { name: "and pre-emption, order", ablation: {} },
  ].map(({ name, ablation }): Way => ({
    ...{ name, share: SHARE_ON_GPU, options: { expertPolicy: "promoe", expertAblation: ablation } },
  })),
  { name: "a learned predictor", share: SHARE_ON_GPU, options: { expertPolicy: "promoe" }, isLearned: true },
  { name: "bounded, with copies", share: SHARE_ON_GPU, options: { experts: "bounded" } },
  { name: "all on the GPU", share: undefined, options: {} },
];

/** What a run of one request took. */
interface Run {
  prefillMs: number;
  tokensPerSecond: number;
}

interface OpenWay extends Way {
  session: TestSession;
  disk: TestDisk;
  runs: Run[];
  /** Over all decode steps at one disk. */
  decoded: Counts;
}

/** Sums over layers, and over guesses by distance. */
interface Counts {
  uses: number;
  hits: number;
  /** Waits for experts, and for what routers chose with the layers before it. */
  stallMs: number;
  readBackMs: number;
  byDistance: { guessed: number; used: number; good: number }[];
}

export interface ExpertSubject {
  name: string;
  file: string;
  /** Tokens are drawn from so many; undefined: the prompts are texts. */
  vocabSize: number | undefined;
  /** The disks are so many times slower, since a software adapter computes so much more slowly than a GPU. */
  diskScale: number;
}

export async function measureExperts(
  provider: GPU,
  subject: ExpertSubject,
  amounts: Amounts,
): Promise<Measurement[]> {
  const gpu = await openGpu(provider);
  const ways: OpenWay[] = [];
  try {
    const disk = sleeper();
    const lessons: number[][] = [];
    let predictor: Uint8Array | undefined;
    const open = async (way: Way) => {
      const trained = way.isLearned ? (predictor ??= await learn(gpu, subject.file, lessons)) : undefined;
      ways.push(await openWay(gpu, way, subject.file, new TestDisk(disk), trained));
    };
    const [first, ...others] = WAYS as [Way, ...Way[]];
    await open(first);
    const all = await promptsOf(subject, (ways[0] as OpenWay).session, amounts);
    lessons.push(...all.slice(-LESSONS.prompts));
    const prompts = all.slice(0, -LESSONS.prompts);
    for (const way of others) await open(way);
    await takeTurns(ways, prompts.slice(0, 1), amounts); // compiles shaders, and fills the slots
    const out: Measurement[] = [];
    for (const [disk, speed] of Object.entries(DISKS)) {
      for (const way of ways) Object.assign(way, { runs: [], decoded: emptyCounts() });
      for (const way of ways) way.disk.speed = scaled(speed, subject.diskScale);
      await takeTurns(ways, prompts.splice(1, amounts.repeats), amounts);
      out.push(...tableOf(`${subject.name}, ${diskName(disk, speed, subject.diskScale)}`, ways, amounts));
    }
    return out;
  } finally {
    for (const { session } of ways) await session.close();
    gpu.device.destroy();
  }
}

function scaled({ bytesPerSecond, latencyMs }: DiskSpeed, scale: number): DiskSpeed {
  return { bytesPerSecond: bytesPerSecond / scale, latencyMs: latencyMs * scale };
}

function diskName(name: string, { bytesPerSecond }: DiskSpeed, scale: number): string {
  const rate = `${bytesPerSecond / 1e9} GB/s`;
  return scale === 1 ? `${name} (${rate})` : `${name} (${rate}), ${scale} times slower`;
}

/** A predictor of the model's choices in some texts. */
async function learn(gpu: Gpu, file: string, prompts: readonly number[][]): Promise<Uint8Array> {
  const steps: ActivationStep[] = [];
  let header: ActivationHeader | undefined;
  const options = { prompts, newTokens: LESSONS.newTokens, seed: SEED };
  const keep = (made: ActivationHeader) => (header = made);
  await recordExperts(gpu, await openModel([await openPath(file)]), options, keep, (step) =>
    steps.push(step),
  );
  return trainPredictor({ header: header as ActivationHeader, steps }, TRAINING).predictor.write();
}

async function openWay(
  gpu: Gpu,
  way: Way,
  file: string,
  disk: TestDisk,
  expertPredictor: Uint8Array | undefined,
): Promise<OpenWay> {
  const model = await openModel([disk.over(await openPath(file))]);
  const shape = shapeOf(model);
  const all = expertsOf(namesIn(model, shape), shape);
  if (!all) throw new Error(`${file} has no experts`);
  const options: EngineOptions = { dtype: "f32", kvDtype: "f32", chunkTokens: 256 };
  const chosen = { ...options, ...way.options, ...memoryOf(way, all) };
  const more = expertPredictor && { expertPredictor };
  const session = await TestSession.open(gpu, model, chosen, undefined, more);
  return { ...way, session, disk, runs: [], decoded: emptyCounts() };
}

function memoryOf({ share, options }: Way, { bytes, leastBytes, copyBytes }: ModelExperts): TestOptions {
  if (share === undefined) return {};
  const copies = options.experts === "bounded" ? copyBytes : 0;
  return { expertMemory: copies + Math.max(leastBytes, Math.ceil(share * bytes)), expertRamBytes: 0 };
}

/** One for each repeat, one before, and those of LESSONS: of a prompt that was seen before, the prefix cache would spare the prefill. */
async function promptsOf(
  { vocabSize }: ExpertSubject,
  { session }: TestSession,
  { promptTokens, repeats }: Amounts,
): Promise<number[][]> {
  const count = 1 + repeats * Object.keys(DISKS).length + LESSONS.prompts;
  const random = new Random(SEED);
  if (vocabSize !== undefined)
    return Array.from({ length: count }, () =>
      Array.from({ length: promptTokens }, () => random.below(vocabSize)),
    );
  const group = readEvalSet({ limit: Infinity, groups: ["perplexity"] }).groups[0];
  const texts = group?.kind === "perplexity" ? group.items.map(({ text }) => text).join("\n") : "";
  const all = (await session.call({ method: "tokenize", text: texts })) as number[];
  const room = Math.floor((all.length - promptTokens) / count);
  return Array.from({ length: count }, (_, i) => all.slice(i * room, i * room + promptTokens));
}

async function takeTurns(
  ways: readonly OpenWay[],
  prompts: readonly number[][],
  amounts: Amounts,
): Promise<void> {
  for (const [index, tokens] of prompts.slice(0, amounts.repeats).entries())
    for (const way of ways) way.runs.push(await runOnce(way, tokens, amounts, index));
}

/** Tokens are drawn, since greedy ones of a random model go round in circles. Nothing is found in a cache of prefixes. */
async function runOnce(
  { session, decoded }: OpenWay,
  tokens: readonly number[],
  { newTokens }: Amounts,
  seed: number,
): Promise<Run> {
  const stats = () => session.session.runner.experts;
  let before: Counts | undefined;
  const params = { maxTokens: newTokens, temperature: 1, seed, cache: "off" as const };
  const done = session.generate({ kind: "tokens", tokens }, params, () => (before ??= countsOf(stats())));
  const { timing, usage } = await done.done;
  addCounts(decoded, countsOf(stats()), before ?? emptyCounts());
  return {
    prefillMs: (1000 * usage.promptTokens) / timing.prefillTokensPerSecond,
    tokensPerSecond: timing.decodeTokensPerSecond,
  };
}

function emptyCounts(): Counts {
  return { uses: 0, hits: 0, stallMs: 0, readBackMs: 0, byDistance: [] };
}

function countsOf(experts: Experts | undefined): Counts {
  if (!experts) return emptyCounts();
  const { stats } = experts.cache;
  const { stallMs, readBackMs } = experts.log.waits;
  const sum = (of: "uses" | "hits") => stats.layers.reduce((total, layer) => total + layer[of], 0);
  const byDistance = stats.guessesByDistance.map(({ guessed, used, good }) => ({ guessed, used, good }));
  return { uses: sum("uses"), hits: sum("hits"), stallMs, readBackMs, byDistance };
}

function addCounts(to: Counts, after: Counts, before: Counts): void {
  to.uses += after.uses - before.uses;
  to.hits += after.hits - before.hits;
  to.stallMs += after.stallMs - before.stallMs;
  to.readBackMs += after.readBackMs - before.readBackMs;
  for (const [distance, { guessed, used, good }] of after.byDistance.entries()) {
    const sum = (to.byDistance[distance] ??= { guessed: 0, used: 0, good: 0 });
    const past = before.byDistance[distance];
    sum.guessed += guessed - (past?.guessed ?? 0);
    sum.used += used - (past?.used ?? 0);
    sum.good += good - (past?.good ?? 0);
  }
}

function tableOf(name: string, ways: readonly OpenWay[], amounts: Amounts): Measurement[] {
  const runsOf = (wanted: string) => ways.find((way) => way.name === wanted)?.runs ?? [];
  const ratios = (way: OpenWay, of: (run: Run) => number) =>
    way.runs.map((run, i) => of(run) / of(runsOf(BASELINE)[i] as Run));
  const speed = ({ prefillMs }: Run) => 1 / prefillMs;
  return ways.flatMap((way) => {
    const row = (metric: string, unit: string, values: readonly number[]): Measurement => ({
      ...{ name: `${name}: ${way.name}`, metric, unit, values },
    });
    const percent = (part: number, whole: number) => [(100 * part) / whole];
    const { uses, hits, stallMs, readBackMs, byDistance } = way.decoded;
    const tokens = (amounts.newTokens - 1) * way.runs.length;
    return [
      row(
        `prefill of ${amounts.promptTokens}`,
        "ms",
        way.runs.map(({ prefillMs }) => prefillMs),
      ),
      row(
        `decode of ${amounts.newTokens}`,
        "tokens/s",
        way.runs.map(({ tokensPerSecond }) => tokensPerSecond),
      ),
      row(`prefill, against ${BASELINE}`, "times", ratios(way, speed)),
      row(
        `decode, against ${BASELINE}`,
        "times",
        ratios(way, ({ tokensPerSecond }) => tokensPerSecond),
      ),
      ...(uses > 0
        ? [
            row("decode: experts that were there", "%", percent(hits, uses)),
            row("decode: waits for experts, a token", "ms", [stallMs / tokens]),
            row("decode: layers and read-backs, a token", "ms", [readBackMs / tokens]),
          ]
        : []),
      ...byDistance.flatMap(({ guessed, used, good }, distance) =>
        guessed === 0
          ? []
          : [
              row(`guesses ${distance} layers ahead: right`, "%", percent(used, guessed)),
              row(`guesses ${distance} layers ahead: right and in time`, "%", percent(good, guessed)),
            ],
      ),
    ];
  });
}

/** What the paper measured, printed beside ours. */
export const PAPER_LINE =
  "ProMoE (arXiv 2410.22134, RTX 4090): 2.20 times in prefill and 2.07 in decode over offloading, 1.78 and 1.34 over caches with LRU or fixed experts";
