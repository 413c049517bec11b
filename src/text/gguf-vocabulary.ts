/**
 * A vocabulary from GGUF metadata (`tokenizer.ggml.*`): byte-level BPE ("gpt2"), SentencePiece-like BPE ("llama"), WordPiece
 * ("bert") and Unigram ("t5"). Files of SentencePiece-like BPE hold scores and no merges; the merges are rebuilt from the scores.
 * It does not read the file (load/), nor encode (tokenizer.ts).
 */
import { TidepoolError } from "../errors.ts";
import { preTokenizerOf } from "./pre-tokenizer.ts";
import type { PreTokenizer } from "./pre-tokenizer.ts";
import { correctKinds, endIds, ignoredId, invalid } from "./vocabulary.ts";
import type { TokenKind, Vocabulary } from "./vocabulary.ts";

/** Longest token whose splits are tried when merges are rebuilt; vocabularies end at 48 characters or so. */
const MAX_MERGED_CHARS = 256;

type Metadata = ReadonlyMap<string, unknown>;

const KINDS: readonly TokenKind[] = ["normal", "normal", "control", "control", "added", "unused", "byte"];

/**
 * What the header says about a tokenizer without building one: its kind, and that its lists are there. A file that passes may
 * still be refused when it is built. Throws like `ggufVocabulary`.
 */
export function checkGgufVocabulary(metadata: Metadata): void {
  const model = tokenizerModel(metadata);
  const { length } = stringList(metadata, "tokenizer.ggml.tokens");
  if (model === "llama" || model === "t5") return void scoreList(metadata, length);
  if (model === "bert") return;
  if (model === "gemma4") return void stringList(metadata, "tokenizer.ggml.merges");
  preTokenizerOf(optional(metadata, "tokenizer.ggml.pre", "string"));
  stringList(metadata, "tokenizer.ggml.merges");
}

/** Throws `invalid_file` naming the key, `unsupported` for other tokenizer models. */
export function ggufVocabulary(metadata: Metadata): Vocabulary {
  const model = tokenizerModel(metadata);
  const tokens = tokenList(metadata);
  const kinds = kindList(metadata, tokens.length);
  return MODELS[model](metadata, tokens, kinds);
}

type MakeVocabulary = (metadata: Metadata, tokens: string[], kinds: TokenKind[]) => Vocabulary;

const MODELS = {
  gpt2: byteLevel,
  llama: sentencePiece,
  gemma4: sentencePiece,
  bert: wordPiece,
  t5: unigram,
} satisfies Record<string, MakeVocabulary>;

function tokenizerModel(metadata: Metadata): keyof typeof MODELS {
  const model = metadata.get("tokenizer.ggml.model");
  if (model === undefined) throw invalid("tokenizer.ggml.model is missing: the file has no tokenizer");
  if (typeof model === "string" && Object.hasOwn(MODELS, model)) return model as keyof typeof MODELS;
  throw new TidepoolError(
    "unsupported",
    `tokenizer.ggml.model "${String(model)}" is not supported, only ${Object.keys(MODELS).join(", ")}`,
  );
}

function byteLevel(metadata: Metadata, tokens: string[], kinds: TokenKind[]): Vocabulary {
  const pre = preTokenizerOf(optional(metadata, "tokenizer.ggml.pre", "string"));
  const rolesOf = roles(metadata, tokens, kinds, {}, pre.addBos === true);
  const control = new Set(rolesOf.corrected.map((id) => tokens[id]));
  const tokenizerJson = {
    added_tokens: addedTokens(tokens, kinds),
    normalizer: pre.nfc === true ? { type: "NFC" } : null,
    pre_tokenizer: splitter(pre),
    post_processor: null,
    decoder: null,
    model: {
      type: "BPE",
      vocab: recordOf(idsByToken(tokens)),
      merges: mergeList(metadata, control),
      ignore_merges: pre.ignoreMerges === true,
    },
  };
  return {
    tokens,
    kinds,
    spelling: "byte-level",
    prefixSpace: false,
    tokenizerJson,
    ...rolesOf.roles,
  };
}

function splitter(pre: PreTokenizer): Record<string, unknown> {
  const splits = pre.splits.map((regex) => ({
    type: "Split",
    pattern: { Regex: regex },
    behavior: "Isolated",
    invert: false,
  }));
  const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return { type: "Sequence", pretokenizers: [...splits, bytes] };
}

const LINES = { type: "Split", pattern: { Regex: "[^\\n]+|[\\n]+" }, behavior: "Isolated", invert: false };

