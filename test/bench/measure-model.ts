/**
 * Measures one model in this process, on the main thread and through the session that the worker runs: speed, host time,
 * read-backs, JavaScript memory, and GPU time by kernel. It compares with nothing and prints nothing.
 */
import { Random } from "../../src/base.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { samplingParams } from "../../src/model/sampling.ts";
import type { EngineOptions } from "../../src/wire/protocol.ts";
import type { Session } from "../../src/worker/session.ts";
import { TestSession } from "../support/session.ts";
import type { Measurement } from "./report.ts";
import { bytesReadPerToken, multiplyAddsPerPromptToken, type ModelTarget } from "./targets.ts";

export interface Amounts {
  promptTokens: number;
  newTokens: number;
  repeats: number;
}

const PROMPT_SEED = 7;
const BATCHES = [1, 2, 4, 8];
const BATCH_PROMPT_TOKENS = 16;

/** f32 everywhere, so that runs on different adapters are about the same work. */
const OPTIONS: EngineOptions = { dtype: "f32", kvDtype: "f32", chunkTokens: 256, maxRequests: 8 };

/** Speed, host time and memory of one request at a time; then, in a second load, GPU time by kernel. */
export async function measureModel(
  provider: GPU,
  target: ModelTarget,
  file: string,
  amounts: Amounts,
): Promise<Measurement[]> {
  const memory = new MemoryPeak();
  const timed = await withSession(provider, file, { timestamps: false }, (session) =>
    timeRequests(session, target, amounts),
  );
  const peak = { metric: "peak JavaScript memory", unit: "MiB", values: [memory.stop() / 2 ** 20] };
  const kernels = await withSession(provider, file, { timestamps: true }, (session, gpu) =>
    gpu.features.timestamps ? kernelTimes(session.session, target, amounts) : Promise.resolve([]),
  );
  return [...timed, peak, ...kernels].map((each) => ({ name: target.name, ...each }));
}

type Metric = Omit<Measurement, "name">;

async function timeRequests(test: TestSession, target: ModelTarget, amounts: Amounts): Promise<Metric[]> {
  const { promptTokens, newTokens, repeats } = amounts;
  let prompts = 0;
  // A new prompt each time: of one that was seen before, the prefix cache would spare the prefill.
  const generate = () => {
    const tokens = randomTokens(promptTokens, target.shape.vocabSize, prompts++);
    return test.generate({ kind: "tokens", tokens }, { maxTokens: newTokens }).done;
  };
  await generate(); // compiles shaders
  const host = new HostTime(test.session);
  const prefill: number[] = [];
  const decode: number[] = [];
  const hostMs: number[] = [];
  const readBack: number[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    const { timing } = await generate();
    prefill.push(timing.prefillTokensPerSecond);
    decode.push(timing.decodeTokensPerSecond);
    const { msPerStep, bytesReadPerStep } = host.take();
    hostMs.push(msPerStep);
    readBack.push(bytesReadPerStep);
  }
  const read = bytesReadPerToken(target, promptTokens + newTokens / 2);
  const macs = multiplyAddsPerPromptToken(target, promptTokens);
  return [
    { metric: `prefill of ${promptTokens}`, unit: "tokens/s", values: prefill },
    { metric: `decode of ${newTokens}`, unit: "tokens/s", values: decode },
    { metric: "host time a step", unit: "ms", values: hostMs },
    { metric: READ_PER_TOKEN, unit: "bytes", values: [read] },
    { metric: "read back a step", unit: "bytes", values: readBack },
    { metric: MULTIPLY_ADDS_PER_TOKEN, unit: "million", values: [macs / 1e6] },
  ];
}

export const READ_PER_TOKEN = "read a decoded token";
export const MULTIPLY_ADDS_PER_TOKEN = "multiply-adds a prompt token";

/** Decode throughput with 1, 2, 4 and 8 requests, over the time in which all of them run. */
export async function measureBatches(
  provider: GPU,
  target: ModelTarget,
  file: string,
  amounts: Amounts,
): Promise<Measurement[]> {
  return withSession(provider, file, { timestamps: false }, async (session) => {
    const out: Measurement[] = [];
    let seed = 0;
    for (const batch of BATCHES) {
      const values: number[] = [];
      for (let repeat = 0; repeat <= amounts.repeats; repeat++) {
        const speed = await batchSpeed(session, target, {
          batch,
          newTokens: amounts.newTokens,
          seed: (seed += batch),
        });
        if (repeat > 0) values.push(speed);
      }
      out.push({ name: target.name, metric: `decode, ${batch} at once`, unit: "tokens/s", values });
    }
    return out;
  });
}

/** Tokens per second of all requests together, from the last one's first token to the first one's last. */
async function batchSpeed(
  session: TestSession,
  target: ModelTarget,
  { batch, newTokens, seed }: { batch: number; newTokens: number; seed: number },
): Promise<number> {
  const times = Array.from({ length: batch }, (): number[] => []);
  // Requests start one after another, so the early ones need more tokens to meet the late ones.
  const maxTokens = newTokens + 2 * batch;
  const requests = times.map((own, index) => {
    const tokens = randomTokens(BATCH_PROMPT_TOKENS, target.shape.vocabSize, seed + index);
    return session.generate({ kind: "tokens", tokens }, { maxTokens }, () => own.push(performance.now()))
      .done;
  });
  await Promise.all(requests);
  const from = Math.max(...times.map((own) => own[0] ?? Infinity));
  const to = Math.min(...times.map((own) => own.at(-1) ?? -Infinity));
  const count = times.flat().filter((at) => at > from && at <= to).length;
  return (count * 1000) / (to - from);
}

