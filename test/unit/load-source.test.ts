/** Sources: the same bytes by range from memory, a Blob, a path and a real local server, and servers that misbehave. */
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { release } from "../../src/load/release.ts";
import { PIECE_BYTES, RANGELESS_BYTES } from "../../src/load/source.ts";
import { openBlob, openBytes, openPath, openUrl, pathKind, readBounded } from "../../src/load/source.ts";
import type { Source } from "../../src/load/source.ts";
import { testSeed } from "../support/seed.ts";

const BYTES = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7 + (i >> 8)) & 255);

type Handler = (
  request: IncomingMessage,
  response: ServerResponse,
  range: [number, number] | undefined,
) => void;

/** An honest server: 206 for ranges, with the ETag and the length. */
const honest: Handler = (_request, response, range) => {
  if (range === undefined) {
    response.writeHead(200, { "content-length": BYTES.length }).end(BYTES);
    return;
  }
  sendRange(response, range);
};

function sendRange(
  response: ServerResponse,
  [first, last]: [number, number],
  headers: Record<string, string> = {},
): void {
  const body = BYTES.subarray(first, last + 1);
  response.writeHead(206, {
    "content-range": `bytes ${first}-${last}/${BYTES.length}`,
    "content-length": body.length,
    etag: '"one"',
    ...headers,
  });
  response.end(body);
}

