/**
 * A mixer and a feed-forward that are added from outside (test/support/toy-kinds.ts), each by one value and together by one
 * row, run as those of the table do: in one prefill, in chunks whose state goes on, and step by step. Their layers norm and add in
 * every way that a layer can: before, after, both, in parallel, after the sum, and one part at a time.
 */
import type { Gpu } from "../../src/gpu/device.ts";
import type { Case } from "../support/cases.ts";
import { addToys, SKELETONS, toyLogits, toyModel, toyTensors, type ToyName } from "../support/toy-kinds.ts";
import { nmse, runTokens, type Feed } from "./golden.ts";

const FEEDS: readonly Feed[] = ["once", "chunks of 7", "one by one"];
const TOKENS = Array.from({ length: 20 }, (_, index) => (7 * index) % 50);
const GATE = 1e-9;

async function check(gpu: Gpu, name: ToyName, feeds: readonly Feed[]): Promise<void> {
  addToys();
  const tensors = toyTensors(1, name);
  const expected = toyLogits(tensors, TOKENS, name);
  const model = toyModel(tensors, name);
  for (const feed of feeds) {
    const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 16, feed } as const;
    const error = nmse(await runTokens(gpu, model, TOKENS, setting), expected);
    if (!(error < GATE)) throw new Error(`${name}, ${feed}: NMSE ${error.toExponential(2)}, gate ${GATE}`);
  }
}

export const cases: Case[] = [
  {
    name: "model/toy/a mixer and a feed-forward in one file",
    run: ({ gpu }) => check(gpu, "toy", FEEDS),
  },
  {
    name: "model/toy/every way of norming and adding",
    async run({ gpu }) {
      const names = Object.keys(SKELETONS) as ToyName[];
      for (const [index, name] of names.entries()) await check(gpu, name, [FEEDS[index % 3] as Feed]);
    },
  },
];
