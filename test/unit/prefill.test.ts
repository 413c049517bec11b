/**
 * A prompt's records from somebody else: what the asker takes and refuses, when it asks at all, and what the service answers. The true
 * frames, client, store and handler; keys and values are random bytes, and no network is there but in the last tests.
 */
import { afterEach, describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { CostModel } from "../../src/schedule/cost/model.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { newKey, prefillService, serveHttp, type RunningServer } from "../../src/serve/index.ts";
import { chainKeys, fingerprintOf, rootKey } from "../../src/tier/record/keys.ts";
import { encodeRecord } from "../../src/tier/record/record.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import {
  frameEnd,
  frameHead,
  PREFILL_VERSION,
  readFrames,
  type PrefillFacts,
  type PrefillRecord,
} from "../../src/wire/prefill.ts";
import type { FromWorker, Notice } from "../../src/wire/protocol.ts";
import { TierMover } from "../../src/worker/cache/tier-mover.ts";
import { HttpSource } from "../../src/worker/prefill/http-source.ts";
import { Arrival } from "../../src/worker/prefill/arrival.ts";
import { MIN_REMOTE_TOKENS, RemotePrefill, type RemoteRooms } from "../../src/worker/prefill/remote.ts";
import { PageSource } from "../../src/worker/prefill/page-source.ts";
import type { PrefillSource } from "../../src/worker/prefill/source.ts";
import { testSeed } from "../support/seed.ts";

const BLOCK_TOKENS = 32;
const SLOT_BYTES = 48;
const BLOCKS = 20;
/** The last token is not asked for. */
const TOKENS = Array.from({ length: BLOCKS * BLOCK_TOKENS + 1 }, (_, i) => i % 97);
const FINGERPRINT = fingerprintOf({ weights: "these" });
const FACTS: PrefillFacts = {
  ...{ version: PREFILL_VERSION, model: "toy", fingerprint: FINGERPRINT, dtype: "f32", kvDtype: "f32" },
  ...{ blockTokens: BLOCK_TOKENS, maxTokens: 4096 },
};

/** A prompt's block records as a service would send them. */
function recordsOf(tokens = TOKENS, fingerprint = FINGERPRINT, slotBytes = SLOT_BYTES): PrefillRecord[] {
  const random = new Random(7);
  const keys = chainKeys(fingerprint, "", tokens, BLOCK_TOKENS);
  return keys.slice(0, BLOCKS).map((_, block) => {
    const payload = Uint8Array.from({ length: slotBytes }, () => random.below(256));
    const bytes = encodeRecord({
      ...{
        kind: "block",
        parentKey: keys[block - 1] ?? rootKey(fingerprint, ""),
        fingerprint,
        namespace: "",
      },
      ...{
        blockIndex: block,
        tokens: tokens.slice(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS),
        payload,
      },
    });
    return { bytes: bytes as Uint8Array<ArrayBuffer>, waited: block % 8 === 0 };
  });
}

function flipped({ bytes, waited }: PrefillRecord, at: number): PrefillRecord {
  const copy = bytes.slice();
  copy[at % copy.length]! ^= 1 << (at % 8);
  return { bytes: copy, waited };
}

/** Sends what it is told to, and remembers what it was asked. */
class FakeSource implements PrefillSource {
  readonly name = "http://service";
  leavesMachine = true;
  readonly asked: number[] = [];
  ended = 0;
  send: () => AsyncIterable<PrefillRecord>;
  theFacts: PrefillFacts = FACTS;

  constructor(send: () => Iterable<PrefillRecord> | AsyncIterable<PrefillRecord>) {
    this.send = async function* () {
      yield* send();
    };
  }

  facts(): Promise<PrefillFacts> {
    return Promise.resolve(this.theFacts);
  }

