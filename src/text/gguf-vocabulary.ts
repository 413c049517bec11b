/**
 * A vocabulary from GGUF metadata (`tokenizer.ggml.*`): byte-level BPE ("gpt2") and SentencePiece-like BPE ("llama").
 * SentencePiece files hold scores and no merges; the merges are rebuilt from the scores.
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
  if (model === "llama") return void scoreList(metadata, length);
  preTokenizerOf(optional(metadata, "tokenizer.ggml.pre", "string"));
  stringList(metadata, "tokenizer.ggml.merges");
}

/** Throws `invalid_file` naming the key, `unsupported` for other tokenizer models. */
export function ggufVocabulary(metadata: Metadata): Vocabulary {
  const model = tokenizerModel(metadata);
  const tokens = tokenList(metadata);
  const kinds = kindList(metadata, tokens.length);
  return model === "gpt2" ? byteLevel(metadata, tokens, kinds) : sentencePiece(metadata, tokens, kinds);
}

function tokenizerModel(metadata: Metadata): "gpt2" | "llama" {
  const model = metadata.get("tokenizer.ggml.model");
  if (model === undefined) throw invalid("tokenizer.ggml.model is missing: the file has no tokenizer");
  if (model === "gpt2" || model === "llama") return model;
  throw new TidepoolError(
    "unsupported",
    `tokenizer.ggml.model "${String(model)}" is not supported, only gpt2 and llama`,
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

function sentencePiece(metadata: Metadata, tokens: string[], kinds: TokenKind[]): Vocabulary {
  const prefixSpace = optional(metadata, "tokenizer.ggml.add_space_prefix", "boolean") ?? true;
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
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: {
      type: "BPE",
      vocab: recordOf(vocab),
      merges: mergesFromScores(tokens, kinds, vocab, scoreList(metadata, tokens.length)),
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
): { roles: Pick<Vocabulary, "bosId" | "eosId" | "eosIds" | "addBos" | "warnings">; corrected: number[] } {
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
  return { roles: { bosId, eosId, eosIds, addBos: addBos && bosId !== undefined, warnings }, corrected };
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
