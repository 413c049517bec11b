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
  /** What is put around a text that is taken as a whole, as encoders want it ([CLS] and [SEP]). */
  around: { before: readonly number[]; after: readonly number[] };
  /** What is wrong with the file but does not stop it from being used, one sentence each. */
  warnings: string[];
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

/** End tokens whose spelling is also plain text: they are what the file says they are. */
const PLAIN_TOO: ReadonlySet<string> = new Set(["</s>", "[EOT]", "[EOS]"]);

/** What begins a turn, beside what ends it: a user who could write it would write other people's turns. */
const TURN_TOKENS: ReadonlySet<string> = new Set([
  "<|im_start|>",
  "<|start_header_id|>",
  "<|end_header_id|>",
  "<start_of_turn>",
  "<|turn>",
  "<|start_of_role|>",
  "<|end_of_role|>",
]);

const IN_BRACKETS = /^(<.+>|\[.+\])$/su;

/**
 * Makes control tokens of what must be one, whatever kind the file gives it: well-known marks of turns, and the ids that the
 * file declares for the beginning and end of a text. Converters write them as user-defined or normal; llama.cpp corrects
 * the well-known end tokens likewise.
 * @returns the ids whose kind has changed
 */
export function correctKinds(
  tokens: readonly (string | undefined)[],
  kinds: TokenKind[],
  declared: readonly (number | undefined)[],
): number[] {
  const roles = new Set(declared);
  const changed: number[] = [];
  tokens.forEach((token, id) => {
    const kind = kinds[id];
    if (token === undefined || (kind !== "normal" && kind !== "added")) return;
    const known = (END_TOKENS.has(token) && !PLAIN_TOO.has(token)) || TURN_TOKENS.has(token);
    // A declared id may be a mistake: a word such as "!" stays one.
    const hasRole = roles.has(id) && (kind === "added" || IN_BRACKETS.test(token));
    if (!known && !hasRole) return;
    kinds[id] = "control";
    changed.push(id);
  });
  return changed;
}

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

/** A declared id that no token has is ignored, and the warning says so. */
export function ignoredId(name: string, value: unknown, count: number): string {
  return `${name} is ${String(value)}, expected a token id below ${count}: it is ignored`;
}

export function invalid(what: string): TidepoolError {
  return new TidepoolError("invalid_file", what);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
