/**
 * Takes a code example out of README.md, so that a test can run exactly what a reader sees. An example is a fenced block
 * that follows an HTML comment `<!-- example: NAME -->`.
 */
import { readFileSync } from "node:fs";

/** The code of the named example. @throws Error when README.md has no such example. */
export function readmeExample(name: string, text = readFileSync("README.md", "utf8")): string {
  const start = text.indexOf(`<!-- example: ${name} -->`);
  const block = start < 0 ? undefined : /```\w+\n([\s\S]*?)```/.exec(text.slice(start));
  if (block?.[1] === undefined) throw new Error(`README.md has no example named ${name}`);
  return block[1];
}
