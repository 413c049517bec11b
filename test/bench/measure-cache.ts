/**
 * Measures what the KV cache spares, with the shipped tide-dense: time to first token of a prompt that was never seen and
 * of one whose blocks are on the GPU, in RAM or on disk; and, of a prompt on disk, the ways of getting it back (load,
 * compute, both, auto), also with a medium that loads no faster than this machine computes, where both have a part.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../../src/base.ts";
import { openGpu } from "../../src/gpu/device.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { GenerationResult, PromptUsage } from "../../src/wire/protocol.ts";
import type { TierMover } from "../../src/worker/cache/tier-mover.ts";
import { TestSession } from "../support/session.ts";
import { median, type Measurement } from "./report.ts";
import { SlowReads } from "./slow-backend.ts";

/** Its context holds the longest prompt, and a software adapter computes that in seconds. */
const MODEL = "demo/models/tide-dense.gguf";

const PROMPTS_TOKENS = [512, 1024, 2048];
const CAKE_TOKENS = 2048;
const RAM_BYTES = 2 ** 28;
const DISK_BYTES = 2 ** 30;
const DRAIN_MS = 60_000;
const SEED = 19;

/** "auto" first: what it knows of a disk is then from before that disk became slow. */
const MODES = ["auto", "compute", "load", "both"] as const;
type Mode = (typeof MODES)[number];

export async function measureCache(provider: GPU, name: string, repeats: number): Promise<Measurement[]> {
  const folder = mkdtempSync(join(tmpdir(), "tidepool-cache-"));
  const rig = await openRig(provider, folder);
  try {
    await rig.generate(rig.newPrompt(CAKE_TOKENS)); // compiles shaders
    return [...(await firstTokens(rig, name, repeats)), ...(await cake(rig, name, repeats))];
  } finally {
    await rig.close();
    rmSync(folder, { recursive: true });
  }
}

/** A session over RAM and a folder, and the handles by which a prompt is put where it is wanted. */
interface Rig {
  newPrompt(count: number): number[];
  generate(tokens: number[]): Promise<GenerationResult>;
  /** Waits until everything computed is on the disk. */
  settle(): Promise<void>;
  forgetGpu(): void;
  forgetRam(): Promise<void>;
  /** Forces a mode; "auto": by measured rates. */
  restoreBy(mode: Mode): void;
  slow: SlowReads;
  kvBytesPerToken: number;
  blockTokens: number;
  close(): Promise<void>;
}

async function openRig(provider: GPU, folder: string): Promise<Rig> {
  const gpu = await openGpu(provider);
  const slow = new SlowReads();
  const disk = async () => slow.over(await openFilesBackend(folder));
  const store = await TierStore.open({ ramBytes: RAM_BYTES, diskBytes: DISK_BYTES, disk });
  const test = await TestSession.open(gpu, await openModel(MODEL), { dtype: "f32", maxRequests: 1 }, store);
  const { session } = test;
  const mover = session.mover as TierMover;
  const termsOf = mover.restoreTerms.bind(mover);
  const random = new Random(SEED);
  const { pool, options } = session.runner;
  return {
    newPrompt: (count) => Array.from({ length: count }, () => random.below(session.info.model.vocabSize)),
    generate: (tokens) => test.generate({ kind: "tokens", tokens }, { maxTokens: 1 }).done,
    async settle() {
      const { left } = await mover.drain(DRAIN_MS);
      if (left > 0) throw new Error(`${left} records did not reach the disk`);
    },
    forgetGpu: () => session.scheduler.forget(),
    async forgetRam() {
      await store.setBudgets({ ramBytes: 0 });
      await store.setBudgets({ ramBytes: RAM_BYTES });
    },
    restoreBy(mode) {
      mover.restoreTerms = (...asked) => ({ ...termsOf(...asked), mode });
    },
    slow,
    kvBytesPerToken: pool.slotBytes / options.blockTokens,
    blockTokens: options.blockTokens,
    async close() {
      await test.close();
      gpu.device.destroy();
    },
  };
}