let server: Server;
let base = "";
let folder = "";
let handler: Handler = honest;
const requests: IncomingMessage[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tidepool-source-"));
  server = createServer((request, response) => {
    requests.push(request);
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    handler(request, response, match === null ? undefined : [Number(match[1]), Number(match[2])]);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterEach(() => {
  handler = honest;
  requests.length = 0;
});

afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

async function openFile(): Promise<Source> {
  const path = join(folder, "model.gguf");
  await writeFile(path, BYTES);
  return openPath(path);
}

const KINDS: [name: string, open: () => Promise<Source>][] = [
  ["bytes", () => Promise.resolve(openBytes(BYTES, "model.gguf"))],
  ["a Blob", () => Promise.resolve(openBlob(new Blob([BYTES]), "model.gguf"))],
  ["a path", openFile],
  ["a URL", () => openUrl(`${base}/folder/model.gguf?download=true`)],
];

describe.each(KINDS)("%s", (_kind, open) => {
  test("gives any range exactly", async () => {
    const random = new Random(testSeed("ranges"));
    const source = await open();
    expect(source).toMatchObject({ name: "model.gguf", sizeBytes: BYTES.length });
    const ranges: [number, number][] = [
      [0, BYTES.length],
      [BYTES.length, 0],
      [BYTES.length - 1, 1],
    ];
    for (let i = 0; i < 20; i++) {
      const offset = random.below(BYTES.length);
      ranges.push([offset, random.below(BYTES.length - offset + 1)]);
    }
    for (const [offset, length] of ranges) {
      const read = await source.read(offset, length);
      expect(Buffer.compare(read, BYTES.subarray(offset, offset + length)), `${offset}+${length}`).toBe(0);
    }
    await source.close();
  });

  test("streams a range in bounded pieces", async () => {
    const source = await open();
    const pieces: Uint8Array[] = [];
    for await (const piece of readBounded(source, 1000, 50_000, { pieceBytes: 20_000 })) pieces.push(piece);
    expect(pieces.map((piece) => piece.length)).toEqual([20_000, 20_000, 10_000]);
    expect(Buffer.compare(Buffer.concat(pieces), BYTES.subarray(1000, 51_000))).toBe(0);
    await source.close();
  });

  test("fills given bytes, where it can, piece after piece in one buffer", async () => {
    const source = await open();
    const buffer = new Uint8Array(20_000);
    const seen: Uint8Array[] = [];
    for await (const piece of readBounded(source, 1000, 50_000, { pieceBytes: 20_000, buffer })) {
      if (source.readInto) expect(piece.buffer).toBe(buffer.buffer);
      seen.push(piece.slice());
    }
    expect(Buffer.compare(Buffer.concat(seen), BYTES.subarray(1000, 51_000))).toBe(0);
    const outside = source.readInto?.(BYTES.length - 3, new Uint8Array(4));
    if (outside) await expect(outside).rejects.toMatchObject({ code: "source" });
    await source.close();
  });

  test("refuses a range outside, a piece over the bound, and stops at an abort", async () => {
    const source = await open();
    await expect(source.read(BYTES.length - 3, 4)).rejects.toMatchObject({ code: "source" });
    await expect(source.read(-1, 4)).rejects.toMatchObject({ code: "source" });
    await expect(source.read(0, 4, AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
    const pieces = readBounded(source, 0, 4, { pieceBytes: PIECE_BYTES + 1 });
    await expect(pieces.next()).rejects.toMatchObject({ code: "invalid_argument" });
    await source.close();
  });
});

test("a Blob larger than one read fills given bytes exactly, and stops at an abort", async () => {
  const random = new Random(testSeed("blob"));
  const bytes = new Uint8Array(2_500_000).map(() => random.below(256));
  const source = openBlob(new Blob([bytes]), "model.gguf");
  const filled = new Uint8Array(2_400_000);
  await source.readInto?.(50_000, filled);
  expect(Buffer.compare(filled, bytes.subarray(50_000, 2_450_000))).toBe(0);
  const late = source.readInto?.(0, filled, AbortSignal.abort());
  await expect(late).rejects.toMatchObject({ code: "aborted" });
});

describe("release", () => {
  test("an array's memory is given back at once", () => {
    const before = process.memoryUsage().arrayBuffers;
    const bytes = new Uint8Array(64 * 1024 * 1024);
    expect(process.memoryUsage().arrayBuffers - before).toBeGreaterThan(60 * 1024 * 1024);
    release(bytes);
    expect(bytes.length).toBe(0);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 * 1024 * 1024);
  });

  test("a view of a larger buffer and memory that cannot be detached are left alone", () => {
    const whole = new Uint8Array(100);
    release(whole.subarray(0, 50));
    expect(whole.length).toBe(100);
    const memory = new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer);
    release(memory);
    expect(memory.length).toBe(65_536);
    const shared = new Uint8Array(new SharedArrayBuffer(8));
    release(shared);
    expect(shared.length).toBe(8);
  });

  test("an array that was given back already may be given back again", () => {
    const bytes = new Uint8Array(8);
    release(bytes);
    release(bytes);
    expect(bytes.length).toBe(0);
  });
});

describe("paths", () => {
  test("a missing path, a folder, and a file that shrinks", async () => {
    await expect(openPath(join(folder, "absent"))).rejects.toMatchObject({ code: "not_found" });
    await expect(openPath(folder)).rejects.toMatchObject({ code: "invalid_argument" });
    expect(await pathKind(folder)).toBe("folder");
    expect(await pathKind(join(folder, "absent"))).toBe("absent");
    const source = await openFile();
    await truncate(join(folder, "model.gguf"), 10);
    await expect(source.read(0, 100)).rejects.toThrow(/ended after 10 of 100000 bytes/);
    await source.close();
  });
});

describe("servers", () => {
  test("headers are sent with every request, and a read is one request", async () => {
    const source = await openUrl(`${base}/a.gguf`, { headers: { Authorization: "Bearer t" } });
    await source.read(5, 10);
    expect(requests.map((request) => request.headers.range)).toEqual(["bytes=0-0", "bytes=5-14"]);
    expect(requests.every((request) => request.headers.authorization === "Bearer t")).toBe(true);
  });

  test("404 is not_found, 500 is a source error", async () => {
    handler = (_request, response) => response.writeHead(404).end();
    await expect(openUrl(`${base}/a.gguf`)).rejects.toMatchObject({ code: "not_found" });
    handler = (_request, response) => response.writeHead(500).end();
    await expect(openUrl(`${base}/a.gguf`)).rejects.toThrow(/answered HTTP 500/);
  });

  test("nobody listening is a source error that says so", async () => {
    await expect(openUrl("http://127.0.0.1:1/a.gguf")).rejects.toMatchObject({ code: "source" });
  });

  test("a small file without range support is read whole, a large one is refused", async () => {
    handler = (_request, response) => response.writeHead(200, { "content-length": BYTES.length }).end(BYTES);
    const source = await openUrl(`${base}/config.json`);
    expect(await source.read(7, 3)).toEqual(BYTES.slice(7, 10));
    handler = (_request, response) =>
      response.writeHead(200, { "content-length": RANGELESS_BYTES + 1 }).write("x");
    await expect(openUrl(`${base}/a.gguf`)).rejects.toThrow(/whole file \(HTTP 200.*must support ranges/);
    handler = (_request, response) => response.writeHead(200).end("length unknown");
    await expect(openUrl(`${base}/a.gguf`)).rejects.toThrow(/a file of unknown length/);
  });

  test("an empty file, a redirect, a hidden Content-Range", async () => {
    handler = (_request, response) => response.writeHead(416, { "content-range": "bytes */0" }).end();
    expect((await openUrl(`${base}/empty`)).sizeBytes).toBe(0);
    handler = (request, response, range) => {
      if (request.url === "/moved") response.writeHead(302, { location: "/a.gguf" }).end();
      else honest(request, response, range);
    };
    expect((await openUrl(`${base}/moved`)).sizeBytes).toBe(BYTES.length);
    handler = (request, response, range) => {
      if (request.method === "HEAD") response.writeHead(200, { "content-length": BYTES.length }).end();
      else response.writeHead(206).end(BYTES.subarray(range?.[0], (range?.[1] ?? 0) + 1));
    };
    const source = await openUrl(`${base}/hidden`);
    expect(await source.read(3, 5)).toEqual(BYTES.slice(3, 8));
  });

  const LIES: [name: string, handler: Handler, message: RegExp][] = [
    [
      "another range",
      (_q, s, [a, b] = [0, 0]) => sendRange(s, [a + 1, b + 1]),
      /answered bytes 101 to 200, asked/,
    ],
    [
      "another length of the file",
      (_q, s, r = [0, 0]) => sendRange(s, r, { "content-range": `bytes ${r[0]}-${r[1]}/7` }),
      /changed its length from 100000 to 7/,
    ],
    [
      "another version",
      (_q, s, r = [0, 0]) => sendRange(s, r, { etag: '"two"' }),
      /changed while it was read/,
    ],
    ["the whole file", (_q, s) => s.writeHead(200).end(BYTES), /with HTTP 200, expected 206/],
    ["too little", (_q, s) => s.writeHead(206).end(BYTES.subarray(0, 50)), /sent 50 of 100 bytes/],
    ["too much", (_q, s) => s.writeHead(206).end(BYTES), /sent more than the 100 bytes/],
    ["too many requests", (_q, s) => s.writeHead(429).end(), /answered HTTP 429/],
    ["a cut", cutAfter50, /was cut after \d+ of 100 bytes/],
  ];

  function cutAfter50(_request: IncomingMessage, response: ServerResponse): void {
    response.writeHead(206, { "content-length": 100 });
    response.write(BYTES.subarray(0, 50), () => response.destroy());
  }

  test.each(LIES)("a read that is answered with %s", async (_name, lie, message) => {
    const source = await openUrl(`${base}/a.gguf`);
    handler = lie;
    await expect(source.read(100, 100)).rejects.toThrow(message);
    await expect(source.read(100, 100)).rejects.toMatchObject({ code: "source" });
    handler = honest;
    expect((await source.read(100, 100)).length).toBe(100);
  });

  test("an abort in mid-answer", async () => {
    const source = await openUrl(`${base}/a.gguf`);
    const controller = new AbortController();
    handler = (_request, response) => {
      response.writeHead(206, { "content-length": 100 });
      response.write(BYTES.subarray(0, 50), () => controller.abort());
    };
    await expect(source.read(100, 100, controller.signal)).rejects.toMatchObject({ code: "aborted" });
  });
});
