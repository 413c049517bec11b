/** Tokenizers from GGUF metadata and from tokenizer.json: special tokens, streaming, roles, and what is refused. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { checkTokenizer, createTokenizer } from "../../src/text/tokenizer.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { testSeed } from "../support/seed.ts";
import { BYTE_CHARS, byteLevelVocab, metaspaceVocab } from "../support/tiny-vocab.ts";

const gguf = (metadata: Map<string, unknown>): Tokenizer => createTokenizer({ format: "gguf", metadata });
const changed = (metadata: Map<string, unknown>, changes: Record<string, unknown>): Map<string, unknown> => {
  const copy = new Map(metadata);
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) copy.delete(`tokenizer.ggml.${key}`);
    else copy.set(`tokenizer.ggml.${key}`, value);
  }
  return copy;
};

const BYTE_LEVEL = byteLevelVocab("llama-bpe", {
  words: ["he", "ll", "hell", "hello", "Ġw"],
  added: ["<think>"],
});
const METASPACE = metaspaceVocab({
  words: ["he", "ll", "hell", "hello", "▁w", "▁hello"],
  added: ["<think>"],
});

/** A tokenizer.json with the byte-level vocabulary, in the shape of Llama 3's. */
function byteLevelJson(): Record<string, unknown> {
  const tokens = BYTE_LEVEL.get("tokenizer.ggml.tokens") as string[];
  const added = (content: string, special: boolean) => ({ id: tokens.indexOf(content), content, special });
  return {
    added_tokens: [
      ...["<s>", "</s>", "<|im_start|>", "<|im_end|>"].map((token) => added(token, true)),
      added("<think>", false),
    ],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: {
      type: "Sequence",
      processors: [
        { type: "ByteLevel" },
        { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }] },
      ],
    },
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.slice(5).map((token, i) => [token, i + 5])),
      merges: BYTE_LEVEL.get("tokenizer.ggml.merges"),
    },
  };
}

/** A tokenizer.json in the shape of Llama 2's. */
function metaspaceJson(): Record<string, unknown> {
  const tokens = METASPACE.get("tokenizer.ggml.tokens") as string[];
  return {
    added_tokens: [0, 1, 2, 3].map((id) => ({ id, content: tokens[id], special: true })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: ["h e", "l l", "he ll", "hell o", "▁ w", "▁ hello"],
      byte_fallback: true,
      unk_token: "<s>",
    },
  };
}

const KINDS: [name: string, tokenizer: Tokenizer][] = [
  ["byte-level, GGUF", gguf(BYTE_LEVEL)],
  ["byte-level, tokenizer.json", createTokenizer({ format: "safetensors", tokenizerJson: byteLevelJson() })],
  ["metaspace, GGUF", gguf(METASPACE)],
  ["metaspace, tokenizer.json", createTokenizer({ format: "safetensors", tokenizerJson: metaspaceJson() })],
];

const ALPHABET = ["he", "hello", "ll", " ", "  ", "w", "\n", "ä", "漢", "🌊", "é", "'s", "1", "234", "."];

function randomText(random: Random): string {
  return Array.from({ length: 1 + random.below(12) }, () => random.pick(ALPHABET)).join("");
}

