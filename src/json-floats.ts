/**
 * JSON text for templates: as `JSON.parse`, but a number that is written as a float becomes a `Number` object, which templates
 * print as a float ("1.0"). JavaScript's own numbers cannot tell 1.0 from 1, and a model's prompt should show what was written.
 */

/** A JSON string, or a number that is a float. */
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/gs;

/** A noncharacter, which no text should hold, marks a string that stands for a float. */
const MARK = "\ufdef";

/** @throws SyntaxError as `JSON.parse` does */
export function parseJson(source: string): unknown {
  let mark = MARK;
  while (source.includes(mark)) mark += MARK;
  const marked = source.replace(TOKENS, (token) =>
    /^-?\d.*[.eE]/s.test(token) ? JSON.stringify(mark + token) : token,
  );
  return JSON.parse(marked, (_key, value: unknown) =>
    typeof value === "string" && value.startsWith(mark) ? new Number(value.slice(mark.length)) : value,
  );
}
