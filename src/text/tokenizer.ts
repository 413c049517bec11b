/**
 * Text to token ids and back, for the tokenizers of GGUF files and of tokenizer.json. Encoding is @huggingface/tokenizers';
 * decoding is done here on bytes, so that a stream of tokens and the whole list give the same text.
 * Tokenizers do not add a beginning-of-sequence token: `addBos` says whether the model wants one.
 * It knows no chat templates (chat.ts).
 */
import { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { TidepoolError } from "../errors.ts";
import { ggufVocabulary } from "./gguf-vocabulary.ts";
import { jsonVocabulary } from "./json-vocabulary.ts";
import type { JsonParts } from "./json-vocabulary.ts";
import { invalid, isRecord } from "./vocabulary.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** What a tokenizer is made from; a model file of either format fits. */
export type TokenizerParts =
  { format: "gguf"; metadata: ReadonlyMap<string, unknown> } | ({ format: "safetensors" } & JsonParts);

export interface TextOptions {
  /**
   * Encoding: special tokens written in the text become their ids (for rendered templates). Decoding: control tokens
   * are written out. Default false: in text they are plain text, and decoding leaves them out.
   */
  special?: boolean;
  /**
   * The text goes on after other text, so that no word-start space is put before it or taken away. Matters for
   * SentencePiece vocabularies only. Default false.
   */
  continues?: boolean;
}

/** Decodes ids one by one. The pushes and the end together give what `decode` gives for all of them. */
export interface TextStream {
  /** The text that this id completes: never half a character, "" while one is unfinished. */
  push(id: number): string;
  /** What is left; an unfinished character becomes U+FFFD. */
  end(): string;
}

export interface Tokenizer {
  encode(text: string, options?: TextOptions): number[];
  /** Throws `invalid_argument` for what is no id. Ids without a token (padding of the vocabulary) decode to nothing. */
  decode(ids: Iterable<number>, options?: TextOptions): string;
  stream(options?: TextOptions): TextStream;
  readonly bosId: number | undefined;
  /** The declared end-of-sequence id; one of `eosIds`. */
  readonly eosId: number | undefined;
  /** Every id that ends a generation, ascending. */
  readonly eosIds: readonly number[];
  /** Whether a prompt begins with `bosId`, unless a chat template has put it there. */
  readonly addBos: boolean;
  readonly vocabSize: number;
  /** The spellings of all control tokens. */
  readonly controlTokens: readonly string[];
  isControl(id: number): boolean;
  /** The token as it stands in the vocabulary (byte-level and metaspace spellings not decoded). */
  idToToken(id: number): string | undefined;
  tokenToId(token: string): number | undefined;
}

/** Builds a tokenizer. 70 ms for 32k tokens, 2 s for 256k. Throws `invalid_file`, `unsupported` or `not_found`. */
export function createTokenizer(parts: TokenizerParts): Tokenizer {
  const vocabulary = parts.format === "gguf" ? ggufVocabulary(parts.metadata) : jsonVocabulary(parts);
  const { tokens, kinds } = vocabulary;
  const encoders = encodersOf(vocabulary);
  const pieces = pieceReader(vocabulary);
  const stream = (options: TextOptions = {}): TextStream => textStream(vocabulary, pieces, options);
  return {
    encode: (text, options = {}) => encode(encoders, text, options),
    decode: (ids, options) => {
      const out = stream(options);
      let text = "";
      for (const id of ids) text += out.push(id);
      return text + out.end();
    },
    stream,
    bosId: vocabulary.bosId,
    eosId: vocabulary.eosId,
    eosIds: vocabulary.eosIds,
    addBos: vocabulary.addBos,
    vocabSize: tokens.length,
    controlTokens: tokens.filter(
      (token, id): token is string => token !== undefined && kinds[id] === "control",
    ),
    isControl: (id) => kinds[id] === "control",
    idToToken: (id) => tokens[id],
    tokenToId: (token) => encoders.special.token_to_id(token),
  };
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
    throw invalid(`the tokenizer is malformed: ${(error as Error).message}`);
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
  const ids: (number | undefined)[] = encoder.encode(text, { add_special_tokens: false }).ids;
  if (ids.includes(undefined)) throw invalid("the tokenizer gave a token that has no id");
  return ids as number[];
}

function firstIndexOf(text: string, needles: string[]): number {
  let first = text.length;
  for (const needle of needles) {
    const at = text.indexOf(needle);
    if (at >= 0 && at < first) first = at;
  }
  return first;
}

const utf8 = new TextEncoder();
const NOTHING = new Uint8Array(0);

type PieceReader = (id: number, special: boolean) => Uint8Array;

/** The bytes of a token in decoded text. */
function pieceReader({ tokens, kinds, spelling }: Vocabulary): PieceReader {
  return (id, special) => {
    if (!Number.isInteger(id) || id < 0) {
      throw new TidepoolError("invalid_argument", `${id} is not a token id`, { id });
    }
    const token = tokens[id];
    if (token === undefined) return NOTHING;
    const kind = kinds[id] ?? "unused";
    switch (kind) {
      case "control":
        return special ? utf8.encode(token) : NOTHING;
      case "byte":
        return Uint8Array.of(Number.parseInt(token.slice(3, 5), 16));
      case "added":
        return spelling === "metaspace" ? metaspaceBytes(token) : utf8.encode(token);
      case "normal":
        return spelling === "metaspace" ? metaspaceBytes(token) : byteLevelBytes(token);
      case "unused":
        return NOTHING;
    }
  };
}

function metaspaceBytes(token: string): Uint8Array {
  return utf8.encode(token.replaceAll("\u2581", " "));
}

/**
 * GPT-2's spelling of bytes as printable characters: printable Latin-1 stands for itself, every other byte, in order, for the
 * characters from U+0100 on.
 */
const BYTE_OF_CHAR: ReadonlyMap<string, number> = byteSpelling();

function byteSpelling(): Map<string, number> {
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    map.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return map;
}

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of token) {
    const byte = BYTE_OF_CHAR.get(char);
    if (byte !== undefined) bytes.push(byte);
    // A character that spells no byte stands for itself: some vocabularies hold plain text among their tokens.
    else bytes.push(...utf8.encode(char));
  }
  return Uint8Array.from(bytes);
}

function textStream(vocabulary: Vocabulary, pieceOf: PieceReader, options: TextOptions): TextStream {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const special = options.special === true;
  let dropSpace = vocabulary.prefixSpace && options.continues !== true;
  return {
    push: (id) => {
      let bytes = pieceOf(id, special);
      if (dropSpace && bytes.length > 0) {
        dropSpace = false;
        if (bytes[0] === 0x20) bytes = bytes.subarray(1);
      }
      return decoder.decode(bytes, { stream: true });
    },
    end: () => decoder.decode(),
  };
}
