/** Taking an example out of README.md, and that what README.md and CONTRIBUTING.md name exists: scripts, files and headings. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readmeExample } from "../support/readme.ts";

test("an example is the fenced block after its mark", () => {
  const text =
    "```sh\nnot this\n```\n<!-- example: one -->\n\n```ts\nconst a = 1;\n```\n```ts\nnor this\n```\n";
  expect(readmeExample("one", text)).toBe("const a = 1;\n");
  expect(() => readmeExample("two", text)).toThrow("README.md has no example named two");
});

describe.each(["README.md", "CONTRIBUTING.md"])("%s", (page) => {
  const text = readFileSync(page, "utf8");

  test("names npm scripts that exist", () => {
    const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as {
      scripts: Record<string, string>;
    };
    const named = [...text.matchAll(/npm run (?:--silent )?([\w:]+)/g)].map((match) => match[1] ?? "");
    expect(named.length).toBeGreaterThan(2);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });

  test("names files and folders that exist", () => {
    const inCode = [...text.matchAll(/(?<![\w./-])(?:src|test|shaders|demo)\/[\w./-]*[\w/]/g)].map(
      ([path]) => path,
    );
    const named = inCode.filter((path) => !/[A-Z]{4}/.test(path)); // format-NAME.wgsl stands for many
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((path) => !existsSync(path))).toEqual([]);
  });

  test("links to files and headings that exist", () => {
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)];
    const broken = links.filter(([, file, heading]) => {
      const target = file || page;
      if (!existsSync(target)) return true;
      return heading !== undefined && !anchorsOf(readFileSync(target, "utf8")).has(heading);
    });
    expect(broken.map(([link]) => link)).toEqual([]);
  });
});

/** The anchors that a page's headings get on a code host. */
function anchorsOf(text: string): Set<string> {
  const headings = [...text.matchAll(/^#+ (.*)$/gm)].map((match) => match[1] ?? "");
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replace(/[^\w -]/g, "")
        .replaceAll(" ", "-"),
    ),
  );
}
