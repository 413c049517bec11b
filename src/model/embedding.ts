/**
 * From the normed rows of a step of texts to one vector for each text: pooling, and the matrices behind it. How the rows come
 * about is program.ts's business; cutting and normalising the vectors is the caller's (worker/request/embed.ts).
 */
import type { Op } from "../gpu/op.ts";
import type { ModelShape } from "../shape/shape.ts";
import type { BufferSizes } from "./layer-part.ts";
import { matmulOp } from "./matrix/products.ts";
import type { PackedWeight } from "./matrix/upload.ts";
import type { OpContext } from "./op/op-context.ts";
import { poolOp } from "./op/pool.ts";

/** Texts of a step at most. */
export const MAX_STEP_TEXTS = 256;

/** GGUF names of the matrices behind the pooling, in order; a model has none, or the first few. */
export const DENSE_NAMES: readonly string[] = ["dense_2", "dense_3"];

/** Bytes of the buffers behind the last layer, by name. */
export function embeddingBuffers(
  { hiddenSize, embedding }: Pick<ModelShape, "hiddenSize" | "embedding">,
  elemBytes: number,
): BufferSizes {
  if (!embedding) return {};
  const widths = [hiddenSize, ...embedding.dense];
  const between = Math.max(...widths.slice(0, -1), 0) * elemBytes;
  return {
    vectors: MAX_STEP_TEXTS * 4 * (widths.at(-1) as number),
    ...(between > 0 && { pooled: MAX_STEP_TEXTS * between, projected: MAX_STEP_TEXTS * between }),
  };
}

/** From `normed` to "vectors", f32 [texts, dimensions]. */
export async function embeddingOps(context: OpContext, dense: readonly PackedWeight[]): Promise<Op[]> {
  const { kernels, shape, dtype, normed } = context;
  const { hiddenSize: d, embedding } = shape;
  if (!embedding) return [];
  const { pooling } = embedding;
  let x = context.buffer(dense.length > 0 ? "pooled" : "vectors");
  const types = context.types(dense.length > 0 ? dtype : "f32");
  const ops = [await poolOp(kernels, types, { normed, pooled: x, d, pooling })];
  for (const [index, weight] of dense.entries()) {
    const isLast = index === dense.length - 1;
    const y = context.buffer(isLast ? "vectors" : index % 2 === 0 ? "projected" : "pooled");
    for (const piece of weight.pieces) {
      const options = { weight, piece, x, y, rowsFrom: "logitRows" } as const;
      ops.push(await matmulOp(kernels, context.types(isLast ? "f32" : dtype), options));
    }
    x = y;
  }
  return ops;
}
