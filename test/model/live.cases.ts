/**
 * The shipped hybrid in conversations over one system prompt, with Marconi, with a snapshot at every block, and without a
 * cache: the answers are the same, and what was not computed again is counted. Times and bytes are printed.
 */
import { LONGEST_CASE_MS, type Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { medianOf, runLive, type LiveResult, type Way, type Workload } from "../support/live.ts";

const MODEL = "tide-hybrid.gguf";
const WAYS: Way[] = ["none", "vllm", "marconi"];

const QUICK: Workload = {
  ...{ systemTokens: 150, conversations: 3, turns: 2, questionTokens: 12, answerTokens: 8, seed: 5 },
};
/** The issue's: a long system prompt, ten conversations. */
export const WHOLE: Workload = {
  ...{ systemTokens: 700, conversations: 10, turns: 3, questionTokens: 24, answerTokens: 16, seed: 5 },
};

function liveCase(label: string, workload: Workload, full: boolean): Case {
  return {
    name: `model/live/${label}`,
    full,
    ...(full && { limitMs: LONGEST_CASE_MS }),
    async run(env) {
      const model = await env.shipped(MODEL);
      const results: LiveResult[] = [];
      for (const way of WAYS) results.push(await runLive(env.gpu, model, way, workload));
      for (const result of results) console.log(lineOf(result));
      const [none, vllm, marconi] = results as [LiveResult, LiveResult, LiveResult];
      equal(vllm.answers, none.answers, "answers with a snapshot at every block");
      equal(marconi.answers, none.answers, "answers with marconi");
      equal(none.computedTokens, none.promptTokens, "tokens computed without a cache");
      checkSpared(marconi, workload);
      equal(marconi.snapshotsTaken < vllm.snapshotsTaken, true, "marconi takes fewer snapshots");
    },
  };
}

/** All but the first two conversations' first turns, and all later turns, start behind the system prompt at least. */
function checkSpared({ promptTokens, computedTokens }: LiveResult, workload: Workload): void {
  const { systemTokens, conversations, turns } = workload;
  const least = systemTokens * (conversations * turns - 2);
  equal(promptTokens - computedTokens >= least, true, `at least ${least} tokens spared`);
}

function lineOf(result: LiveResult): string {
  const { way, firstTtftMs, laterTtftMs, promptTokens, computedTokens } = result;
  const times = `first turns ${medianOf(firstTtftMs).toFixed(0)} ms, later ${medianOf(laterTtftMs).toFixed(0)} ms`;
  const bytes = `${result.kvBytes} bytes of KV, ${result.snapshotBytes} of ${result.snapshotsTaken} states`;
  return `measured: live ${way}: time to first token: ${times}; computed ${computedTokens} of ${promptTokens}; ${bytes}`;
}

export const cases: Case[] = [
  liveCase("conversations", QUICK, false),
  liveCase("ten conversations", WHOLE, true),
];
