/**
 * A vocabulary from tokenizer.json and the JSON files beside it, as published with safetensors.
 * It does not read the files (load/), nor encode (tokenizer.ts).
 */
import { TidepoolError } from "../errors.ts";
import { correctKinds, endIds, ignoredId, invalid, isRecord } from "./vocabulary.ts";
import type { TokenKind, TokenSpelling, TokenTable, Vocabulary } from "./vocabulary.ts";

/** The parsed files; `undefined` where the model has none. */
export interface JsonParts {
  tokenizerJson: Record<string, unknown> | undefined;
  tokenizerConfig?: Record<string, unknown> | undefined;
  generationConfig?: Record<string, unknown> | undefined;
  /** The model's config.json. */
  config?: Record<string, unknown> | undefined;
}

/** More tokens than any vocabulary has. */
const MAX_TOKENS = 4 * 1024 * 1024;

/** Ids that no token has, at most, beside as many as there are tokens: one absurd id must not make tables of gigabytes. */
const MAX_UNUSED_IDS = 65_536;

/** What the file says about its tokenizer without building one. Throws like `jsonVocabulary`. */
export function checkJsonVocabulary(parts: JsonParts): void {
  const json = jsonOf(parts);
  if (!isRecord(json["model"])) throw invalid("tokenizer.json: model is not an object");
  addedTokens(json);
  spellingOf(flatten(json["decoder"], "decoders"));
}

function jsonOf({ tokenizerJson }: JsonParts): Record<string, unknown> {
  if (tokenizerJson !== undefined) return tokenizerJson;
  throw new TidepoolError("not_found", "tokenizer.json was not found: the model has no tokenizer");
}

/** Throws `invalid_file` naming the field, `unsupported` for decoders that are not byte-level or metaspace. */
export function jsonVocabulary(parts: JsonParts): Vocabulary {
  const json = jsonOf(parts);
  const { tokens, kinds } = tokenTable(json);
  const decoders = flatten(json["decoder"], "decoders");
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const rolesOf = roles(parts, json, tokens, kinds, idOf);
  return {
    tokens: isWordPiece(decoders) ? spaced(tokens, kinds, wordPiecePrefix(json)) : tokens,
    kinds,
    ...spellingOf(decoders),
    ...rolesOf.roles,
    around: tokensAround(json, idOf),
    tokenizerJson: {
      normalizer: null,
      pre_tokenizer: null,
      ...json,
      added_tokens: correctedTokens(json, tokens, rolesOf.corrected),
      post_processor: null,
      decoder: null,
    },
  };
}

function tokenTable(json: Record<string, unknown>): { tokens: (string | undefined)[]; kinds: TokenKind[] } {
  const model = json["model"];
  if (!isRecord(model)) throw invalid("tokenizer.json: model is not an object");
  const tokens: (string | undefined)[] = [];
  const listed = vocabEntries(model["vocab"]);
  const added = addedTokens(json);
  const end = Math.min(MAX_TOKENS, listed.length + added.length + MAX_UNUSED_IDS);
  for (const [token, id] of listed) tokens[checkedId(id, token, end)] = token;
  const bytes = model["byte_fallback"] === true;
  const kinds: TokenKind[] = Array.from(tokens, (token) => kindOf(token, bytes));
  for (const { id: given, content, special } of added) {
    const id = checkedId(given, String(content), end);
    tokens[id] = String(content);
    kinds[id] = special === true ? "control" : "added";
  }
  return {
    tokens: Array.from(tokens),
    kinds: Array.from({ length: tokens.length }, (_, id) => kinds[id] ?? "unused"),
  };
}

function vocabEntries(vocab: unknown): [string, unknown][] {
  // Unigram models list [token, score]; the place is the id.
  if (Array.isArray(vocab)) {
    return vocab.map((entry: unknown, id) => {
      if (!Array.isArray(entry)) throw invalid(`tokenizer.json: model.vocab, item ${id} is not a list`);
      return [String(entry[0]), id];
    });
  }
  if (!isRecord(vocab)) throw invalid("tokenizer.json: model.vocab is neither an object nor an array");
  return Object.entries(vocab);
}

/** @param end ids lie below it */
function checkedId(id: unknown, token: string, end: number): number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < end) return id;
  throw invalid(`tokenizer.json: token "${token}" has the id ${String(id)}, expected 0 to ${end - 1}`);
}

function kindOf(token: string | undefined, byteFallback: boolean): TokenKind {
  if (token === undefined) return "unused";
  return byteFallback && /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? "byte" : "normal";
}

function addedTokens(json: Record<string, unknown>): Record<string, unknown>[] {
  const added = json["added_tokens"] ?? [];
  if (
    !Array.isArray(added) ||
    !added.every((token) => isRecord(token) && typeof token["content"] === "string")
  ) {
    throw invalid("tokenizer.json: added_tokens is not a list of tokens");
  }
  return added as Record<string, unknown>[];
}

/** The added tokens of the file, with those that must be control tokens marked as such. */
function correctedTokens(
  json: Record<string, unknown>,
  tokens: readonly (string | undefined)[],
  corrected: readonly number[],
): Record<string, unknown>[] {
  const added = new Map(addedTokens(json).map((token) => [token["id"], token]));
  for (const id of corrected) {
    const plain = {
      id,
      content: tokens[id],
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    };
    added.set(id, { ...plain, ...added.get(id), special: true });
  }
  return [...added.values()];
}

/** A component and, for a Sequence, its parts. */
function flatten(component: unknown, listKey: string): Record<string, unknown>[] {
  if (!isRecord(component)) return [];
  if (component["type"] !== "Sequence") return [component];
  const parts: unknown = component[listKey];
  return Array.isArray(parts) ? parts.filter(isRecord) : [];
}

