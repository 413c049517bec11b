/** `tidepool serve` in a process of its own, asked by OpenAI's own client over loopback: routes, keys, disconnects, and its end. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { IS_FULL } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";
import { tinyEncoder } from "../support/tiny-encoder.ts";

const LIMIT_MS = 240_000;
const MODEL = "tide-dense";
const KEY = "the-key-of-the-test";
const CASES = 7;
const present = existsSync(`demo/models/${MODEL}.gguf`);
if (!present) console.warn(`SKIPPED ${CASES} cases of the server: ${MODEL} is absent`);

const folder = mkdtempSync(join(tmpdir(), "tidepool-serve-"));
const user = (content = "What is the cargo of the Marlow?") => ({ role: "user" as const, content });

describe.skipIf(!present)("tidepool serve", { timeout: LIMIT_MS }, () => {
  let server: ChildProcess;
  let address = "";

  beforeAll(async () => {
    const encoder = join(folder, "minilm.gguf");
    writeFileSync(encoder, tinyEncoder());
    // So little memory that one model is loaded at a time.
    const flags = [
      "--port",
      "0",
      "--api-key",
      KEY,
      "--models-memory",
      "1MB",
      "--allow-origin",
      "http://page.example",
    ];
    const words = ["dist/lib/cli.js", "serve", MODEL, encoder, ...flags];
    const env = { ...process.env, TIDEPOOL_SUPERVISED: "supervised" };
    server = spawn(process.execPath, words, { env, stdio: ["ignore", "pipe", "inherit"] });
    let told = "";
    server.stdout!.setEncoding("utf8").on("data", (text: string) => (told += text));
    while (!told.includes("/v1\n")) {
      if (server.exitCode !== null) throw new Error(`the server has ended: ${told}`);
      await pause(20);
    }
    address = /at (http\S+)\/v1/.exec(told)![1]!;
  }, LIMIT_MS);

  afterAll(() => {
    server.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });

  const client = () => new OpenAI({ baseURL: `${address}/v1`, apiKey: KEY, maxRetries: 0 });
  const get = (path: string, headers: Record<string, string> = { Authorization: `Bearer ${KEY}` }) =>
    fetch(address + path, { headers });

  /** Sums of a metric over its labels. */
  async function metric(name: string, label = ""): Promise<number> {
    const lines = (await (await get("/metrics")).text()).split("\n");
    const own = lines.filter((line) => line.startsWith(`tidepool_${name}`) && line.includes(label));
    return own.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }

  /** Waits until no request is left anywhere. */
  async function expectNothingLeft(): Promise<void> {
    let left = NaN;
    for (let i = 0; i < 200 && left !== 0; i++) {
      await pause(50);
      left = (await metric("open_requests")) + (await metric("requests{"));
    }
    expect(left).toBe(0);
  }

  it("answers chats, whole and streamed, with what was cached", async () => {
    const system = { role: "system" as const, content: "You answer questions about the harbour. ".repeat(8) };
    const asked = { model: MODEL, messages: [system, user()], temperature: 0, max_tokens: 12 };
    const whole = await client().chat.completions.create(asked);
    let streamed = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    const options = { stream: true as const, stream_options: { include_usage: true } };
    for await (const chunk of await client().chat.completions.create({ ...asked, ...options })) {
      streamed += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(streamed).toBe(whole.choices[0]!.message.content);
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(64);
    expect(await metric("completion_tokens_total")).toBe(2 * usage!.completion_tokens);
  });

  it("loads a model when it is asked for, and ends another whose memory it needs", async () => {
    expect((await client().models.list()).data.map(({ id }) => id)).toEqual([MODEL, "minilm"]);
    const loaded = async () => {
      const { loaded } = (await (await get("/health", {})).json()) as { loaded: { name: string }[] };
      return loaded.map(({ name }) => name);
    };
    expect(await loaded()).toEqual([MODEL]);
    const { data } = await client().embeddings.create({ model: "minilm", input: ["A boat", "A ship"] });
    expect(data.map(({ embedding }) => embedding.length)).toEqual([32, 32]);
    expect(await loaded()).toEqual(["minilm"]);
    await client().completions.create({ model: MODEL, prompt: "The tide", max_tokens: 1 });
    expect(await loaded()).toEqual([MODEL]);
  });

  it("refuses wrong keys, pages of other origins, and models and fields that it does not have", async () => {
    const wrong = new OpenAI({ baseURL: `${address}/v1`, apiKey: "wrong", maxRetries: 0 });
    await expect(wrong.models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    expect((await get("/metrics", {})).status).toBe(401);
    expect((await get("/health", {})).status).toBe(200);
    expect((await get("/health", { Origin: "http://evil.example" })).status).toBe(403);
    const page = await get("/v1/models", { Origin: "http://page.example", Authorization: `Bearer ${KEY}` });
    expect([page.status, page.headers.get("access-control-allow-origin")]).toEqual([
      200,
      "http://page.example",
    ]);
    const ask = (more: object) =>
      client()
        .chat.completions.create({ model: MODEL, messages: [user()], ...more })
        .catch((error: unknown) => error);
    expect(await ask({ model: "gpt" })).toMatchObject({ status: 404, code: "model_not_found" });
    expect(await ask({ top_z: 1 })).toMatchObject({ status: 400, param: "top_z" });
  });

  it("rejects early what would be late, and says when to come back", async () => {
    const body = JSON.stringify({ model: MODEL, messages: [user()], tidepool: { ttftMs: 0.001 } });
    const headers = { Authorization: `Bearer ${KEY}` };
    const response = await fetch(`${address}/v1/chat/completions`, { method: "POST", headers, body });
    expect(response.status).toBe(429);
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  });

  const CLIENTS = IS_FULL ? 200 : 20;

  it(`is left by ${CLIENTS} clients at once, some before they have their answers, and keeps nothing`, async () => {
    const random = new Random(testSeed("disconnects"));
    const ask = async (i: number): Promise<string> => {
      const stop = new AbortController();
      const [leaves, afterMs, stream] = [random.below(2) === 0, random.below(300), random.below(2) === 0];
      if (leaves) setTimeout(() => stop.abort(), afterMs);
      const asked = {
        model: MODEL,
        messages: [user(`Where is ship ${i}?`)],
        max_tokens: 8 + random.below(24),
      };
      try {
        const answer = await client().chat.completions.create({ ...asked, stream }, { signal: stop.signal });
        if ("choices" in answer) return answer.choices[0]!.finish_reason;
        let reason = "";
        for await (const { choices } of answer) reason = choices[0]?.finish_reason ?? reason;
        return stop.signal.aborted ? "left" : reason;
      } catch (error) {
        if (stop.signal.aborted) return "left";
        throw error;
      }
    };
    const ends = await Promise.all(Array.from({ length: CLIENTS }, (_, i) => ask(i)));
    expect(ends.filter((end) => !["left", "stop", "length"].includes(end))).toEqual([]);
    expect(ends.filter((end) => end !== "left").length).toBeGreaterThan(0);
    await expectNothingLeft();
  });

  it("is not held up by a reader that takes nothing", async () => {
    const body = JSON.stringify({ model: MODEL, prompt: "The tide", max_tokens: 100, stream: true });
    const socket = connect(Number(new URL(address).port), "127.0.0.1");
    const head = `POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\nContent-Length: ${body.length}\r\n\r\n`;
    socket.pause();
    socket.write(head + body);
    await pause(100);
    const { usage } = await client().completions.create({ model: MODEL, prompt: "The boat", max_tokens: 4 });
    expect(usage?.completion_tokens).toBeGreaterThan(0);
    socket.destroy();
    await expectNothingLeft();
  });

  // The last one: the server is gone after it.
  it("lets answers end when it is told to", async () => {
    const asked = { model: MODEL, prompt: "The tide was low and", max_tokens: 60, temperature: 0 };
    const stream = await client().completions.create({ ...asked, stream: true });
    const exited = once(server, "close") as Promise<[number | null]>;
    let reason: string | null = null;
    for await (const { choices } of stream) {
      if (reason === null && !server.killed) server.kill("SIGTERM");
      reason = choices[0]?.finish_reason ?? reason;
    }
    expect(["stop", "length"]).toContain(reason);
    expect((await exited)[0]).toBe(0);
    await expect(get("/health", {})).rejects.toThrow();
  });
});

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
