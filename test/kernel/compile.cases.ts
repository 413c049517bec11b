/** Kernels that compile side by side, and kernels that do not compile: the error names the kernel and shows the compiler's words and the numbered text. */
import { TidepoolError } from "../../src/errors.ts";
import { Kernels, type KernelSource, type KernelTypes } from "../../src/gpu/kernel.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";

const TYPES: KernelTypes = { elem: "f32", kv: "f32", out: "f32" };

const GOOD = `@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(1)
fn main() {
  out[0] = 1;
}`;

const kernel = (name: string, code: string): KernelSource => ({ name, code, libs: [] });

async function errorOf(work: Promise<unknown>): Promise<TidepoolError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof TidepoolError) return error;
  throw new Error(`not a TidepoolError: ${String(error)}`);
}

export const cases: Case[] = [
  {
    name: "kernel/compile/a broken kernel, beside good ones",
    async run({ gpu }) {
      const kernels = new Kernels(gpu);
      const broken = kernel("broken", GOOD.replace("out[0] = 1", "out[0] = nowhere"));
      const [before, failed, after] = [
        kernels.pipeline(kernel("before", GOOD), TYPES),
        errorOf(kernels.pipeline(broken, TYPES)),
        kernels.pipeline(kernel("after", GOOD.replace("1;", "2;")), TYPES),
      ];
      const error = await failed;
      equal((await before).name, "before", "the kernel asked for before it");
      equal((await after).name, "after", "the kernel asked for after it");
      equal(error.code, "internal", "code");
      for (const words of ['shader "broken" does not compile', "nowhere", "out[0] = nowhere;"])
        equal(error.message.includes(words), true, `"${words}" in: ${error.message}`);
      equal((await errorOf(kernels.pipeline(broken, TYPES))).code, "internal", "code, asked for again");
    },
  },
  {
    name: "kernel/compile/side by side",
    async run({ gpu }) {
      const kernels = new Kernels(gpu);
      const deferred = kernels.deferred();
      const good = await deferred.pipeline(kernel("good", GOOD), TYPES);
      const told: number[] = [];
      await deferred.ready((done, total) => void told.push(done, total));
      equal(told, [1, 1], "what was told");
      equal(
        good.compute === (await new Kernels(gpu).pipeline(kernel("good", GOOD), TYPES)).compute,
        true,
        "the same pipeline for all who ask on the device",
      );

      const broken = await deferred.pipeline(kernel("broken", GOOD.replace("out[0]", "out[nowhere]")), TYPES);
      equal(
        (await errorOf(deferred.ready())).message.includes('shader "broken"'),
        true,
        "the error names the kernel",
      );
      let refused = false;
      try {
        void broken.compute;
      } catch {
        refused = true;
      }
      equal(refused, true, "a pipeline that did not compile is not handed out");
    },
  },
];
