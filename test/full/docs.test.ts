/** The documents made of the docstrings: every public class, function and type has one, and no link leads nowhere. */
import { execFile } from "node:child_process";
import { expect, test } from "vitest";

const LIMIT_MS = 120_000;

test("npm run docs has nothing to complain of", { timeout: LIMIT_MS }, async () => {
  const [code, output] = await new Promise<[number, string]>((done) => {
    const args = ["node_modules/typedoc/bin/typedoc", "--emit", "none"];
    execFile(process.execPath, args, { timeout: LIMIT_MS }, (error, out, err) =>
      done([error === null ? 0 : 1, out + err]),
    );
  });
  expect([code, code === 0 ? "" : output]).toEqual([0, ""]);
});
