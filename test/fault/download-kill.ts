/** Kills processes in the middle of a download of one file, again and again, and counts what the server had to send. */
import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { Random } from "../../src/base.ts";
import { serveUnreliably, sha256Of } from "../support/unreliable-server.ts";

export interface KillReport {
  kills: number;
  sizeBytes: number;
  sentBytes: number;
  isRight: boolean;
}

const BYTES_PER_SECOND = 5_000_000;

/** As many kills as asked for, each after a random share of the file, then one download to the end. */
export async function killDownloads(kills: number, sizeBytes: number, random: Random): Promise<KillReport> {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-kill-"));
  const script = await bundleChild(folder);
  const words = Uint32Array.from({ length: sizeBytes / 4 }, () => random.uint32());
  const bytes = new Uint8Array(words.buffer);
  const server = await serveUnreliably({ "/model.gguf": bytes });
  server.bytesPerSecond = BYTES_PER_SECOND;
  const args = [script, `${server.address}/model.gguf`, join(folder, "models")];
  try {
    for (let kill = 0; kill < kills; kill++) {
      await runChild(args, (random.next() * sizeBytes * 1000) / (kills + 1) / (BYTES_PER_SECOND * 4));
    }
    server.bytesPerSecond = 0;
    await runChild(args, undefined);
    const payloads = (await readdir(join(folder, "models"))).filter((name) => name.endsWith(".bin"));
    const kept = await readFile(join(folder, "models", payloads[0] ?? "none"));
    return { kills, sizeBytes, sentBytes: server.bytesSent, isRight: sha256Of(kept) === sha256Of(bytes) };
  } finally {
    await server.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs a download to its end, or kills it so long after its first byte. */
async function runChild(args: string[], killAfterMs: number | undefined): Promise<void> {
  const child = spawn(process.execPath, args);
  child.stderr.on("data", (data: Buffer) => process.stderr.write(data));
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const started = new Promise<void>((resolve) => createInterface(child.stdout).once("line", () => resolve()));
  await Promise.race([started, ended]);
  if (killAfterMs !== undefined) {
    await sleep(killAfterMs);
    child.kill("SIGKILL");
  }
  const code = await ended;
  if (killAfterMs === undefined && code !== 0) throw new Error(`the last download ended with code ${code}`);
}

/** Bundles the child as plain JavaScript, which Node 20 can run. */
async function bundleChild(outDir: string): Promise<string> {
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: fileURLToPath(new URL("./download-child.ts", import.meta.url)),
      outDir,
      emptyOutDir: false,
      rollupOptions: { output: { entryFileNames: "child.mjs" } },
    },
    ssr: { noExternal: true },
  });
  return join(outDir, "child.mjs");
}
