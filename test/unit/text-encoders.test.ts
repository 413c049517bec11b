/** The tokenizers of encoders: WordPiece and Unigram, from GGUF metadata and from tokenizer.json, and what stands around a text. */
import { describe, expect, test } from "vitest";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { TextService } from "../../src/worker/text/service.ts";
import { WORDPIECE_TOKENS, wordPieceVocab } from "../support/tiny-encoder.ts";

const WORDPIECE = new Map<string, unknown>(Object.entries(wordPieceVocab()));

const changed = (metadata: ReadonlyMap<string, unknown>, changes: Record<string, unknown>) =>
  new Map([
    ...metadata,
    ...Object.entries(changes).map(([key, value]) => [`tokenizer.ggml.${key}`, value] as const),
  ]);

/** The same vocabulary as Hugging Face writes it. */
function wordPieceJson(): Record<string, unknown> {
  const spelt = WORDPIECE_TOKENS.map((token) => {
    if (/^\[.+\]$/.test(token)) return token;
    return token.startsWith("\u2581") ? token.slice(1) : `##${token}`;
  });
  const special = (name: string) => ({ SpecialToken: { id: name, type_id: 0 } });
  return {
    added_tokens: spelt.slice(0, 5).map((content, id) => ({ id, content, special: true })),
    normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: true },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "TemplateProcessing",
      single: [special("[CLS]"), { Sequence: { id: "A" } }, special("[SEP]")],
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      ...{ type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##" },
      vocab: Object.fromEntries(spelt.map((token, id) => [token, id])),
    },
  };
}

const WORDPIECES: [string, Tokenizer][] = [
  ["GGUF", createTokenizer({ format: "gguf", metadata: WORDPIECE })],
  ["tokenizer.json", createTokenizer({ format: "safetensors", tokenizerJson: wordPieceJson() })],
];

const words = (tokenizer: Tokenizer, text: string) =>
  tokenizer.encode(text).map((id) => WORDPIECE_TOKENS[id]);

describe.each(WORDPIECES)("WordPiece, %s", (_from, tokenizer) => {
  test("words are split into their longest known parts, the rest of a word by parts that go on", () => {
    expect(words(tokenizer, "The BOATS2, ing")).toEqual(["▁the", "▁boat", "s2", "▁,", "▁i", "n", "g"]);
    expect(words(tokenizer, "sea-boating")).toEqual(["▁sea", "[UNK]", "▁boat", "ing"]);
  });

  test("accents are stripped, and Chinese characters stand alone", () => {
    expect(words(tokenizer, "Säa 漢漢b")).toEqual(["▁s", "a", "a", "▁漢", "▁漢", "▁b"]);
  });

  test("the names of special tokens in a text are plain text", () => {
    expect(words(tokenizer, "a [SEP]")).toEqual(["▁a", "▁[", "▁s", "e", "p", "▁]"]);
  });

  test("a text stands between [CLS] and [SEP], and both are left out when it is decoded", () => {
    expect(tokenizer.around).toEqual({ before: [2], after: [3] });
    expect(tokenizer.decode([2, ...tokenizer.encode("the boating sea"), 3])).toBe("the boating sea");
  });
});

test("a GGUF file says whether case and accents are kept, and what stands around a text", () => {
  const metadata = changed(WORDPIECE, {
    ...{ "normalizer.lowercase": false, add_sep_token: false },
  });
  const tokenizer = createTokenizer({ format: "gguf", metadata });
  expect(words(tokenizer, "The äa")).toEqual(["[UNK]", "▁ä", "a"]);
  expect(tokenizer.around).toEqual({ before: [2], after: [] });
});

test("older post-processors of tokenizer.json name what stands around a text, too", () => {
  for (const type of ["BertProcessing", "RobertaProcessing"]) {
    const tokenizerJson = {
      ...wordPieceJson(),
      post_processor: { type, cls: ["[CLS]", 2], sep: ["[SEP]", 3] },
    };
    expect(createTokenizer({ format: "safetensors", tokenizerJson }).around).toEqual({
      before: [2],
      after: [3],
    });
  }
});

test("a whole text has what survives truncation counted", () => {
  const service = new TextService({ file: "m.gguf", format: "gguf", metadata: WORDPIECE });
  const whole = service.answer({ kind: "whole", text: "the sea" });
  expect(whole).toEqual({
    tokens: [2, ...(WORDPIECES[0]?.[1].encode("the sea") ?? []), 3],
    ...{ protectedTokens: 1, trailingTokens: 1 },
  });
});

const UNIGRAM: [string, number][] = [
  ...(["<s>", "<pad>", "</s>", "<unk>"].map((token) => [token, 0]) as [string, number][]),
  ...([
    ["▁", -2],
    ["▁the", -3],
    ["▁bo", -4],
    ["at", -3.5],
    ["▁b", -4.2],
    ["o", -5],
    ["a", -5],
  ] as [string, number][]),
  ...([
    ["t", -5],
    ["b", -5.5],
    ["▁sea", -3.3],
    ["s", -4.9],
    ["e", -4.8],
    ["h", -5.1],
  ] as [string, number][]),
  ...([
    ["he", -4],
    ["<", -7],
    [">", -7],
    ["漢", -8],
  ] as [string, number][]),
];

/** What the library in Rust (PyPI's tokenizers 0.23.3) makes of them with the same vocabulary. */
const UNIGRAM_CASES: [string, number[]][] = [
  ["the boat", [5, 6, 7]],
  ["boats  he", [6, 7, 14, 4, 17]],
  ["  sea the", [13, 5]],
  ["漢 Z the", [4, 20, 4, 3, 5]],
  ["toast", [4, 11, 9, 10, 14, 11]],
];

const unigram = (changes: Record<string, unknown> = {}) =>
  createTokenizer({
    format: "gguf",
    metadata: changed(new Map(), {
      ...{ model: "t5", tokens: UNIGRAM.map(([token]) => token) },
      scores: Float32Array.from(UNIGRAM, ([, score]) => score),
      token_type: Int32Array.from(UNIGRAM, (_, id) => (id === 3 ? 2 : id < 4 ? 3 : 1)),
      ...{ bos_token_id: 0, eos_token_id: 2, unknown_token_id: 3, add_eos_token: true, ...changes },
    }),
  });

test.each(UNIGRAM_CASES)("Unigram takes the likeliest of all splits: %s", (text, ids) => {
  expect(unigram().encode(text)).toEqual(ids);
});

test("Unigram finds no special token in a text", () => {
  expect(unigram().encode("<s>")).toEqual([4, 18, 14, 19]);
});

test("Unigram's text stands between <s> and </s>, as the file says", () => {
  expect(unigram().around).toEqual({ before: [0], after: [2] });
  expect(unigram({ add_bos_token: false, add_eos_token: false }).around).toEqual({ before: [], after: [] });
  expect(unigram().decode(unigram().encode("the boat"))).toBe("the boat");
});
