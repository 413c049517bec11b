/**
 * Chat templates: choosing a model's template, rendering a conversation, and turning a conversation into ids such that
 * turns which the model generated keep the ids that it generated.
 * It does not stop a hostile template that loops: whoever runs untrusted ones gives this room a worker that can be killed.
 */
import { Template } from "@huggingface/jinja";
import { TidepoolError } from "../errors.ts";
import type { Tokenizer, TokenizerParts } from "./tokenizer.ts";
import { isRecord } from "./vocabulary.ts";

/** The longest template source that is parsed; those in use have up to 30,000 characters. */
const MAX_TEMPLATE_CHARS = 1024 * 1024;

/** A message as the template sees it. Other fields (tool_calls, reasoning_content, ...) are handed to the template. */
export interface ChatMessage {
  role: string;
  content: unknown;
  [field: string]: unknown;
}

/** A message, and for one that the model generated the ids that it generated. */
export interface ChatTurn extends ChatMessage {
  ids?: readonly number[];
}

export interface RenderOptions {
  /** Ends the text with the beginning of an assistant's turn. Default true. */
  addGenerationPrompt?: boolean;
  /** Tool definitions for the template. */
  tools?: readonly unknown[];
  /** Template variables such as enable_thinking. */
  variables?: Readonly<Record<string, unknown>>;
}

