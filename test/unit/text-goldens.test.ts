/**
 * Every tokenizer case of llama.cpp's that is given, and the prompts of stories260K: ids equal, and decoding gives the
 * text back.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openModel } from "../../src/load/model-file.ts";
import { createTokenizer } from "../../src/text/tokenizer.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const VOCABULARIES = ["gpt-2", "phi-3", "qwen2"];
const CASES_EACH = 46;
const LOAD_TIMEOUT_MS = 60_000;

async function tokenizerOf(path: string): Promise<Tokenizer> {
  const model = await openModel(sharedPath(path));
  await model.close();
  return createTokenizer(model);
}

interface Case {
  text: string;
  ids: number[];
}

function casesOf(name: string): Case[] {
  const read = (suffix: string): string =>
    readFileSync(sharedPath(`goldens/tokenizers/${name}.gguf.${suffix}`), "utf8");
  const texts = read("inp").split("\n__ggml_vocab_test__\n").slice(0, -1);
  const lines = read("out").split("\n");
  return texts.map((text, i) => ({ text, ids: (lines[i] ?? "").split(" ").filter(Boolean).map(Number) }));
}

if (!sharedPresent) skipLoudly("tokenizer goldens", VOCABULARIES.length * CASES_EACH + 2);

describe.skipIf(!sharedPresent)("tokenizer goldens", () => {
  test.each(VOCABULARIES)("%s: every case of llama.cpp's", { timeout: LOAD_TIMEOUT_MS }, async (name) => {
    const tokenizer = await tokenizerOf(`goldens/tokenizers/${name}.gguf`);
    const cases = casesOf(name);
    expect(cases.length).toBe(CASES_EACH);
    for (const { text, ids } of cases) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      // phi-3 is SentencePiece, whose decoding takes the first space; qwen2 has composed the text (NFC).
      const back = name === "qwen2" ? text.normalize("NFC") : text;
      expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(back);
    }
  });

  test("stories260K: prompts to ids, generated ids to text", { timeout: LOAD_TIMEOUT_MS }, async () => {
    const tokenizer = await tokenizerOf("goldens/stories260K/model.gguf");
    const golden = JSON.parse(readFileSync(sharedPath("goldens/stories260K/golden.json"), "utf8")) as {
      prompt: string;
      promptTokens: number[];
      greedyTokens: number[];
      text: string;
    }[];
    expect(tokenizer.addBos).toBe(true);
    for (const { prompt, promptTokens, greedyTokens, text } of golden) {
      expect([tokenizer.bosId, ...tokenizer.encode(prompt)]).toEqual(promptTokens);
      const last = promptTokens.at(-1) as number;
      expect(tokenizer.decode(greedyTokens, { continues: !tokenizer.isControl(last) })).toBe(text);
    }
  });
});
