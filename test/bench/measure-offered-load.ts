/**
 * Measures what an engine keeps of its promises when more is asked of it than it can do: a fixed number of requests arrives at 0.5, 1,
 * 2 and 4 times the rate at which they can be answered, in each of the three ways of rejecting. Goodput is requests per second that
 * kept their objectives.
 */
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import type {
  EngineStats,
  GenerateParams,
  GenerationResult,
  Objectives,
  RejectionMode,
} from "../../src/wire/protocol.ts";
import type { CostState } from "../../src/schedule/cost/model.ts";
import { TestSession } from "../support/session.ts";
import { endless, randomPrompt, SUBJECT } from "./endless.ts";
import { median, type Measurement } from "./report.ts";

const SEED = 15;
const REQUESTS = 24;
const LOADS = [0.5, 1, 2, 4];
const MODES: readonly RejectionMode[] = ["predicted", "early", "none"];
const PROMPT_TOKENS = { least: 32, most: 512 };
const NEW_TOKENS = { least: 16, most: 64 };
/** What somebody who reads along bears: of what a request takes alone, about 10 times each on two cores. */
const OBJECTIVES = { ttftMs: 2500, tbtMs: 250 };
/** Requests by which the alone and the saturated rate are found. */
const ALONE = 4;
const SATURATING = 24;
/** After so many requests the errors of predictions are told, of so many that arrive at half the rate at which they can be answered. */
const TOLD_AFTER = 50;
const TOLD = 24;

interface Asked {
  promptTokens: number;
  newTokens: number;
}

/** What became of the requests of one run. */
interface Run {
  seconds: number;
  results: GenerationResult[];
  rejected: number;
  gapsMs: number[];
}

export async function measureOfferedLoad(
  provider: GPU,
  name: string,
  log: (line: string) => void,
): Promise<Measurement[]> {
  const gpu = await openGpu(provider);
  try {
    return await new Bench(gpu, name, await endless(), log).run();
  } finally {
    gpu.device.destroy();
  }
}

class Bench {
  private readonly gpu: Gpu;
  private readonly name: string;
  private readonly params: GenerateParams;
  private readonly log: (line: string) => void;
  /** What was learned of the machine, as an engine with a store has it from the last time. */
  private learned: CostState | undefined;

  constructor(gpu: Gpu, name: string, params: GenerateParams, log: (line: string) => void) {
    this.gpu = gpu;
    this.name = name;
    this.params = params;
    this.log = log;
  }

  async run(): Promise<Measurement[]> {
    const { perSecond, rows } = await this.calibrate();
    const out = rows;
    for (const rejection of MODES)
      for (const load of LOADS) out.push(...(await this.offer(rejection, load, perSecond)));
    return out;
  }

  /** What one request takes alone, how many are answered in a second, and how good predictions are by then. */
  private async calibrate(): Promise<{ perSecond: number; rows: Measurement[] }> {
    const session = await this.open({}, "predicted");
    try {
      const random = new Random(SEED);
      const alone: GenerationResult[] = [];
      for (let i = 0; i <= ALONE; i++)
        alone.push(await this.ask(session, random, { promptTokens: 256, newTokens: 32 }).done);
      const taken = alone.slice(1); // the first compiles
      const ttftMs = median(taken.map(({ timing }) => timing.ttftMs));
      const tbtMs = median(taken.map(({ usage }) => usage.pace?.tbtMs ?? NaN));
      const started = performance.now();
      await Promise.all(drawn(random, SATURATING).map((asked) => this.ask(session, random, asked).done));
      const perSecond = (1000 * SATURATING) / (performance.now() - started);
      for (let left = TOLD_AFTER - ALONE - 1 - SATURATING; left > 0; left--)
        await this.ask(session, random, drawn(random, 1)[0] as Asked).done;
      const { results } = await this.arrive(session, random, perSecond / 2, TOLD);
      const off = median(results.map(({ usage: { pace } }) => errorOf(pace)));
      this.learned = session.session.costs.state();
      const { errors } = ((await session.session.call({ method: "stats" })) as EngineStats).schedule;
      this.log(
        `objectives: ${ttftMs.toFixed(0)} ms to the first token, ${tbtMs.toFixed(0)} ms between tokens`,
      );
      const row = (metric: string, unit: string, value: number): Measurement => ({
        ...{ name: this.name, metric, unit, values: [value] },
      });
      const percent = (share: number | undefined) => 100 * (share ?? NaN);
      return {
        perSecond,
        rows: [
          row("capacity", "requests/s", perSecond),
          row("first token alone", "ms", ttftMs),
          row("between tokens alone", "ms", tbtMs),
          row(`median error of first tokens, of ${TOLD} after ${TOLD_AFTER} requests`, "%", percent(off)),
          row("median error of prefill steps", "%", percent(errors.prefill.median)),
          row("median error of decode steps", "%", percent(errors.decode.median)),
        ],
      };
    } finally {
      await session.close();
    }
  }