const ORIGINS = ["cold", "GPU", "RAM", "disk"] as const;
type Origin = (typeof ORIGINS)[number];

async function firstTokens(rig: Rig, name: string, repeats: number): Promise<Measurement[]> {
  const out: Measurement[] = [];
  rig.restoreBy("load");
  for (const count of PROMPTS_TOKENS) {
    const times: Record<Origin, number[]> = { cold: [], GPU: [], RAM: [], disk: [] };
    for (let repeat = 0; repeat < repeats; repeat++) {
      const tokens = rig.newPrompt(count);
      for (const origin of ORIGINS) times[origin].push(await firstToken(rig, tokens, origin));
    }
    for (const origin of ORIGINS) {
      const metric = `first token of ${count}, ${origin === "cold" ? "cold" : `${origin} hit`}`;
      out.push({ name, metric, unit: "ms", values: times[origin] });
    }
  }
  return out;
}

/** Milliseconds; the prompt has just been asked for, and is left where it must be found. */
async function firstToken(rig: Rig, tokens: number[], origin: Origin): Promise<number> {
  await rig.settle();
  if (origin === "RAM" || origin === "disk") rig.forgetGpu();
  if (origin === "disk") await rig.forgetRam();
  const { usage, timing } = await rig.generate(tokens);
  const expected = Math.floor((tokens.length - 1) / rig.blockTokens) * rig.blockTokens;
  const { gpu, ram, disk } = usage.cachedTokens;
  const found = { cold: 0, GPU: gpu, RAM: ram, disk }[origin];
  if (gpu + ram + disk !== found || found !== (origin === "cold" ? 0 : expected)) {
    throw new Error(`of a prompt from ${origin}, usage says ${JSON.stringify(usage)}`);
  }
  return timing.ttftMs;
}

/** The ways of getting a prompt back from disk, as fast as the disk is and as slow as computing. */
async function cake(rig: Rig, name: string, repeats: number): Promise<Measurement[]> {
  const fast = await compareModes(rig, repeats);
  const computeMs = median(fast.compute.map(({ timing }) => timing.ttftMs));
  rig.slow.bytesPerSecond = (rig.kvBytesPerToken * CAKE_TOKENS * 1000) / computeMs;
  const slow = await compareModes(rig, repeats);
  rig.slow.bytesPerSecond = Infinity;
  const head = `${name}, ${CAKE_TOKENS} tokens on`;
  return [...modeTable(`${head} this disk`, fast), ...modeTable(`${head} a disk as slow as computing`, slow)];
}

type ByMode = Record<Mode, GenerationResult[]>;

async function compareModes(rig: Rig, repeats: number): Promise<ByMode> {
  const results: ByMode = { compute: [], load: [], both: [], auto: [] };
  const tokens = rig.newPrompt(CAKE_TOKENS);
  await rig.generate(tokens);
  await rig.settle();
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const mode of MODES) {
      rig.forgetGpu();
      await rig.forgetRam();
      rig.restoreBy(mode);
      results[mode].push(await rig.generate(tokens));
      await rig.settle();
    }
  }
  return results;
}

function modeTable(name: string, results: ByMode): Measurement[] {
  const ms = (mode: Mode) => results[mode].map(({ timing }) => timing.ttftMs);
  const loaded = (mode: Mode) => results[mode].map(({ usage }) => (100 * loadedTokens(usage)) / CAKE_TOKENS);
  const better = Math.min(median(ms("compute")), median(ms("load")));
  return [
    ...MODES.map((mode) => ({ name, metric: `first token, ${mode}`, unit: "ms", values: ms(mode) })),
    ...(["both", "auto"] as const).map((mode) => ({
      ...{ name, metric: `${mode}: share loaded`, unit: "%" },
      values: loaded(mode),
    })),
    {
      ...{ name, metric: "auto, of the better of compute and load", unit: "%" },
      values: ms("auto").map((each) => (100 * each) / better),
    },
  ];
}

const loadedTokens = ({ cachedTokens }: PromptUsage) => cachedTokens.ram + cachedTokens.disk;