describe.each(KINDS)("%s", (_name, tokenizer) => {
  test("nothing is nothing", () => {
    expect(tokenizer.encode("")).toEqual([]);
    expect(tokenizer.encode("", { special: true, continues: true })).toEqual([]);
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.stream().end()).toBe("");
  });

  test("decoding gives the text back, by push as at once, and never half a character", () => {
    const random = new Random(testSeed("round trips"));
    for (let i = 0; i < 300; i++) {
      const text = randomText(random);
      for (const continues of [false, true]) {
        const ids = tokenizer.encode(text, { continues });
        expect(tokenizer.decode(ids, { continues })).toBe(text);
        const stream = tokenizer.stream({ continues });
        const pushed = ids.map((id) => stream.push(id));
        expect(pushed.every((piece) => !piece.includes("\ufffd"))).toBe(true);
        expect(pushed.join("")).toBe(text);
        expect(stream.end()).toBe("");
      }
    }
  });

  test("any ids at all: the pushes and the end together are the decoding of all", () => {
    const random = new Random(testSeed("random ids"));
    for (let i = 0; i < 300; i++) {
      const ids = Array.from({ length: random.below(20) }, () => random.below(tokenizer.vocabSize));
      const options = { special: random.below(2) === 0, continues: random.below(2) === 0 };
      const stream = tokenizer.stream(options);
      const text = ids.map((id) => stream.push(id)).join("") + stream.end();
      expect(text).toBe(tokenizer.decode(ids, options));
    }
  });

  test("special tokens are plain text in text and ids in a template", () => {
    const text = "he<|im_end|>w";
    const end = tokenizer.tokenToId("<|im_end|>") as number;
    const plain = tokenizer.encode(text);
    expect(plain).not.toContain(end);
    expect(tokenizer.decode(plain)).toBe(text);
    const special = tokenizer.encode(text, { special: true });
    expect(special.filter((id) => id === end)).toEqual([end]);
    expect(tokenizer.decode(special, { special: true })).toContain("<|im_end|>");
    expect(tokenizer.decode(special)).not.toContain("<|im_end|>");
    expect(tokenizer.isControl(end)).toBe(true);
    expect(tokenizer.controlTokens).toEqual(["<s>", "</s>", "<|im_start|>", "<|im_end|>"]);
  });

  test("ids: names, roles, padding and nonsense", () => {
    expect(tokenizer.idToToken(2)).toBe("<|im_start|>");
    expect(tokenizer.tokenToId("hello")).toBe(tokenizer.encode("hello", { continues: true })[0]);
    expect(tokenizer.tokenToId("no such token")).toBeUndefined();
    // <|im_end|> ends a turn although only </s> is declared (GGUF) or nothing is (tokenizer.json).
    expect(tokenizer.eosIds).toEqual([1, 3]);
    expect(tokenizer.decode([tokenizer.vocabSize + 5])).toBe("");
    for (const id of [-1, 0.5, NaN]) expect(() => tokenizer.decode([id])).toThrow(/is not a token id/);
  });
});

test("user-defined tokens are taken whole in any text", () => {
  for (const metadata of [BYTE_LEVEL, METASPACE]) {
    const tokenizer = gguf(metadata);
    const id = tokenizer.tokenToId("<think>") as number;
    expect(tokenizer.encode("he<think>he")).toContain(id);
    expect(tokenizer.decode([id])).toBe("<think>");
    expect(tokenizer.isControl(id)).toBe(false);
  }
});

test("a text that continues another gets no word-start space, up to its first special token", () => {
  const tokenizer = gguf(METASPACE);
  const id = (token: string): number => tokenizer.tokenToId(token) as number;
  const [hello, startHello, end] = [id("hello"), id("▁hello"), id("<|im_end|>")];
  expect(tokenizer.encode("hello")).toEqual([startHello]);
  expect(tokenizer.encode("hello", { continues: true })).toEqual([hello]);
  const options = { special: true, continues: true };
  expect(tokenizer.encode("hello<|im_end|>hello", options)).toEqual([hello, end, startHello]);
  expect(tokenizer.decode([startHello], { continues: true })).toBe(" hello");
  const raw = gguf(changed(METASPACE, { add_space_prefix: false }));
  expect(raw.encode("hello")).toEqual([hello]);
  expect(raw.decode([startHello])).toBe(" hello");
});

test("characters outside a SentencePiece vocabulary become bytes, and the bytes characters", () => {
  const tokenizer = gguf(METASPACE);
  const ids = tokenizer.encode("漢", { continues: true });
  expect(ids.map((id) => tokenizer.idToToken(id))).toEqual(["<0xE6>", "<0xBC>", "<0xA2>"]);
  const stream = tokenizer.stream();
  expect(ids.map((id) => stream.push(id))).toEqual(["", "", "漢"]);
  stream.push(ids[0] as number);
  expect(stream.end()).toBe("\ufffd");
});

