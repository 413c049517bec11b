/**
 * Small vocabularies made on the fly, as GGUF metadata: byte-level ("gpt2") and SentencePiece-like ("llama"). The entries are
 * plain values, so that they go into `writeGguf` as well as into `createTokenizer`.
 */

export interface TinyVocabOptions {
  /** Multi-character tokens, each made of two that exist, in order of merging. */
  words?: readonly string[];
  /** Control tokens; the first is BOS, the second EOS. */
  control?: readonly string[];
  /** User-defined tokens: taken whole, but plain text. */
  added?: readonly string[];
}

const CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];

/** GPT-2's 256 characters for bytes: printable Latin-1 for itself, the others from U+0100 on. */
export const BYTE_CHARS: readonly string[] = byteChars();

function byteChars(): string[] {
  const printable = (byte: number): boolean => /[!-~¡-¬®-ÿ]/.test(String.fromCharCode(byte));
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

/** Ids: control tokens, added tokens, the 256 bytes, then the words (in byte-level spelling: "Ġ" for a space). */
export function byteLevelVocab(pre: string, options: TinyVocabOptions = {}): Map<string, unknown> {
  const { words = [], control = CONTROL, added = [] } = options;
  const tokens = [...control, ...added, ...BYTE_CHARS, ...words];
  const known = new Set<string>([...BYTE_CHARS]);
  const merges = words.map((word) => {
    const pair = splitIn(word, known);
    known.add(word);
    return pair.join(" ");
  });
  return new Map<string, unknown>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", pre],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", typesOf(tokens, control, added, () => 1)],
    ["tokenizer.ggml.merges", merges],
    ["tokenizer.ggml.bos_token_id", 0],
    ["tokenizer.ggml.eos_token_id", 1],
  ]);
}

/** Ids: control tokens, added tokens, the 256 bytes as <0xNN>, printable characters, then the words ("▁" for a space). */
export function metaspaceVocab(options: TinyVocabOptions = {}): Map<string, unknown> {
  const { words = [], control = CONTROL, added = [] } = options;
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const characters = [
    "\u2581",
    ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)),
    "ä",
    "ß",
  ];
  const tokens = [...control, ...added, ...bytes, ...characters, ...words];
  return new Map<string, unknown>([
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", tokens],
    [
      "tokenizer.ggml.token_type",
      typesOf(tokens, control, added, (token) => (bytes.includes(token) ? 6 : 1)),
    ],
    ["tokenizer.ggml.scores", Float32Array.from(tokens, (_, id) => -id)],
    ["tokenizer.ggml.bos_token_id", 0],
    ["tokenizer.ggml.eos_token_id", 1],
  ]);
}

function typesOf(
  tokens: string[],
  control: readonly string[],
  added: readonly string[],
  otherwise: (token: string) => number,
): Int32Array {
  return Int32Array.from(tokens, (token, id) => {
    if (id < control.length) return 3;
    return id < control.length + added.length ? 4 : otherwise(token);
  });
}

function splitIn(word: string, known: ReadonlySet<string>): [string, string] {
  for (let cut = word.length - 1; cut > 0; cut--) {
    const pair: [string, string] = [word.slice(0, cut), word.slice(cut)];
    if (pair.every((part) => known.has(part))) return pair;
  }
  throw new Error(`tiny vocabulary: "${word}" is no pair of known tokens`);
}
