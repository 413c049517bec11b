/**
 * Conversations as ids: the template's text is encoded, and turns that the model generated keep the ids that it generated,
 * since one id that comes back different from re-tokenising voids a whole stored prefix.
 * Templates themselves are template.ts; this is the room's face for both.
 */
import { append, createMarker, type Marker } from "./special-token-guard.ts";
import { adaptMessages, textOfContent } from "./messages.ts";
import type { TemplateMessage, ChatTemplate, RenderOptions } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";

export { chatTemplateOf, checkChatTemplate, createChatTemplate } from "./template.ts";
export type {
  TemplateMessage,
  ChatTemplate,
  RenderOptions,
  TemplateParts,
  TemplateTokens,
} from "./template.ts";

/** A message, and for one that the model generated the ids that it generated. */
export interface ChatTurn extends TemplateMessage {
  ids?: readonly number[];
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
  const { plain, marker, messages, marked } = prepare(template, tokenizer, turns, options);
  const rendered = template.render(messages, marked);
  const carried = carriedTurns(tokenizer, turns, plain, messages);
  const ids: number[] = [];
  let at = 0;
  for (const span of findCarried(template, messages, carried, rendered, marked)) {
    append(ids, marker.encode(rendered.slice(at, span.start), at > 0));
    append(ids, span.ids);
    at = span.end;
  }
  append(ids, marker.encode(rendered.slice(at), at > 0));
  return ids;
}

/** The text of a conversation: what `encodeConversation` encodes, control tokens in messages as they were written. */
export function renderConversation(
  template: ChatTemplate,
  turns: readonly ChatTurn[],
  options: RenderOptions = {},
): string {
  return template.render(adaptMessages(template, turns.map(withoutIds)), options);
}

function withoutIds({ ids: _ids, ...message }: ChatTurn): TemplateMessage {
  return message as TemplateMessage;
}

interface Prepared {
  /** The messages as the template wants them. */
  plain: TemplateMessage[];
  marker: Marker;
  /** The same, and the options, with control tokens broken by the mark. */
  messages: TemplateMessage[];
  marked: RenderOptions;
}

function prepare(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  turns: readonly ChatTurn[],
  options: RenderOptions,
): Prepared {
  const given = turns.map(withoutIds).map((message, index) =>
    // Carried ids stand for one text.
    turns[index]?.ids === undefined
      ? message
      : { ...message, content: textOfContent(message.content, index) ?? message.content },
  );
  const plain = adaptMessages(template, given);
  const tools = options.tools ?? options.variables?.["tools"];
  const marker = createMarker(tokenizer, [plain, tools ?? null]);
  const messages = plain.map((message) => marker.mark(message) as TemplateMessage);
  const marked = Array.isArray(tools) ? { ...options, tools: marker.mark(tools) as unknown[] } : options;
  return { plain, marker, messages, marked };
}

interface CarriedTurn {
  /** Index of the message. */
  index: number;
  text: string;
  ids: readonly number[];
}

/**
 * The turns whose ids are what their text was decoded from; an edited turn is not among them. Nor is one whose ids hold what
 * nobody sees in the text: a control token (but for those that end the turn), or an id without a token.
 */
function carriedTurns(
  tokenizer: Tokenizer,
  turns: readonly ChatTurn[],
  plain: readonly TemplateMessage[],
  messages: readonly TemplateMessage[],
): CarriedTurn[] {
  const carried: CarriedTurn[] = [];
  turns.forEach((turn, index) => {
    const content = plain[index]?.content;
    if (turn.ids === undefined || typeof content !== "string" || content === "") return;
    const ids = withoutEnd(turn.ids, tokenizer.eosIds);
    if (!ids.every((id) => tokenizer.isText(id))) return;
    const isText = [false, true].some((continues) => tokenizer.decode(ids, { continues }) === content);
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
  messages: readonly TemplateMessage[],
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
  messages: readonly TemplateMessage[],
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
