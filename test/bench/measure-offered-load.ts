/**
 * Measures what an engine keeps of its promises when more is asked of it than it can do: a fixed number of requests arrives at 0.5, 1,
 * 2 and 4 times the rate at which they can be answered, in each of the three ways of rejecting. Goodput is requests per second that
 * kept their objectives. The objectives are multiples of what a request takes alone on the same machine, as Mooncake's are; for gaps
 * above them it tells what ran meanwhile, and of errors of predictions which part they are of.
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
  PredictedRequest,
  RejectionMode,
  RequestInput,
} from "../../src/wire/protocol.ts";
import type { CostState } from "../../src/schedule/cost/model.ts";
import { TestSession } from "../support/session.ts";
import { endless, randomPrompt, SUBJECT } from "./endless.ts";
import { median, type Measurement } from "./report.ts";
import { StepRecords, type FirstTokenParts, type Gap } from "./step-records.ts";

const SEED = 15;
const REQUESTS = 48;
const LOADS = [0.5, 1, 2, 4];
const MODES: readonly RejectionMode[] = ["predicted", "early", "none"];
const PROMPT_TOKENS = { least: 32, most: 512 };
const NEW_TOKENS = { least: 16, most: 64 };
/** Of a lone request: its median time to first token, and the 99th percentile of its gaps (arXiv 2407.00079, section 8: 10 and 5). */
const TIMES_ALONE = { ttft: 10, tbt: 5 };
const LONE = { promptTokens: 256, newTokens: 64 };
/** Requests by which the alone and the saturated rate are found. */
const ALONE = 8;
const SATURATING = 24;
/** After so many requests the errors of predictions are told, of so many that arrive at half the rate at which they can be answered. */
const TOLD_AFTER = 50;
const TOLD = 24;
/** Requests before those that count: kernels compile at their first use on a software driver, and an engine learns what steps take. */
const WARMING = 16;

interface Asked {
  promptTokens: number;
  newTokens: number;
}

/** Of requests that run alone, and the objectives that follow. */
interface Lone {
  ttftMs: number;
  tbtMs: number;
}

type TokenPrompt = Extract<RequestInput, { kind: "tokens" }>;

/** What became of the requests of one run. */
interface Run {
  seconds: number;
  results: GenerationResult[];
  rejected: number;
  gaps: Gap[];
  /** Predicted and measured parts of times to first tokens, and the time. */
  firsts: { predicted: FirstTokenParts; measured: FirstTokenParts; ttftMs: number }[];
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
  private readonly records = new StepRecords();

  constructor(gpu: Gpu, name: string, params: GenerateParams, log: (line: string) => void) {
    this.gpu = gpu;
    this.name = name;
    this.params = params;
    this.log = log;
  }

  async run(): Promise<Measurement[]> {
    const { perSecond, objectives, rows } = await this.calibrate();
    const out = rows;
    for (const rejection of MODES) out.push(...(await this.offerAll(rejection, objectives, perSecond)));
    return out;
  }

  /** What one request takes alone, how many are answered in a second, and how good predictions are by then. */
  private async calibrate(): Promise<{ perSecond: number; objectives: Lone; rows: Measurement[] }> {
    const session = await this.open({}, "predicted");
    try {
      const random = new Random(SEED);
      const alone = await this.measureAlone(session, random);
      const objectives = {
        ttftMs: Math.ceil(TIMES_ALONE.ttft * alone.ttftMs),
        tbtMs: Math.ceil(TIMES_ALONE.tbt * alone.tbtMs),
      };
      const times = (ms: number, of: number) =>
        `${ms} ms (${of} times ${(ms / of).toFixed(0)} ms of a lone one)`;
      this.log(
        `objectives: ${times(objectives.ttftMs, TIMES_ALONE.ttft)} to the first token, ${times(objectives.tbtMs, TIMES_ALONE.tbt)} between tokens`,
      );
      const started = performance.now();
      await Promise.all(drawn(random, SATURATING).map((asked) => this.ask(session, random, asked).done));
      const perSecond = (1000 * SATURATING) / (performance.now() - started);
      for (let left = TOLD_AFTER - ALONE - 1 - SATURATING; left > 0; left--)
        await this.ask(session, random, drawn(random, 1)[0] as Asked).done;
      const { results, firsts } = await this.arrive(session, random, perSecond / 2, TOLD, true);
      this.learned = session.session.costs.state();
      const { errors } = ((await session.session.call({ method: "stats" })) as EngineStats).schedule;
      const row = (metric: string, unit: string, value: number): Measurement => ({
        ...{ name: this.name, metric, unit, values: [value] },
      });
      const percent = (share: number | undefined) => 100 * (share ?? NaN);
      const off = (part: keyof FirstTokenParts) =>
        row(`of that ${part.slice(0, -2)}`, "%", percent(median(firsts.map((each) => partOff(each, part)))));
      return {
        ...{ perSecond, objectives },
        rows: [
          row("capacity", "requests/s", perSecond),
          row("first token alone", "ms", alone.ttftMs),
          row("99th percentile between tokens alone", "ms", alone.tbtMs),
          row(
            `median error of first tokens, of ${TOLD} after ${TOLD_AFTER} requests`,
            "%",
            percent(median(results.map(({ usage: { pace } }) => errorOf(pace)))),
          ),
          ...[off("queueMs"), off("prefillMs"), off("decodeMs")],
          row("median error of prefill steps", "%", percent(errors.prefill.median)),
          row("median error of decode steps", "%", percent(errors.decode.median)),
        ],
      };
    } finally {
      await session.close();
    }
  }