function sentencePiece(metadata: Metadata, tokens: string[], kinds: TokenKind[]): Vocabulary {
  // Gemma 4 spells as SentencePiece does, has merges as others have, and merges nothing across line breaks.
  const hasMerges = metadata.get("tokenizer.ggml.model") === "gemma4";
  const prefixSpace = optional(metadata, "tokenizer.ggml.add_space_prefix", "boolean") ?? !hasMerges;
  const vocab = idsByToken(tokens);
  // SentencePiece's own defaults, which files leave out.
  const rolesOf = roles(metadata, tokens, kinds, { bosId: 1, eosId: 2 }, true);
  const unknown = optionalId(metadata, "tokenizer.ggml.unknown_token_id", tokens.length);
  const escape = { type: "Replace", pattern: { String: " " }, content: "\u2581" };
  const tokenizerJson = {
    added_tokens: addedTokens(tokens, kinds, stripsRight(metadata)),
    normalizer: {
      type: "Sequence",
      normalizers: prefixSpace ? [{ type: "Prepend", prepend: "\u2581" }, escape] : [escape],
    },
    pre_tokenizer: hasMerges ? LINES : null,
    post_processor: null,
    decoder: null,
    model: {
      type: "BPE",
      vocab: recordOf(vocab),
      merges: hasMerges
        ? mergeList(metadata, new Set(rolesOf.corrected.map((id) => tokens[id])))
        : mergesFromScores(tokens, kinds, vocab, scoreList(metadata, tokens.length)),
      byte_fallback: true,
      fuse_unk: true,
      unk_token: tokens[unknown.id ?? 0],
    },
  };
  return {
    tokens,
    kinds,
    spelling: "metaspace",
    prefixSpace,
    tokenizerJson,
    ...rolesOf.roles,
  };
}

/** In tokens of GGUF files, begins a word. */
const WORD_START = "\u2581";

/** What marks a token that continues a word for the library. */
const CONTINUES = "##";

/**
 * WordPiece (BERT). Converters take the "##" away and mark the beginnings of words instead, but for special tokens, which are in
 * square brackets.
 */
