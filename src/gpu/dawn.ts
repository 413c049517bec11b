/**
 * Dawn in Node, and its end: Dawn aborts the whole process if its thread ends while one of its promises is unsettled. So
 * whatever is asked of it is counted, and `endDawn` waits until all of that is answered and lets nothing new begin.
 * Nothing here knows what the devices are for.
 */
import { TidepoolError } from "../errors.ts";
import { paceDawn } from "./dawn-pace.ts";

interface Dawn {
  create(flags: string[]): GPU;
  globals: Record<string, { prototype: Record<string, (...given: unknown[]) => Promise<unknown>> }>;
}

/** Everything that Dawn answers later. */
const ASYNC: Record<string, readonly string[]> = {
  GPU: ["requestAdapter"],
  GPUAdapter: ["requestDevice"],
  GPUBuffer: ["mapAsync"],
  GPUDevice: ["createComputePipelineAsync", "createRenderPipelineAsync", "popErrorScope"],
  GPUQueue: ["onSubmittedWorkDone"],
  GPUShaderModule: ["getCompilationInfo"],
};

/** How long devices may take to answer for what was under way when they were freed. */
const END_LIMIT_MS = 5000;

/**
 * Dawn's instance, kept for the life of the process: once it is collected, its devices crash the process
 * (https://github.com/dawn-gpu/node-webgpu#lifetime, https://github.com/dawn-gpu/node-webgpu/issues/18).
 */
let instance: GPU | undefined;
const underWay = new Set<Promise<unknown>>();
const devices = new Set<GPUDevice>();
let isEnding = false;
/** When Dawn was last asked for something, or last answered. */
let lastWordAt = 0;

/**
 * Finds npm `webgpu`. Of a driver that offers more than 16 dynamic buffers Dawn warns twice, straight to standard error, while it
 * looks for adapters: before any limit is asked for, and whatever flags and toggles it is given. Only a process above can
 * leave that out (api/supervise.ts).
 * @throws TidepoolError `no_adapter`
 */
export async function findDawn(): Promise<GPU> {
  if (instance) return instance;
  const dawn = await importDawn();
  if (instance) return instance;
  Object.assign(globalThis, dawn.globals);
  paceDawn(() => performance.now() - lastWordAt);
  for (const [name, methods] of Object.entries(ASYNC))
    for (const method of methods) count(dawn.globals[name]?.prototype, method);
  return (instance = dawn.create([]));
}

/**
 * Frees all devices and waits until nothing is awaited any more, but not for ever; what is asked from now on is never
 * answered.
 */
export async function endDawn(): Promise<void> {
  isEnding = true;
  const until = performance.now() + END_LIMIT_MS;
  do {
    for (const device of devices) device.destroy();
    await allAnswered(until - performance.now());
  } while (underWay.size > 0 && performance.now() < until);
}

/** Waits until all that was asked of Dawn has been answered, at most `ms` milliseconds. */
export async function allAnswered(ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([Promise.allSettled(underWay), late]);
  clearTimeout(timer);
}

function count(prototype: Dawn["globals"][string]["prototype"] | undefined, method: string): void {
  const original = prototype?.[method];
  if (!prototype || !original) return;
  prototype[method] = function (...given) {
    if (isEnding) return new Promise(() => {});
    const answer = original.apply(this, given);
    const counted = answer
      .then(keepDevice, () => {})
      .finally(() => {
        lastWordAt = performance.now();
        underWay.delete(counted);
      });
    lastWordAt = performance.now();
    underWay.add(counted);
    return answer;
  };
}

function keepDevice(answer: unknown): void {
  if (typeof GPUDevice === "undefined" || !(answer instanceof GPUDevice)) return;
  devices.add(answer);
  const forget = (): void => void devices.delete(answer);
  answer.lost.then(forget, forget);
}

async function importDawn(): Promise<Dawn> {
  try {
    return (await import("webgpu")) as unknown as Dawn;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TidepoolError(
      "no_adapter",
      `WebGPU is missing: Node needs the package webgpu with a build for this platform, Deno 2.9 or later has it built in (${why})`,
    );
  }
}