describe("roles", () => {
  test("BOS is wanted where the file, the split or SentencePiece says so", () => {
    expect(gguf(BYTE_LEVEL).addBos).toBe(true);
    expect(gguf(byteLevelVocab("qwen2")).addBos).toBe(false);
    expect(gguf(METASPACE).addBos).toBe(true);
    expect(gguf(changed(METASPACE, { add_bos_token: false })).addBos).toBe(false);
    expect(gguf(changed(byteLevelVocab("qwen2"), { add_bos_token: true })).addBos).toBe(true);
    const none = changed(byteLevelVocab("qwen2"), { add_bos_token: true, bos_token_id: undefined });
    expect(gguf(none)).toMatchObject({ addBos: false, bosId: undefined });
  });

  test("tokenizer.json: by post-processor, config and generation config", () => {
    const tokenizerJson = byteLevelJson();
    const make = (parts: object): Tokenizer =>
      createTokenizer({ format: "safetensors", tokenizerJson, ...parts });
    expect(make({})).toMatchObject({ bosId: 0, addBos: true, eosId: undefined });
    const tokenizerConfig = { add_bos_token: false, bos_token: { content: "<s>" }, eos_token: "</s>" };
    expect(make({ tokenizerConfig })).toMatchObject({ bosId: 0, addBos: false, eosId: 1, eosIds: [1, 3] });
    expect(make({ generationConfig: { eos_token_id: [7, 8] } })).toMatchObject({
      eosId: 7,
      eosIds: [1, 3, 7, 8],
    });
    expect(make({ config: { eos_token_id: 9 } }).eosIds).toEqual([1, 3, 9]);
  });

  test("added tokens that are null are none", () => {
    const tokenizerJson = { ...byteLevelJson(), added_tokens: null };
    const tokenizer = createTokenizer({ format: "safetensors", tokenizerJson });
    expect(tokenizer.decode(tokenizer.encode("hello"))).toBe("hello");
  });

  test("every declared end, and the end of gpt-oss's messages which is none", () => {
    const control = ["<s>", "</s>", "<|end|>", "<|return|>", "<|call|>", "<|eot_id|>"];
    const ids = { eot_token_id: 5, eom_token_id: 10 };
    expect(gguf(changed(byteLevelVocab("gpt-4o", { control }), ids)).eosIds).toEqual([1, 3, 4, 5, 10]);
    const phi = byteLevelVocab("gpt-2", { control: ["<s>", "</s>", "<|end|>"] });
    expect(gguf(phi).eosIds).toEqual([1, 2]);
  });
});

describe("what converters get wrong does not take the text away", () => {
  const IM_END = "<|im_end|>";

  test.each([
    ["user-defined, byte-level", byteLevelVocab("gpt-2", { control: ["<s>", "</s>"], added: [IM_END] })],
    ["user-defined, metaspace", metaspaceVocab({ control: ["<s>", "</s>"], added: [IM_END] })],
    [
      "normal and made by merges",
      changed(
        byteLevelVocab("default", {
          control: ["<s>", "</s>"],
          words: ["<|", "im", "_e", "nd", "_end", "|>", "im_end", "<|im_end", IM_END],
        }),
        {},
      ),
    ],
    [
      "of no kind at all",
      changed(metaspaceVocab({ control: ["<s>", "</s>", IM_END] }), { token_type: undefined }),
    ],
  ])("an end token that is %s ends an answer, and is plain text if a user types it", (_name, metadata) => {
    const tokenizer = gguf(metadata);
    const end = tokenizer.tokenToId(IM_END) as number;
    expect(tokenizer.eosIds).toContain(end);
    expect(tokenizer.encode(`a ${IM_END} b`)).not.toContain(end);
    expect(tokenizer.encode(`a${IM_END}`, { special: true })).toContain(end);
    expect(tokenizer.decode([end])).toBe("");
  });

  test("so it is in tokenizer.json, among the added tokens or in the vocabulary", () => {
    const base = byteLevelJson();
    const model = base["model"] as { vocab: Record<string, number> };
    const id = 1000;
    const added = { id, content: IM_END, special: false, normalized: false };
    const inVocab = { ...model, vocab: { ...model.vocab, [IM_END]: id } };
    for (const tokenizerJson of [
      { ...base, added_tokens: [...(base["added_tokens"] as object[]), added] },
      { ...base, model: inVocab },
    ]) {
      const tokenizer = createTokenizer({ format: "safetensors", tokenizerJson });
      expect(tokenizer.eosIds).toContain(id);
      expect(tokenizer.encode(`a${IM_END}`)).not.toContain(id);
      expect(tokenizer.encode(`a${IM_END}`, { special: true }).at(-1)).toBe(id);
    }
  });

  test("a word that is declared by mistake, and HTML that looks like an end, stay text", () => {
    const tokenizer = gguf(
      changed(byteLevelVocab("gpt-2", { control: [], words: ["</", "s>", "</s>"] }), {
        bos_token_id: 0,
        eos_token_id: 0,
      }),
    );
    expect(tokenizer.decode(tokenizer.encode("! </s>"))).toBe("! </s>");
    expect(tokenizer.eosIds).toEqual([0]);
  });

  test.each(["bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id"])(
    "%s outside the vocabulary is ignored",
    (key) => {
      for (const metadata of [BYTE_LEVEL, METASPACE]) {
        const tokenizer = gguf(changed(metadata, { [key]: 32_000 }));
        expect(tokenizer.decode(tokenizer.encode("hello"))).toBe("hello");
        expect(tokenizer.eosIds.every((id) => id < tokenizer.vocabSize)).toBe(true);
        const warning = `tokenizer.ggml.${key} is 32000, expected a token id below ${tokenizer.vocabSize}: it is ignored`;
        if (key !== "unknown_token_id") expect(tokenizer.table.warnings).toEqual([warning]);
      }
    },
  );

  test("ids of generation_config.json outside the vocabulary are ignored", () => {
    const tokenizer = createTokenizer({
      ...{ format: "safetensors", tokenizerJson: byteLevelJson() },
      generationConfig: { eos_token_id: [99_999], bos_token_id: 99_998 },
    });
    expect(tokenizer.eosIds).not.toContain(99_999);
    expect(tokenizer.bosId).not.toBe(99_998);
    expect(tokenizer.table.warnings).toContainEqual(expect.stringContaining("eos_token_id is 99999"));
  });

  test("missing scores are zeros", () => {
    const tokenizer = gguf(changed(METASPACE, { scores: undefined }));
    expect(tokenizer.decode(tokenizer.encode("hello world"))).toBe("hello world");
    const scored = gguf(changed(METASPACE, { scores: new Float32Array(tokenizer.vocabSize) }));
    expect(tokenizer.encode("hello world")).toEqual(scored.encode("hello world"));
  });
});

