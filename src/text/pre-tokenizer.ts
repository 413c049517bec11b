/**
 * How byte-level vocabularies in GGUF files split text before merging: the name in `tokenizer.ggml.pre` -> regular
 * expressions, as llama.cpp reads them (src/llama-vocab.cpp). A name that is not listed is refused: a wrong split gives
 * plausible ids and a model that is quietly worse.
 */
import { TidepoolError } from "../errors.ts";

export interface PreTokenizer {
  /** Applied in order; what a split isolates is split further by the next. */
  readonly splits: readonly string[];
  /** A piece that is itself in the vocabulary is taken whole, without merging. */
  readonly ignoreMerges?: true;
  /** Text is brought to Unicode normal form C first. */
  readonly nfc?: true;
  /** A beginning-of-sequence token is added unless the file says otherwise. */
  readonly addBos?: true;
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const SPACE = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;

/** The split of the llama-3 family; `digits` says how digits are grouped. */
function words(digits: string, letter = String.raw`\p{L}`, others = String.raw`\p{L}\p{N}`): string {
  const set = letter.length > 5 ? `[${letter}]` : letter;
  return `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?${set}+|${digits}` + `| ?[^\\s${others}]+[\\r\\n]*|${SPACE}`;
}

/** The splits of gpt-4o and tekken: words end where a capital begins. From their published tokenizer.json. */
function casedWords(digits: string, contraction: string): string {
  const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
  const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
  const lead = String.raw`[^\r\n\p{L}\p{N}]?`;
  const tail = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n/]*`;
  const word = `${lead}${upper}*${lower}+${contraction}|${lead}${upper}+${lower}*${contraction}`;
  return `${word}|${digits}${tail}|${SPACE}`;
}

const gpt2: PreTokenizer = { splits: [GPT2] };
const digitsFirst: PreTokenizer = { splits: [String.raw`\p{N}`, GPT2] };
const llama3: PreTokenizer = {
  splits: [words(String.raw`\p{N}{1,3}`)],
  ignoreMerges: true,
  addBos: true,
};
const llama3Split: PreTokenizer = { splits: llama3.splits };
const qwen2: PreTokenizer = { splits: [words(String.raw`\p{N}`)], nfc: true };
const qwen35: PreTokenizer = {
  splits: [words(String.raw`\p{N}`, String.raw`\p{L}\p{M}`, String.raw`\p{L}\p{M}\p{N}`)],
  nfc: true,
};
const gpt4o: PreTokenizer = { splits: [casedWords(String.raw`\p{N}{1,3}`, `${CONTRACTION}?`)] };
const tekken: PreTokenizer = {
  splits: [casedWords(String.raw`\p{N}`, "")],
  ignoreMerges: true,
  addBos: true,
};
/** Digits in threes and runs of Chinese and Japanese first; a word may begin with one mark of ASCII punctuation. */
const deepseek3: PreTokenizer = {
  splits: [
    String.raw`\p{N}{1,3}`,
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_\x60{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+` +
      String.raw`| ?[\p{P}\p{S}]+[\r\n]*|` +
      SPACE,
  ],
};
/** As qwen2, but punctuation ends before a line does. */
const seedCoder: PreTokenizer = {
  splits: [String.raw`${CONTRACTION}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|${SPACE}`],
};
const minicpm5: PreTokenizer = {
  splits: [String.raw`\p{N}{1,3}`, words(String.raw`\p{N}+`)],
  ignoreMerges: true,
};
/** Punctuation first, and digits in threes from the left. */
const falcon: PreTokenizer = { splits: [String.raw`[\p{P}\$\+<=>\^~\|\x60]+`, GPT2, "[0-9][0-9][0-9]"] };
/** What llama.cpp does with files from before the key existed. */
const unnamed: PreTokenizer = {
  splits: [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, "[0-9][0-9][0-9]"],
};

const BY_NAME: ReadonlyMap<string, PreTokenizer> = new Map([
  ["default", unnamed],
  ["falcon", falcon],
  ...named(gpt2, "gpt-2", "mpt", "phi-2", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum"),
  ...named(digitsFirst, "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
  ...named(llama3, "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
  ...named(llama3Split, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
  ...named(qwen2, "qwen2", "deepseek-r1-qwen", "megrez", "kormo", "stablelm2", "hunyuan"),
  ["qwen35", qwen35],
  ...named(gpt4o, "gpt-4o", "llama4", "kanana2", "talkie"),
  ["tekken", tekken],
  ...named(deepseek3, "deepseek-v3", "hunyuan-dense"),
  ["seed-coder", seedCoder],
  ["minicpm5", minicpm5],
]);

function named(pre: PreTokenizer, ...names: string[]): [string, PreTokenizer][] {
  return names.map((name) => [name, pre]);
}

/** The splits of a `tokenizer.ggml.pre`; a file without the key gets llama.cpp's default. Throws `unsupported`. */
export function preTokenizerOf(name: string | undefined): PreTokenizer {
  const pre = BY_NAME.get(name ?? "default");
  if (pre !== undefined) return pre;
  throw new TidepoolError("unsupported", `tokenizer.ggml.pre "${name}" is not supported`, {
    known: [...BY_NAME.keys()],
  });
}
