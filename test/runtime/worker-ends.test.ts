/**
 * How the engine's worker ends, in Node, in processes of their own: killed in the middle of requests, and closed at random
 * moments. What must hold: everything that was asked gets an answer or a typed error, nothing hangs, the process lives.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { IS_FULL } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";

const MODEL = "demo/models/tide-dense.gguf";
const LIMIT_MS = 240_000;
const ROUNDS = IS_FULL ? 16 : 4;

/** The bound of close() in engine.ts, and the time that a load may take to end there. */
const CLOSE_LIMIT_MS = 20_000;

const folder = mkdtempSync(join(tmpdir(), "tidepool-ends-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a script prints; rejects with its errors when it fails or is killed. */
function run(args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, { timeout: LIMIT_MS, maxBuffer: 2 ** 26 }, (error, out, err) =>
      error ? reject(new Error(`${error.message}\n${out}\n${err}`)) : resolve(out),
    );
  });
}

interface Refusal {
  code: string;
  message: string;
}

interface Killed {
  chunks: number;
  /** Code of the stream's error, state and failure's code then, and state after close(). */
  states: string[];
  outcomes: (Refusal | "done")[];
  after: Refusal[];
  tokens: number[];
  before: number[];
  again: number[];
}

/** How the worker dies, and what is said of it. */
const WAYS: [string, RegExp][] = [["exit", /the engine's worker died: it ended with code 7/]];
if (IS_FULL) WAYS.push(["throw", /the engine's worker died: killed by the test/]);

describe("a worker that dies in the middle of requests", { timeout: LIMIT_MS }, () => {
  it.each(WAYS)(
    "by %s: all that was asked is rejected with what happened, and a new engine works",
    async (how, why) => {
      const orders = ["--import", "./test/runtime/orders.mjs"];
      const killed = JSON.parse(
        await run([...orders, "test/runtime/killed-child.mjs", MODEL, how]),
      ) as Killed;
      expect(killed.chunks).toBeGreaterThanOrEqual(3);
      expect(killed.states).toEqual(["worker_died", "failed", "worker_died", "closed"]);
      const refused = killed.outcomes.filter((outcome) => outcome !== "done");
      expect(refused.length).toBeGreaterThanOrEqual(4); // the requests, and calls that waited
      for (const { code, message } of [...refused, ...killed.after]) {
        expect(code).toBe("worker_died");
        expect(message).toMatch(why);
      }
      expect(killed.tokens).toHaveLength(4);
      expect(killed.again).toEqual(killed.before); // the text worker was killed in between
    },
  );
});

interface Round {
  what: string[];
  outcomes: string[];
  closeMs: number;
  state?: string;
  after?: string;
}

describe("close()", { timeout: LIMIT_MS }, () => {
  it("resolves at random moments of anything, twice too, and leaves nothing unanswered", async () => {
    const seed = testSeed("close");
    const child = ["test/runtime/close-child.mjs", MODEL, String(seed), String(ROUNDS), join(folder, "kv")];
    const rounds = (await run(child))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Round);
    expect(rounds).toHaveLength(ROUNDS);
    for (const { what, outcomes, closeMs, state, after } of rounds) {
      const about = JSON.stringify({ what, outcomes });
      expect(closeMs, about).toBeLessThan(CLOSE_LIMIT_MS);
      for (const outcome of outcomes) {
        expect(["done", "length", "stop", "aborted", "closed"], about).toContain(outcome);
      }
      if (what[0] !== "load") expect([state, after], about).toEqual(["closed", "closed"]);
    }
    const longestMs = Math.max(...rounds.map(({ closeMs }) => closeMs));
    console.log(`close(): at most ${longestMs.toFixed(0)} ms in ${ROUNDS} rounds`);
  });
});
