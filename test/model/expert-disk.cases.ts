/**
 * A disk that fails under a model of which not all experts are on the GPU: steps are tried again, then their requests end by an
 * error, others go on, and nobody gets wrong tokens. And what such a model takes on the GPU, counted at the device.
 */
import { TidepoolError } from "../../src/errors.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { tableBytes } from "../../src/model/experts/arena.ts";
import { checkpointBytes } from "../../src/model/experts/checkpoint.ts";
import { expertsOf } from "../../src/model/experts/plan.ts";
import { keptRowBytes } from "../../src/model/workspace.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { forward } from "../support/faulty-gpu.ts";
import { TestSession, type TestOptions } from "../support/session.ts";
import { TestDisk } from "../support/test-disk.ts";
import { shareOfExperts } from "./experts.cases.ts";

const MODEL = "goldens/models/qwen3moe/model.gguf";
const OPTIONS: TestOptions = { dtype: "f32", blockTokens: 16, chunkTokens: 32, maxRequests: 2 };
const MORE = { maxTokens: 8, cache: "off" } as const;

const promptOf = (start: number) => ({
  kind: "tokens" as const,
  tokens: Array.from({ length: 20 }, (_, i) => (start + 7 * i) % 90),
});
const PROMPTS = [promptOf(1), promptOf(2), promptOf(3)];

async function checkFaults(env: CaseEnv): Promise<void> {
  const model = await env.shared(MODEL);
  const disk = new TestDisk();
  const file = await openModel([disk.over(openBytes(model, "model.gguf"))]);
  const memory = { expertMemory: await shareOfExperts(model, 1 / 4), expertRamBytes: 0 };
  const session = await TestSession.open(env.gpu, file, { ...OPTIONS, ...memory });
  try {
    const expected: number[][] = [];
    for (const prompt of PROMPTS) expected.push((await session.generate(prompt, MORE).done).tokens);
    equal(await tokensWith(session, () => disk.fail("error", 3)), expected, "tokens when some reads fail");
    equal(failures(session), 0, "fetches that were given up");
    equal(await tokensWith(session, () => failOnce(session, disk)), expected, "tokens when a fetch fails");
    equal(failures(session) > 0, true, "a fetch was given up");
    await checkForEver(session, disk, expected);
    session.checkIdle();
    session.session.runner.experts?.cache.check();
  } finally {
    await session.close();
  }
}

const failures = ({ session }: TestSession) => session.runner.experts?.cache.stats.failures ?? 0;

/** All reads are short until a fetch has been given up: its step is tried again. */
function failOnce(session: TestSession, disk: TestDisk): void {
  disk.fail("short");
  const timer = setInterval(() => {
    if (failures(session) === 0) return;
    disk.heal();
    clearInterval(timer);
  }, 1);
}

/** All prompts at once, with a fault in the middle of the first one's decoding. */
async function tokensWith(session: TestSession, fail: () => void): Promise<number[][]> {
  let steps = 0;
  const requests = PROMPTS.map((prompt) =>
    session.generate(prompt, MORE, () => {
      if (++steps === 3) fail();
    }),
  );
  return (await Promise.all(requests.map(({ done }) => done))).map(({ tokens }) => tokens);
}

/** The first ends by an error, the second too if it is in the same steps; the third waits, and finds the disk in order again. */
async function checkForEver(session: TestSession, disk: TestDisk, expected: number[][]): Promise<void> {
  let steps = 0;
  const [first, second, third] = PROMPTS.map((prompt) =>
    session.generate(prompt, MORE, () => {
      if (++steps === 3) disk.fail("error");
    }),
  );
  const error = await errorOf(first!.done);
  disk.heal();
  equal([error.code, error.details["request"]], ["source", first!.id], "error");
  equal(/expert \d+ of blk\.\d+\.ffn_\w+_exps\.weight/.test(error.message), true, error.message);
  const other = await second!.done.catch((reason: unknown) => reason);
  if (other instanceof TidepoolError) equal(other.code, "source", "error of the request beside it");
  else equal((other as { tokens: number[] }).tokens, expected[1], "tokens of the request beside it");
  equal((await third!.done).tokens, expected[2], "tokens of the one that waited");
  equal(await tokensWith(session, () => {}), expected, "tokens afterwards");
}

async function errorOf(promise: Promise<unknown>): Promise<TidepoolError> {
  const error = await promise.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  );
  if (error instanceof TidepoolError) return error;
  throw error;
}

/** A device that counts the bytes of the buffers that it has made and that were not destroyed, and their peak; more than `most` is too much. */
class CountedGpu {
  readonly gpu: Gpu;
  peak = 0;
  bytes = 0;
  private readonly filters: GPUErrorFilter[] = [];
  private readonly most: number;
  private isFull = false;

  constructor(gpu: Gpu, most = Infinity) {
    const { device } = gpu;
    this.most = most;
    const createBuffer = (descriptor: GPUBufferDescriptor): GPUBuffer => this.count(gpu, descriptor);
    const pushErrorScope = (filter: GPUErrorFilter): void => {
      this.filters.push(filter);
      device.pushErrorScope(filter);
    };
    const popErrorScope = () => this.pop(device);
    this.gpu = { ...gpu, device: forward(device, { createBuffer, pushErrorScope, popErrorScope }) };
  }

