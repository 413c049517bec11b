/** OpenAI's own client, unmodified, on the shipped model in the same program (`engine.fetch`): in Node and in Deno. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { command, findDeno } from "../support/machine.ts";
import { tinyEncoder } from "../support/tiny-encoder.ts";

const LIMIT_MS = 120_000;
const MODEL = "demo/models/tide-dense.gguf";
const present = existsSync(MODEL);
if (!present) console.warn(`SKIPPED 2 cases of OpenAI's client: ${MODEL} is absent`);

const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), "tidepool-openai-"));
const encoder = join(folder, "minilm.gguf");

beforeAll(() => writeFileSync(encoder, tinyEncoder()));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!present)("OpenAI's client on an engine", { timeout: LIMIT_MS }, () => {
  it.each(["node", "deno"] as const)("in %s", async (program) => {
    const [file, args] = command(program, await findDeno(), "test/runtime/openai-child.mjs");
    const { stdout } = await run(file, [...args, MODEL, encoder], { timeout: LIMIT_MS });
    const { text, ...told } = JSON.parse(stdout.trim().split("\n").at(-1)!) as { text: string };
    expect(text.length).toBeGreaterThan(5);
    expect(told).toMatchObject({
      ...{ model: "Tide Dense", answer: text, streamed: text, logprobs: text, pair: [0, 1] },
      ...{ error: ["BadRequestError", 400, "context_length_exceeded"], aborted: "APIUserAbortError" },
      usage: { prompt_tokens: 17, prompt_tokens_details: { cached_tokens: 0 } },
      left: { requests: 0, blocks: 0 },
      vectors: { same: true },
    });
  });
});
