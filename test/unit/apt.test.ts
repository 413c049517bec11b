/** The edit of Debian's sources files that enables backports. */
import { expect, test } from "vitest";
import { hasSuite, withBackports } from "../../src/setup/apt.ts";

const STANZAS = `Types: deb
# a mirror
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
`;

test("a stanza gets one more suite, and only the stanza that has the release", () => {
  const edited = withBackports(STANZAS, "bookworm");
  expect(edited).toBe(
    STANZAS.replace("bookworm bookworm-updates", "bookworm bookworm-updates bookworm-backports"),
  );
  expect(hasSuite(edited ?? "", "bookworm-backports")).toBe(true);
});

test("the one-line form gets one more line, options kept", () => {
  const text = "deb [trusted=yes] http://mirror.example/debian bookworm main contrib\n";
  expect(withBackports(text, "bookworm")).toBe(
    `${text}deb [trusted=yes] http://mirror.example/debian bookworm-backports main contrib\n`,
  );
});

test("a file without the release is left alone", () => {
  const other = "Types: deb\nURIs: http://mirror.example/node\nSuites: nodistro\nComponents: main\n";
  expect(withBackports(other, "bookworm")).toBeUndefined();
  expect(withBackports("# deb http://mirror.example/debian bookworm main\n", "bookworm")).toBeUndefined();
});

test("a suite counts only where it stands as a word of its own", () => {
  expect(hasSuite(STANZAS, "bookworm")).toBe(true);
  expect(hasSuite(STANZAS, "bookworm-backports")).toBe(false);
  expect(hasSuite("Suites: bookworm-security\n", "bookworm")).toBe(false);
});
