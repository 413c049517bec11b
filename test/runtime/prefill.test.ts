/**
 * A prefill service in a process of its own, and an engine that asks it over loopback, by way of a proxy that does to the answers what
 * networks and wrong services do. Whatever that is, the tokens are those that the engine computes alone.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Engine, LoadOptions } from "../../src/index.ts";
import { fullTest } from "../support/full.ts";

const LIMIT_MS = 240_000;
const DENSE = "demo/models/tide-dense.gguf";
const HYBRID = "demo/models/tide-hybrid.gguf";
const CASES = 4;
const present = existsSync(DENSE);
if (!present) console.warn(`SKIPPED ${CASES} cases of the prefill service: ${DENSE} is absent`);
const KEY = "the-key-of-the-test";

/** About 700 tokens. */
const prompt = (name: string): string =>
  Array.from({ length: 50 }, (_, i) => `The brig ${name} ${i} lies at berth ${(i * 7) % 40}.`).join(" ");

/** A service as a person starts it. */
class ServiceProcess {
  private readonly child: ChildProcess;
  private told = "";

  private constructor(args: string[]) {
    const words = ["dist/lib/cli.js", "serve", ...args, "--prefill-service", "--port", "0", "--key", KEY];
    // Supervised, as beneath another process: so that a kill meets the service itself.
    const env = { ...process.env, TIDEPOOL_SUPERVISED: "supervised" };
    this.child = spawn(process.execPath, words, { env, stdio: ["ignore", "pipe", "ignore"] });
    this.child.stdout!.setEncoding("utf8").on("data", (text: string) => (this.told += text));
  }

  static async start(...args: string[]): Promise<ServiceProcess> {
    const service = new ServiceProcess(args);
    while (!service.told.includes(" at http")) {
      if (service.child.exitCode !== null) throw new Error("the service has ended");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return service;
  }

  get port(): number {
    return Number(/:(\d+)\n/.exec(this.told)?.[1]);
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<number | null> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
    const closed = once(this.child, "close") as Promise<[number | null]>;
    this.child.kill(signal);
    return (await closed)[0];
  }
}

/** What becomes of an answer's bytes on the way; `at` counts them. */
type Injury = (bytes: Buffer, at: number, answer: ServerResponse) => Buffer | undefined;

/** A proxy that injures answers to prompts. */
class Proxy {
  injury: Injury = (bytes) => bytes;
  /** The service that each request goes to. */
  target: (method: string) => number = () => 0;
  underWay = 0;
  asked = 0;
  private readonly server: Server = createServer((from, to) => this.pass(from, to));

