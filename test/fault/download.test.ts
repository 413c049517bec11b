/**
 * Downloads from servers that misbehave, on a folder of the file system: whatever happens, what is read equals the file, or
 * the error names the address and the cause. Faults are seeded; pauses and limits are small, nothing else differs from use.
 */
import { mkdtemp, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { DOWNLOAD_LIMITS, type DownloadLimits } from "../../src/load/download/limits.ts";
import { openFilesFolder } from "../../src/load/download/kept/folder-files.ts";
import type { ModelFolder } from "../../src/load/download/kept/model-folder.ts";
import { listModels, removeModel, verifyModel } from "../../src/load/download/kept/model-store.ts";
import { openNamedModel, pullModel, type NamedModelOptions } from "../../src/load/named-model.ts";
import { onceMoreIfChanged, RemoteLoad, type RemoteSettings } from "../../src/load/download/remote-load.ts";
import { f32Bytes, writeGguf } from "../support/gguf-writer.ts";
import { testSeed } from "../support/seed.ts";
import { actAsHub, serveUnreliably, sha256Of, type UnreliableServer } from "../support/unreliable-server.ts";

const KIB = 1024;
const SIZE = 600 * KIB + 123;

const LIMITS: DownloadLimits = {
  ...DOWNLOAD_LIMITS,
  ...{ segmentBytes: 64 * KIB, stageBytes: 4 * KIB, minJournalBytes: 48 * KIB, maxJournalBytes: 64 * KIB },
  ...{ attempts: 4, firstPauseMs: 1, lastPauseMs: 4, stallMs: 150, progressEveryMs: 0, journalEveryMs: 0 },
};

const seed = testSeed("downloads");
/** Where bytes are counted: beside other work a server may seem to stall, and then some is sent twice. */
const PATIENT: Partial<DownloadLimits> = { stallMs: 60_000 };
const BYTES = randomBytes(SIZE, seed);
const OTHER = randomBytes(SIZE, seed + 1);

function randomBytes(length: number, from: number): Uint8Array {
  const random = new Random(from);
  return Uint8Array.from({ length }, () => random.uint32());
}

let server: UnreliableServer;
let directory: string;
let folder: ModelFolder;
const more: UnreliableServer[] = [];

beforeEach(async () => {
  server = await serveUnreliably({ "/model.gguf": BYTES });
  directory = await mkdtemp(join(tmpdir(), "tidepool-models-"));
  folder = await openFilesFolder(directory);
});

afterEach(async () => {
  await server.close();
  for (const each of more.splice(0)) await each.close();
  await rm(directory, { recursive: true });
});

const settings = (
  given: Partial<RemoteSettings> = {},
  limits: Partial<DownloadLimits> = {},
): RemoteSettings => ({
  ...{ folder, world: { limits: { ...LIMITS, ...limits }, random: new Random(seed) } },
  ...given,
});

const address = (path = "/model.gguf"): string => server.address + path;

interface Loaded {
  bytes: Uint8Array;
  receivedBytes: number;
}

/** Loads one URL, in order while it arrives, as the engine does. */
async function loadOnce(given: RemoteSettings, url = address()): Promise<Loaded> {
  const load = new RemoteLoad(given);
  try {
    const { first } = await load.open({ kind: "url", url });
    if (!first) throw new Error("no file");
    const bytes = new Uint8Array(first.sizeBytes);
    for (let at = 0; at < bytes.length; at += 50_000)
      bytes.set(await first.read(at, Math.min(50_000, bytes.length - at)), at);
    await load.finish();
    return { bytes, receivedBytes: load.receivedBytes };
  } finally {
    await load.close();
  }
}

const load = (given = settings(), url = address()): Promise<Loaded> =>
  onceMoreIfChanged(() => loadOnce(given, url));

async function expectRight(loading: Promise<Loaded>, bytes = BYTES): Promise<Loaded> {
  const loaded = await loading;
  expect(sha256Of(loaded.bytes)).toBe(sha256Of(bytes));
  return loaded;
}

async function failureOf(work: Promise<unknown>): Promise<string> {
  const error = (await work.then(
    () => new Error("it succeeded"),
    (each: unknown) => each,
  )) as Error & { code?: string };
  return `${error.code}: ${error.message.replaceAll(server.address, "HOST")}`;
}

describe("an honest server", () => {
  test("is read in ranges, by a bounded number of connections; the second load asks it nothing", async () => {
    const { receivedBytes } = await expectRight(load(settings({}, PATIENT)));
    expect(receivedBytes).toBe(SIZE);
    expect(server.bytesSent).toBe(SIZE);
    expect(server.mostAtOnce).toBeLessThanOrEqual(LIMITS.connections);
    expect(server.requests.length).toBe(Math.ceil(SIZE / LIMITS.segmentBytes));
    await server.pause();
    await expectRight(load());
    await server.resume();
  });

  test("is asked first for what a reader waits for", async () => {
    server.bytesPerSecond = 600_000;
    const one = new RemoteLoad(settings({}, { connections: 1 }));
    const { first } = await one.open({ kind: "url", url: address() });
    const tail = await first?.read(SIZE - 100, 100);
    expect(tail).toEqual(BYTES.slice(SIZE - 100));
    expect(server.bytesSent).toBeLessThan(SIZE / 2);
    await one.close();
  });

  test("empty files and files of one byte", async () => {
    server.files.set("/empty.gguf", new Uint8Array(0));
    server.files.set("/one.gguf", Uint8Array.of(7));
    await expectRight(load(settings(), address("/empty.gguf")), new Uint8Array(0));
    await expectRight(load(settings(), address("/one.gguf")), Uint8Array.of(7));
  });

  test("tells progress up to the end", async () => {
    const told: [number, number][] = [];
    await expectRight(load(settings({ onProgress: (done, total) => told.push([done, total]) })));
    expect(told.at(-1)).toEqual([SIZE, SIZE]);
    expect(
      told.every(([done], index) => index === 0 || done >= (told[index - 1] as [number, number])[0]),
    ).toBe(true);
  });
});

describe("cuts", () => {
  test("20 of them at random bytes waste under 5%", async () => {
    const random = new Random(seed);
    let cuts = 0;
    server.behave = () => (cuts++ < 20 ? { cutAfter: random.below(30 * KIB) } : undefined);
    const { receivedBytes } = await expectRight(load(settings({}, { attempts: 30 })));
    const waste = (100 * (server.bytesSent - SIZE)) / SIZE;
    console.log(`20 cuts: ${receivedBytes} of ${SIZE} bytes received, ${waste.toFixed(2)}% waste`);
    expect(cuts).toBeGreaterThanOrEqual(20);
    expect(waste).toBeLessThan(5);
  });

  test("20 loads that are called off waste under 5%: what came is not asked for again", async () => {
    const random = new Random(seed);
    server.bytesPerSecond = 20_000_000;
    let received = 0;
    for (let end = 0; end < 20; end++) received += await endInTheMiddle(random.below(SIZE / 30));
    server.bytesPerSecond = 0;
    received += (await expectRight(load())).receivedBytes;
    const waste = (100 * (received - SIZE)) / SIZE;
    console.log(`20 loads called off: ${received} of ${SIZE} bytes received, ${waste.toFixed(2)}% waste`);
    expect(waste).toBeLessThan(5);
  });

  /** Loads so many bytes or a little more, then ends; gives what was received. */
  async function endInTheMiddle(bytes: number): Promise<number> {
    let started: number | undefined;
    let ending: Promise<void> | undefined;
    const onProgress = (done: number): void => {
      started ??= done;
      if (done > started + bytes) ending ??= one.close();
    };
    const one = new RemoteLoad(settings({ onProgress }, { connections: 1 }));
    await one.open({ kind: "url", url: address() });
    await one.finish().catch(() => undefined); // called off
    await one.close();
    return one.receivedBytes;
  }

  test("a server that cuts at once, for ever, is given up with the address and the cause", async () => {
    server.behave = () => ({ cutAfter: 0 });
    expect(await failureOf(load())).toMatch(
      /^source: HOST\/model.gguf gave nothing in 4 attempts; the last one (was cut|cannot be reached)/,
    );
  });

  test("a stalled connection is given up, and its rest asked for again", async () => {
    server.behave = ({ index }) => (index === 2 ? { stallAfter: 10_000 } : undefined);
    await expectRight(load());
  });

  test("a server that never answers is given up", async () => {
    server.behave = () => ({ stallAfter: 0 });
    expect(await failureOf(load(settings({}, { stallMs: 30 })))).toMatch(
      /HOST\/model.gguf gave nothing .*(sent nothing|did not answer) for 30 ms/,
    );
  });

  test("a server that is not there", async () => {
    await server.pause();
    expect(await failureOf(load())).toMatch(/^source: HOST\/model.gguf gave nothing .*cannot be reached/);
    await server.resume();
  });
});

describe("servers without ranges", () => {
  test("are read from the start in one go", async () => {
    server.behave = () => ({ ignoreRange: true });
    const { receivedBytes } = await expectRight(load(settings({}, PATIENT)));
    expect(receivedBytes).toBe(SIZE);
    expect(server.requests.length).toBe(1);
  });

  test("that cut are read from the start again; what is there is not written twice", async () => {
    server.behave = ({ index }) => ({ ignoreRange: true, ...(index < 2 && { cutAfter: 100_000 }) });
    await expectRight(load());
  });

  test("that lose the ability in the middle", async () => {
    server.behave = ({ index }) => (index >= 3 ? { ignoreRange: true } : undefined);
    await expectRight(load());
  });

  test("that do not tell the length: small files are read whole", async () => {
    server.behave = () => ({ ignoreRange: true, headers: { "content-encoding": "identity" } });
    await expectRight(load());
  });
});

describe("busy servers", () => {
  test("429 and 503 are tried again, after as long as the server says", async () => {
    const askedMs: number[] = [];
    server.behave = ({ index }) => {
      askedMs.push(performance.now());
      if (index === 0) return { status: 429, headers: { "retry-after": "1" } };
      return index % 3 === 1 ? { status: 503 } : undefined;
    };
    await expectRight(load());
    expect((askedMs[1] as number) - (askedMs[0] as number)).toBeGreaterThan(950);
  });

  test("one that wants to be left alone for an hour is an error that says so", async () => {
    server.behave = () => ({ status: 503, headers: { "retry-after": "3600" } });
    expect(await failureOf(load())).toBe("source: HOST/model.gguf answered HTTP 503, try again after 3600 s");
    expect(server.requests.length).toBe(1);
  });

  test.each([
    [404, "not_found: HOST/model.gguf does not exist (HTTP 404)"],
    [403, "source: HOST/model.gguf answered HTTP 403"],
  ])("HTTP %i is final", async (status, message) => {
    server.behave = () => ({ status });
    expect(await failureOf(load())).toBe(message);
  });
});

describe("files that change, and lies", () => {
  test("a change in the middle starts again from nothing, once", async () => {
    server.behave = ({ index }) => (index >= 4 ? { bytes: OTHER } : undefined);
    await expectRight(load(), OTHER);
  });

  test("one that changes all the time is an error", async () => {
    server.behave = ({ index }) => ({ etag: `"${index}"` });
    expect(await failureOf(load())).toMatch(
      /^source: HOST\/model.gguf changed while it was read \(ETag "\d+", now "\d+"\)/,
    );
  });

  test("a change between two sessions starts again", async () => {
    server.bytesPerSecond = 200_000;
    const one = new RemoteLoad(settings());
    const { first } = await one.open({ kind: "url", url: address() });
    await first?.read(0, 100_000);
    await one.close();
    server.bytesPerSecond = 0;
    server.files.set("/model.gguf", OTHER);
    await expectRight(load(), OTHER);
  });

  test("a length that differs between answers is a change", async () => {
    server.behave = ({ index }) => (index >= 3 ? { claimedTotal: SIZE + index } : undefined);
    expect(await failureOf(load())).toMatch(/changed while it was read \(length/);
  });

  test("a length that is too long is found out at its end", async () => {
    server.behave = () => ({ claimedTotal: SIZE + 1000 });
    expect(await failureOf(load())).toMatch(/HOST\/model.gguf (answered HTTP 416|gave nothing)/);
  });

  test("damaged bytes are fetched again; damaged for ever is an error with both hashes", async () => {
    const hub = await hubWith({ "model.gguf": BYTES });
    const damaged = Uint8Array.from(BYTES);
    damaged[5000] = (damaged[5000] as number) ^ 1;
    hub.store.behave = ({ index }) => (index === 0 ? { bytes: damaged, etag: '"x"' } : { etag: '"x"' });
    const name = { kind: "hub", repo: "org/repo", revision: "main", isExplicit: false } as const;
    const loadHub = async (): Promise<Uint8Array> => {
      const one = new RemoteLoad(settings({ hub: { baseUrl: server.address } }));
      try {
        const { first } = await one.open(name);
        const bytes = (await first?.read(0, SIZE)) as Uint8Array;
        await one.finish();
        return bytes;
      } finally {
        await one.close();
      }
    };
    expect(sha256Of(await onceMoreIfChanged(loadHub))).toBe(sha256Of(BYTES));
    await removeModel(folder, "org/repo");
    hub.store.behave = () => ({ bytes: damaged });
    const said = await failureOf(onceMoreIfChanged(loadHub));
    expect(said).toContain(`is damaged: its SHA-256 is ${sha256Of(damaged)}, expected ${sha256Of(BYTES)}`);
  });
});

/** A front that speaks like the Hub, and a store on another origin that its files are on. */
async function hubWith(
  files: Record<string, Uint8Array>,
  options: Parameters<typeof actAsHub>[4] = {},
): Promise<{ store: UnreliableServer }> {
  const store = await serveUnreliably();
  more.push(store);
  actAsHub(server, store, "org/repo", files, options);
  return { store };
}

/** A small GGUF file, which a loader can open. */
const gguf = (value: number): Uint8Array =>
  writeGguf({
    metadata: { "general.architecture": "llama" },
    tensors: [
      { name: "t", type: "F32", shape: [40_000], data: f32Bytes(new Float32Array(40_000).fill(value)) },
    ],
  });

describe("the Hub", () => {
  const named = (given: NamedModelOptions = {}): NamedModelOptions => ({
    ...{ hub: { baseUrl: server.address }, models: { directory } },
    ...{ world: { limits: LIMITS, random: new Random(seed) } },
    ...given,
  });

  /** The SHA-256 of the first file, read through. */
  async function hashOf(name: string, given = named()): Promise<string> {
    const opened = await openNamedModel(name, given);
    try {
      const source = opened.file.sources[0];
      const bytes = (await source?.read(0, source.sizeBytes)) as Uint8Array;
      await opened.finish();
      return sha256Of(bytes);
    } finally {
      await opened.close();
    }
  }

  test("a repository with one model; the second load works offline", async () => {
    await hubWith({ "README.md": BYTES, "model-q4.gguf": gguf(1), "mmproj-f16.gguf": gguf(9) });
    expect(await hashOf("org/repo")).toBe(sha256Of(gguf(1)));
    await server.pause();
    expect(await hashOf("org/repo")).toBe(sha256Of(gguf(1)));
    await server.resume();
  });

  test("several models: the error lists them, and each can be named", async () => {
    await hubWith({ "a.gguf": gguf(1), "sub/b.gguf": gguf(2) });
    expect(await failureOf(hashOf("org/repo"))).toBe(
      "invalid_argument: org/repo has 2 models; say which: org/repo/a.gguf, org/repo/sub/b.gguf",
    );
    expect(await hashOf("org/repo/a.gguf")).toBe(sha256Of(gguf(1)));
    expect(await hashOf("org/repo/sub/b.gguf")).toBe(sha256Of(gguf(2)));
    expect(await failureOf(hashOf("org/repo/c.gguf"))).toMatch(
      /^not_found: org\/repo has no file c.gguf; it has a.gguf/,
    );
  });

  test("a revision is another model; one that is not there is an error", async () => {
    await hubWith({ "a.gguf": gguf(1) }, { commits: { main: "c1", v2: "c2" } });
    await hashOf("org/repo@v2");
    await hashOf("org/repo/a.gguf@v2");
    expect((await listModels(folder)).map(({ name }) => name)).toEqual(["org/repo@v2"]);
    expect(await failureOf(hashOf("org/repo@v3"))).toMatch(
      /^not_found: org\/repo@v3 at HOST cannot be had: .*HTTP 404/,
    );
  });

  test("a token goes to the Hub, and to no other origin", async () => {
    const { store } = await hubWith({ "a.gguf": gguf(1) }, { token: "hf_secret" });
    expect(await failureOf(hashOf("org/repo"))).toMatch(/it needs a token \(HTTP 401\)/);
    await hashOf("org/repo", named({ hub: { baseUrl: server.address, token: "hf_secret" } }));
    expect(store.requests.length).toBeGreaterThan(0);
    expect(store.requests.filter(({ headers }) => headers.authorization !== undefined)).toEqual([]);
  });

  test("redirects without end are an error", async () => {
    await hubWith({ "a.gguf": gguf(1) });
    const { behave } = server;
    server.behave = (asked) => (asked.path.startsWith("/api/") ? behave(asked) : { redirect: asked.path });
    expect(await failureOf(hashOf("org/repo"))).toMatch(/a.gguf redirects more than 10 times/);
  });

  test("safetensors: all files of the folder are kept, and absent ones are not asked for again", async () => {
    const header = new TextEncoder().encode(
      JSON.stringify({ t: { dtype: "F32", shape: [4], data_offsets: [0, 16] } }),
    );
    const weights = new Uint8Array(8 + header.length + 16);
    new DataView(weights.buffer).setBigUint64(0, BigInt(header.length), true);
    weights.set(header, 8);
    const config = new TextEncoder().encode('{"model_type":"llama"}');
    await hubWith({ "config.json": config, "model.safetensors": weights });
    expect(await hashOf("org/repo")).toBe(sha256Of(weights));
    server.files.set("/folder/config.json", config);
    server.files.set("/folder/model.safetensors", weights);
    server.behave = () => undefined;
    await hashOf(address("/folder/"));
    await server.pause();
    expect(await hashOf("org/repo")).toBe(sha256Of(weights));
    expect(await hashOf(address("/folder/"))).toBe(sha256Of(weights));
    await server.resume();
  });

  test("a look at the header keeps nothing and reads little", async () => {
    const { store } = await hubWith({ "a.gguf": gguf(1) });
    const opened = await openNamedModel("org/repo", named({ purpose: "header" }));
    expect(opened.file.tensors.size).toBe(1);
    await opened.close();
    expect(await readdir(directory)).toEqual([]);
    expect(store.requests.length).toBeLessThan(4);
  });

  test("pull again: nothing where nothing changed, the new file where it did", async () => {
    await hubWith({ "a.gguf": gguf(1) }, { commits: { main: "c1" } });
    expect((await pullModel("org/repo", named())).receivedBytes).toBe(gguf(1).length);
    await hubWith({ "a.gguf": gguf(1) }, { commits: { main: "c2" } });
    expect((await pullModel("org/repo", named())).receivedBytes).toBe(0);
    await hubWith({ "a.gguf": gguf(2) }, { commits: { main: "c3" } });
    expect((await pullModel("org/repo", named())).receivedBytes).toBe(gguf(2).length);
    expect(await hashOf("org/repo")).toBe(sha256Of(gguf(2)));
    expect(await listModels(folder)).toMatchObject([
      { name: "org/repo", isComplete: true, files: [{ file: "a.gguf" }] },
    ]);
  });
});

describe("what is kept", () => {
  test("two loads at once download once", async () => {
    server.bytesPerSecond = 5_000_000;
    const [one, two] = await Promise.all([1, 2].map(() => expectRight(load(settings({}, PATIENT)))));
    expect(one!.receivedBytes + two!.receivedBytes).toBe(SIZE);
    expect(server.bytesSent).toBe(SIZE);
  });

  test("a load that waits for another's download says so, once", async () => {
    const first = new RemoteLoad(settings());
    const place = await first.open({ kind: "url", url: address() });
    expect(place.first?.sizeBytes).toBe(SIZE);
    let told = 0;
    const second = load({ ...settings({}, { waitSilentMs: 0 }), onWaiting: () => told++ });
    await expect.poll(() => told).toBe(1);
    await first.finish();
    await first.close();
    expect((await expectRight(second)).receivedBytes).toBe(0);
    expect(told).toBe(1);
  });

  test("is listed, checked and removed; what was damaged is found and fetched again", async () => {
    await load();
    expect(await listModels(folder)).toMatchObject([
      { name: address(), sizeBytes: SIZE, bytesKept: SIZE, isComplete: true },
    ]);
    expect(await verifyModel(folder)).toEqual({ checked: 1, bad: [], partial: 0 });
    const payload = (await readdir(directory)).find((name) => name.endsWith(".bin")) as string;
    await writeFile(join(directory, payload), OTHER);
    const { bad } = await verifyModel(folder, address());
    expect(bad).toMatchObject([{ model: address(), file: "model.gguf" }]);
    expect(await listModels(folder)).toEqual([]);
    await expectRight(load());
    expect(await removeModel(folder, address())).toEqual({ bytesFreed: SIZE });
    expect(await readdir(directory)).toEqual([]);
    expect(await failureOf(removeModel(folder, address()))).toMatch(/^not_found: .* is not kept in/);
  });

  test("a payload that was cut short, or is gone, is fetched again", async () => {
    await load();
    const payload = (await readdir(directory)).find((name) => name.endsWith(".bin")) as string;
    await truncate(join(directory, payload), 1000);
    await expectRight(load());
    await rm(join(directory, payload));
    await expectRight(load());
  });

  test("notes that are torn or nonsense were never made", async () => {
    await load();
    for (const name of await readdir(directory))
      if (name.endsWith(".json"))
        await writeFile(join(directory, name), '0123456789abcdef{"sequence":9,"value":{}}');
    await expectRight(load());
  });

  test("a model in use cannot be removed", async () => {
    const one = new RemoteLoad(settings());
    server.bytesPerSecond = 1_000_000;
    await one.open({ kind: "url", url: address() });
    expect(await failureOf(removeModel(folder, address()))).toBe(
      "source: the model is being downloaded by another tab or process",
    );
    await one.close();
  });

  test("no room is told beforehand, and the model is read without being kept", async () => {
    const notices: string[] = [];
    const full: ModelFolder = Object.assign(Object.create(folder) as ModelFolder, {
      freeBytes: () => Promise.resolve(1000),
    });
    await expectRight(load(settings({ folder: full, onNotice: ({ code }) => notices.push(code) })));
    expect(notices).toEqual(["models_no_room"]);
    expect(await listModels(folder)).toEqual([]);
  });
});

/** How a look at a header and a load without a place to keep it read: straight from the server. */
describe.each([
  ["a look at a header", { purpose: "header" }],
  ["a load that keeps nothing", { folder: undefined }],
] as const)("%s", (_name, how) => {
  async function read(given: Partial<RemoteSettings> = {}): Promise<Uint8Array> {
    const load = new RemoteLoad({ ...settings(), ...how, ...given });
    try {
      const { first } = await load.open({ kind: "url", url: address() });
      return (await first?.read(0, SIZE)) as Uint8Array;
    } finally {
      await load.close();
    }
  }

  const told = (): { retries: [failures: number, attempts: number][]; given: Partial<RemoteSettings> } => {
    const retries: [number, number][] = [];
    const onRetry: RemoteSettings["onRetry"] = ({ failures, attempts }) => retries.push([failures, attempts]);
    return { retries, given: { onRetry } };
  };

  test("goes on behind the last byte after cuts, stalls and refusals that pass", async () => {
    server.behave = ({ index }) =>
      [{ status: 503 }, {}, { cutAfter: 100 * KIB }, { stallAfter: 100 * KIB }, { status: 500 }][index];
    const { retries, given } = told();
    expect(sha256Of(await read(given))).toBe(sha256Of(BYTES));
    expect(retries).toEqual([1, 1, 1, 2].map((failures) => [failures, LIMITS.attempts]));
    expect(server.requests.map(({ start }) => start > 0)).toEqual([false, false, false, true, true, true]);
  });

  test.each([
    ["cannot be reached", () => server.pause()],
    ["did not answer", () => Promise.resolve(void (server.behave = () => ({ stallAfter: 0 })))],
  ])("counts the failures of a server that %s, from the first on, and gives up", async (why, begin) => {
    await begin();
    const { retries, given } = told();
    const said = await failureOf(read(given)).finally(() => server.resume().catch(() => undefined));
    expect(said).toMatch(/^source: HOST\/model\.gguf gave nothing in 4 attempts/);
    expect(said).toContain(why);
    expect(retries).toEqual([1, 2, 3].map((failures) => [failures, LIMITS.attempts]));
  });

  test("asks once where the server refuses for good", async () => {
    server.behave = () => ({ status: 403 });
    const { retries, given } = told();
    expect(await failureOf(read(given))).toBe("source: HOST/model.gguf answered HTTP 403");
    expect([server.requests.length, retries]).toEqual([1, []]);
  });

  test("a file that changes while it is read is an error", async () => {
    server.behave = ({ index }) => (index > 0 ? { bytes: OTHER } : undefined);
    expect(await failureOf(read())).toContain("changed while it was read");
  });
});

test(
  "a swarm of faults ends in the right bytes or an error that names the address",
  { timeout: 60_000 },
  async () => {
    const random = new Random(seed);
    const ends = { right: 0, errors: 0 };
    for (let round = 0; round < 10; round++) {
      const badness = random.next() * 0.6;
      const noRanges = random.below(6) === 0;
      const changesAt = random.below(4) === 0 ? random.below(20) : Infinity;
      const offset = server.requests.length;
      server.behave = ({ index }) => ({
        ...(random.next() < badness && { cutAfter: random.below(50 * KIB) }),
        ...(random.next() < badness / 4 && { status: random.pick([429, 500, 503]) }),
        ...(random.next() < badness / 8 && { stallAfter: random.below(KIB) }),
        ...((noRanges || random.next() < badness / 10) && { ignoreRange: true }),
        ...(index - offset >= changesAt && { bytes: OTHER }),
      });
      const result = await load(settings({}, { stallMs: 40 })).catch((error: unknown) => error as Error);
      if (result instanceof Error) {
        ends.errors++;
        expect(result.message).toContain(address());
      } else {
        ends.right++;
        const hash = sha256Of(result.bytes);
        expect([sha256Of(BYTES), sha256Of(OTHER)]).toContain(hash);
        await removeModel(folder, address());
      }
    }
    console.log(ends);
    expect(ends.right).toBeGreaterThan(0);
  },
);
