/**
 * Token ids to text, by table look-up: the bytes of each token, put together so that a stream of tokens and the whole list
 * give the same text. No regular expression and no template of the file takes part, and each token costs no more than its
 * own length, so that it is safe and cheap beside the decoding loop.
 */
import { TidepoolError } from "../errors.ts";
import type { TokenTable } from "./vocabulary.ts";

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

export interface Detokenizer {
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
  /** The control tokens around a text that is taken as a whole. */
  readonly around: TokenTable["around"];
  readonly vocabSize: number;
  /** The spellings of all control tokens. */
  readonly controlTokens: readonly string[];
  isControl(id: number): boolean;
  /** Whether the id is printed in decoded text: neither a control token nor an id without a token. */
  isText(id: number): boolean;
  /** The bytes that the id adds to a text; those of its name for a control token. */
  bytesOf(id: number): Uint8Array;
  /** The token as it stands in the vocabulary (byte-level and metaspace spellings not decoded). */
  idToToken(id: number): string | undefined;
}

/** Decoding over a table that is plain data, so that it may come from another thread. */
export function createDetokenizer(table: TokenTable): Detokenizer {
  const { tokens, kinds } = table;
  const pieces = pieceReader(table);
  const stream = (options: TextOptions = {}): TextStream => textStream(table, pieces, options);
  return {
    decode: (ids, options) => {
      const out = stream(options);
      let text = "";
      for (const id of ids) text += out.push(id);
      return text + out.end();
    },
    stream,
    bosId: table.bosId,
    eosId: table.eosId,
    eosIds: table.eosIds,
    addBos: table.addBos,
    around: table.around,
    vocabSize: tokens.length,
    controlTokens: tokens.filter(
      (token, id): token is string => token !== undefined && kinds[id] === "control",
    ),
    isControl: (id) => kinds[id] === "control",
    isText: (id) => tokens[id] !== undefined && kinds[id] !== "control" && kinds[id] !== "unused",
    bytesOf: (id) => pieces(id, true),
    idToToken: (id) => tokens[id],
  };
}

const utf8 = new TextEncoder();
const NOTHING = new Uint8Array(0);

type PieceReader = (id: number, special: boolean) => Uint8Array;

/** The bytes of a token in decoded text. */
function pieceReader({ tokens, kinds, spelling }: TokenTable): PieceReader {
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

function textStream(table: TokenTable, pieceOf: PieceReader, options: TextOptions): TextStream {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const special = options.special === true;
  let dropSpace = table.prefixSpace && options.continues !== true;
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