function wordPiece(metadata: Metadata, tokens: string[], kinds: TokenKind[]): Vocabulary {
  const { roles: own, corrected } = roles(metadata, tokens, kinds, {}, true);
  const flag = (key: string) => optional(metadata, `tokenizer.ggml.normalizer.${key}`, "boolean");
  const unknown = optionalId(metadata, "tokenizer.ggml.unknown_token_id", tokens.length).id;
  const separator =
    optionalId(metadata, "tokenizer.ggml.seperator_token_id", tokens.length).id ?? // the key is spelt so
    optionalId(metadata, "tokenizer.ggml.separator_token_id", tokens.length).id;
  const special = new Set([...corrected, own.bosId, own.eosId, unknown, separator]);
  for (const id of special) if (id !== undefined) kinds[id] = "control";
  const spelt = tokens.map((token, id) => wordPieceSpelling(token, kinds[id] as TokenKind));
  const tokenizerJson = {
    added_tokens: addedTokens(tokens, kinds),
    normalizer: {
      ...{ type: "BertNormalizer", clean_text: true, handle_chinese_chars: true },
      ...{ lowercase: flag("lowercase") ?? true, strip_accents: flag("strip_accents") ?? null },
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: null,
    decoder: null,
    model: {
      ...{ type: "WordPiece", vocab: recordOf(idsByToken(spelt)), continuing_subword_prefix: CONTINUES },
      ...{ unk_token: tokens[unknown ?? tokens.indexOf("[UNK]")], max_input_chars_per_word: 100 },
    },
  };
  const addSep = optional(metadata, "tokenizer.ggml.add_sep_token", "boolean") ?? true;
  const last = separator ?? own.eosId ?? idOf(tokens, "[SEP]");
  const first = own.bosId ?? idOf(tokens, "[CLS]");
  return {
    ...{ tokens, kinds, spelling: "metaspace", prefixSpace: true, tokenizerJson },
    ...own,
    addBos: false,
    around: { before: own.addBos ? listOf(first) : [], after: addSep ? listOf(last) : [] },
  };
}

function wordPieceSpelling(token: string, kind: TokenKind): string {
  if (token.startsWith(WORD_START) && token.length > 1) return token.slice(1);
  return kind === "normal" && !/^\[.+\]$/s.test(token) ? CONTINUES + token : token;
}

function idOf(tokens: readonly string[], token: string): number | undefined {
  const id = tokens.indexOf(token);
  return id < 0 ? undefined : id;
}

function listOf(id: number | undefined): number[] {
  return id === undefined ? [] : [id];
}

/** Unigram (XLM-RoBERTa and its like): the most probable of all ways to split a text. */
function unigram(metadata: Metadata, tokens: string[], kinds: TokenKind[]): Vocabulary {
  const { roles: own } = roles(metadata, tokens, kinds, {}, true);
  const prefixSpace = optional(metadata, "tokenizer.ggml.add_space_prefix", "boolean") ?? true;
  const scores = scoreList(metadata, tokens.length);
  const unknown = optionalId(metadata, "tokenizer.ggml.unknown_token_id", tokens.length).id ?? 0;
  idsByToken(tokens); // refuses one that is there twice
  const charsMap = metadata.get("tokenizer.ggml.precompiled_charsmap");
  const squeezes = optional(metadata, "tokenizer.ggml.remove_extra_whitespaces", "boolean") ?? true;
  const tokenizerJson = {
    added_tokens: addedTokens(tokens, kinds),
    normalizer: {
      type: "Sequence",
      normalizers: [
        ...(charsMap === undefined ? [] : [{ type: "Precompiled", precompiled_charsmap: "" }]),
        ...(squeezes ? SQUEEZE : []),
      ],
    },
    pre_tokenizer: {
      ...{ type: "Metaspace", replacement: WORD_START, add_prefix_space: prefixSpace },
      prepend_scheme: prefixSpace ? "always" : "never",
    },
    post_processor: null,
    decoder: null,
    model: {
      ...{ type: "Unigram", unk_id: unknown },
      // A token that stands for no text must not be found in one.
      vocab: tokens.map((token, id) => [token, kinds[id] === "normal" ? scores[id] : UNLIKELY]),
    },
  };
  return { tokens, kinds, spelling: "metaspace", prefixSpace, tokenizerJson, ...own };
}

/** Runs of spaces become one, those at the ends none. */
const SQUEEZE = [
  { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
  { type: "Strip", strip_left: true, strip_right: true },
];

/** The score of a token that no text should become. */
const UNLIKELY = -1e9;

/**
 * SentencePiece merges the adjacent pair whose result has the best score. Every way to make a token from two others is
 * therefore a merge, ranked by the score of the result.
 */
function mergesFromScores(
  tokens: string[],
  kinds: TokenKind[],
  vocab: ReadonlyMap<string, number>,
  scores: ArrayLike<number>,
): [string, string][] {
  const merges: { score: number; left: number; right: number }[] = [];
  tokens.forEach((token, id) => {
    if (kinds[id] !== "normal" || token.length > MAX_MERGED_CHARS) return;
    let cut = 0;
    for (const char of token) {
      cut += char.length;
      if (cut >= token.length) break;
      const left = vocab.get(token.slice(0, cut));
      if (left === undefined) continue;
      const right = vocab.get(token.slice(cut));
      if (right !== undefined) merges.push({ score: scores[id] as number, left, right });
    }
  });
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  return merges.map(({ left, right }) => [tokens[left] as string, tokens[right] as string]);
}

/** Files without scores have zeros: then the order of the ids decides. */
function scoreList(metadata: Metadata, count: number): ArrayLike<number> {
  const key = "tokenizer.ggml.scores";
  return metadata.has(key) ? numberList(metadata, key, count) : new Float32Array(count);
}

function tokenList(metadata: Metadata): string[] {
  const tokens = stringList(metadata, "tokenizer.ggml.tokens");
  // llama.cpp's name for an empty token: nothing can be merged into it, and the empty key must not match.
  return tokens.map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
}

function kindList(metadata: Metadata, count: number): TokenKind[] {
  if (!metadata.has("tokenizer.ggml.token_type")) return new Array<TokenKind>(count).fill("normal");
  const types = numberList(metadata, "tokenizer.ggml.token_type", count);
  return Array.from({ length: count }, (_, id) => KINDS[types[id] as number] ?? "normal");
}

/** A `Map`: slices of tokens are looked up in it, and each would be made a property's name first in an object. */
function idsByToken(tokens: string[]): Map<string, number> {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    const other = ids.get(token);
    if (other !== undefined)
      throw invalid(`tokenizer.ggml.tokens has "${token}" twice, at ${other} and ${id}`);
    ids.set(token, id);
  });
  return ids;
}

/** Without a prototype: a token may be called "__proto__". */
function recordOf(ids: ReadonlyMap<string, number>): Record<string, number> {
  const record = Object.create(null) as Record<string, number>;
  for (const [token, id] of ids) record[token] = id;
  return record;
}

/**
 * Phi-3's special tokens take the white space behind them. No key says so; as in llama.cpp the model's name does, and these tokens
 * are the exceptions.
 */