  async *records(
    ask: { tokens: readonly number[] },
    _max: number,
    signal: AbortSignal,
  ): AsyncGenerator<PrefillRecord> {
    this.asked.push(ask.tokens.length);
    const gone = new Promise<never>((_, reject) =>
      signal.addEventListener("abort", () => reject(new Error("gone"))),
    );
    gone.catch(() => {});
    const from = this.send()[Symbol.asyncIterator]();
    try {
      for (;;) {
        const { done, value } = await Promise.race([from.next(), gone]);
        if (done) return;
        yield value;
      }
    } finally {
      this.ended++;
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

interface Desk {
  remote: RemotePrefill;
  mover: TierMover;
  store: TierStore;
  notices: Notice[];
  fetch(options?: {
    tokens?: number[];
    storage?: "disk" | "memory" | "off";
    signal?: AbortSignal;
  }): Promise<number | undefined>;
  stored(): number;
}

async function desk(
  source: PrefillSource,
  when: "faster" | "always" = "always",
  more: Partial<RemoteRooms> = {},
): Promise<Desk> {
  const store = await TierStore.open({ ramBytes: 1 << 20 });
  const partial = { slotBytes: SLOT_BYTES };
  const pool = { options: { blockTokens: BLOCK_TOKENS, layers: [] }, slotBytes: SLOT_BYTES, partial };
  const nowMs = (): number => performance.now();
  const tiers = store.tierNames.map((name) => ({ name, isInMemory: store.isInMemory(name) }));
  const facts = { bytesPerBlock: SLOT_BYTES, flopsPerToken: 1, isSoftware: false, tiers };
  const mover = new TierMover({
    ...{
      store,
      pool: pool as never,
      fingerprint: FINGERPRINT,
      namespace: "mine",
      restore: "auto",
      flopsPerToken: 1,
      nowMs,
      costs: new CostModel({ blockTokens: BLOCK_TOKENS, ...facts }),
    },
  });
  const notices: Notice[] = [];
  const options = { dtype: "f32", kvDtype: "f32", blockTokens: BLOCK_TOKENS, chunkTokens: 256 };
  const runner = { options, states: { slotBytes: 0 }, shape: { vocabSize: 97 } } as never;
  const cache = { match: () => ({ tokens: 0, blocks: [] }) } as never;
  const rooms = { cache, runner, mover, notice: (notice: Notice) => void notices.push(notice), nowMs };
  const remote = new RemotePrefill(source, when, { ...rooms, computeHere: () => Promise.resolve(), ...more });
  const sequence = { tokens: TOKENS, storage: "disk" } as const;
  return {
    ...{ remote, mover, store, notices },
    fetch: async ({ signal = new AbortController().signal, ...given } = {}) =>
      remote.fetch({ ...sequence, ...given }, signal),
    stored: () => mover.storedBlocks({ tokens: TOKENS, storage: "disk" }, 0),
  };
}

describe("an asker", () => {
  it("stores a prompt's records under its own namespace, and asks for nothing that it has", async () => {
    const source = new FakeSource(() => recordsOf());
    const { fetch, stored, notices, store } = await desk(source);
    expect(await fetch()).toBe(BLOCKS * BLOCK_TOKENS);
    expect(stored()).toBe(BLOCKS);
    const [own] = chainKeys(FINGERPRINT, "mine", TOKENS, BLOCK_TOKENS);
    expect((await store.get(own!)).hit).toBe(true);
    expect(await fetch()).toBeUndefined();
    expect([source.asked, source.ended, notices]).toEqual([[BLOCKS * BLOCK_TOKENS], 1, []]);
  });

  it("sends no short prompt, and none that may be kept nowhere", async () => {
    const source = new FakeSource(() => recordsOf());
    const { fetch } = await desk(source);
    expect(await fetch({ tokens: TOKENS.slice(0, MIN_REMOTE_TOKENS) })).toBeUndefined();
    expect(await fetch({ storage: "off" })).toBeUndefined();
    expect(await fetch({ storage: "memory" })).toBeUndefined(); // not unless it is asked for
    expect(source.asked).toEqual([]);
  });

  it("refuses every record with a flipped bit, keeps those before it, and tells why", async () => {
    const random = new Random(testSeed("prefill flips"));
    for (let round = 0; round < 40; round++) {
      const block = random.below(BLOCKS);
      const at = random.below(10_000);
      const records = recordsOf().map((record, i) => (i === block ? flipped(record, at) : record));
      const { fetch, stored, notices } = await desk(new FakeSource(() => records));
      expect(await fetch()).toBe(block * BLOCK_TOKENS);
      expect(stored()).toBe(block);
      expect(notices.map(({ code }) => code)).toEqual(["prefill_service"]);
    }
  });

  const other = TOKENS.map((token, i) => (i === 3 * BLOCK_TOKENS ? token + 1 : token));
  const strange: [string, () => PrefillRecord[], number][] = [
    ["another model", () => recordsOf(TOKENS, fingerprintOf({ weights: "others" })), 0],
    ["another prompt from block 3 on", () => recordsOf(other), 3],
    ["other sizes", () => recordsOf(TOKENS, FINGERPRINT, SLOT_BYTES / 2), 0],
    ["a block left out", () => recordsOf().filter((_, i) => i !== 5), 5],
    ["a block twice", () => recordsOf().flatMap((record) => [record, record]), 1],
    ["too few", () => recordsOf().slice(0, 7), 7],
  ];
  it.each(strange)("takes nothing that is not its prompt's: %s", async (_name, records, good) => {
    const { fetch, stored, notices } = await desk(new FakeSource(records));
    expect(await fetch()).toBe(good * BLOCK_TOKENS);
    expect([stored(), notices.length]).toEqual([good, 1]);
  });

  const facts: [string, Partial<PrefillFacts>, RegExp][] = [
    ["dtype", { dtype: "f16" }, /its dtype is f16, expected f32/],
    ["block size", { blockTokens: 16 }, /its blockTokens is 16, expected 32/],
    ["model", { fingerprint: fingerprintOf({}) }, /has other weights or settings/],
    ["version", { version: 99 }, /its version is 99/],
  ];
  it.each(facts)("sends nothing to a service of another %s", async (_name, changed, why) => {
    const source = new FakeSource(() => recordsOf());
    source.theFacts = { ...FACTS, ...changed };
    const { fetch, notices } = await desk(source);
    expect((await fetch()) ?? 0).toBe(0);
    expect(await fetch()).toBeUndefined(); // it is left alone
    expect([source.asked, notices.length]).toEqual([[], 1]);
    expect(notices[0]?.message).toMatch(why);
  });

  it("gives up a silent service in time, and keeps what came", async () => {
    let isProbe = true;
    const source = new FakeSource(async function* () {
      yield* recordsOf().slice(0, isProbe ? 8 : 4);
      if (isProbe) isProbe = false;
      else await new Promise(() => {});
    });
    const { fetch, stored, notices, mover } = await desk(source, "faster");
    mover.costs.prefilled(3200, 0, { ms: 4000, nowMs: performance.now() }); // what is missing takes less than a second here
    const startedMs = performance.now();
    expect(await fetch()).toBe(4 * BLOCK_TOKENS);
    expect(performance.now() - startedMs).toBeLessThan(3000);
    expect([stored(), source.ended]).toEqual([4, source.asked.length]);
    expect(notices[0]?.message).toMatch(/slower than computing here, or silent \(128 of 640 tokens came\)/);
  });

  it.each([
    ["gives up an answer whose rest would take longer than computing it here", 3500, 256],
    [
      "takes an answer to its end that is slower than it promised, but not by much",
      2000,
      BLOCKS * BLOCK_TOKENS,
    ],
  ])("%s", async (_what, chunkMs, arrives) => {
    let nowMs = 0;
    let isProbe = true;
    const source = new FakeSource(function* () {
      const takes = isProbe ? 100 : chunkMs;
      isProbe = false;
      for (const [i, record] of recordsOf().entries()) {
        if (i === BLOCKS - 12 && takes === 100) return; // a probe is of one chunk
        if (i === 0) nowMs += takes; // the first chunk; those behind it come at once, so that no silence ends the answer
        yield record;
      }
    });
    const { fetch, notices, mover } = await desk(source, "faster", { nowMs: () => nowMs });
    for (const tokens of [32, 64, 128, 256, 256])
      for (const from of [0, 256, 512])
        mover.costs.prefilled(tokens, from, { ms: 6 * tokens, nowMs: (nowMs += 10_000) });
    expect(await fetch()).toBe(arrives);
    expect(notices.length).toBe(arrives === 256 ? 1 : 0);
  });

  it("asks only if that promises to be faster, by a probe of both", async () => {
    const source = new FakeSource(async function* () {
      const [first, ...rest] = recordsOf().slice(0, 8);
      await new Promise((resolve) => setTimeout(resolve, 30)); // 256 tokens in 30 ms
      yield* [first!, ...rest];
    });
    const slow = await desk(source, "faster");
    slow.mover.costs.prefilled(256, 0, { ms: 0.1, nowMs: performance.now() });
    expect(await slow.fetch()).toBe(0);
    expect(source.asked).toEqual([256]);
    const fast = await desk(source, "faster");
    fast.mover.costs.prefilled(256, 0, { ms: 10_000, nowMs: performance.now() });
    expect(await fast.fetch()).toBe(256);
    expect(source.asked).toEqual([256, 256, BLOCKS * BLOCK_TOKENS]);
  });

  it("ends an answer when its request is aborted, without a word", async () => {
    const source = new FakeSource(async function* () {
      yield* recordsOf().slice(0, 2);
      await new Promise(() => {});
    });
    const { fetch, notices } = await desk(source);
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 20);
    await fetch({ signal: stop.signal });
    expect([source.ended, notices]).toEqual([1, []]);
  });

  it("stores nothing of an answer under way once everything is forgotten", async () => {
    let forget = (): void => {};
    const source = new FakeSource(function* () {
      for (const [i, record] of recordsOf().entries()) {
        if (i === 4) forget();
        yield record;
      }
    });
    const { fetch, mover, store } = await desk(source);
    forget = () => void Promise.all([mover.forgetAll(), store.clear()]);
    await fetch();
    expect(store.list()).toEqual([]);
  });
});

describe("an engine on another device", () => {
  it("is asked through the page, once that listens, and its job is closed however it ends", async () => {
    const posted: FromWorker[] = [];
    const records = recordsOf();
    const source = new PageSource((message) => {
      posted.push(message);
      if (message.type !== "prefillAsk") return;
      const { id, call } = message;
      const value = { prefillFacts: () => FACTS, prefillOpen: () => 5, prefillNext: () => records.shift() };
      const answer = value[call.method as keyof typeof value]?.();
      queueMicrotask(() => source.hear({ type: "prefillAnswer", id, ...(answer && { value: answer }) }));
    });
    const { fetch, stored, notices } = await desk(source);
    const fetching = fetch({ storage: "memory" });
    expect(posted).toEqual([]);
    source.start();
    expect(await fetching).toBe(BLOCKS * BLOCK_TOKENS);
    expect([stored(), notices]).toEqual([BLOCKS, []]);
    expect(posted.at(-1)).toMatchObject({ call: { method: "prefillClose", job: 5 } });
  });

  it("that is closed is told, and left alone", async () => {
    const source = new PageSource((message) => {
      if (message.type !== "prefillAsk") return;
      const error = { code: "closed", message: "the engine is closed", details: {} } as const;
      queueMicrotask(() => source.hear({ type: "prefillAnswer", id: message.id, error }));
    });
    source.start();
    const { fetch, notices } = await desk(source);
    expect((await fetch()) ?? 0).toBe(0);
    expect(notices[0]?.message).toMatch(/on the other device is not used for 600 s: the engine is closed/);
  });
});

describe("frames", () => {
  const records = recordsOf().slice(0, 3);
  const whole = new Uint8Array([...records.flatMap((r) => [...frameHead(r), ...r.bytes]), ...frameEnd()]);
  const stream = (bytes: Uint8Array, step: number): ReadableStream<Uint8Array> =>
    new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += step) controller.enqueue(bytes.slice(at, at + step));
        controller.close();
      },
    });
  const read = async (bytes: Uint8Array, step: number, most = 1000): Promise<PrefillRecord[]> => {
    const found: PrefillRecord[] = [];
    for await (const record of readFrames(stream(bytes, step), most)) found.push(record);
    return found;
  };

  it("come back however the stream is cut", async () => {
    for (const step of [1, 7, 64, 100_000]) expect(await read(whole, step)).toEqual(records);
  });

  it("that end before their end are a fault, wherever that is", async () => {
    for (let end = 0; end < whole.length; end += 5)
      await expect(read(whole.slice(0, end), 64)).rejects.toThrow(/was cut short/);
  });

  it("take no memory that a hostile length names", async () => {
    const hostile = whole.slice();
    new DataView(hostile.buffer).setUint32(0, 2 ** 32 - 1, true);
    await expect(read(hostile, 64)).rejects.toThrow(/record 0 has 4294967295 bytes, expected at most 1000/);
  });
});

