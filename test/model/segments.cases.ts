/** Steps that stop between layers: something is read back and run there, and the step goes on as if nothing had been. */
import { BlockPool } from "../../src/cache/blocks.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { Runner } from "../../src/model/runner.ts";
import type { Pause } from "../../src/gpu/segments.ts";
import { equal } from "../support/equal.ts";
import type { Case } from "../support/cases.ts";

const FOLDER = "goldens/stories260K";
const BLOCK_TOKENS = 16;
const TOKENS = [1, 403, 407, 261, 378, 300, 17, 40, 41, 42];

/** Bits, so that equal means equal. */
const bitsOf = (values: Float32Array<ArrayBuffer>): string => new Uint32Array(values.buffer).join();

async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}

export const cases: Case[] = [
  {
    name: "model/segments/a step stops between layers, reads back, runs something, and goes on with equal logits",
    async run(env) {
      const file = await openModel([openBytes(await env.shared(`${FOLDER}/model.gguf`), "model.gguf")]);
      const options = {
        dtype: "f32",
        kvDtype: "f32",
        blockTokens: BLOCK_TOKENS,
        chunkTokens: 64,
        seats: 2,
      } as const;
      const runner = await Runner.load(env.gpu, file, { ...options, poolTokens: 8 * BLOCK_TOKENS });
      try {
        const slots = new BlockPool(runner.pool.options.slots).allocate(3) as [number, number, number];
        const prefill = () => runner.score({ position: 0, slots, tokens: TOKENS, firstRow: 0 });
        const decode = () => runner.scoreDecode({ position: TOKENS.length, slots, token: 7 });
        const expected = [bitsOf(await prefill()), bitsOf(await decode())];

        const seen: { layer: number; values: Float32Array }[] = [];
        const stop = async (pause: Pause): Promise<void> => {
          const [hidden, delta] = await pause.read([pause.hidden, pause.delta]);
          const added = new Float32Array(delta as ArrayBuffer);
          const values = new Float32Array(hidden as ArrayBuffer).map(
            (value, at) => value + (added[at] as number),
          );
          seen.push({
            layer: pause.layer,
            values: pause.layer < 0 ? new Float32Array(hidden as ArrayBuffer) : values,
          });
          runner.pool.copySlot(slots[0], slots[2]); // other work on the GPU meanwhile
        };
        const last = runner.shape.layers.length - 1;
        for (const layer of [-1, 0, last]) runner.stopBehind(layer, stop);
        equal([bitsOf(await prefill()), bitsOf(await decode())], expected, "logits of steps that stop");
        const layers = [-1, 0, last];
        equal(
          seen.map(({ layer }) => layer),
          [...layers, ...layers],
          "stops",
        );
        const { hiddenSize } = runner.shape;
        equal(
          seen.map(({ values }) => values.length / hiddenSize),
          [10, 10, 10, 1, 1, 1],
          "rows",
        );
        equal(
          seen.every(({ values }) => values.some((value) => value !== 0) && values.every(Number.isFinite)),
          true,
          "values",
        );
        equal(new Set(seen.map(({ values }) => values.slice(0, 8).join())).size, 6, "different values");

        for (const layer of layers) runner.stopBehind(layer, undefined);
        let refused = "";
        runner.stopBehind(0, async () => {
          refused = await refusal(decode());
          throw new Error("nothing was brought");
        });
        equal(await refusal(prefill()), "nothing was brought", "a stop that fails");
        equal(
          refused,
          "assertion failed: a step begins while another stands behind layer 0",
          "a second step",
        );
        runner.stopBehind(0, undefined);
        equal(
          [bitsOf(await prefill()), bitsOf(await decode())],
          expected,
          "logits behind a stop that failed",
        );
      } finally {
        runner.destroy();
        await file.close();
      }
    },
  },
];