function stripsRight(metadata: Metadata): (token: string) => boolean {
  const isPhi3 = /phi-?3/i.test(String(metadata.get("general.name")));
  return (token) => isPhi3 && !["<unk>", "<s>", "<|endoftext|>"].includes(token);
}

function addedTokens(
  tokens: string[],
  kinds: TokenKind[],
  rstrip: (token: string) => boolean = () => false,
): Record<string, unknown>[] {
  const added: Record<string, unknown>[] = [];
  tokens.forEach((content, id) => {
    const kind = kinds[id];
    if (kind !== "control" && kind !== "added") return;
    added.push({ id, content, special: kind === "control", normalized: false, rstrip: rstrip(content) });
  });
  return added;
}

/** @param control tokens that no merge may make, though the file takes them for normal ones */
function mergeList(metadata: Metadata, control: ReadonlySet<string | undefined>): [string, string][] {
  const merges = stringList(metadata, "tokenizer.ggml.merges").map((merge, i): [string, string] => {
    const space = merge.indexOf(" ", 1);
    if (space < 0) throw invalid(`tokenizer.ggml.merges, item ${i} is no pair: "${merge}"`);
    return [merge.slice(0, space), merge.slice(space + 1)];
  });
  return control.size === 0 ? merges : merges.filter(([left, right]) => !control.has(left + right));
}

/** The ids with a role; what must be a control token becomes one in `kinds`. */
function roles(
  metadata: Metadata,
  tokens: string[],
  kinds: TokenKind[],
  defaults: { bosId?: number; eosId?: number },
  addBosDefault: boolean,
): {
  roles: Pick<Vocabulary, "bosId" | "eosId" | "eosIds" | "addBos" | "around" | "warnings">;
  corrected: number[];
} {
  const warnings: string[] = [];
  const id = (key: string): number | undefined => {
    const { id: found, warning } = optionalId(metadata, `tokenizer.ggml.${key}`, tokens.length);
    if (warning !== undefined) warnings.push(warning);
    return found;
  };
  const inRange = (value: number | undefined): number | undefined =>
    value !== undefined && value < tokens.length ? value : undefined;
  const bosId = id("bos_token_id") ?? inRange(defaults.bosId);
  const eosId = id("eos_token_id") ?? inRange(defaults.eosId);
  const ends = [eosId, id("eot_token_id"), id("eom_token_id")];
  const corrected = correctKinds(tokens, kinds, [bosId, ...ends]);
  const eosIds = endIds(ends, tokens, kinds);
  const addBos = optional(metadata, "tokenizer.ggml.add_bos_token", "boolean") ?? addBosDefault;
  const addEos = optional(metadata, "tokenizer.ggml.add_eos_token", "boolean") ?? false;
  const around = { before: listOf(addBos ? bosId : undefined), after: listOf(addEos ? eosId : undefined) };
  const found = { bosId, eosId, eosIds, addBos: addBos && bosId !== undefined, around, warnings };
  return { roles: found, corrected };
}

interface Primitives {
  string: string;
  boolean: boolean;
}

function optional<T extends keyof Primitives>(
  metadata: Metadata,
  key: string,
  type: T,
): Primitives[T] | undefined {
  const value = metadata.get(key);
  if (value === undefined) return undefined;
  if (typeof value !== type) throw invalid(`${key} is not a ${type}`);
  return value as Primitives[T];
}

/** One that no token has does not take the model's text away: it counts as left out. */
function optionalId(metadata: Metadata, key: string, count: number): { id?: number; warning?: string } {
  const value = metadata.get(key);
  // Writers mark "none" by the largest 32-bit number or -1.
  if (value === undefined || value === 0xffffffff || value === -1) return {};
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value >= count) {
    return { warning: ignoredId(key, value, count) };
  }
  return { id: value };
}

function stringList(metadata: Metadata, key: string): string[] {
  const value = metadata.get(key);
  if (!Array.isArray(value))
    throw invalid(`${key} is ${value === undefined ? "missing" : "not an array of strings"}`);
  return value as string[];
}

function numberList(metadata: Metadata, key: string, count: number): ArrayLike<number> {
  const value = metadata.get(key);
  if (value === undefined) throw invalid(`${key} is missing`);
  if (!ArrayBuffer.isView(value) || value instanceof DataView)
    throw invalid(`${key} is not an array of numbers`);
  const list = value as unknown as ArrayLike<number>;
  if (list.length < count) throw invalid(`${key} has ${list.length} items for ${count} tokens`);
  return list;
}
