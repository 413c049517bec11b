/**
 * Writers that sleep and wake. A living writer that looked dead for long enough loses its lock, and its segments are compacted
 * away; whatever it says is stored after it wakes must be there for others.
 */
import { spawn, spawnSync, type ChildProcessWithoutNullStreams } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { STALE_MS } from "../../src/platform/file-lock.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { bundleForNode } from "../support/bundle.ts";
import { testSeed } from "../support/seed.ts";
import { chain, encoded, keyOf, keysOf } from "../tier/make.ts";
import { FakeMedium, World } from "./fake-disk.ts";

/** Whether this process may put others into a namespace of process ids of their own. */
const mayUnshare = spawnSync("unshare", ["--pid", "--fork", "true"]).status === 0;
if (!mayUnshare)
  console.warn("SKIPPED 1 case of sleeping writers: no right to make a namespace of process ids");

describe("a writer whose lock was taken while it slept", () => {
  const opened = async (world: World, process: number): Promise<SegmentBackend> => {
    const backend = new SegmentBackend(new FakeMedium(world, process), { segmentBytes: 900 });
    await backend.open();
    return backend;
  };
  const compact = async (backend: SegmentBackend): Promise<void> => {
    for (let step = 0; step < 10 && (await backend.maintain(0)).more; step++);
  };
  /** All that a process has acknowledged, as a third one finds it. */
  const missing = async (world: World, seeds: readonly number[]): Promise<number[]> => {
    const reader = await opened(world, 9);
    const found = await Promise.all(
      seeds.map(async (seed) => {
        const reads = await Promise.all(keysOf(chain(seed, 3)).map((key) => reader.read(key)));
        return reads.every((bytes) => bytes !== undefined) ? [] : [seed];
      }),
    );
    await reader.close();
    return found.flat();
  };

  test("writes again as another before it acknowledges, through any sleeps and compactions", async () => {
    const random = new Random(testSeed("sleeping writers"));
    for (let run = 0; run < 200; run++) {
      const world = new World(random);
      const [sleeper, other] = [await opened(world, 1), await opened(world, 2)];
      const acknowledged: number[] = [];
      for (let seed = 1; seed <= 8; seed++) {
        const taking = random.below(3);
        if (taking > 0)
          for (const writer of [...world.locks.keys()])
            world.locks.delete(writer === sleeper.writer ? writer : "");
        const writing = sleeper.append(encoded(chain(seed, 3)));
        // While it is in the middle of writing, or before it begins.
        const steps = random.below(12);
        for (let step = 0; step < steps; step++) await Promise.resolve();
        if (taking > 1) await compact(other);
        await writing;
        acknowledged.push(seed);
        if (random.below(2) === 0) await compact(other);
      }
      expect(await missing(world, acknowledged), `run ${run}`).toEqual([]);
      await sleeper.refresh();
      await sleeper.remove([keyOf(chain(1, 1)[0]!)]);
      expect(await missing(world, [1]), `run ${run}`).toEqual([1]);
      await sleeper.close();
      await other.close();
      expect([...world.locks.keys()]).toEqual([]);
    }
  });
});

interface Child {
  process: ChildProcessWithoutNullStreams;
  /** Asks for a chain and waits until it is acknowledged. */
  write(seed: number): Promise<void>;
  end(): Promise<void>;
}

async function startChild(script: string, folder: string): Promise<Child> {
  const args = ["--pid", "--fork", "--kill-child", process.execPath, script, folder];
  const child = spawn("unshare", args);
  child.stderr.on("data", (data: Buffer) => process.stderr.write(data));
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const ended = new Promise<void>((resolve) => child.on("close", () => resolve()));
  const expectLine = async (line: string): Promise<void> => expect((await lines.next()).value).toBe(line);
  await expectLine("opened");
  return {
    process: child,
    write: (seed) => (child.stdin.write(`${seed}\n`), expectLine(String(seed))),
    end: () => (child.stdin.write("0\n"), ended),
  };
}

/** Stops or wakes the process inside the namespace, which is the child of the one that made it. */
function signal(child: Child, name: "SIGSTOP" | "SIGCONT"): void {
  const { stdout } = spawnSync("pgrep", ["-P", String(child.process.pid)], { encoding: "utf8" });
  process.kill(Number(stdout.trim()), name);
}

test.skipIf(!mayUnshare)(
  "two namespaces of process ids: a living writer keeps its lock, a stopped one loses it and goes on when it wakes",
  { timeout: 60_000 },
  async () => {
    const script = fileURLToPath(
      await bundleForNode(fileURLToPath(new URL("./sleep-child.ts", import.meta.url))),
    );
    const folder = await mkdtemp(join(tmpdir(), "tidepool-sleep-"));
    let nowMs = 0;
    const backend = await openFilesBackend(folder, { segmentBytes: 4000, clock: { nowMs: () => nowMs } });
    await backend.open();
    const child = await startChild(script, folder);
    const lockCount = async (): Promise<number> =>
      (await readdir(folder)).filter((name) => name.endsWith(".lock")).length;
    const idle = async (): Promise<void> => {
      for (let step = 0; step < 20 && (await backend.maintain()).more; step++);
    };
    await child.write(1);
    await idle();
    expect([await lockCount(), backend.locks.size]).toEqual([2, 1]);
    signal(child, "SIGSTOP");
    await idle();
    nowMs += STALE_MS + 1;
    await idle();
    await backend.remove(keysOf(chain(1, 3)).slice(1));
    await idle();
    const left = (await readdir(folder)).filter((name) => !name.startsWith(backend.writer));
    expect(left.filter((name) => name.endsWith(".data"))).toEqual([]); // its segment was compacted away
    signal(child, "SIGCONT");
    await child.write(2);
    await backend.refresh();
    for (const key of keysOf([...chain(1, 1), ...chain(2, 3)])) expect(await backend.read(key)).toBeDefined();
    await child.end();
    await backend.close();
    expect((await readdir(folder)).filter((name) => name.endsWith(".lock"))).toEqual([]);
    await rm(folder, { recursive: true });
    await rm(dirname(script), { recursive: true });
  },
);
