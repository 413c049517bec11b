/** softcap: tanh of small, usual and huge logits in several rows; what is not finite stays as it is. */
import { Random } from "../../src/base.ts";
import { softCapOp } from "../../src/model/op/softcap.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { expectClose, lumpy, Rig } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

const ENDS = [0, -0, 1e-30, -1e-3, 29.9, -1e4, 3e38, -3e38, Infinity, -Infinity, NaN];
const VOCAB = 300;
const ROWS = 3;
const CAP = 30;

export const cases: Case[] = [
  {
    name: "kernel/softcap",
    async run({ gpu }) {
      const rig = new Rig(gpu, { f16: false, subgroups: false, label: "f32" });
      const values = Float32Array.from(
        lumpy(new Random(testSeed("kernel/softcap")), ROWS * VOCAB, VOCAB),
        (x) => 40 * x,
      );
      values.set(ENDS, VOCAB);
      const logits = rig.upload(values);
      const op = await softCapOp(rig.kernels, rig.types, { logits, vocab: VOCAB, cap: CAP });
      rig.run([op], { rows: [{}], logitRows: [0, 0] });
      const actual = await rig.read(logits, "f32", ROWS * VOCAB);
      const expected = Float64Array.from(values, (x, i) =>
        Number.isFinite(x) && i < 2 * VOCAB ? CAP * Math.tanh(x / CAP) : x,
      );
      const odd = [VOCAB + 8, VOCAB + 9, VOCAB + 10];
      equal(odd.map((i) => actual[i]).join(), "Infinity,-Infinity,NaN", "what is not finite");
      for (const i of odd) actual[i] = expected[i] = 0;
      expectClose("softcap", actual, expected, (i) => (i < 2 * VOCAB ? CAP * 2e-6 : 0));
      rig.close();
    },
  },
];