describe("an arrival", () => {
  it("tells link and computing apart", () => {
    const arrival = new Arrival(0);
    let nowMs = 0;
    for (let chunk = 0; chunk < 4; chunk++)
      for (let block = 0; block < 8; block++) {
        nowMs += block === 0 ? 200 : 5;
        arrival.took(32, 1000, block === 0, nowMs);
      }
    const { tokens, computedTokens, computeMs, linkBytes, linkMs } = arrival;
    expect([tokens, computedTokens, computeMs, linkBytes, linkMs]).toEqual([1024, 1024, 800, 28_000, 140]);
  });
});

describe("a service", () => {
  const key = newKey();
  const servers: RunningServer[] = [];
  afterEach(async () => {
    for (const server of servers.splice(0)) await server.close();
  });

  /** An engine whose records come when they are let go. */
  class FakeEngine {
    opened = 0;
    closed = 0;
    letGo: () => void = () => {};
    waiting: Promise<void> | undefined;
    readonly cache = {
      prefillFacts: () => Promise.resolve(FACTS),
      records: () => {
        this.opened++;
        const records = recordsOf();
        let isClosed = false;
        let end = (): void => {};
        const ended = new Promise<void>((resolve) => (end = resolve));
        return Promise.resolve({
          next: async () => {
            if (records.length < BLOCKS - 2) await Promise.race([this.waiting, ended]);
            return isClosed ? undefined : records.shift();
          },
          close: () => {
            if (!isClosed) this.closed++;
            isClosed = true;
            end();
          },
        });
      },
    };

    hold(): void {
      this.waiting = new Promise((resolve) => (this.letGo = resolve));
    }
  }

  async function start(options: { maxUnderWay?: number; origins?: string[] } = {}) {
    const engine = new FakeEngine();
    const service = await prefillService(engine as unknown as Engine, { key, ...options });
    const server = await serveHttp(service.fetch, { port: 0 });
    servers.push(server);
    const url = `${server.url}/v1/prefill`;
    const post = (body: string, init: RequestInit = {}): Promise<Response> =>
      fetch(url, { method: "POST", headers: { Authorization: `Bearer ${key}` }, body, ...init });
    return { engine, service, server, url, post };
  }

  const ASK = { fingerprint: FINGERPRINT, tokens: TOKENS, from: 0, cache: "disk" };
  const body = (change: object = {}): string => JSON.stringify({ ...ASK, ...change });

  it("answers an asker over HTTP, record by record", async () => {
    const { server, service } = await start();
    const { fetch: ask, stored, notices } = await desk(new HttpSource({ url: `${server.url}/`, key }));
    expect(await ask()).toBe(BLOCKS * BLOCK_TOKENS);
    expect([stored(), notices, service.underWay]).toEqual([BLOCKS, [], 0]);
  });

  it("tells a wrong key from a right one, and the asker tells its user", async () => {
    const { server, url, engine } = await start();
    for (const headers of [{}, { Authorization: `Bearer ${key}x` }, { Authorization: key }] as HeadersInit[])
      expect((await fetch(url, { headers })).status).toBe(401);
    const { fetch: ask, notices } = await desk(new HttpSource({ url: server.url, key: "wrong" }));
    expect(await ask()).toBe(0);
    expect(notices[0]?.message).toMatch(/HTTP 401: the key is missing or wrong/);
    expect(notices[0]?.message).not.toContain(key);
    expect(engine.opened).toBe(0);
  });

  const refused: [string, string, number][] = [
    ["no JSON", "tokens", 400],
    ["no tokens", body({ tokens: undefined }), 400],
    ["tokens that are none", body({ tokens: [1, -1] }), 400],
    ["a block behind the end", body({ from: 1000 }), 400],
    ["another model", body({ fingerprint: fingerprintOf({}) }), 409],
    ["a prompt that is too long", body({ tokens: Array.from({ length: 5000 }, () => 1) }), 413],
    ["a body that is too large", body({ tokens: Array.from({ length: 100_000 }, () => 1) }), 413],
  ];
  it.each(refused)("refuses %s, and says why", async (_name, sent, status) => {
    const { post, engine, service } = await start();
    const response = await post(sent);
    expect(response.status).toBe(status);
    const { error } = (await response.json()) as { error: { message: string } };
    expect(error.message).toMatch(/\w/);
    expect([engine.opened, service.underWay]).toEqual([0, 0]);
  });

  it("bounds a body of unknown length", async () => {
    const { post, service } = await start();
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(10_000).fill(32)),
    });
    const response = await post("", { body: endless, duplex: "half" } as RequestInit).catch(() => undefined);
    expect([undefined, 413]).toContain(response?.status);
    expect(service.underWay).toBe(0);
  });

  it("answers other addresses and methods by what they are", async () => {
    const { url, server } = await start();
    expect((await fetch(server.url)).status).toBe(404);
    expect((await fetch(url, { method: "PUT", headers: { Authorization: `Bearer ${key}` } })).status).toBe(
      405,
    );
  });

  it("bounds what is under way, and counts down when an asker goes away in the middle", async () => {
    const { post, engine, service } = await start({ maxUnderWay: 2 });
    engine.hold();
    const stops = [new AbortController(), new AbortController()];
    const answers = await Promise.all(stops.map(({ signal }) => post(body(), { signal })));
    for (const { body } of answers) await body!.getReader().read();
    const refused = await post(body());
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "2"]);
    expect(service.underWay).toBe(2);
    for (const stop of stops) stop.abort();
    await expect.poll(() => service.underWay).toBe(0);
    expect([engine.opened, engine.closed]).toEqual([2, 2]);
  });

  it("ends what is under way when it closes", async () => {
    const { post, engine, server, service } = await start();
    engine.hold();
    const response = await post(body());
    await server.close();
    servers.length = 0;
    await expect(response.arrayBuffer()).rejects.toThrow();
    await expect.poll(() => [service.underWay, engine.closed]).toEqual([0, 1]);
  });

  it("lets pages of named origins ask, and no others", async () => {
    const { url } = await start({ origins: ["https://app.example"] });
    const allowed = async (origin: string): Promise<string | null> => {
      const response = await fetch(url, { method: "OPTIONS", headers: { Origin: origin } });
      return response.headers.get("access-control-allow-origin");
    };
    expect(await allowed("https://app.example")).toBe("https://app.example");
    expect(await allowed("https://evil.example")).toBeNull();
  });
});