  async listen(): Promise<string> {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private pass(from: IncomingMessage, to: ServerResponse): void {
    const { method = "", url: path, headers } = from;
    const isPrompt = method === "POST";
    if (isPrompt) this.asked++;
    this.underWay++;
    const onward = request({ host: "127.0.0.1", port: this.target(method), path, method, headers });
    let at = 0;
    let isWhole = true;
    onward.on("response", (answer) => {
      to.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on("data", (bytes: Buffer) => {
        const passed = isPrompt ? this.injury(Buffer.from(bytes), at, to) : bytes;
        at += bytes.length;
        if (!passed)
          isWhole = false; // what was swallowed never ends
        else if (!to.destroyed) to.write(passed);
      });
      answer.on("end", () => isWhole && to.end());
      answer.on("error", () => to.destroy());
    });
    onward.on("error", () => to.destroy());
    to.on("close", () => {
      this.underWay--;
      onward.destroy();
    });
    from.pipe(onward);
  }
}

/** Bytes of an answer that are let through before something happens to it. */
const GOOD_BYTES = 200_000;

const flips: Injury = (bytes, at) => {
  const place = GOOD_BYTES - at;
  if (place >= 0 && place < bytes.length) bytes[place]! ^= 4;
  return bytes;
};

const cuts: Injury = (bytes, at, answer) => {
  if (at + bytes.length > GOOD_BYTES) answer.destroy();
  return bytes;
};

const stalls: Injury = (bytes, at) => (at > GOOD_BYTES ? undefined : bytes);

/** A length that no record has, as the first frame. */
const boasts: Injury = (bytes, at) => {
  if (at === 0) bytes.writeUInt32LE(0xfffffff0, 0);
  return bytes;
};

describe.skipIf(!present)("a prefill service in another process", { timeout: LIMIT_MS }, () => {
  const proxy = new Proxy();
  let address: string;
  let service: ServiceProcess;
  let engine: Engine | undefined;

  beforeAll(async () => {
    address = await proxy.listen();
    if (present) service = await ServiceProcess.start(DENSE);
  }, LIMIT_MS);

  afterEach(async () => {
    await engine?.close();
    engine = undefined;
    proxy.injury = (bytes) => bytes;
    expect(proxy.underWay).toBe(0);
  });

  afterAll(async () => {
    proxy.close();
    await service?.kill();
  });

  async function load(options: LoadOptions = {}, model = DENSE, key = KEY): Promise<Engine> {
    const { Engine } = (await import(pathToFileURL("dist/lib/index.js").href)) as {
      Engine: typeof import("../../src/index.ts").Engine;
    };
    proxy.target = () => service.port;
    engine = await Engine.load(model, { prefill: { url: address, key, when: "always" }, ...options });
    return engine;
  }

  /** Greedy tokens by way of the service and alone, with what the former cost; and that nothing is held afterwards. */
  async function both(engine: Engine, name: string) {
    const options = { maxTokens: 12 };
    const remote = await engine.generate(prompt(name), options).result();
    const alone = await engine.generate(prompt(name), { ...options, cache: "off" }).result();
    expect(remote.tokens).toEqual(alone.tokens);
    expect(await engine.debug.check()).toEqual({ requests: 0, blocks: 0 });
    await expect.poll(() => proxy.underWay).toBe(0);
    return remote.usage;
  }

  it("computes a prompt while others decode, and is asked for nothing twice", async () => {
    const engine = await load();
    const beside = engine.generate("The tide was low and", { maxTokens: 200 });
    const during = await engine.generate(prompt("Marlow"), { maxTokens: 12 }).result();
    await beside.result();
    const alone = await engine.generate(prompt("Marlow"), { maxTokens: 12, cache: "off" }).result();
    expect(during.tokens).toEqual(alone.tokens);
    const { promptTokens, computedTokens, prefilledTokens } = during.usage;
    expect(prefilledTokens).toBe(32 * Math.floor((promptTokens - 1) / 32));
    expect(computedTokens).toBe(promptTokens - prefilledTokens!);
    await engine.generate(prompt("Marlow"), { maxTokens: 1 }).result();
    await engine.generate(prompt("Torel"), { maxTokens: 1, prefill: false }).result();
    expect([proxy.asked, engine.notices]).toEqual([1, []]);
  });

  function expectNoticed(usage: { prefilledTokens?: number; promptTokens: number }, why: RegExp): void {
    const { prefilledTokens = 0, promptTokens } = usage;
    expect(prefilledTokens).toBeLessThan(promptTokens - 32);
    expect(engine?.notices.map(({ code }) => code)).toEqual(["prefill_service"]);
    expect(engine?.notices[0]?.message).toMatch(why);
  }

  it("costs time at most when a bit flips on the way", async () => {
    const engine = await load();
    proxy.injury = flips;
    const usage = await both(engine, "Flipped");
    expect(usage.prefilledTokens).toBeGreaterThan(0);
    expectNoticed(usage, /a record fails its check \(payload\)/);
  });

  const injuries: [string, Injury, RegExp][] = [
    ["is cut short", cuts, /the connection failed|was cut short/],
    ["falls silent", stalls, /slower than computing here, or silent/],
    ["names a hostile length", boasts, /record 0 has 4294967280 bytes, expected at most/],
  ];
  for (const [name, injury, why] of injuries)
    fullTest(`costs time at most when an answer ${name}`, async () => {
      const engine = await load();
      proxy.injury = injury;
      expectNoticed(await both(engine, name), why);
    });

  fullTest("is told from one with another key", async () => {
    const engine = await load({}, DENSE, "another");
    expectNoticed(await both(engine, "Keyless"), /HTTP 401/);
  });

  fullTest("is told from one of other number types", async () => {
    const engine = await load({ kvDtype: "f32" });
    expectNoticed(await both(engine, "Wide"), /its kvDtype is f16, expected f32/);
  });

  fullTest("is replaced by one of another model between two prompts", async () => {
    const other = await ServiceProcess.start(HYBRID);
    try {
      const engine = await load();
      await both(engine, "First");
      proxy.target = () => other.port;
      expectNoticed(await both(engine, "Second"), /HTTP 409: this service's model or settings are others/);
    } finally {
      await other.kill();
    }
  });

  fullTest("is replaced by one of another model in the middle of an answer", async () => {
    const other = await ServiceProcess.start(HYBRID);
    try {
      const engine = await load();
      const record = await otherRecord(other.port);
      let sent = false;
      proxy.injury = (bytes, at) => {
        if (at < GOOD_BYTES) return bytes;
        if (sent) return undefined;
        sent = true;
        return record; // somewhere in a record, as when a connection is taken over
      };
      const usage = await both(engine, "Swapped");
      expectNoticed(usage, /fails its check|has \d+ bytes, expected|was cut short|failed|silent/);
    } finally {
      await other.kill();
    }
  });

  /** A frame with a record of another model. */
  async function otherRecord(port: number): Promise<Buffer> {
    const url = `http://127.0.0.1:${port}/v1/prefill`;
    const headers = { Authorization: `Bearer ${KEY}` };
    const { fingerprint } = (await (await fetch(url, { headers })).json()) as { fingerprint: string };
    const tokens = Array.from({ length: 65 }, (_, i) => i);
    const body = JSON.stringify({ fingerprint, tokens, from: 0, cache: "memory" });
    return Buffer.from(await (await fetch(url, { method: "POST", headers, body })).arrayBuffer());
  }

  fullTest(
    "computes states of recurrent layers too, and an answer that is cut short is computed here",
    async () => {
      const hybrid = await ServiceProcess.start(HYBRID);
      try {
        const engine = await load({}, HYBRID);
        proxy.target = () => hybrid.port;
        const usage = await both(engine, "Hybrid");
        expect([usage.computedTokens, usage.prefilledTokens]).toEqual([1, usage.promptTokens - 1]);
        proxy.injury = cuts;
        expectNoticed(await both(engine, "Cut"), /the connection failed|was cut short/);
      } finally {
        await hybrid.kill();
      }
    },
  );

  fullTest("ends in order when it is told to", async () => {
    const own = await ServiceProcess.start(DENSE);
    expect(await own.kill("SIGTERM")).toBe(0);
  });

  it("may be an engine on another device of this machine", async () => {
    const { Engine } = (await import(
      pathToFileURL("dist/lib/index.js").href
    )) as typeof import("../../src/index.ts");
    const workhorse = await Engine.load(DENSE);
    try {
      const engine = await load({
        prefill: undefined,
        powerPreference: "low-power",
        prefillBy: { engine: workhorse, when: "always" },
      });
      const usage = await both(engine, "Workhorse");
      expect(usage.prefilledTokens).toBe(32 * Math.floor((usage.promptTokens - 1) / 32));
      expect(await workhorse.debug.check()).toEqual({ requests: 0, blocks: 0 });
      await workhorse.close();
      expectNoticed(await both(engine, "Alone"), /the engine is closed/);
    } finally {
      await workhorse.close();
    }
  });

  // The last one: the service is gone after it.
  it("costs time at most when it is killed in the middle of an answer", async () => {
    const engine = await load();
    let killed: Promise<unknown> | undefined;
    proxy.injury = (bytes) => {
      killed ??= service.kill();
      return bytes;
    };
    const usage = await both(engine, "Killed");
    await killed;
    expectNoticed(usage, /the connection failed/);
    const later = await engine.generate(prompt("Later"), { maxTokens: 2 }).result();
    expect(later.usage.prefilledTokens).toBeUndefined();
  });
});
