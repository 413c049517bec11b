/**
 * The soak's program: one model, one process, so that its memory is the soak's. Arguments: --model FILE --seconds N; SEED in the
 * environment repeats a run. Prints one JSON line with what it did, or with what went wrong.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../../src/base.ts";
import { Soak, type MemoryPoint, type SoakCounts } from "../support/soak.ts";
import { testSeed } from "../support/seed.ts";

/**
 * How much more memory the process may have at the end than when it was warm, in MiB. Engines that do nothing leave none; with work
 * some 5 MiB an engine stay with the software driver's and malloc's threads, fewer as it goes on.
 */
const MAX_GROWTH_MIB = 160;

/** Fewer points than this tell nothing of a trend. */
const MIN_POINTS = 8;

/** What a soak prints. */
export interface SoakLine {
  model: string;
  counts: SoakCounts;
  memory: {
    points: number;
    firstMiB: number;
    secondMiB: number;
    heapFirstMiB: number;
    heapSecondMiB: number;
  };
  error?: string;
}

const { values } = parseArgs({ options: { model: { type: "string" }, seconds: { type: "string" } } });

/** Medians of the second and of the last quarter: before it, drivers and compilers still warm up. */
function memoryOf(points: readonly MemoryPoint[]): SoakLine["memory"] {
  const quarter = Math.floor(points.length / 4);
  const medianOf = (list: readonly MemoryPoint[], key: keyof MemoryPoint): number =>
    list.map((point) => point[key]).sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? 0;
  const [first, second] = [points.slice(quarter, 2 * quarter), points.slice(points.length - quarter)];
  return {
    points: points.length,
    firstMiB: Math.round(medianOf(first, "rssMiB")),
    secondMiB: Math.round(medianOf(second, "rssMiB")),
    heapFirstMiB: Math.round(medianOf(first, "heapMiB")),
    heapSecondMiB: Math.round(medianOf(second, "heapMiB")),
  };
}

function growthProblem({ points, firstMiB, secondMiB }: SoakLine["memory"]): string | undefined {
  if (points < MIN_POINTS || secondMiB - firstMiB <= MAX_GROWTH_MIB) return undefined;
  return `memory grew from ${firstMiB} to ${secondMiB} MiB over ${points} engines`;
}

async function main(model: string, seconds: number): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "tidepool-soak-"));
  const random = new Random(testSeed(`soak of ${model}`));
  const soak = await Soak.open({ model, directory, random, log: (line) => console.log(line) });
  let error: string | undefined;
  try {
    await soak.run(performance.now() + seconds * 1000);
  } catch (thrown) {
    error = thrown instanceof Error ? `${thrown.message}\n${thrown.stack}` : String(thrown);
  }
  const memory = memoryOf(soak.memory);
  error ??= growthProblem(memory);
  const line: SoakLine = { model, counts: soak.counts, memory, ...(error !== undefined && { error }) };
  console.log(JSON.stringify(line));
  if (process.env["SOAK_MEMORY"] !== undefined)
    console.log(soak.memory.map(({ rssMiB }) => Math.round(rssMiB)).join(" "));
  await soak.close();
  rmSync(directory, { recursive: true, force: true });
  return error === undefined ? 0 : 1;
}

process.exitCode = await main(values.model ?? "demo/models/tide-dense.gguf", Number(values.seconds ?? 30));
setTimeout(() => process.exit(), 50);