  private async measureAlone(session: TestSession, random: Random): Promise<Lone> {
    const ttftMs: number[] = [];
    const gapsMs: number[] = [];
    for (let i = 0; i <= ALONE; i++) {
      const times: number[] = [];
      const { timing } = await this.ask(session, random, LONE, () => times.push(performance.now())).done;
      if (i === 0) continue; // it compiles
      ttftMs.push(timing.ttftMs);
      gapsMs.push(...times.slice(1).map((at, index) => at - (times[index] as number)));
    }
    return { ttftMs: median(ttftMs), tbtMs: percentile(gapsMs, 0.99) };
  }

  /** All loads, one after the other, on one engine that has run for a while. */
  private async offerAll(
    rejection: RejectionMode,
    objectives: Lone,
    perSecond: number,
  ): Promise<Measurement[]> {
    const session = await this.open(objectives, rejection);
    try {
      const warming = drawn(new Random(SEED + 2), WARMING);
      const random = new Random(SEED + 1);
      await Promise.allSettled(warming.map((asked) => this.ask(session, random, asked).done));
      const out: Measurement[] = [];
      for (const load of LOADS) {
        const run = await this.arrive(session, new Random(SEED + 1), load * perSecond, REQUESTS);
        out.push(...this.rowsOf(run, objectives, `${this.name}, ${rejection}, ${load} times capacity`));
      }
      return out;
    } finally {
      await session.close();
    }
  }

  private rowsOf({ seconds, results, rejected, gaps }: Run, objectives: Lone, name: string): Measurement[] {
    const lateBy = (what: "ttftMs" | "tbtMs"): number =>
      results.filter(({ usage: { pace } }) => pace && pace[what] > objectives[what]).length;
    const kept = results.filter(({ usage }) => usage.pace?.kept).length;
    this.log(
      `${name}: ${kept} kept, ${lateBy("ttftMs")} late to the first token, ${lateBy("tbtMs")} between tokens, ${rejected} rejected in ${seconds.toFixed(1)} s`,
    );
    const gapsMs = gaps.map(({ fromMs, toMs }) => toMs - fromMs);
    const { causes, worst } = this.records.causes(gaps, objectives.tbtMs);
    const told = Object.entries(causes).map(([cause, count]) => `${count} ${cause}`);
    if (worst !== undefined) this.log(`  above the objective: ${told.join(", ")}; the longest ${worst}`);
    const ttft = results.map(({ timing }) => timing.ttftMs);
    const rows: [string, string, number][] = [
      ["goodput", "requests/s", kept / seconds],
      ["kept their objectives", "requests", kept],
      ["late to the first token", "requests", lateBy("ttftMs")],
      ["late between tokens", "requests", lateBy("tbtMs")],
      ["rejected", "requests", rejected],
      ["99th percentile between tokens of accepted requests", "ms", percentile(gapsMs, 0.99)],
      ["99th percentile of first tokens of accepted requests", "ms", percentile(ttft, 0.99)],
    ];
    return rows.map(([metric, unit, value]) => ({ name, metric, unit, values: [value] }));
  }

  /** Requests arrive by themselves, whatever has become of those before. */
  private async arrive(
    session: TestSession,
    random: Random,
    perSecond: number,
    count: number,
    asksFirst = false,
  ): Promise<Run> {
    this.records.clear();
    const started = performance.now();
    const run: Run = { seconds: 0, results: [], rejected: 0, gaps: [], firsts: [] };
    const all: Promise<void>[] = [];
    let atMs = 0;
    for (const asked of drawn(random, count)) {
      const pause = started + atMs - performance.now();
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      atMs += (-Math.log(1 - random.next()) * 1000) / perSecond;
      const prompt = this.prompt(session, random, asked);
      const predicted = asksFirst ? await this.predict(session, prompt, asked) : undefined;
      const arrivedMs = performance.now();
      let lastMs = 0;
      const { done } = this.generate(session, prompt, asked, () => {
        const nowMs = performance.now();
        if (lastMs > 0) run.gaps.push({ fromMs: lastMs, toMs: nowMs });
        lastMs = nowMs;
      });
      all.push(
        done.then(
          (result) => {
            run.results.push(result);
            const measured = this.records.partsOf(prompt.tokens, arrivedMs);
            const { ttftMs } = result.timing;
            if (predicted && measured) run.firsts.push({ predicted, measured, ttftMs });
          },
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
    const scheduling = { onStep: this.records.add };
    const more = { objectives: { ...objectives, rejection }, scheduling };
    const session = await TestSession.open(this.gpu, await openModel(SUBJECT), options, undefined, more);
    if (this.learned) session.session.costs.restore(this.learned);
    return session;
  }

  private ask(session: TestSession, random: Random, asked: Asked, onStep?: () => void) {
    return this.generate(session, this.prompt(session, random, asked), asked, onStep);
  }

  private prompt({ session }: TestSession, random: Random, { promptTokens }: Asked): TokenPrompt {
    return randomPrompt(random, promptTokens, session.info.model.vocabSize) as TokenPrompt;
  }

  private generate(session: TestSession, prompt: TokenPrompt, { newTokens }: Asked, onStep?: () => void) {
    return session.generate(prompt, { ...this.params, maxTokens: newTokens }, onStep);
  }

  private async predict(
    { session }: TestSession,
    input: TokenPrompt,
    { newTokens }: Asked,
  ): Promise<FirstTokenParts> {
    const params = { ...this.params, maxTokens: newTokens };
    const { parts } = (await session.call({ method: "predict", input, params })) as PredictedRequest;
    return parts;
  }
}

/** How far the prediction of a part was off, as a share of the whole time. */
function partOff(
  { predicted, measured, ttftMs }: Run["firsts"][number],
  part: keyof FirstTokenParts,
): number {
  return Math.abs(predicted[part] - measured[part]) / ttftMs;
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

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}
