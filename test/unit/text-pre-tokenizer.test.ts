/** How text is split before merging, by the name in a GGUF file: what each split isolates is split further by the next. */
import { expect, test } from "vitest";
import { preTokenizerOf } from "../../src/text/pre-tokenizer.ts";

function piecesOf(name: string, text: string): string[] {
  let pieces = [text];
  for (const split of preTokenizerOf(name).splits) pieces = pieces.flatMap((piece) => isolated(piece, split));
  return pieces;
}

/** The matches of an expression, and what lies between them. */
function isolated(text: string, expression: string): string[] {
  const pieces: string[] = [];
  let end = 0;
  for (const { 0: match, index } of text.matchAll(new RegExp(expression, "gu"))) {
    pieces.push(text.slice(end, index), match);
    end = index + match.length;
  }
  return [...pieces, text.slice(end)].filter(Boolean);
}

test.each([
  ["tekken", "HelloWorld 123 don't", ["Hello", "World", " ", "1", "2", "3", " don", "'t"]],
  ["tekken", "a/b//\n  c", ["a", "/b", "//\n", " ", " c"]],
  ["gpt-4o", "HelloWorld 1234 don't", ["Hello", "World", " ", "123", "4", " don't"]],
  ["hunyuan-dense", "ab12345 x", ["ab", "123", "45", " x"]],
  ["hunyuan-dense", "x\u4f60\u597d\u304by", ["x", "\u4f60\u597d\u304b", "y"]],
  ["hunyuan-dense", "f(ab), `cd`\n", ["f", "(ab", "),", " `", "cd", "`\n"]],
  ["deepseek-v3", "na\u0301me [x]!\n\n", ["na\u0301me", " [", "x", "]!\n\n"]],
  ["seed-coder", "a!!\n\nb 12", ["a", "!!", "\n\n", "b", " ", "1", "2"]],
  ["qwen2", "a!!\n\nb 12", ["a", "!!\n\n", "b", " ", "1", "2"]],
  ["minicpm5", "ab 12345!", ["ab", " ", "123", "45", "!"]],
  ["falcon", "a--b `12345", ["a", "--", "b", " ", "`", "123", "45"]],
])("%s splits %j", (name, text, pieces) => {
  expect(piecesOf(name, text)).toEqual(pieces);
});

/** What the files of the architectures that run name; as in llama.cpp. */
test.each([
  ...[
    "tekken",
    "dbrx",
    "gpt-4o",
    "hunyuan-dense",
    "deepseek-r1-qwen",
    "seed-coder",
    "exaone4",
    "refact",
    "glm4",
  ],
  ...["qwen2", "llama-bpe", "smollm", "gpt-2", "minicpm5", "falcon", "default"],
])("%s is known", (name) => {
  expect(preTokenizerOf(name).splits.length).toBeGreaterThan(0);
});

test("a name that is not known is refused, not guessed", () => {
  expect(() => preTokenizerOf("tekken2")).toThrow(/"tekken2" is not supported/);
});

test("tekken and minicpm5 take pieces whole that are tokens, and tekken begins a text", () => {
  expect(preTokenizerOf("tekken")).toMatchObject({ ignoreMerges: true, addBos: true });
  expect(preTokenizerOf("minicpm5").ignoreMerges).toBe(true);
  expect(preTokenizerOf("minicpm5").addBos).toBe(undefined);
});
