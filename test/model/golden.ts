/** Whole-model cases: a model of ../shared/goldens run in one of several settings and compared with given logits. */
import { BlockPool } from "../../src/cache/blocks.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import type { Elem } from "../../src/gpu/kernel.ts";
import type { KvDtype } from "../../src/gpu/packed.ts";
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { usedTensors } from "../../src/model/arch/tensor-names.ts";
import { Runner, type RunnerOptions } from "../../src/model/runner.ts";
import { SeatState } from "../../src/schedule/seat-state.ts";
import type { CaseEnv } from "../support/cases.ts";

export interface Golden {
  architecture: string;
  vocabSize: number;
  tokens: number[];
}

/** How the prompt is fed: all in one prefill, in chunks, or one by one through the decode kernels. */
export type Feed = "once" | "chunks of 7" | "blocks" | "one by one";

export interface Setting {
  dtype: Elem;
  kvDtype: KvDtype;
  blockTokens: number;
  feed: Feed;
}

/** A device like `gpu` without subgroups runs the plain forms of the kernels. */
export function withoutSubgroups(gpu: Gpu): Gpu {
  return { ...gpu, features: { ...gpu.features, subgroups: false } };
}

/** @param exact the expected logits are those of a float64 forward pass, not llama.cpp's */
export async function loadGolden(
  env: CaseEnv,
  folder: string,
  exact = false,
): Promise<{ golden: Golden; expected: Float32Array; model: Uint8Array }> {
  const golden = JSON.parse(new TextDecoder().decode(await env.shared(`${folder}/golden.json`))) as Golden;
  const logits = await env.shared(`${folder}/${exact ? "float64" : "logits"}.f32`);
  return {
    golden,
    expected: new Float32Array(logits.slice().buffer),
    model: await env.shared(`${folder}/model.gguf`),
  };
}

/** Runs `tokens` through a GGUF model and gives all logits, [tokens, vocabulary]. */
export async function runTokens(
  gpu: Gpu,
  model: Uint8Array,
  tokens: number[],
  setting: Setting,
  more?: More,
): Promise<Float32Array> {
  return runFile(gpu, await openModel([openBytes(model, "model.gguf")]), tokens, setting, more);
}

/** What a run may ask for beside its setting. */
export interface More {
  options?: Partial<RunnerOptions>;
  /** Called behind each step with the tokens so far. */
  behind?(runner: Runner, slots: readonly number[], tokens: number): Promise<void>;
  /** Called with the runner at the end, and the slots of the tokens' blocks. */
  look?(runner: Runner, slots: readonly number[]): void | Promise<void>;
}

/** The same for an open model, which is closed. */
export async function runFile(
  gpu: Gpu,
  file: ModelFile,
  tokens: number[],
  setting: Setting,
  { options: asked, behind, look }: More = {},
): Promise<Float32Array> {
  const { dtype, kvDtype, blockTokens, feed } = setting;
  const poolTokens = Math.ceil(tokens.length / blockTokens) * blockTokens + 3 * blockTokens;
  const options = { dtype, kvDtype, blockTokens, chunkTokens: 256, seats: 2, poolTokens, ...asked };
  const read = new Set<string>();
  const runner = await Runner.load(gpu, file, options, undefined, ({ name }) => read.add(name));
  sameTensors(read, usedTensors(file, runner.shape));
  const blocks = new BlockPool(runner.pool.options.slots);
  const slots = (blocks.allocate(Math.ceil(tokens.length / blockTokens)) as number[]).reverse();
  const out = new Float32Array(tokens.length * runner.shape.vocabSize);
  try {
    const step = { once: tokens.length, "chunks of 7": 7, blocks: blockTokens, "one by one": 1 }[feed];
    const seat = new SeatState([0, 1]);
    seat.start();
    for (let start = 0; start < tokens.length; start += step) {
      const part = tokens.slice(start, start + step);
      const state = seat.step(start + part.length);
      const logits =
        feed === "one by one"
          ? await runner.scoreDecode({ position: start, slots, token: part[0] as number, state })
          : await runner.score({ position: start, slots, tokens: part, firstRow: 0, state });
      out.set(logits, start * runner.shape.vocabSize);
      await behind?.(runner, slots, start + part.length);
    }
    await look?.(runner, slots);
  } finally {
    for (const slot of slots) blocks.release(slot);
    blocks.check();
    runner.destroy();
    await file.close();
  }
  return out;
}

/** What is counted and checked before loading is what loading reads. */
function sameTensors(read: ReadonlySet<string>, planned: readonly { name: string }[]): void {
  const missing = planned.filter(({ name }) => !read.has(name)).map(({ name }) => name);
  if (missing.length > 0 || planned.length !== read.size)
    throw new Error(
      `${read.size} tensors were read, ${planned.length} planned; not read: ${missing.join(", ")}`,
    );
}

/** Sum of squared differences over sum of squared reference. */
export function nmse(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} logits, expected ${expected.length}`);
  let difference = 0;
  let reference = 0;
  for (let i = 0; i < expected.length; i++) {
    const want = expected[i] as number;
    difference += ((actual[i] as number) - want) ** 2;
    reference += want ** 2;
  }
  return difference / reference;
}

/** Rows whose arg-max differs although the reference's two best are further apart than 1e-4 of the row's RMS. */
export function argmaxMisses(actual: Float32Array, expected: Float32Array, vocab: number): number[] {
  const misses: number[] = [];
  for (let row = 0; row * vocab < expected.length; row++) {
    const want = expected.subarray(row * vocab, (row + 1) * vocab);
    const got = actual.subarray(row * vocab, (row + 1) * vocab);
    const [first, second] = [...want].sort((a, b) => b - a) as [number, number];
    const rms = Math.sqrt(want.reduce((sum, value) => sum + value * value, 0) / vocab);
    if (first - second > 1e-4 * rms && argmax(got) !== argmax(want)) misses.push(row);
  }
  return misses;
}

export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
