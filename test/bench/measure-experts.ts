/**
 * Measures models of which a quarter of the experts is on the GPU, the others on a disk of a given rate: prefill and decode with
 * each part of the expert cache added to the one before, against LRU on demand. All ways are open at once and take turns, so that
 * a ratio is one of neighbours in time. Nothing is kept in RAM: what is not on the GPU is read.
 */
import { Random } from "../../src/base.ts";
import type { ExpertAblation } from "../../src/cache/experts/expert-cache.ts";
import type { ExpertStats } from "../../src/cache/experts/stats.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openPath } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { expertsOf, type ModelExperts } from "../../src/model/experts/plan.ts";
import type { EngineOptions } from "../../src/wire/protocol.ts";
import { TestDisk, type DiskSpeed } from "../support/test-disk.ts";
import { TestSession, type TestOptions } from "../support/session.ts";
import { readEvalSet } from "./eval-set.ts";
import type { Amounts } from "./measure-model.ts";
import type { Measurement } from "./report.ts";

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
  options: Pick<TestOptions, "expertPolicy" | "expertAblation">;
  /** Of the experts; less than a step needs: what it needs. Undefined: all. */
  share: number | undefined;
}

/** Each adds to the one before it, but for the first and the last. */
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
    for (const way of WAYS) ways.push(await openWay(gpu, way, subject.file));
    const prompts = await promptsOf(subject, (ways[0] as OpenWay).session, amounts);
    await takeTurns(ways, prompts.slice(0, 1), amounts); // compiles shaders, and fills the slots
    const out: Measurement[] = [];
    for (const [disk, speed] of Object.entries(DISKS)) {
      for (const way of ways) Object.assign(way, { runs: [], decoded: emptyCounts() });
      for (const way of ways) way.disk.speed = scaled(speed, subject.diskScale);
      await takeTurns(ways, prompts.slice(1), amounts);
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

async function openWay(gpu: Gpu, way: Way, file: string): Promise<OpenWay> {
  const disk = new TestDisk();
  const model = await openModel([disk.over(await openPath(file))]);
  const shape = shapeOf(model);
  const all = expertsOf(namesIn(model, shape), shape);
  if (!all) throw new Error(`${file} has no experts`);
  const options: EngineOptions = { dtype: "f32", kvDtype: "f32", chunkTokens: 256 };
  const session = await TestSession.open(gpu, model, { ...options, ...way.options, ...memoryOf(way, all) });
  return { ...way, session, disk, runs: [], decoded: emptyCounts() };
}

function memoryOf({ share }: Way, { bytes, leastBytes }: ModelExperts): TestOptions {
  if (share === undefined) return {};
  return { expertMemory: Math.max(leastBytes, Math.ceil(share * bytes)), expertRamBytes: 0 };
}

/** One for each repeat and one before: of a prompt that was seen before, the prefix cache would spare the prefill. */
async function promptsOf(
  { vocabSize }: ExpertSubject,
  { session }: TestSession,
  { promptTokens, repeats }: Amounts,
): Promise<number[][]> {
  const count = 1 + repeats * Object.keys(DISKS).length;
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
  const stats = () => session.session.runner.experts?.cache.stats;
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
  return { uses: 0, hits: 0, byDistance: [] };
}

function countsOf(stats: ExpertStats | undefined): Counts {
  if (!stats) return emptyCounts();
  const sum = (of: "uses" | "hits") => stats.layers.reduce((total, layer) => total + layer[of], 0);
  const byDistance = stats.guessesByDistance.map(({ guessed, used, good }) => ({ guessed, used, good }));
  return { uses: sum("uses"), hits: sum("hits"), byDistance };
}

function addCounts(to: Counts, after: Counts, before: Counts): void {
  to.uses += after.uses - before.uses;
  to.hits += after.hits - before.hits;
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
    const { uses, hits, byDistance } = way.decoded;
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
      ...(uses > 0 ? [row("decode: experts that were there", "%", percent(hits, uses))] : []),
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
