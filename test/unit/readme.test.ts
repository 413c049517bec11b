/** Taking an example out of README.md, and that what README.md tells people to run exists. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { readmeExample } from "../support/readme.ts";

test("an example is the fenced block after its mark", () => {
  const text =
    "```sh\nnot this\n```\n<!-- example: one -->\n\n```ts\nconst a = 1;\n```\n```ts\nnor this\n```\n";
  expect(readmeExample("one", text)).toBe("const a = 1;\n");
  expect(() => readmeExample("two", text)).toThrow("README.md has no example named two");
});

test("every npm script that README.md names exists", () => {
  const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as { scripts: Record<string, string> };
  const named = [...readFileSync("README.md", "utf8").matchAll(/npm run (?:--silent )?([\w:]+)/g)];
  expect(named.map((match) => match[1] ?? "").filter((name) => !(name in scripts))).toEqual([]);
});
