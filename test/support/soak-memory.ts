/**
 * Whether a process that opens and closes engines stays as large as it was. What is compared is taken while no engine is
 * open, garbage collected, under STEADY_MALLOC. It starts nothing.
 */
import { readdirSync } from "node:fs";

/** What a process holds. */
export interface MemoryPoint {
  rssMiB: number;
  heapMiB: number;
  /** Undefined where the system does not tell. */
  threads: number | undefined;
  files: number | undefined;
}

/**
 * The environment in which glibc's malloc gives back what is freed. By default it keeps an arena for each of many threads, and each
 * engine's threads (its workers', the software driver's) leave theirs with holes: free, but resident. That came to some 5 MiB an
 * engine, while malloc's own count of the bytes in use was the same after each.
 */
export const STEADY_MALLOC: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: "1",
  MALLOC_MMAP_THRESHOLD_: "65536",
  MALLOC_TRIM_THRESHOLD_: "131072",
};

/** Fewer engines than this tell nothing of a trend. */
export const LEAST_POINTS = 6;

/** How much larger the process may be in the last third than in the second, in MiB: what single engines differ by weighs less
 * the more of them there are. Over 27 engines a third the two were 0 to 1 MiB apart, over 3 up to 14. */
const MAX_GROWTH_MIB = 10;
const SCATTER_MIB = 45;

export const allowedMiB = (engines: number): number =>
  Math.round(MAX_GROWTH_MIB + SCATTER_MIB / Math.floor(engines / 3));

/** How many more threads or open files. */
const MAX_MORE = 1;

/** Medians of the second and of the last third; drivers, compilers and malloc fill what they keep in the first. */
export interface Growth {
  engines: number;
  before: MemoryPoint;
  after: MemoryPoint;
}

export function memoryPoint(): MemoryPoint {
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  return {
    rssMiB: rss / 2 ** 20,
    heapMiB: heapUsed / 2 ** 20,
    threads: entries("/proc/self/task"),
    files: entries("/proc/self/fd"),
  };
}

function entries(folder: string): number | undefined {
  try {
    return readdirSync(folder).length;
  } catch {
    return undefined;
  }
}

export function growthOf(points: readonly MemoryPoint[]): Growth {
  const third = Math.floor(points.length / 3);
  const of = (part: readonly MemoryPoint[]): MemoryPoint => ({
    rssMiB: median(part.map(({ rssMiB }) => rssMiB)) ?? 0,
    heapMiB: median(part.map(({ heapMiB }) => heapMiB)) ?? 0,
    threads: median(part.flatMap(({ threads }) => threads ?? [])),
    files: median(part.flatMap(({ files }) => files ?? [])),
  });
  const [before, after] = [points.slice(-2 * third, -third), points.slice(points.length - third)];
  return { engines: points.length, before: of(before), after: of(after) };
}

/** The lower of the two in the middle. */
function median(values: readonly number[]): number | undefined {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

/** What has grown too far, if anything. */
export function growthProblem(growth: Growth): string | undefined {
  const { engines, before, after } = growth;
  if (engines < LEAST_POINTS) return `${engines} engines tell nothing of memory: expected ${LEAST_POINTS}`;
  const isFlat =
    after.rssMiB - before.rssMiB <= allowedMiB(engines) &&
    (after.threads ?? 0) - (before.threads ?? 0) <= MAX_MORE &&
    (after.files ?? 0) - (before.files ?? 0) <= MAX_MORE;
  return isFlat
    ? undefined
    : `the process grew: ${growthInWords(growth)}; allowed are ${allowedMiB(engines)} MiB`;
}

export function growthInWords({ engines, before, after }: Growth): string {
  const apart = Math.floor(engines / 3);
  const change = (key: keyof MemoryPoint): string =>
    `${Math.round(before[key] ?? NaN)} -> ${Math.round(after[key] ?? NaN)}`;
  return [
    `process ${change("rssMiB")} MiB over ${apart} of ${engines} engines`,
    `main heap ${change("heapMiB")} MiB`,
    `threads ${change("threads")}`,
    `files ${change("files")}`,
  ].join(", ");
}
