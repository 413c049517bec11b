/**
 * Getting stored blocks back, against a simulated disk and engine: the true scheduler makes the steps and asks for the
 * loads, as the loop does; time is counted, not measured.
 */
import { expect, it } from "vitest";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { costOf } from "../../src/sim/cost-shape.ts";
import { BlockRestore } from "../../src/schedule/restore/block-restore.ts";
import { MAX_LOADS, type RestoreMode, type RestoreTerms } from "../../src/schedule/restore/restore.ts";
import { Scheduler, type Move, type Plan } from "../../src/schedule/scheduler.ts";

const BLOCK_TOKENS = 4;
const STORED_BLOCKS = 64;
const CHUNK_BLOCKS = 8;
/** Weight of the newest step in what is believed of computing, as in worker/cache/tier-mover.ts. */
const WEIGHT = 0.5;
/** How long the loop sleeps at most while loads are under way. */
const ASK_AGAIN_MS = 4;

/** A machine: what is true of it, and what is believed beforehand. */
interface Machine {
  loadMs: number;
  computeMs: number;
  /** What a step takes beside its blocks. */
  stepMs: number;
  believedLoadMs: number;
  believedComputeMs: number;
  /** One load after another, or all at once, each taking longer. */
  disk: "queue" | "parallel";
}

interface Loading {
  move: Move;
  endMs: number;
}

/** Runs one prompt whose blocks but the last are on disk. */
class Simulation {
  nowMs = 0;
  stepsMs = 0;
  readonly scheduler: Scheduler;
  private readonly machine: Machine;
  private readonly mode: RestoreTerms["mode"];
  private readonly inFlight: { plan: Plan; count: number; endMs: number }[] = [];
  private loading: Loading[] = [];
  private diskFreeMs = 0;
  private engineFreeMs = 0;
  private computeMs: number;

  constructor(machine: Machine, mode: RestoreTerms["mode"]) {
    this.machine = machine;
    this.mode = mode;
    this.computeMs = machine.believedComputeMs;
    const pool = new BlockPool(STORED_BLOCKS + 2);
    const cost = costOf({ name: "none", hiddenSize: 1, kvElementBytes: 2, stateElementBytes: 4, layers: [] });
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: BLOCK_TOKENS, cost, pool });
    this.scheduler = new Scheduler(cache, pool, {
      blockTokens: BLOCK_TOKENS,
      chunkTokens: CHUNK_BLOCKS * BLOCK_TOKENS,
      seats: 1,
      lower: {
        storedBlocks: () => STORED_BLOCKS,
        restoreTerms: (_request, _from, blocks) => this.terms(blocks),
        spill: () => undefined,
      },
    });
  }

  run(): { ms: number; mode: RestoreMode | undefined; loaded: number } {
    const prompt = Array.from({ length: (STORED_BLOCKS + 1) * BLOCK_TOKENS }, (_, index) => index + 1);
    const request = this.scheduler.submit({ id: 1, prompt, maxNewTokens: 1, stopIds: new Set() });
    while (request.status !== "done") this.turn();
    return {
      ms: this.nowMs,
      mode: request.restoredBy,
      loaded: (request.loadedTokens["disk"] ?? 0) / BLOCK_TOKENS,
    };
  }

  private terms(blocks: number): RestoreTerms {
    return {
      mode: this.mode,
      loadMs: Array.from({ length: blocks }, () => this.machine.believedLoadMs),
      computeMs: () => this.computeMs,
      nowMs: () => this.nowMs,
    };
  }

  /** As in worker/loop.ts. */
  private turn(): void {
    while (this.inFlight.length < 2) {
      const plan = this.scheduler.next();
      this.startLoads();
      if (!plan) break;
      this.inFlight.push({ plan, ...this.submit(plan) });
    }
    const oldest = this.inFlight.shift();
    if (!oldest) {
      const next = Math.min(...this.loading.map(({ endMs }) => endMs));
      this.advance(Math.min(next, this.nowMs + ASK_AGAIN_MS));
      return;
    }
    this.advance(oldest.endMs);
    const tookMs = this.machine.stepMs + oldest.count * this.machine.computeMs;
    if (oldest.count > 0) this.computeMs = this.computeMs ** (1 - WEIGHT) * (tookMs / oldest.count) ** WEIGHT;
    this.scheduler.commit(
      oldest.plan,
      oldest.plan.spans.map(({ samples }) => (samples > 0 ? [7] : [])),
    );
  }

  private submit(plan: Plan): { count: number; endMs: number } {
    const count = plan.phase === "prefill" ? (plan.spans[0]?.count ?? 0) / BLOCK_TOKENS : 0;
    this.engineFreeMs = Math.max(this.engineFreeMs, this.nowMs) + this.machine.stepMs;
    this.engineFreeMs += count * this.machine.computeMs;
    return { count, endMs: this.engineFreeMs };
  }

  private startLoads(): void {
    for (const move of this.scheduler.takeMoves()) {
      const { disk, loadMs } = this.machine;
      this.diskFreeMs = Math.max(this.diskFreeMs, this.nowMs) + loadMs;
      const endMs =
        disk === "queue" ? this.diskFreeMs : Math.max(this.diskFreeMs, this.nowMs + MAX_LOADS * loadMs);
      this.loading.push({ move, endMs });
    }
  }

  /** Lets time pass; loads end in it, and others begin. */
  private advance(toMs: number): void {
    for (;;) {
      const ended = this.loading.sort((a, b) => a.endMs - b.endMs)[0];
      if (!ended || ended.endMs > toMs) break;
      this.loading.shift();
      this.nowMs = ended.endMs;
      this.scheduler.moved(ended.move, "disk");
      this.startLoads();
    }
    this.nowMs = toMs;
  }
}