/** GPU time of each kind of kernel in one prefill and in decoding, by timestamps; each op then runs in a pass of its own. */
async function kernelTimes(session: Session, target: ModelTarget, amounts: Amounts): Promise<Metric[]> {
  const { promptTokens, newTokens } = amounts;
  const { runner } = session;
  const tokens = randomTokens(promptTokens, target.shape.vocabSize);
  // Past the scheduler, which has nothing to run: any blocks will do.
  const blocks = Math.ceil((promptTokens + newTokens) / runner.options.blockTokens);
  const slots = Array.from({ length: blocks }, (_, slot) => slot);
  const seat = 0;
  runner.takeSeat(seat, tokens, tokens.length, samplingParams({ temperature: 0 }, target.shape.vocabSize));
  const prefill = () => runner.prefill({ seat, position: 0, slots, tokens, sample: true });
  await prefill(); // compiles shaders
  await runner.recorder.profile();
  await prefill();
  const prefillTimes = metricsOf("prefill", (await runner.recorder.profile()) ?? new Map(), 1);
  for (let index = 0; index < newTokens; index++) {
    await runner.decode([{ seat, position: promptTokens + index, slots }]);
  }
  const decodeTimes = metricsOf("decode step", (await runner.recorder.profile()) ?? new Map(), newTokens);
  return [...prefillTimes, ...decodeTimes];
}

type Profile = ReadonlyMap<string, { nanoseconds: number; dispatches: number }>;

/** Milliseconds a step by kernel, the slowest first; an op's label is its kernel and, for matrices, the tensor. */
function metricsOf(phase: string, profile: Profile, steps: number): Metric[] {
  const byKernel = new Map<string, number>();
  for (const [label, { nanoseconds }] of profile) {
    const kernel = label === "head norm" ? "norm" : (label.split(" ")[0] ?? label);
    byKernel.set(kernel, (byKernel.get(kernel) ?? 0) + nanoseconds / 1e6 / steps);
  }
  const sorted = [...byKernel].sort(([, a], [, b]) => b - a);
  const total = sorted.reduce((sum, [, ms]) => sum + ms, 0);
  return [["all kernels", total] as const, ...sorted].map(([kernel, ms]) => ({
    metric: `GPU, ${phase}: ${kernel}`,
    unit: "ms",
    values: [ms],
  }));
}

async function withSession<T>(
  provider: GPU,
  file: string,
  options: { timestamps: boolean },
  work: (session: TestSession, gpu: Gpu) => Promise<T>,
): Promise<T> {
  const gpu = await openGpu(provider, options);
  const session = await TestSession.open(gpu, await openModel(file), OPTIONS);
  try {
    return await work(session, gpu);
  } finally {
    await session.close();
    gpu.device.destroy();
  }
}

function randomTokens(count: number, vocabSize: number, seed = 0): number[] {
  const random = new Random(PROMPT_SEED + seed);
  return Array.from({ length: count }, () => random.below(vocabSize));
}

/** Adds up the time that the session's plan, submit and commit take on this thread; waiting for the GPU is not in it. */
class HostTime {
  private readonly session: Session;
  private ms = 0;
  private steps = 0;
  private bytesBefore: number;

  constructor(session: Session) {
    const { runner, scheduler } = session;
    this.session = session;
    this.bytesBefore = runner.recorder.bytesRead;
    const { prefill, decode } = runner;
    const { next, commit } = scheduler;
    runner.prefill = (input) => this.step(() => prefill.call(runner, input));
    runner.decode = (inputs) => this.step(() => decode.call(runner, inputs));
    scheduler.next = () => this.part(() => next.call(scheduler));
    scheduler.commit = (plan, sampled) => this.part(() => commit.call(scheduler, plan, sampled));
  }

  /** Since the last call. */
  take(): { msPerStep: number; bytesReadPerStep: number } {
    const { bytesRead } = this.session.runner.recorder;
    const msPerStep = this.ms / this.steps;
    const bytesReadPerStep = (bytesRead - this.bytesBefore) / this.steps;
    this.ms = this.steps = 0;
    this.bytesBefore = bytesRead;
    return { msPerStep, bytesReadPerStep };
  }

  private step<T>(run: () => T): T {
    this.steps++;
    return this.part(run);
  }

  private part<T>(run: () => T): T {
    const started = performance.now();
    const value = run();
    this.ms += performance.now() - started;
    return value;
  }
}

/** The largest heap plus buffers outside of it that was seen at any sample. GPU memory is not in it. */
class MemoryPeak {
  private peak = 0;
  private readonly timer: ReturnType<typeof setInterval>;

  constructor() {
    this.sample();
    this.timer = setInterval(() => this.sample(), SAMPLE_MS);
  }

  stop(): number {
    clearInterval(this.timer);
    this.sample();
    return this.peak;
  }

  private sample(): void {
    const { heapUsed, external } = process.memoryUsage();
    this.peak = Math.max(this.peak, heapUsed + external);
  }
}

const SAMPLE_MS = 5;
