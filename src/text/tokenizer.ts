/**
 * Text to token ids, for the tokenizers of GGUF files and of tokenizer.json, by @huggingface/tokenizers. It runs the file's
 * own regular expressions, which nothing here can stop: that takes a worker that can be ended.
 * Tokenizers do not add a beginning-of-sequence token: `addBos` says whether the model wants one.
 * Ids back to text is detokenizer.ts; chat templates are chat.ts.
 */
import { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { createDetokenizer } from "./detokenizer.ts";
import type { Detokenizer, TextOptions } from "./detokenizer.ts";
import { checkGgufVocabulary, ggufVocabulary } from "./gguf-vocabulary.ts";
import { checkJsonVocabulary, jsonVocabulary } from "./json-vocabulary.ts";
import type { JsonParts } from "./json-vocabulary.ts";
import { invalid, isRecord } from "./vocabulary.ts";
import type { TokenTable, Vocabulary } from "./vocabulary.ts";

/** What a tokenizer is made from; a model file of either format fits. */
export type TokenizerParts =
  { format: "gguf"; metadata: ReadonlyMap<string, unknown> } | ({ format: "safetensors" } & JsonParts);

export type { TextOptions, TextStream } from "./detokenizer.ts";

export interface Tokenizer extends Detokenizer {
  encode(text: string, options?: TextOptions): number[];
  tokenToId(token: string): number | undefined;
  /** What decoding needs, to be sent to another thread (detokenizer.ts). */
  readonly table: TokenTable;
}

/** Builds a tokenizer. 70 ms for 32k tokens, 2 s for 256k. Throws `invalid_file`, `unsupported` or `not_found`. */
export function createTokenizer(parts: TokenizerParts): Tokenizer {
  const vocabulary = parts.format === "gguf" ? ggufVocabulary(parts.metadata) : jsonVocabulary(parts);
  const encoders = encodersOf(vocabulary);
  const { tokenizerJson: _tokenizerJson, ...table } = vocabulary;
  return {
    ...createDetokenizer(table),
    table,
    encode: (text, options = {}) => encode(encoders, text, options),
    tokenToId: (token) => encoders.special.token_to_id(token),
  };
}

/** Throws like `createTokenizer` for what can be known without building one, which takes seconds for a large vocabulary. */
export function checkTokenizer(parts: TokenizerParts): void {
  if (parts.format === "gguf") checkGgufVocabulary(parts.metadata);
  else checkJsonVocabulary(parts);
}

interface Encoders {
  /** Splits at all added tokens, control tokens among them. */
  special: Encoder;
  /** Splits at added tokens that are plain text only. */
  plain: Encoder;
  /** `plain` without the space that begins a text, where there is such a space. */
  continued: Encoder | undefined;
  /** The texts that each splits at. */
  specialTexts: string[];
  plainTexts: string[];
}

/** Characters of a token that is looked for in every text; those in use have up to 40. */
const MAX_ADDED_CHARS = 1024;

const ENCODER_CONFIG = { clean_up_tokenization_spaces: false };

/**
 * The library splits a text at every added token before it looks at anything else, and cannot be told not to. So that
 * special tokens in a user's text are plain text, a second encoder is made that has never heard of them. It
 * shares the first one's model (vocabulary and merges, which is all of the memory and time): the merges never produce a
 * special token from its characters. Added tokens that are not special stay in both, as in llama.cpp.
 */
function encodersOf(vocabulary: Vocabulary): Encoders {
  const json = vocabulary.tokenizerJson;
  const added = json["added_tokens"] as { content: string; special?: boolean }[];
  for (const { content } of added) {
    if (content.length <= MAX_ADDED_CHARS) continue;
    const start = JSON.stringify(content.slice(0, 20));
    throw invalid(`the added token ${start}... has ${content.length} characters, at most ${MAX_ADDED_CHARS}`);
  }
  const plainAdded = added.filter((token) => token.special !== true);
  const special = build(json);
  const shell = (changes: Record<string, unknown>): Encoder => {
    const emptyModel = { type: "BPE", vocab: {}, merges: [] };
    const encoder = build({ ...json, added_tokens: [], ...changes, model: emptyModel });
    encoder.model = special.model;
    return encoder;
  };
  return {
    special,
    plain: shell({ added_tokens: plainAdded }),
    continued: vocabulary.prefixSpace ? shell(withoutPrefix(json)) : undefined,
    specialTexts: added.map((token) => token.content),
    plainTexts: plainAdded.map((token) => token.content),
  };
}

function build(json: Record<string, unknown>): Encoder {
  try {
    return new Encoder(json, ENCODER_CONFIG);
  } catch (error) {
    throw invalid(`the tokenizer is malformed: ${messageOf(error)}`);
  }
}

/** Normalizer and pre-tokenizer without the parts that put a space before a text. */
function withoutPrefix(json: Record<string, unknown>): Record<string, unknown> {
  const strip = (component: unknown): unknown => {
    if (!isRecord(component)) return component;
    if (component["type"] === "Prepend") return null;
    if (component["type"] === "Metaspace")
      return { ...component, prepend_scheme: "never", add_prefix_space: false };
    const copy = { ...component };
    for (const list of ["normalizers", "pretokenizers"]) {
      const parts: unknown = copy[list];
      if (Array.isArray(parts)) copy[list] = parts.map(strip).filter((part) => part !== null);
    }
    return copy;
  };
  return { normalizer: strip(json["normalizer"]), pre_tokenizer: strip(json["pre_tokenizer"]) };
}

function encode(encoders: Encoders, text: string, options: TextOptions): number[] {
  if (text === "") return [];
  const encoder = options.special === true ? encoders.special : encoders.plain;
  if (options.continues !== true || encoders.continued === undefined) return idsOf(encoder, text);
  // Only the stretch before the first added token goes on after other text; the library treats the rest as ever.
  const cut = firstIndexOf(text, options.special === true ? encoders.specialTexts : encoders.plainTexts);
  return [...idsOf(encoders.continued, text.slice(0, cut)), ...idsOf(encoder, text.slice(cut))];
}

function idsOf(encoder: Encoder, text: string): number[] {
  if (text === "") return [];
  const ids = encodeOrThrow(encoder, text);
  if (ids.includes(undefined)) throw invalid("the tokenizer gave a token that has no id");
  return ids as number[];
}

/** What a malformed tokenizer.json throws when it meets a text (a text over the longest string, say) is the file's fault. */
function encodeOrThrow(encoder: Encoder, text: string): (number | undefined)[] {
  try {
    return encoder.encode(text, { add_special_tokens: false }).ids;
  } catch (error) {
    throw invalid(`the tokenizer failed on a text of ${text.length} characters: ${messageOf(error)}`);
  }
}

function firstIndexOf(text: string, needles: string[]): number {
  let first = text.length;
  for (const needle of needles) {
    const at = text.indexOf(needle);
    if (at >= 0 && at < first) first = at;
  }
  return first;
}

/** Libraries throw what they like. */
function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
