/** Two real processes that share a folder, one of which is killed in mid-spill, again and again. */
import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import type { Random } from "../../src/base.ts";
import { sameBytes } from "../../src/tier/record/checksum.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { chain, keyOf, payloadOf } from "../tier/make.ts";
import { CHAIN_BLOCKS, SPILL_PAYLOAD_BYTES, SPILL_SEGMENT_BYTES } from "./spill-settings.ts";

export interface SpillReport {
  kills: number;
  /** Chains that a killed process had reported as drained. */
  drained: number;
  /** Records of those that were served, correctly, after the kill. */
  served: number;
  violations: string[];
}

/** Bundles the child as plain JavaScript into a temporary folder, which Node 20 can run. */
async function bundleChild(outDir: string): Promise<string> {
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: fileURLToPath(new URL("./spill-child.ts", import.meta.url)),
      outDir,
      emptyOutDir: false,
      rollupOptions: { output: { entryFileNames: "child.mjs" } },
    },
    ssr: { noExternal: true },
  });
  return join(outDir, "child.mjs");
}

interface Child {
  process: ChildProcessWithoutNullStreams;
  drained: number[];
  opened: Promise<void>;
  ended: Promise<void>;
}

function start(script: string, folder: string, firstChain: number): Child {
  const child = spawn(process.execPath, [script, folder, String(firstChain)]);
  const drained: number[] = [];
  child.stderr.on("data", (data: Buffer) => process.stderr.write(data));
  const ended = new Promise<void>((resolve) => child.on("close", () => resolve()));
  const opened = new Promise<void>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => reject(new Error("the child ended before it had opened its store")));
    createInterface(child.stdout).on("line", (line) => {
      if (line === "opened") resolve();
      else drained.push(Number(line));
    });
  });
  return { process: child, drained, opened, ended };
}

/** Kills a spilling process `kills` times at random moments, while another store stays open on the same folder. */
export async function killSpillers(kills: number, random: Random): Promise<SpillReport> {
  const temporary = await mkdtemp(join(tmpdir(), "tidepool-spill-"));
  const folder = join(temporary, "store");
  const report: SpillReport = { kills, drained: 0, served: 0, violations: [] };
  const script = await bundleChild(temporary);
  const store = await TierStore.open({
    ramBytes: 0,
    diskBytes: 1e9,
    disk: () => openFilesBackend(folder, { segmentBytes: SPILL_SEGMENT_BYTES }),
  });
  for (let i = 0; i < kills; i++) {
    const child = start(script, folder, 1000 * (i + 1));
    await child.opened;
    await new Promise((resolve) => setTimeout(resolve, 20 + random.below(300)));
    child.process.kill("SIGKILL");
    await child.ended;
    await checkAfterKill(store, child.drained, report);
    for (let step = 0; step < 50 && (await store.maintain()); step++);
  }
  await finish(store, folder, report);
  await rm(temporary, { recursive: true });
  return report;
}

/** What the killed process had drained is there and right, and nothing that it had half written is listed. */
async function checkAfterKill(store: TierStore, drained: number[], report: SpillReport): Promise<void> {
  report.drained += drained.length;
  await store.refresh();
  for (const draft of drained.flatMap((seed) =>
    chain(seed, CHAIN_BLOCKS, { payloadBytes: SPILL_PAYLOAD_BYTES }),
  )) {
    const key = keyOf(draft);
    const found = await store.get(key);
    if (!found.hit) report.violations.push(`lost ${key}: ${found.reason}`);
    else if (!sameBytes(found.record.payload, payloadOf(key, SPILL_PAYLOAD_BYTES))) {
      report.violations.push(`wrong ${key}`);
    } else report.served++;
  }
  const { bad } = await store.verify();
  if (Object.keys(bad).length > 0) report.violations.push(`half-committed ${JSON.stringify(bad)}`);
}

/** Every dead writer's lock can be taken, and after a clear nothing is left. */
async function finish(store: TierStore, folder: string, report: SpillReport): Promise<void> {
  if (!(await store.clear()).complete) report.violations.push("clear was not complete");
  await store.close();
  const left = await readdir(folder);
  if (left.length > 0) report.violations.push(`left behind: ${left.join(" ")}`);
}
