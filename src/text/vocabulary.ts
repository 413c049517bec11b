/**
 * What a model file says about its tokens, in one form for both kinds of file: the ids with their bytes and kinds, the ids
 * with a role, and the tokenizer.json that the encoder is built from.
 * It reads nothing by itself and encodes nothing (tokenizer.ts).
 */
import { TidepoolError } from "../errors.ts";

/** How a token is treated in text. Control tokens are marks of the template; added tokens are plain text taken whole. */
export type TokenKind = "normal" | "control" | "added" | "byte" | "unused";

/** How the text of a normal token maps to bytes. */
export type TokenSpelling = "byte-level" | "metaspace";

/** What turns ids into text, as plain data. */
export interface TokenTable {
  /** By id; `undefined` where an id has no token. */
  tokens: (string | undefined)[];
  kinds: TokenKind[];
  spelling: TokenSpelling;
  /** Text begins with a space that the tokenizer puts there and decoding takes away. */
  prefixSpace: boolean;
  bosId: number | undefined;
  /** The end-of-sequence token that the file declares. */
  eosId: number | undefined;
  /** Every id that ends a generation. */
  eosIds: number[];
  addBos: boolean;
}

export interface Vocabulary extends TokenTable {
  /** The object that @huggingface/tokenizers takes. */
  tokenizerJson: Record<string, unknown>;
}

/**
 * What ends a turn or a text in the vocabularies in use: models are published whose eos id is one of these while their
 * template ends a turn with another (the list follows llama.cpp's).
 */
const END_TOKENS: ReadonlySet<string> = new Set([
  "<|eot_id|>",
  "<|eom_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<end_of_turn>",
  "<turn|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|endofturn|>",
  "<end_of_utterance>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<eos>",
  "</s>",
]);

/** The ids that end a generation: those declared, and every control token with a well-known end-of-turn spelling. */
export function endIds(
  declared: readonly (number | undefined)[],
  tokens: readonly (string | undefined)[],
  kinds: readonly TokenKind[],
): number[] {
  const ids = new Set(declared.filter((id): id is number => id !== undefined));
  const known = new Map<string, number>();
  kinds.forEach((kind, id) => {
    const token = tokens[id];
    if (kind === "control" && token !== undefined && END_TOKENS.has(token)) known.set(token, id);
  });
  // In gpt-oss's harmony format <|end|> closes a message in mid-turn; the turn ends with <|return|> or <|call|>.
  if (known.has("<|return|>") && known.has("<|call|>")) known.delete("<|end|>");
  for (const id of known.values()) ids.add(id);
  return [...ids].sort((a, b) => a - b);
}

export function invalid(what: string): TidepoolError {
  return new TidepoolError("invalid_file", what);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