/** From the decoder, which is what turns tokens into text. */
function spellingOf(decoders: Record<string, unknown>[]): { spelling: TokenSpelling; prefixSpace: boolean } {
  const find = (type: string): Record<string, unknown> | undefined =>
    decoders.find((decoder) => decoder["type"] === type);
  if (find("ByteLevel") !== undefined) return { spelling: "byte-level", prefixSpace: false };
  const metaspace = find("Metaspace");
  if (metaspace !== undefined) {
    const never = metaspace["prepend_scheme"] === "never" || metaspace["add_prefix_space"] === false;
    return { spelling: "metaspace", prefixSpace: !never };
  }
  if (find("WordPiece") !== undefined) return { spelling: "metaspace", prefixSpace: true };
  const replace = find("Replace");
  if (isRecord(replace?.["pattern"]) && replace["pattern"]["String"] === "\u2581") {
    const strip = find("Strip");
    return { spelling: "metaspace", prefixSpace: strip?.["content"] === " " && strip["start"] === 1 };
  }
  const names = decoders.map((decoder) => String(decoder["type"])).join(", ");
  throw new TidepoolError("unsupported", `tokenizer.json: the decoder (${names || "none"}) is not supported`);
}

function isWordPiece(decoders: Record<string, unknown>[]): boolean {
  return decoders.some((decoder) => decoder["type"] === "WordPiece");
}

/** What marks the tokens that continue a word. */
function wordPiecePrefix(json: Record<string, unknown>): string {
  const model = json["model"] as Record<string, unknown>;
  return String(model["continuing_subword_prefix"] ?? "##");
}

/** WordPiece's tokens in the spelling of SentencePiece's: those that begin a word have a mark, the others have none. */
function spaced(
  tokens: readonly (string | undefined)[],
  kinds: readonly TokenKind[],
  prefix: string,
): (string | undefined)[] {
  return tokens.map((token, id) => {
    if (token === undefined || kinds[id] !== "normal") return token;
    return token.startsWith(prefix) ? token.slice(prefix.length) : `\u2581${token}`;
  });
}

function roles(
  parts: JsonParts,
  json: Record<string, unknown>,
  tokens: (string | undefined)[],
  kinds: TokenKind[],
  idOf: ReadonlyMap<string | undefined, number>,
): { roles: Pick<Vocabulary, "bosId" | "eosId" | "eosIds" | "addBos" | "warnings">; corrected: number[] } {
  const warnings: string[] = [];
  const config = parts.tokenizerConfig ?? {};
  const named = (key: string): number | undefined => {
    const text = contentOf(config[key]);
    return text === undefined ? undefined : idOf.get(text);
  };
  const sources = [parts.generationConfig, parts.config];
  const declared = (key: string): number[] =>
    sources
      .flatMap((source) => idList(source?.[key]))
      .filter((id) => {
        if (tokens[id] !== undefined) return true;
        const warning = ignoredId(key, id, tokens.length);
        if (!warnings.includes(warning)) warnings.push(warning);
        return false;
      });
  const declaredEos = declared("eos_token_id");
  const leading = leadingToken(json);
  const templateBos = leading === undefined ? undefined : idOf.get(leading);
  const bosId = named("bos_token") ?? templateBos ?? declared("bos_token_id")[0];
  const eosId = named("eos_token") ?? declaredEos[0];
  const corrected = correctKinds(tokens, kinds, [bosId, eosId, ...declaredEos]);
  const eosIds = endIds([eosId, ...declaredEos], tokens, kinds);
  const flag = config["add_bos_token"];
  const addBos = typeof flag === "boolean" ? flag : templateBos !== undefined && templateBos === bosId;
  return { roles: { bosId, eosId, eosIds, addBos: addBos && bosId !== undefined, warnings }, corrected };
}

/** The special token that the post-processor puts before a text. */
function leadingToken(json: Record<string, unknown>): string | undefined {
  return specialToken(templateOf(json)?.[0]);
}

/** What the post-processor makes of one text: a list of special tokens and the text's own ("Sequence"). */
function templateOf(json: Record<string, unknown>): unknown[] | undefined {
  for (const { type, single, cls, sep } of flatten(json["post_processor"], "processors")) {
    if (type === "TemplateProcessing" && Array.isArray(single)) return single as unknown[];
    if (type === "BertProcessing" || type === "RobertaProcessing")
      return [special(cls), { Sequence: {} }, special(sep)];
  }
  return undefined;
}

/** A special token of an older post-processor, [text, id], in a template's form. */
function special(token: unknown): unknown {
  return { SpecialToken: { id: Array.isArray(token) ? (token[0] as unknown) : undefined } };
}

function specialToken(item: unknown): string | undefined {
  const token = isRecord(item) ? item["SpecialToken"] : undefined;
  return isRecord(token) && typeof token["id"] === "string" ? token["id"] : undefined;
}

function tokensAround(
  json: Record<string, unknown>,
  idOf: ReadonlyMap<string | undefined, number>,
): TokenTable["around"] {
  const template = templateOf(json) ?? [];
  const text = template.findIndex((item) => specialToken(item) === undefined);
  const ids = (items: readonly unknown[]) =>
    items.flatMap((item) => {
      const id = idOf.get(specialToken(item));
      return id === undefined ? [] : [id];
    });
  return text < 0
    ? { before: [], after: [] }
    : { before: ids(template.slice(0, text)), after: ids(template.slice(text + 1)) };
}

/** A special token is written as its text or as an object with its text. */
function contentOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return isRecord(value) && typeof value["content"] === "string" ? value["content"] : undefined;
}

function idList(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === "number" && Number.isInteger(id) && id >= 0);
}
