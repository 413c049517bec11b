/** How many bytes a download holds while whatever takes them is slow: storage that writes nothing, a hash that takes nothing. */
import { afterEach, expect, test, vi } from "vitest";
import { ByteRanges } from "../../src/load/download/byte-ranges.ts";
import { MAX_FED, RunningDigest } from "../../src/load/download/digest.ts";
import { DOWNLOAD_LIMITS, downloadWorld } from "../../src/load/download/limits.ts";
import { FileDownload } from "../../src/load/download/file-download.ts";
import type { KeptFile } from "../../src/load/download/kept/kept-file.ts";
import type { Part, RecordFile } from "../../src/load/download/kept/model-folder.ts";
import { Transfer } from "../../src/load/download/transfer.ts";

const KIB = 1024;
const SIZE = 4096 * KIB;
const CHUNK_BYTES = 16 * KIB;
const LIMITS = { ...DOWNLOAD_LIMITS, segmentBytes: 512 * KIB, stageBytes: 32 * KIB };
/** A body that is read keeps a chunk ready, beside the one that is being taken in. */
const CHUNKS_AHEAD = 2;

afterEach(() => {
  vi.unstubAllGlobals();
  hashing.isSlow = false;
});

/** Bytes that were handed out by a network that is never slow. */
function endlessNetwork(): { handedBytes: number } {
  const network = { handedBytes: 0 };
  vi.stubGlobal("fetch", (_url: string, { headers }: { headers: Record<string, string> }) => {
    const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(headers["Range"] ?? "")?.map(Number) ?? [];
    let left = (end as number) + 1 - (start as number);
    const body = new ReadableStream<Uint8Array>(
      {
        pull: (controller) => {
          const chunk = new Uint8Array(Math.min(CHUNK_BYTES, left));
          left -= chunk.length;
          network.handedBytes += chunk.length;
          controller.enqueue(chunk);
          if (left === 0) controller.close();
        },
      },
      { highWaterMark: 0 },
    );
    const answer = { status: 206, headers: { "Content-Range": `bytes ${start}-${end}/${SIZE}` } };
    return Promise.resolve(new Response(body, answer));
  });
  return network;
}

/** Storage that takes a write in when it is let. */
class SlowPart implements Part {
  writtenBytes = 0;
  private waiting: (() => void)[] = [];

  write(_offset: number, bytes: Uint8Array): Promise<void> {
    const { length } = bytes;
    return new Promise((resolve) =>
      this.waiting.push(() => {
        this.writtenBytes += length;
        resolve();
      }),
    );
  }

  /** Whether anything was waiting. */
  step(): boolean {
    const now = this.waiting.splice(0);
    for (const finish of now) finish();
    return now.length > 0;
  }

  sizeBytes = (): Promise<number> => Promise.resolve(SIZE);
  read = (): Promise<void> => Promise.resolve();
  flush = (): Promise<void> => Promise.resolve();
  close = (): Promise<void> => Promise.resolve();
}

/** Lets all that can go on without the storage do so. */
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

test("a download reads no further than its connections' stages while the storage is slow", async () => {
  const network = endlessNetwork();
  const part = new SlowPart();
  const world = downloadWorld({ limits: LIMITS });
  const about: KeptFile = {
    ...{ kind: "file", model: "m", lockName: "l", file: "f", url: "http://host/f", sizeBytes: SIZE },
    ...{ have: [], isComplete: false, atMs: 0 },
  };
  const record = { save: () => Promise.resolve(), remove: () => Promise.resolve() } as unknown as RecordFile;
  const transfer = new Transfer(world);
  const file = new FileDownload({ url: about.url }, about, part, record, world);
  transfer.add(file);
  let mostBytes = 0;
  for (let idle = 0; idle < 3 && part.writtenBytes < SIZE;) {
    await settled();
    mostBytes = Math.max(mostBytes, network.handedBytes - part.writtenBytes);
    idle = part.step() ? 0 : idle + 1;
  }
  expect(part.writtenBytes).toBe(SIZE);
  const { connections, stageBytes } = LIMITS;
  expect(mostBytes).toBeGreaterThanOrEqual(connections * stageBytes);
  expect(mostBytes).toBeLessThanOrEqual(connections * (stageBytes + CHUNKS_AHEAD * CHUNK_BYTES));
  await transfer.finish();
  await transfer.close();
});

const hashing = vi.hoisted(() => ({ isSlow: false, handed: 0 }));

vi.mock("../../src/load/download/hash-start.ts", () => ({
  startHash: () => ({
    update: () => {
      hashing.handed++;
      return hashing.isSlow ? new Promise<void>(() => {}) : Promise.resolve();
    },
    hex: () => Promise.resolve(""),
    end: () => {},
  }),
}));

test("a slow hash is handed a bounded number of pieces", () => {
  hashing.handed = 0;
  hashing.isSlow = true;
  const have = new ByteRanges();
  const digest = new RunningDigest(new SlowPart(), have, SIZE);
  for (let at = 0; at < SIZE; at += CHUNK_BYTES) {
    have.add(at, at + CHUNK_BYTES);
    digest.feed(at, new Uint8Array(CHUNK_BYTES));
  }
  expect(hashing.handed).toBe(MAX_FED);
});