  private async offer(rejection: RejectionMode, load: number, perSecond: number): Promise<Measurement[]> {
    const session = await this.open(OBJECTIVES, rejection);
    try {
      const random = new Random(SEED + 1);
      for (let i = 0; i < 2; i++)
        await this.ask(session, random, drawn(random, 1)[0] as Asked).done.catch(() => {}); // compiles
      const run = await this.arrive(session, random, load * perSecond, REQUESTS);
      return this.rowsOf(run, OBJECTIVES, `${this.name}, ${rejection}, ${load} times capacity`);
    } finally {
      await session.close();
    }
  }

  private rowsOf(
    { seconds, results, rejected, gapsMs }: Run,
    objectives: Objectives,
    name: string,
  ): Measurement[] {
    const lateBy = (what: "ttftMs" | "tbtMs"): number =>
      results.filter(({ usage: { pace } }) => pace && pace[what] > (objectives[what] ?? Infinity)).length;
    const kept = results.filter(({ usage }) => usage.pace?.kept).length;
    this.log(
      `${name}: ${kept} kept, ${lateBy("ttftMs")} late to the first token, ${lateBy("tbtMs")} between tokens, ${rejected} rejected in ${seconds.toFixed(1)} s`,
    );
    const sorted = [...gapsMs].sort((a, b) => a - b);
    const ttft = results.map(({ timing }) => timing.ttftMs).sort((a, b) => a - b);
    const rows: [string, string, number][] = [
      ["goodput", "requests/s", kept / seconds],
      ["kept their objectives", "requests", kept],
      ["late to the first token", "requests", lateBy("ttftMs")],
      ["late between tokens", "requests", lateBy("tbtMs")],
      ["rejected", "requests", rejected],
      ["99th percentile between tokens of accepted requests", "ms", at(sorted, 0.99)],
      ["99th percentile of first tokens of accepted requests", "ms", at(ttft, 0.99)],
    ];
    return rows.map(([metric, unit, value]) => ({ name, metric, unit, values: [value] }));
  }

  /** Requests arrive by themselves, whatever has become of those before. */
  private async arrive(session: TestSession, random: Random, perSecond: number, count: number): Promise<Run> {
    const started = performance.now();
    const run: Run = { seconds: 0, results: [], rejected: 0, gapsMs: [] };
    const all: Promise<void>[] = [];
    let atMs = 0;
    for (const asked of drawn(random, count)) {
      const pause = started + atMs - performance.now();
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      atMs += (-Math.log(1 - random.next()) * 1000) / perSecond;
      let lastMs = 0;
      const { done } = this.ask(session, random, asked, () => {
        const nowMs = performance.now();
        if (lastMs > 0) run.gapsMs.push(nowMs - lastMs);
        lastMs = nowMs;
      });
      all.push(
        done.then(
          (result) => void run.results.push(result),
          (error: unknown) => {
            if (!(error instanceof TidepoolError) || error.code !== "rejected") throw error;
            run.rejected++;
          },
        ),
      );
    }
    await Promise.all(all);
    run.seconds = (performance.now() - started) / 1000;
    return run;
  }

  private async open(objectives: Objectives, rejection: RejectionMode): Promise<TestSession> {
    const options = { dtype: "f32", maxRequests: 8, poolStartTokens: 8192 } as const;
    const more = { objectives: { ...objectives, rejection } };
    const session = await TestSession.open(this.gpu, await openModel(SUBJECT), options, undefined, more);
    if (this.learned) session.session.costs.restore(this.learned);
    return session;
  }

  private ask(session: TestSession, random: Random, { promptTokens, newTokens }: Asked, onStep?: () => void) {
    const prompt = randomPrompt(random, promptTokens, session.session.info.model.vocabSize);
    return session.generate(prompt, { ...this.params, maxTokens: newTokens }, onStep);
  }
}

/** Of the predicted time to the first token, as a share of the measured one. */
function errorOf(pace: GenerationResult["usage"]["pace"]): number {
  return pace?.predicted ? Math.abs(pace.predicted.ttftMs - pace.ttftMs) / pace.ttftMs : NaN;
}

function drawn(random: Random, count: number): Asked[] {
  const between = ({ least, most }: { least: number; most: number }) =>
    least + random.below(most - least + 1);
  return Array.from({ length: count }, () => ({
    promptTokens: between(PROMPT_TOKENS),
    newTokens: between(NEW_TOKENS),
  }));
}

function at(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}
