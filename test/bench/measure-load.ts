/**
 * Measures loading a large model: JavaScript memory beyond the baseline, and bytes per second, from a path, from a File (a
 * Blob), over the network into a folder, from what is kept there, and over the network with nothing kept, against the raw
 * read rate of the same file. Reads come from the operating
 * system's cache in all of them. The server is a process of its own on this machine, so that its memory is not counted.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, openAsBlob, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { openGpu } from "../../src/gpu/device.ts";
import {
  openNamedModel,
  type NamedBlobs,
  type NamedModelOptions,
  type OpenedModel,
} from "../../src/load/named-model.ts";
import { runnerOptions } from "../../src/worker/options.ts";
import type { FromWorker } from "../../src/wire/protocol.ts";
import { Session } from "../../src/worker/session.ts";
import type { Measurement } from "./report.ts";

const SAMPLE_MS = 2;
const RAW_CHUNK_BYTES = 2 ** 20;

/** Serves one folder in ranges; says its port. */
const SERVER = `
const { createServer } = require("node:http");
const { createReadStream, statSync } = require("node:fs");
const { join, basename } = require("node:path");
const server = createServer((request, response) => {
  const file = join(process.argv[1], basename(request.url));
  const size = statSync(file).size;
  const [, first, last] = /^bytes=(\\d+)-(\\d+)$/.exec(request.headers.range);
  const start = Number(first), end = Math.min(Number(last), size - 1);
  const headers = { "content-range": "bytes " + start + "-" + end + "/" + size, "content-length": end - start + 1, etag: '"1"' };
  response.writeHead(206, headers);
  createReadStream(file, { start, end }).pipe(response);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
`;

interface Loaded {
  peakBytes: number;
  bytesPerSecond: number;
  receivedBytes: number;
}

/** @param file a model of some hundred megabytes */
export async function measureLoad(
  provider: GPU,
  name: string,
  file: string,
  repeats: number,
): Promise<Measurement[]> {
  const { size } = statSync(file);
  const folder = mkdtempSync(join(tmpdir(), "tidepool-load-"));
  const { server, address } = await serve(join(file, ".."));
  const ways: Record<string, Loaded[]> = {
    "from a path": [],
    "from a File": [],
    "over the network": [],
    "from what is kept": [],
    "over the network, not kept": [],
  };
  const raw: number[] = [];
  try {
    for (let repeat = 0; repeat < repeats; repeat++) {
      raw.push(await rawReadRate(file, size));
      const directory = join(folder, String(repeat));
      const link = `${address}/${basename(file)}`;
      const blob = { blob: await openAsBlob(file), name: basename(file) };
      ways["from a path"]?.push(await loadOnce(provider, file, size, { directory }));
      ways["from a File"]?.push(await loadOnce(provider, [blob], size, { directory }));
      ways["over the network"]?.push(await loadOnce(provider, link, size, { directory }));
      ways["from what is kept"]?.push(await loadOnce(provider, link, size, { directory }));
      ways["over the network, not kept"]?.push(await loadOnce(provider, link, size, { keep: false }));
      rmSync(directory, { recursive: true, force: true });
    }
  } finally {
    server.kill();
    rmSync(folder, { recursive: true, force: true });
  }
  return [
    { name, metric: "model", unit: "MB", values: [size / 1e6] },
    { name, metric: "raw read", unit: "MB/s", values: raw.map((rate) => rate / 1e6) },
    ...Object.entries(ways).flatMap(([way, loads]) => tableOf(`${name}, ${way}`, loads, size, raw)),
  ];
}

function tableOf(
  name: string,
  loads: readonly Loaded[],
  size: number,
  raw: readonly number[],
): Measurement[] {
  const rates = loads.map(({ bytesPerSecond }) => bytesPerSecond);
  const peaks = loads.map(({ peakBytes }) => peakBytes / 2 ** 20);
  const received = loads.map(({ receivedBytes }) => (100 * receivedBytes) / size);
  return [
    { name, metric: "peak JavaScript memory beyond the baseline", unit: "MiB", values: peaks },
    { name, metric: "to the GPU", unit: "MB/s", values: rates.map((rate) => rate / 1e6) },
    {
      name,
      metric: "to the GPU, of raw read",
      unit: "%",
      values: rates.map((rate, i) => (100 * rate) / (raw[i] as number)),
    },
    { name, metric: "received, of the file", unit: "%", values: received },
  ];
}

async function loadOnce(
  provider: GPU,
  model: string | NamedBlobs,
  size: number,
  models: NamedModelOptions["models"],
): Promise<Loaded> {
  const gpu = await openGpu(provider);
  const memory = new MemoryBeyondBaseline();
  const startedMs = performance.now();
  let endedMs = startedMs;
  const post = (message: FromWorker): void => {
    memory.sample();
    if (message.type !== "progress" || message.progress.phase !== "weights") return;
    if (message.progress.done === message.progress.total) endedMs = performance.now();
  };
  const opened: OpenedModel = await openNamedModel(model, {
    models,
    onProgress: () => memory.sample(),
  });
  const options = runnerOptions(gpu, { dtype: "f32", poolTokens: 256 });
  const session = await Session.load(gpu, opened.file, options, post);
  const finishing = performance.now();
  await opened.finish();
  endedMs += performance.now() - finishing; // pipelines were compiled in between
  const peakBytes = memory.stop();
  const receivedBytes = opened.receivedBytes();
  await opened.close();
  await session.close();
  gpu.device.destroy();
  return { peakBytes, receivedBytes, bytesPerSecond: (size * 1000) / (endedMs - startedMs) };
}

async function rawReadRate(path: string, size: number): Promise<number> {
  const file = await open(path, "r");
  const buffer = new Uint8Array(RAW_CHUNK_BYTES);
  const startedMs = performance.now();
  for (let at = 0; at < size; at += RAW_CHUNK_BYTES) await file.read(buffer, 0, RAW_CHUNK_BYTES, at);
  const ms = performance.now() - startedMs;
  await file.close();
  return (size * 1000) / ms;
}

async function serve(folder: string): Promise<{ server: ChildProcess; address: string }> {
  const server = spawn(process.execPath, ["-e", SERVER, folder], { stdio: ["ignore", "pipe", "inherit"] });
  const port = await new Promise<string>((resolve, reject) => {
    server.on("error", reject);
    createInterface(server.stdout).once("line", resolve);
  });
  return { server, address: `http://127.0.0.1:${port}` };
}

/** The most that this thread's JavaScript holds, array buffers included, beyond what it held when this was made. */
class MemoryBeyondBaseline {
  private readonly baseline: number;
  private peak: number;
  private readonly timer: ReturnType<typeof setInterval>;

  constructor() {
    setFlagsFromString("--expose-gc");
    (runInNewContext("gc") as () => void)();
    this.baseline = used();
    this.peak = this.baseline;
    this.timer = setInterval(() => this.sample(), SAMPLE_MS);
  }

  sample(): void {
    this.peak = Math.max(this.peak, used());
  }

  stop(): number {
    clearInterval(this.timer);
    this.sample();
    return this.peak - this.baseline;
  }
}

function used(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
