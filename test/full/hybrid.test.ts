/**
 * Models with recurrent layers through the disk tier: one process computes and stores, the next one starts from stored
 * blocks and states, and its logits are llama.cpp's.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { nmse, type Golden } from "../model/golden.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const VARIANTS = ["qwen35", "lfm2", "falconh1", "granitehybrid", "granitehybridrope", "mamba2"];

const LIMIT_MS = 240_000;
const GATE = 1e-9;
const BLOCK = 16;

const folder = mkdtempSync(join(tmpdir(), "tidepool-hybrid-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function tidepool(...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: LIMIT_MS, maxBuffer: 2 ** 26 };
    execFile(process.execPath, ["dist/lib/cli.js", ...args], options, (error, out, err) =>
      error ? reject(new Error(`${error.message}\n${err}`)) : resolve(out),
    );
  });
}

interface ScoreJson {
  usage: { promptTokens: number; computedTokens: number; cachedTokens: { disk: number } };
}

/** Scores from token `from` on in a process of its own: what it found on the disk, and the logits. */
async function scoreFrom(variant: string, from: number): Promise<{ disk: number; logits: Float32Array }> {
  const source = sharedPath(`goldens/models/${variant}`);
  const out = join(folder, `${variant}-${from}.f32`);
  const engine = ["--dtype", "f32", "--block-tokens", String(BLOCK), "--policy", "vllm", "--restore", "load"];
  const cache = ["--cache-dir", join(folder, variant)];
  const what = ["--tokens-file", `${source}/golden.json`, "--from", String(from), "--logits", out, "--json"];
  const text = await tidepool("score", `${source}/model.gguf`, ...what, ...engine, ...cache);
  const { usage } = JSON.parse(text) as ScoreJson;
  return { disk: usage.cachedTokens.disk, logits: new Float32Array(readFileSync(out).buffer) };
}

describe("a model with recurrent layers in a second process", { timeout: LIMIT_MS }, () => {
  if (!sharedPresent) skipLoudly("hybrid models through the disk tier", VARIANTS.length);
  it.skipIf(!sharedPresent).each(VARIANTS)("%s starts from stored states", async (variant) => {
    const source = sharedPath(`goldens/models/${variant}`);
    const golden = JSON.parse(readFileSync(`${source}/golden.json`, "utf8")) as Golden;
    const expected = new Float32Array(readFileSync(`${source}/logits.f32`).slice().buffer);
    const last = golden.tokens.length - 1;
    expect((await scoreFrom(variant, last)).disk).toBe(0);
    for (const from of [16, 32]) {
      const { disk, logits } = await scoreFrom(variant, from + 1);
      expect(disk).toBe(from);
      expect(nmse(logits, expected.subarray((from + 1) * golden.vocabSize))).toBeLessThan(GATE);
    }
  });
});