describe("splits", () => {
  const pieces = (pre: string, text: string): string[] => {
    const words = ["12", "123", "Ġa", "ab"];
    const tokenizer = gguf(byteLevelVocab(pre, { words }));
    return tokenizer.encode(text).map((id) => tokenizer.decode([id], { special: true }));
  };

  test.each([
    ["llama-bpe", ["123", "4"]],
    ["llama3", ["123", "4"]],
    ["lfm2", ["123", "4"]],
    ["dbrx", ["123", "4"]],
    ["gpt-4o", ["123", "4"]],
    ["gpt-2", ["123", "4"]],
    ["default", ["123", "4"]],
    ["falcon", ["123", "4"]],
    ["qwen2", ["1", "2", "3", "4"]],
    ["qwen35", ["1", "2", "3", "4"]],
    ["smollm", ["1", "2", "3", "4"]],
    ["starcoder", ["1", "2", "3", "4"]],
  ])("%s groups digits", (pre, expected) => {
    expect(pieces(pre, "1234")).toEqual(expected);
    expect(pieces(pre, "ab a")).toEqual(["ab", " a"]);
  });

  test("falcon cuts digits into threes before it merges", () => {
    expect(pieces("falcon", "12341234")).toEqual(["123", "4", "12", "3", "4"]);
    expect(pieces("gpt-2", "12341234")).toEqual(["123", "4", "123", "4"]);
  });

  test("a file without the key gets the default split", () => {
    const tokenizer = gguf(changed(byteLevelVocab("x"), { pre: undefined }));
    expect(tokenizer.decode(tokenizer.encode("any text, 123"))).toBe("any text, 123");
  });

  test("qwen composes characters first", () => {
    const tokenizer = gguf(byteLevelVocab("qwen2"));
    expect(tokenizer.encode("e\u0301")).toEqual(tokenizer.encode("é"));
  });
});

describe("what is known without building a tokenizer", () => {
  const check = (metadata: Map<string, unknown>) => () => checkTokenizer({ format: "gguf", metadata });

  test("is its kind and that its lists are there; the lists are not gone through", () => {
    expect(check(BYTE_LEVEL)).not.toThrow();
    expect(check(METASPACE)).not.toThrow();
    const twice = changed(BYTE_LEVEL, { tokens: ["a", "a"] });
    expect(check(twice)).not.toThrow();
    expect(() => gguf(twice)).toThrow();
    expect(check(new Map())).toThrow(/tokenizer.ggml.model is missing/);
    expect(check(changed(BYTE_LEVEL, { pre: "poro-chat" }))).toThrow(/"poro-chat" is not supported/);
    expect(check(changed(BYTE_LEVEL, { merges: undefined }))).toThrow(/merges is missing/);
    const json = byteLevelJson();
    expect(() => checkTokenizer({ format: "safetensors", tokenizerJson: json })).not.toThrow();
    const other = { ...json, decoder: { type: "CTC" } };
    expect(() => checkTokenizer({ format: "safetensors", tokenizerJson: other })).toThrow(/decoder/);
  });
});

