/** The op that caps logits (shaders/softcap.wgsl). */
import code from "../../../shaders/softcap.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";

export interface SoftCapInput {
  /** f32 [logitRows, vocab], changed in place. */
  logits: GPUBuffer;
  vocab: number;
  /** More than 0. */
  cap: number;
}

const WORKGROUP = 128;

/** logits = cap * tanh(logits / cap). */
export async function softCapOp(kernels: Kernels, types: KernelTypes, input: SoftCapInput): Promise<Op> {
  const { logits, vocab, cap } = input;
  assert(cap > 0, `softcap: a cap of ${cap}`);
  const pipeline = await kernels.pipeline({ name: "softcap", code, libs: [stepLib] }, types, {
    WG: WORKGROUP,
  });
  const words = new DataView(new ArrayBuffer(16));
  words.setUint32(0, vocab, true);
  words.setFloat32(4, cap, true);
  const uniform = uniformBuffer(kernels.gpu.device, words, "softcap op");
  return {
    label: "softcap",
    pipeline,
    group: kernels.bind(pipeline, 0, [uniform, logits]),
    grid: (step) => [Math.ceil(vocab / WORKGROUP), step.logitRows, 1],
  };
}