  private async pop(device: GPUDevice): Promise<GPUError | null> {
    const isOfMemory = this.filters.pop() === "out-of-memory";
    const { isFull } = this;
    if (isOfMemory) this.isFull = false;
    const problem = await device.popErrorScope();
    if (!isOfMemory || !isFull) return problem;
    return { message: "test: no memory" };
  }

  private count({ device }: Gpu, descriptor: GPUBufferDescriptor): GPUBuffer {
    const buffer = device.createBuffer(descriptor);
    const destroy = buffer.destroy.bind(buffer);
    let left = descriptor.size;
    this.bytes += left;
    this.peak = Math.max(this.peak, this.bytes);
    this.isFull ||= this.bytes > this.most;
    buffer.destroy = () => {
      this.bytes -= left;
      left = 0;
      return destroy();
    };
    return buffer;
  }
}

/** Choices that are read back, beside what a step reads anyway. */
const READ_BACK_BYTES = 64 * 1024;

async function checkMemory(env: CaseEnv): Promise<void> {
  const model = await env.shared(MODEL);
  const file = await openModel([openBytes(model, "model.gguf")]);
  const shape = shapeOf(file);
  const all = expertsOf(namesIn(file, shape), shape)!;
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const peaks: number[] = [];
  const untold: number[] = [];
  let margin = READ_BACK_BYTES;
  for (const more of [{}, { expertMemory }]) {
    const counted = new CountedGpu(env.gpu);
    const session = await TestSession.load(counted.gpu, model, { ...OPTIONS, poolTokens: 256, ...more });
    try {
      await Promise.all(PROMPTS.map((prompt) => session.generate(prompt, MORE).done));
      const { plan, options, memory } = session.session.runner;
      const { weightBytes, kvPoolBytes, statePoolBytes, workspaceBytes } = memory;
      const told = weightBytes + kvPoolBytes + statePoolBytes + workspaceBytes;
      untold.push(counted.bytes - told);
      if (plan.experts) {
        const rowBytes = keptRowBytes(shape, options.dtype);
        margin += tableBytes(plan.experts) + checkpointBytes(all.layers.length, options.seats, rowBytes);
      }
    } finally {
      await session.close();
    }
    peaks.push(counted.peak);
  }
  // What sampling and single ops take is not told, and is the same for both.
  const own = checkpointBytes(all.layers.length, OPTIONS.maxRequests ?? 1, keptRowBytes(shape, "f32"));
  const [less, more] = untold as [number, number];
  equal(more - less < own / 2 && less < READ_BACK_BYTES, true, `${less}, ${more} bytes beside those told`);
  const [whole, part] = peaks as [number, number];
  const most = whole - all.bytes + expertMemory + margin;
  equal(part <= most && part < whole, true, `${part} bytes at the peak, ${most} allowed, ${whole} with all`);
}

/** A device that is too small for all experts, of which nobody knew: some stay off it, unless that was ruled out. */
async function checkSmallDevice(env: CaseEnv): Promise<void> {
  const model = await env.shared(MODEL);
  const options = { ...OPTIONS, poolTokens: 256 };
  const run = async (most: number, more: TestOptions = {}) => {
    const counted = new CountedGpu(env.gpu, most);
    const session = await TestSession.load(counted.gpu, model, { ...options, ...more });
    try {
      const { tokens } = await session.generate(promptOf(1), MORE).done;
      return { tokens, bytes: counted.bytes, expertBytes: session.session.info.memory.expertBytes };
    } finally {
      await session.close();
      equal(counted.bytes <= READ_BACK_BYTES, true, `${counted.bytes} bytes are left on the device`);
    }
  };
  const whole = await run(Infinity);
  equal(whole.expertBytes, undefined, "bytes of experts with all on the GPU");
  const { bytes, leastBytes } = expertsOf(...(await expertsArguments(model)))!;
  const less = await run(whole.bytes - Math.floor(bytes / 4));
  equal(less.tokens, whole.tokens, "tokens on a smaller device");
  equal(less.expertBytes! >= leastBytes && less.expertBytes! <= bytes / 2, true, "bytes of experts");
  const asked = await errorOf(run(whole.bytes - bytes, { expertMemory: bytes }));
  equal([asked.code, asked.details["isDeviceFull"]], ["out_of_memory", true], "if so much was asked for");
  equal((await errorOf(run(whole.bytes / 100))).code, "out_of_memory", "if the least is too much");
}

async function expertsArguments(model: Uint8Array) {
  const file = await openModel([openBytes(model, "model.gguf")]);
  const shape = shapeOf(file);
  return [namesIn(file, shape), shape] as const;
}

export const cases: Case[] = [
  { name: "model/expert-disk/a device that is too small for all experts", run: checkSmallDevice },
  { name: "model/expert-disk/a disk that fails in the middle of decoding", run: checkFaults },
  { name: "model/expert-disk/bytes on the GPU stay within the setting", run: checkMemory },
];