describe("refuses, naming the key", () => {
  const REFUSED: [string, Map<string, unknown>, RegExp][] = [
    ["no tokenizer", new Map(), /tokenizer.ggml.model is missing/],
    ["another model", changed(BYTE_LEVEL, { model: "rwkv" }), /tokenizer.ggml.model "rwkv" is not supported/],
    [
      "another split",
      changed(BYTE_LEVEL, { pre: "poro-chat" }),
      /tokenizer.ggml.pre "poro-chat" is not supported/,
    ],
    ["no tokens", changed(BYTE_LEVEL, { tokens: undefined }), /tokenizer.ggml.tokens is missing/],
    [
      "tokens that are numbers",
      changed(BYTE_LEVEL, { tokens: new Int32Array(3) }),
      /tokens is not an array of str/,
    ],
    ["a repeated token", changed(BYTE_LEVEL, { tokens: ["a", "a"] }), /tokens has "a" twice, at 0 and 1/],
    ["no merges", changed(BYTE_LEVEL, { merges: undefined }), /tokenizer.ggml.merges is missing/],
    ["a merge of one", changed(BYTE_LEVEL, { merges: ["ab"] }), /merges, item 0 is no pair: "ab"/],
    ["few types", changed(BYTE_LEVEL, { token_type: new Int32Array(3) }), /token_type has 3 items for/],
    ["few scores", changed(METASPACE, { scores: new Float32Array(3) }), /scores has 3 items for/],
    ["a flag of text", changed(BYTE_LEVEL, { add_bos_token: "yes" }), /add_bos_token is not a boolean/],
  ];

  test.each(REFUSED)("%s", (_name, metadata, message) => {
    expect(() => gguf(metadata)).toThrow(message);
  });

  const json = byteLevelJson();
  const REFUSED_JSON: [string, Record<string, unknown> | undefined, RegExp][] = [
    ["no file", undefined, /tokenizer.json was not found/],
    ["no model", { ...json, model: 1 }, /model is not an object/],
    ["no vocabulary", { ...json, model: { type: "BPE" } }, /model.vocab is neither/],
    [
      "an absurd id",
      { ...json, model: { type: "BPE", vocab: { a: 1e9 }, merges: [] } },
      /token "a" has the id 10000/,
    ],
    [
      "an id far beyond its tokens",
      { ...json, added_tokens: [], model: { type: "BPE", vocab: { a: 70_000 }, merges: [] } },
      /token "a" has the id 70000, expected 0 to 65536/,
    ],
    [
      "a token that is null",
      { ...json, model: { type: "Unigram", vocab: [null] } },
      /vocab, item 0 is not a/,
    ],
    ["no merges", { ...json, model: { type: "BPE", vocab: { a: 1 } } }, /the tokenizer is malformed/],
    ["added tokens of text", { ...json, added_tokens: ["a"] }, /added_tokens is not a list of tokens/],
    ["another decoder", { ...json, decoder: { type: "CTC" } }, /decoder \(CTC\) is not supported/],
    [
      "a token of 2,000 characters",
      { ...json, added_tokens: [{ id: 0, content: "x".repeat(2000), special: true }] },
      /added token "x{20}"... has 2000 characters, at most 1024/,
    ],
    ["no decoder", { ...json, decoder: null }, /decoder \(none\) is not supported/],
  ];

  test.each(REFUSED_JSON)("tokenizer.json with %s", (_name, tokenizerJson, message) => {
    expect(() => createTokenizer({ format: "safetensors", tokenizerJson })).toThrow(message);
  });
});

test("a token may be called __proto__ or constructor", () => {
  const metadata = byteLevelVocab("gpt-2", { added: ["__proto__", "constructor"] });
  const tokenizer = gguf(metadata);
  expect(tokenizer.encode("__proto__constructor")).toEqual([4, 5]);
  expect(tokenizer.vocabSize).toBe(6 + BYTE_CHARS.length);
});

test("Phi-3: special tokens take the white space behind them, by the model's name alone", () => {
  const named = (name: string) => gguf(new Map([...METASPACE, ["general.name", name]]));
  const ids = (name: string, text: string) => named(name).encode(text, { special: true });
  for (const name of ["Phi-3 Mini 4k Instruct", "phi3"]) {
    expect(ids(name, "<|im_start|>\n hello")).toEqual(ids(name, "<|im_start|>hello"));
    expect(ids(name, "<s>\n hello")).not.toEqual(ids(name, "<s>hello"));
  }
  expect(ids("Llama", "<|im_start|>\n hello")).not.toEqual(ids("Llama", "<|im_start|>hello"));
});
