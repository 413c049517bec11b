/**
 * A mixer and a feed-forward that are added from outside (test/support/toy-kinds.ts), each by one value and together by one
 * row, run as those of the table do: in one prefill, in chunks whose state goes on, and step by step.
 */
import type { Case } from "../support/cases.ts";
import { addToys, toyLogits, toyModel, toyTensors } from "../support/toy-kinds.ts";
import { nmse, runTokens, type Feed } from "./golden.ts";

const FEEDS: readonly Feed[] = ["once", "chunks of 7", "one by one"];
const TOKENS = Array.from({ length: 20 }, (_, index) => (7 * index) % 50);
const GATE = 1e-9;

export const cases: Case[] = [
  {
    name: "model/toy/a mixer and a feed-forward in one file",
    async run(env) {
      addToys();
      const tensors = toyTensors(1);
      const expected = toyLogits(tensors, TOKENS);
      const model = toyModel(tensors);
      for (const feed of FEEDS) {
        const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 16, feed } as const;
        const error = nmse(await runTokens(env.gpu, model, TOKENS, setting), expected);
        if (!(error < GATE)) throw new Error(`${feed}: NMSE ${error.toExponential(2)}, gate ${GATE}`);
      }
    },
  },
];