export interface ChatTemplate {
  readonly source: string;
  /** Throws `invalid_argument` with the template's own message where it refuses the conversation. */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

/** Spellings of special tokens, by the names that templates use: bos_token, eos_token. */
export type TemplateTokens = Readonly<Record<string, string | undefined>>;

/** Parses a template. Throws `invalid_file` where it is no valid template. */
export function createChatTemplate(source: string, tokens: TemplateTokens = {}): ChatTemplate {
  const template = parse(source);
  const render = (messages: readonly ChatMessage[], options: RenderOptions = {}): string => {
    const values = {
      ...definedOf(tokens),
      ...options.variables,
      messages,
      add_generation_prompt: options.addGenerationPrompt ?? true,
    };
    if (options.tools !== undefined && options.tools.length > 0) {
      return renderOrThrow(template, { ...values, tools: options.tools });
    }
    return renderWithoutTools(template, values);
  };
  return { source, render };
}

/**
 * "No tools" is none in the templates' reference implementation, and Llama 3's template prints a tools header for an empty
 * list. A few templates go through `tools` without asking, which this interpreter refuses for none: those get the empty list.
 */
function renderWithoutTools(template: Template, values: Record<string, unknown>): string {
  try {
    return renderOrThrow(template, { ...values, tools: null });
  } catch (error) {
    try {
      return renderOrThrow(template, { ...values, tools: [] });
    } catch {
      throw error;
    }
  }
}

function renderOrThrow(template: Template, values: Record<string, unknown>): string {
  try {
    return template.render(values);
  } catch (error) {
    throw new TidepoolError("invalid_argument", `the chat template failed: ${(error as Error).message}`);
  }
}

function parse(source: string): Template {
  if (source.length > MAX_TEMPLATE_CHARS) {
    const size = `${source.length} characters, at most ${MAX_TEMPLATE_CHARS}`;
    throw new TidepoolError("invalid_file", `the chat template has ${size}`);
  }
  try {
    return new Template(source);
  } catch (error) {
    throw new TidepoolError("invalid_file", `the chat template is malformed: ${(error as Error).message}`);
  }
}

function definedOf(tokens: TemplateTokens): Record<string, string> {
  return Object.fromEntries(
    Object.entries(tokens).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

/** Where a template may be found: the fields of a model file of either format. */
export type TemplateParts =
  | Extract<TokenizerParts, { format: "gguf" }>
  | {
      format: "safetensors";
      tokenizerConfig?: Record<string, unknown> | undefined;
      chatTemplate?: string | undefined;
    };

/**
 * The template that a model file brings: `tokenizer.chat_template`, chat_template.jinja, or tokenizer_config.json.
 * `name` picks one of several (tool_use, rag, ...). Throws `unsupported` where the model has none of that name.
 */
export function chatTemplateOf(parts: TemplateParts, tokenizer: Tokenizer, name?: string): ChatTemplate {
  const source = parts.format === "gguf" ? ggufTemplate(parts.metadata, name) : jsonTemplate(parts, name);
  if (source === undefined) {
    const which = name === undefined ? "no chat template" : `no chat template named "${name}"`;
    throw new TidepoolError("unsupported", `the model has ${which}: it can continue text, but not chat`);
  }
  return createChatTemplate(source, {
    bos_token: spelling(tokenizer, tokenizer.bosId),
    eos_token: spelling(tokenizer, tokenizer.eosId),
  });
}

function spelling(tokenizer: Tokenizer, id: number | undefined): string | undefined {
  return id === undefined ? undefined : tokenizer.idToToken(id);
}

function ggufTemplate(metadata: ReadonlyMap<string, unknown>, name?: string): string | undefined {
  const key = "tokenizer.chat_template" + (name === undefined ? "" : `.${name}`);
  const source = metadata.get(key);
  return typeof source === "string" ? source : undefined;
}

function jsonTemplate(
  parts: Extract<TemplateParts, { format: "safetensors" }>,
  name?: string,
): string | undefined {
  if (name === undefined && parts.chatTemplate !== undefined) return parts.chatTemplate;
  const given = parts.tokenizerConfig?.["chat_template"];
  if (typeof given === "string") return name === undefined ? given : undefined;
  if (!Array.isArray(given)) return undefined;
  const found: unknown = given.find((item) => isRecord(item) && item["name"] === (name ?? "default"));
  return isRecord(found) && typeof found["template"] === "string" ? found["template"] : undefined;
}

/**
 * The ids of a conversation. A turn that carries ids keeps them where the template prints its text unchanged and they
 * decode to that text; everything else is encoded. Special tokens of the template count as such, those written in a message
 * are plain text. Nothing is put before the template's own beginning.
 *
 *     rendered   <|user|> hi <|end|><|assistant|>  hello  <|end|><|user|> ...
 *                [--------- encoded ------------][carried][---- encoded ----
 *
 * A generated end token belongs to the template's part: at the end of carried ids it is dropped.
 */
export function encodeConversation(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  turns: readonly ChatTurn[],
  options: RenderOptions = {},
): number[] {
  const marker = createMarker(tokenizer, turns);
  const messages = turns.map(({ ids: _ids, ...message }) => marker.mark(message) as ChatMessage);
  const rendered = template.render(messages, options);
  const carried = carriedTurns(tokenizer, turns, messages);
  const ids: number[] = [];
  let at = 0;
  for (const span of findCarried(template, messages, carried, rendered, options)) {
    append(ids, marker.encode(rendered.slice(at, span.start), at > 0));
    append(ids, span.ids);
    at = span.end;
  }
  append(ids, marker.encode(rendered.slice(at), at > 0));
  return ids;
}

interface CarriedTurn {
  /** Index of the message. */
  index: number;
  text: string;
  ids: readonly number[];
}

/** The turns whose ids are what their text was decoded from; an edited turn is not among them. */
function carriedTurns(
  tokenizer: Tokenizer,
  turns: readonly ChatTurn[],
  messages: readonly ChatMessage[],
): CarriedTurn[] {
  const carried: CarriedTurn[] = [];
  turns.forEach((turn, index) => {
    if (turn.ids === undefined || typeof turn.content !== "string" || turn.content === "") return;
    const ids = withoutEnd(turn.ids, tokenizer.eosIds);
    const isText = [false, true].some((continues) => tokenizer.decode(ids, { continues }) === turn.content);
    if (isText) carried.push({ index, text: messages[index]?.content as string, ids });
  });
  return carried;
}

function withoutEnd(ids: readonly number[], eosIds: readonly number[]): readonly number[] {
  let length = ids.length;
  while (length > 0 && eosIds.includes(ids[length - 1] as number)) length--;
  return ids.slice(0, length);
}

interface Span {
  start: number;
  end: number;
  ids: readonly number[];
}

/**
 * Where the carried turns stand in the rendered text. The same words may stand elsewhere (in a question, say), so that
 * searching for them would not do: the template is rendered once more with a placeholder for each such turn, which
 * gives the texts between them.
 */
function findCarried(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  carried: readonly CarriedTurn[],
  rendered: string,
  options: RenderOptions,
): Span[] {
  if (carried.length === 0) return [];
  const outline = outlineOf(template, messages, carried, rendered, options);
  const between = outline.between;
  if (!rendered.startsWith(between[0] ?? "")) return [];
  const spans: Span[] = [];
  let at = (between[0] ?? "").length;
  for (const [i, turn] of outline.turns.entries()) {
    const next = between[i + 1] ?? "";
    const placed = placeTurn(rendered, turn.text, next, at, spans.at(-1)?.end ?? 0);
    if (placed !== undefined) {
      spans.push({ start: placed.start, end: placed.end, ids: turn.ids });
      at = placed.resume;
      continue;
    }
    // The template rewrote this turn (a dropped <think> part, say): go on behind it.
    const resume = rendered.indexOf(next, at);
    if (next === "" || resume < 0) break;
    at = resume + next.length;
  }
  return spans;
}

/**
 * A turn's unchanged text at `at`, with `next` behind it. A template that trims a turn and prints white space of its own
 * gives the same text where the two agree: then the text reaches into what stands before or behind it.
 */
function placeTurn(
  rendered: string,
  text: string,
  next: string,
  at: number,
  floor: number,
): { start: number; end: number; resume: number } | undefined {
  const leading = text.length - text.trimStart().length;
  const trailing = text.length - text.trimEnd().length;
  for (const before of new Set([0, leading])) {
    for (const behind of new Set([0, trailing])) {
      const start = at - before;
      const end = start + text.length;
      const fits =
        start >= floor && rendered.startsWith(text, start) && rendered.startsWith(next, end - behind);
      if (fits) return { start, end, resume: end - behind + next.length };
    }
  }
  return undefined;
}

/** The rendered text around the turns that the template prints exactly once: one text more than turns. */
function outlineOf(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  carried: readonly CarriedTurn[],
  rendered: string,
  options: RenderOptions,
): { turns: readonly CarriedTurn[]; between: string[] } {
  let stem = "placeholder";
  while (rendered.includes(stem)) stem += "x";
  const nameOf = (turn: CarriedTurn): string => `${stem}-${turn.index}-`;
  const renderWith = (turns: readonly CarriedTurn[]): string => {
    const names = new Map(turns.map((turn) => [turn.index, nameOf(turn)]));
    return template.render(
      messages.map((message, i) => ({ ...message, content: names.get(i) ?? message.content })),
      options,
    );
  };
  const first = renderWith(carried);
  const turns = carried.filter((turn) => first.split(nameOf(turn)).length === 2);
  const outline = turns.length === carried.length ? first : renderWith(turns);
  const between: string[] = [];
  let at = 0;
  for (const turn of turns) {
    const start = outline.indexOf(nameOf(turn), at);
    if (start < 0) return { turns: [], between: [] };
    between.push(outline.slice(at, start));
    at = start + nameOf(turn).length;
  }
  return { turns, between: [...between, outline.slice(at)] };
}

/** Noncharacters, which no text should hold; one that the conversation does not hold is the mark. */
const MARKS = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

interface Marker {
  /** Puts the mark into every control token that is written in a string of the message. */
  mark(value: unknown): unknown;
  /** Encodes rendered text: the template's special tokens as such, marked ones as plain text without the mark. */
  encode(text: string, continues: boolean): number[];
}

/**
 * Keeps special tokens that somebody wrote into a message apart from those of the template: the former are broken by a
 * mark before rendering and mended after the text has been split at the latter.
 */
function createMarker(tokenizer: Tokenizer, turns: readonly ChatTurn[]): Marker {
  // A token of one character cannot be broken; none is in use.
  const texts = tokenizer.controlTokens.filter((token) => token.length > 1);
  const everything = JSON.stringify(turns.map(({ ids: _ids, ...message }) => message));
  const unused = MARKS.find((candidate) => !everything.includes(candidate));
  if (unused === undefined) {
    throw new TidepoolError(
      "invalid_argument",
      "the conversation holds all 32 noncharacters U+FDD0 to U+FDEF",
    );
  }
  const mark = unused;
  if (!texts.some((text) => everything.includes(JSON.stringify(text).slice(1, -1)))) {
    return {
      mark: (value) => value,
      encode: (text, continues) => tokenizer.encode(text, { special: true, continues }),
    };
  }
  const control = new RegExp(
    texts
      .sort((a, b) => b.length - a.length)
      .map(escapeRegExp)
      .join("|"),
    "gu",
  );
  return {
    mark: (value) => mapStrings(value, (text) => breakTokens(text, control, mark)),
    encode: (text, continues) => encodeMarked(tokenizer, text, control, mark, continues),
  };
}

/** Breaks every control token of the text; breaking one can uncover another that overlapped it. */
function breakTokens(text: string, control: RegExp, mark: string): string {
  let broken = text;
  for (let before = ""; before !== broken;) {
    before = broken;
    broken = broken.replace(control, (token) => {
      const first = String.fromCodePoint(token.codePointAt(0) as number);
      return first + mark + token.slice(first.length);
    });
  }
  return broken;
}

function encodeMarked(
  tokenizer: Tokenizer,
  text: string,
  control: RegExp,
  mark: string,
  continues: boolean,
): number[] {
  const ids: number[] = [];
  let at = 0;
  const plain = (end: number): void => {
    const piece = text.slice(at, end).replaceAll(mark, "");
    append(ids, tokenizer.encode(piece, { continues: continues && at === 0 }));
  };
  for (const match of text.matchAll(control)) {
    plain(match.index);
    ids.push(tokenizer.tokenToId(match[0]) as number);
    at = match.index + match[0].length;
  }
  plain(text.length);
  return ids;
}

function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (!isRecord(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapStrings(item, change)]));
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** Not `push(...items)`: an argument list has a limit that a long prompt reaches. */
function append(ids: number[], more: readonly number[]): void {
  for (const id of more) ids.push(id);
}
