/**
 * Measures what a long prompt does to others: beside four running decodes a prompt of 2,000 tokens arrives, then one of 20. Told are
 * the longest pause of a decode and the time to first token of both: with prompts computed one at a time in chunks as large as a step
 * allows, and with the scheduler as it is.
 */
import { Random } from "../../src/base.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import type { GenerateParams } from "../../src/wire/protocol.ts";
import type { SessionOptions } from "../../src/worker/session.ts";
import { TestSession } from "../support/session.ts";
import { endless, randomPrompt, SUBJECT } from "./endless.ts";
import type { Measurement } from "./report.ts";

const SEED = 23;
const LONG_TOKENS = 2000;
const SHORT_TOKENS = 20;
const DECODES = 4;
const DECODE_PROMPT_TOKENS = 64;
const DECODE_TOKENS = 1200;
/** Between the long prompt's arrival and the short one's. */
const LATER_MS = 200;
/** What a running decode is promised. */
const TBT_MS = 400;

interface Way {
  name: string;
  options: SessionOptions;
}

const WAYS: readonly Way[] = [
  {
    name: "one prompt at a time, whole chunks",
    options: { scheduling: { promptsUnderWay: 1, sizesChunks: false } },
  },
  { name: "two queues", options: {} },
  { name: `two queues, ${TBT_MS} ms between tokens`, options: { objectives: { tbtMs: TBT_MS } } },
];

interface Run {
  pauseMs: number;
  longMs: number;
  shortMs: number;
}

export async function measureBeside(provider: GPU, name: string, repeats: number): Promise<Measurement[]> {
  const gpu = await openGpu(provider);
  const params = await endless();
  const out: Measurement[] = [];
  try {
    for (const way of WAYS) out.push(...(await measureWay(gpu, way, { name, repeats, params })));
  } finally {
    gpu.device.destroy();
  }
  return out;
}

async function measureWay(
  gpu: Gpu,
  way: Way,
  { name, repeats, params }: { name: string; repeats: number; params: GenerateParams },
): Promise<Measurement[]> {
  const options = { dtype: "f32", maxRequests: 8, poolStartTokens: 8192 } as const;
  const session = await TestSession.open(gpu, await openModel(SUBJECT), options, undefined, way.options);
  const runs: Run[] = [];
  try {
    await runOnce(session, new Random(SEED), params); // compiles shaders, and teaches the cost model
    for (let repeat = 1; repeat <= repeats; repeat++)
      runs.push(await runOnce(session, new Random(SEED + repeat), params));
  } finally {
    await session.close();
  }
  const row = (metric: string, of: (run: Run) => number): Measurement => ({
    ...{ name: `${name}, ${way.name}`, metric, unit: "ms", values: runs.map(of) },
  });
  return [
    row("longest pause of a decode", ({ pauseMs }) => pauseMs),
    row(`first token of ${SHORT_TOKENS}`, ({ shortMs }) => shortMs),
    row(`first token of ${LONG_TOKENS}`, ({ longMs }) => longMs),
  ];
}

async function runOnce(session: TestSession, random: Random, params: GenerateParams): Promise<Run> {
  const { vocabSize } = session.session.info.model;
  const ask = (promptTokens: number, maxTokens: number, onStep?: () => void) =>
    session.generate(randomPrompt(random, promptTokens, vocabSize), { ...params, maxTokens }, onStep);
  const pauses = new Pauses();
  const decodes = Array.from({ length: DECODES }, () =>
    ask(DECODE_PROMPT_TOKENS, DECODE_TOKENS, pauses.listener()),
  );
  while (decodes.some(({ steps }) => steps.length < 8)) await wait(5);
  pauses.isOn = true;
  const long = ask(LONG_TOKENS, 1);
  await wait(LATER_MS);
  const short = ask(SHORT_TOKENS, 1);
  const [ofLong, ofShort] = await Promise.all([long.done, short.done]);
  pauses.isOn = false;
  if (decodes.some(({ steps }) => steps.length >= DECODE_TOKENS))
    throw new Error("a decode ended before the prompts were computed: it needs more tokens");
  for (const { id } of decodes) session.session.abort(id);
  await Promise.all(decodes.map(({ done }) => done));
  return { pauseMs: pauses.longestMs, longMs: ofLong.timing.ttftMs, shortMs: ofShort.timing.ttftMs };
}

/** The longest time between two tokens of a request while it is on. */
class Pauses {
  isOn = false;
  longestMs = 0;

  /** To be called with each token of one request. */
  listener(): () => void {
    let lastMs = Infinity;
    return () => {
      const nowMs = performance.now();
      if (this.isOn) this.longestMs = Math.max(this.longestMs, nowMs - lastMs);
      lastMs = nowMs;
    };
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
