/**
 * How processes end that have an engine, in Node, in processes of their own: by exit, exception, rejection or signal, and by
 * themselves. What must hold: each ends with its own code, says nothing of the native library, and lives on when only a thread
 * of it that has an engine ends.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { IS_FULL } from "../support/full.ts";

const MODEL = "demo/models/tide-dense.gguf";
const LIMIT_MS = 60_000;
/** Each end is tried so often: what goes wrong at the end of a process does so at some moments. */
const TRIES = IS_FULL ? 10 : 1;

const folder = mkdtempSync(join(tmpdir(), "tidepool-process-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

function run(args: readonly string[], input = ""): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { timeout: LIMIT_MS, killSignal: "SIGKILL" });
    let [out, err] = ["", ""];
    child.stdout.on("data", (data: Buffer) => (out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (err += data.toString()));
    child.on("close", (code, signal) => resolve({ code, signal, out, err }));
    child.stdin.end(input);
  });
}

const child = (how: string): Promise<Ended> =>
  run(["test/runtime/ending-child.mjs", MODEL, how, join(folder, how)]);

const NATIVE = /native stack|dawn|FATAL|not resolved or rejected/i;

/** Ends that the engine's own handlers see as one of the others. */
const OTHER_ENDS: [string, { code: number; out?: string }][] = [
  ["exit", { code: 3 }],
  ["reject", { code: 1 }],
  ["load", { code: 3 }],
  ["thread-exit", { code: 0, out: '{"code":3}\n' }],
  ["thread-throw", { code: 0, out: '{"code":1}\n' }],
];

describe("a process with an engine at work ends", { timeout: TRIES * 2 * LIMIT_MS }, () => {
  test.each<[string, { code?: number; signal?: string; out?: string }]>([
    ["throw", { code: 1 }],
    ["signal", { signal: "SIGTERM" }],
    ["thread-terminate", { code: 0, out: '{"code":1}\n' }],
    ["thread-host", { code: 3 }],
    ...(IS_FULL ? OTHER_ENDS : []),
  ])("by %s, as it would without one", async (how, { code = null, signal = null, out = "" }) => {
    for (let attempt = 0; attempt < TRIES; attempt++) {
      const ended = await child(how);
      expect(ended).toMatchObject({ code, signal, out });
      expect(ended.err).not.toMatch(NATIVE);
    }
  });

  test("by itself without close(), and what it has computed is stored", async () => {
    const first = await child("wait");
    expect([first.code, first.signal, first.err]).toEqual([0, null, expect.not.stringMatching(NATIVE)]);
    const again = await child("wait");
    expect([again.code, again.signal]).toEqual([0, null]);
    expect((JSON.parse(again.out) as { records: number }).records).toBeGreaterThan(0);
  });
});

const CODE = `import { Engine } from "./dist/lib/index.js";
const engine = await Engine.load("${MODEL}", { dtype: "f32" });
console.log((await engine.generate("The tide", { maxTokens: 4 }).result()).tokens.length);`;

describe("a program that is given as text", { timeout: 2 * LIMIT_MS }, () => {
  test.each<[string, string[], string]>([
    ["by -e", ["--input-type=module", "-e", CODE], ""],
    ["on standard input", ["--no-warnings", "--input-type=module", "-"], CODE],
  ])("%s runs", async (_how, args, input) => {
    const ended = await run(args, input);
    expect([ended.code, ended.out]).toEqual([0, "4\n"]);
  });
});