interface Result {
  machine: Machine;
  ms: number;
  /** Of the better of loading and computing, after one block's time and one sleep of the loop. */
  over: number;
}

function judge(machine: Machine, graceMs = 0): Result {
  const load = new Simulation(machine, "load").run();
  const compute = new Simulation(machine, "compute").run();
  const auto = new Simulation(machine, "auto").run();
  const allGraceMs = graceMs + machine.computeMs + machine.stepMs + ASK_AGAIN_MS;
  return { machine, ms: auto.ms, over: (auto.ms - allGraceMs) / Math.min(load.ms, compute.ms) };
}

const TIMES = [0.01, 1 / 30, 1 / 16, 1 / 10, 1 / 8, 1 / 6, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 30, 100];

/** Every speed of loading against computing, on both kinds of disk, with and without a cost of each step. */
function judgeGrid(computeMs: number, wrongs: readonly number[]): Result[] {
  const disks = ["queue", "parallel"] as const;
  return TIMES.flatMap((times) =>
    wrongs.flatMap((loadWrong) =>
      wrongs.flatMap((computeWrong) =>
        disks.flatMap((disk) =>
          [0, computeMs].map((stepMs) => {
            const loadMs = computeMs * times;
            const believed = {
              believedLoadMs: loadMs * loadWrong,
              believedComputeMs: computeMs * computeWrong,
            };
            return judge({ loadMs, computeMs, stepMs, disk, ...believed });
          }),
        ),
      ),
    ),
  );
}

function worstOf(results: readonly Result[]): Result {
  return results.reduce((worst, result) => (result.over > worst.over ? result : worst));
}

const percent = (share: number) => `${(100 * share).toFixed(1)}%`;

it("auto never takes over a tenth and a block longer than the better of loading and computing, at rates wrong by up to 8", () => {
  const results = [0.5, 5].flatMap((computeMs) => judgeGrid(computeMs, [1 / 8, 1, 8]));
  const worst = worstOf(results);
  console.log(`restore: worst of ${results.length} is ${percent(worst.over)}`, JSON.stringify(worst.machine));
  expect(worst.over).toBeLessThanOrEqual(1.1);
});

it.each([0.3, 3, 40])(
  "nor where nothing was measured, after two blocks at the assumed 3 ms, and a block takes %d ms",
  (computeMs) => {
    const results = judgeGrid(computeMs, [1]).map(({ machine }) =>
      judge({ ...machine, believedLoadMs: 0.25, believedComputeMs: 3 }, 2 * 3),
    );
    const worst = worstOf(results);
    console.log(
      `restore: worst of ${results.length} is ${percent(worst.over)}`,
      JSON.stringify(worst.machine),
    );
    expect(worst.over).toBeLessThanOrEqual(1.1);
  },
);

const termsOf = (clock: { ms: number }, over: Partial<RestoreTerms>): RestoreTerms => ({
  mode: "auto",
  loadMs: [1, 1, 1, 1],
  computeMs: () => 1,
  nowMs: () => clock.ms,
  ...over,
});

it("computes what a disk that hangs does not bring, and writes none of it when it comes", () => {
  const clock = { ms: 0 };
  const restore = new BlockRestore(termsOf(clock, { computeMs: () => 100 }), 3);
  const loads = [restore.nextLoad(), restore.nextLoad(), restore.nextLoad(), restore.nextLoad()];
  expect(loads).toEqual([6, 5, 4, 3]);
  expect(restore.claim(3, 8)).toBe(0); // loading is believed to be far faster
  clock.ms = 1000;
  expect(restore.claim(3, 8)).toBe(1);
  clock.ms = 1100;
  restore.ran();
  expect(restore.claim(4, 1)).toBe(1);
  expect(restore.isWanted(3)).toBe(false);
  expect(restore.isWanted(5)).toBe(true);
  for (const block of [3, 5]) restore.loaded(block, "disk");
  expect([3, 4, 5].map((block) => restore.isLoaded(block))).toEqual([false, false, true]);
  expect(restore.mode).toBe("both");
});

it("keeps one load under way where computing is far faster, so that loading is measured again", () => {
  const restore = new BlockRestore(termsOf({ ms: 0 }, { loadMs: [99, 99, 99, 99], computeMs: () => 0.1 }), 0);
  expect([restore.nextLoad(), restore.nextLoad()]).toEqual([3, undefined]);
  expect(restore.claim(0, 8)).toBeGreaterThan(0);
  expect(restore.mode).toBe("compute");
});

it("computes blocks whose loads failed, in every mode", () => {
  for (const mode of ["load", "both", "auto"] as const) {
    const restore = new BlockRestore(termsOf({ ms: 0 }, { mode, loadMs: [1], computeMs: () => 100 }), 0);
    restore.loaded(restore.nextLoad() as number, undefined);
    expect(restore.claim(0, 3)).toBe(3);
  }
});
