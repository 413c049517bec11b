/**
 * Python's forms of literals that the lexer and parser of @huggingface/jinja lack, made of its tokens: numbers such as `1e3`,
 * `1_000` and `0x1f`, which it takes apart, and tuples that end in a comma or are empty, which become lists with a filter.
 * It evaluates nothing.
 */
import type { tokenize } from "@huggingface/jinja";

export type Token = Pick<ReturnType<typeof tokenize>[number], "type" | "value">;

/** The name of the filter that makes a tuple of a list; no template can write it. */
export const TUPLE_FILTER = "as tuple";

const DIGITS = String.raw`\d(?:_?\d)*`;
const INTEGER =
  /^([-+]?)(0[xX](?:_?[\da-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|[1-9](?:_?\d)*|0(?:_?0)*)$/;
const FLOAT = new RegExp(`^([-+]?)(${DIGITS})(\\.${DIGITS})?([eE][-+]?${DIGITS})?$`);

/** What the rest of a number begins with, where the lexer takes it for a name. */
const REST = /^[_eExXbBoO]/;

/** Puts numbers together that the lexer took apart. */
export function wholeNumbers(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length;) {
    const { text, end } = numberAt(tokens, i);
    const value = end > i + 1 ? plainNumber(text) : undefined;
    out.push(value === undefined ? (tokens[i] as Token) : { type: "NumericLiteral", value });
    i = value === undefined ? i + 1 : end;
  }
  return out;
}

/** The text of the tokens that may be one number, and where they end. */
function numberAt(tokens: readonly Token[], start: number): { text: string; end: number } {
  let text = "";
  let at = start;
  const take = (isNext: (token: Token) => boolean): boolean => {
    const token = tokens[at];
    if (token === undefined || !isNext(token)) return false;
    text += token.value;
    at++;
    return true;
  };
  const isDigits = ({ type }: Token): boolean => type === "NumericLiteral";
  const isRest = ({ type, value }: Token): boolean => type === "Identifier" && REST.test(value);
  if (!take(isDigits) || !take(isRest)) return { text, end: at };
  const isFraction = tokens[at]?.type === "Dot" && tokens[at + 1]?.type === "NumericLiteral";
  if (/_\d+$/.test(text) && !text.includes(".") && isFraction) {
    take(() => true);
    take(isDigits);
    take(isRest);
  }
  if (/[eE]$/.test(text) && take(({ value }) => value === "-" || value === "+") && take(isDigits))
    take(isRest);
  return { text, end: at };
}

/** A number in the form that the parser reads: a float has a point. Undefined if the text is no number of Python's. */
function plainNumber(text: string): string | undefined {
  const integer = INTEGER.exec(text);
  if (integer) return `${integer[1]}${BigInt((integer[2] as string).replaceAll("_", ""))}`;
  const float = FLOAT.exec(text);
  if (!float) return undefined;
  const [, sign, whole, fraction = ".0", exponent = ""] = float;
  return `${sign}${whole}${fraction}${exponent}`.replaceAll("_", "");
}

const LIST: { open: Token; close: Token[] } = {
  open: { type: "OpenSquareBracket", value: "[" },
  close: [
    { type: "CloseSquareBracket", value: "]" },
    { type: "Pipe", value: "|" },
    { type: "Identifier", value: TUPLE_FILTER },
  ],
};

/**
 * Makes lists with a filter of the tuples that the parser does not know: `(a,)`, `()`, and without brackets `{{ a, b }}`,
 * `{% set x = a, %}` and `{% for x in a, b %}`.
 */
export function tuplesAsLists(tokens: readonly Token[]): Token[] {
  const { opens, closes } = tupleEnds(tokens);
  const out: Token[] = [];
  for (const [i, token] of tokens.entries()) {
    if (closes.has(i)) out.push(...LIST.close);
    out.push(token);
    if (opens.has(i)) out.push(LIST.open);
  }
  return out;
}

/** An open bracket, or the beginning of an expression or of a statement's value. */
interface Group {
  /** The token behind which it begins. */
  at: number;
  commas: number;
  isCall: boolean;
}

function tupleEnds(tokens: readonly Token[]): { opens: Set<number>; closes: Set<number> } {
  const opens = new Set<number>();
  const closes = new Set<number>();
  const groups: Group[] = [];
  const close = (group: Group, end: number): void => {
    if (isTuple(tokens, group, end)) {
      opens.add(group.at);
      closes.add(end);
    }
    Object.assign(group, { at: end, commas: 0 });
  };
  for (const [i, { type }] of tokens.entries()) {
    const group = groups.at(-1);
    if (OPENS.has(type)) groups.push({ at: i, commas: 0, isCall: isCallAt(tokens, i) });
    else if (type === "Comma" && group) group.commas++;
    else if (group && beginsValue(tokens, group, i)) Object.assign(group, { at: i, commas: 0 });
    else if (group && endsValue(tokens, group, i)) close(group, i);
    else if (CLOSES.has(type) && groups.pop() && group) close(group, i);
  }
  return { opens, closes };
}

const OPENS: ReadonlySet<string> = new Set([
  "OpenParen",
  "OpenSquareBracket",
  "OpenCurlyBracket",
  "OpenExpression",
  "OpenStatement",
]);
const CLOSES: ReadonlySet<string> = new Set([
  "CloseParen",
  "CloseSquareBracket",
  "CloseCurlyBracket",
  "CloseExpression",
  "CloseStatement",
]);

function isTuple(tokens: readonly Token[], { at, commas, isCall }: Group, end: number): boolean {
  const { type } = tokens[at] as Token;
  if (type === "OpenExpression" || type === "Equals" || isWord(tokens[at], "in")) return commas > 0;
  if (type !== "OpenParen" || isCall) return false;
  return end === at + 1 || (tokens[end - 1]?.type === "Comma" && commas > 0 && end > at + 2);
}

/** Whether a statement's value begins behind this token: what is set, or what is gone through. */
function beginsValue(tokens: readonly Token[], { at }: Group, i: number): boolean {
  if (tokens[at]?.type !== "OpenStatement") return false;
  const { type } = tokens[i] as Token;
  const keyword = tokens[at + 1]?.value;
  return keyword === "set" ? type === "Equals" : keyword === "for" && isWord(tokens[i], "in");
}

/** Whether what a loop goes through ends before this token, at its condition. */
function endsValue(tokens: readonly Token[], { at }: Group, i: number): boolean {
  return isWord(tokens[at], "in") && (isWord(tokens[i], "if") || isWord(tokens[i], "recursive"));
}

function isWord(token: Token | undefined, word: string): boolean {
  return token?.type === "Identifier" && token.value === word;
}

/** Words behind which a bracket begins a group and not a call. */
const WORDS: ReadonlySet<string> = new Set(["and", "elif", "else", "for", "if", "in", "not", "or", "set"]);

function isCallAt(tokens: readonly Token[], at: number): boolean {
  const before = tokens[at - 1];
  if (before?.type === "CloseParen" || before?.type === "CloseSquareBracket") return true;
  if (before?.type !== "Identifier") return false;
  return !WORDS.has(before.value) || isTestName(tokens, at - 1);
}

/** Whether a word is the name of a test: behind `is`, or `is not`. */
function isTestName(tokens: readonly Token[], at: number): boolean {
  const [further, before] = [tokens[at - 2], tokens[at - 1]];
  if (isWord(before, "is")) return !isWord(tokens[at], "not");
  return isWord(before, "not") && isWord(further, "is");
}
