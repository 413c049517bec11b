/**
 * A template's source as a tree, by the lexer and parser of @huggingface/jinja. That parser knows tests without arguments only:
 * the tokens of `x is divisibleby(3)` become those of a filter named "is divisibleby" before it sees them. What it lacks of
 * Python's literals is in literals.ts.
 * The library's interpreter is not used: it prints values as JavaScript does, and its values cannot be extended from outside.
 */
import { parse, tokenize } from "@huggingface/jinja";
import { tuplesAsLists, wholeNumbers, type Token } from "./literals.ts";

/** A node of the tree; what it holds depends on its type (interpreter.ts reads it). */
export type Node = { type: string };

/** Marks a filter that is a test, and one that is a negated test. */
export const TEST_PREFIX = "is ";
export const NEGATED_PREFIX = "is not ";

/** @throws Error saying where the source is no template */
export function parseTemplate(source: string): readonly Node[] {
  const tokens = tokenize(source, { lstrip_blocks: true, trim_blocks: true });
  checkDepth(tokens);
  const program = parse(testsAsFilters(tuplesAsLists(wholeNumbers(tokens))) as typeof tokens);
  return (program as unknown as { body: Node[] }).body;
}

/** Brackets in brackets. More would overflow the parser's stack, after a time that grows with the square of the length. */
const MAX_DEPTH = 256;

function checkDepth(tokens: readonly Token[]): void {
  let depth = 0;
  for (const { type } of tokens) {
    if (OPENING.has(type)) depth++;
    else if (CLOSING.has(type)) depth--;
    if (depth > MAX_DEPTH) throw new Error(`its brackets are nested deeper than ${MAX_DEPTH}`);
  }
}

/** What may not begin a test's argument, though it is a word. */
const OPERATORS: ReadonlySet<string> = new Set(["and", "or", "not", "if", "else", "in", "is"]);

const OPENING: ReadonlySet<string> = new Set(["OpenParen", "OpenSquareBracket", "OpenCurlyBracket"]);
const CLOSING: ReadonlySet<string> = new Set(["CloseParen", "CloseSquareBracket", "CloseCurlyBracket"]);

function testsAsFilters(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length;) {
    const token = tokens[i] as Token;
    const test = token.type === "Identifier" && token.value === "is" ? testAt(tokens, i) : undefined;
    if (test === undefined) {
      out.push(token);
      i++;
      continue;
    }
    out.push({ type: "Pipe", value: "|" }, { type: "Identifier", value: test.name });
    // An argument without brackets gets them; it may hold tests itself.
    const argument = testsAsFilters(tokens.slice(test.start, test.end));
    if (test.isBare && argument.length > 0) {
      out.push({ type: "OpenParen", value: "(" }, ...argument, { type: "CloseParen", value: ")" });
    } else out.push(...argument);
    i = test.end;
  }
  return out;
}

/** The test at an `is`: its name, and the tokens of its arguments. Undefined where it is the name of something. */
function testAt(
  tokens: readonly Token[],
  at: number,
): { name: string; start: number; end: number; isBare: boolean } | undefined {
  const before = tokens[at - 1]?.type;
  if (before === "Dot" || before === "OpenStatement" || before === "OpenExpression") return undefined;
  let next = at + 1;
  const negated = tokens[next]?.type === "Identifier" && tokens[next]?.value === "not";
  if (negated) next++;
  const name = tokens[next];
  if (name?.type !== "Identifier") return undefined;
  const start = next + 1;
  const isCall = tokens[start]?.type === "OpenParen";
  const end = isCall
    ? groupEnd(tokens, start)
    : startsArgument(tokens[start])
      ? argumentEnd(tokens, start)
      : start;
  return { name: (negated ? NEGATED_PREFIX : TEST_PREFIX) + name.value, start, end, isBare: !isCall };
}

function startsArgument(token: Token | undefined): boolean {
  if (token === undefined) return false;
  if (token.type === "Identifier") return !OPERATORS.has(token.value);
  return token.type === "StringLiteral" || token.type === "NumericLiteral" || OPENING.has(token.type);
}

/** Where a single operand with its attributes, items and calls ends. */
function argumentEnd(tokens: readonly Token[], start: number): number {
  let at = OPENING.has(tokens[start]?.type ?? "") ? groupEnd(tokens, start) : start + 1;
  for (;;) {
    const type = tokens[at]?.type;
    if (type === "Dot") at += 2;
    else if (type === "OpenParen" || type === "OpenSquareBracket") at = groupEnd(tokens, at);
    else return at;
  }
}

/** Where the group of brackets that begins at `start` ends. */
function groupEnd(tokens: readonly Token[], start: number): number {
  let depth = 0;
  for (let i = start; i < tokens.length; i++) {
    const { type } = tokens[i] as Token;
    if (OPENING.has(type)) depth++;
    else if (CLOSING.has(type) && --depth === 0) return i + 1;
  }
  return tokens.length;
}
