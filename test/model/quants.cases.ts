/** Every block format of ../shared/goldens/quants: with a quantised embedding, and with every matrix quantised. */
import type { Case } from "../support/cases.ts";
import { loadGolden, nmse, runTokens } from "./golden.ts";

const TYPES = [
  ...["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"],
  ...["IQ4_NL", "IQ4_XS", "MXFP4"],
];

/**
 * Those whose whole models run in the normal run too. How each format is decoded, and multiplied by, is shown by the kernels' own
 * cases (kernel/matvec, kernel/matmul, kernel/embed).
 */
const WHOLE = ["F16", "Q4_0", "Q6_K", "MXFP4"];

/** In f32. */
const GATE = 1e-9;

function quantCase(folder: string, feed: "once" | "one by one", full: boolean): Case {
  return {
    name: `model/quants/${folder} ${feed}`,
    full,
    async run(env) {
      const { golden, expected, model } = await loadGolden(env, `goldens/quants/${folder}`);
      const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 32, feed } as const;
      const error = nmse(await runTokens(env.gpu, model, golden.tokens, setting), expected);
      if (!(error < GATE)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${GATE}`);
    },
  };
}

export const cases: Case[] = TYPES.flatMap((type) =>
  ["embedding", "all"].flatMap((what) => [
    quantCase(`${type}-${what}`, "once", !WHOLE.includes(type)),
    quantCase(`${type}-${what}`, "one by one", what === "embedding" || !WHOLE.includes(type)),
  ]),
);
