/**
 * The matrices of a layer's experts and where they are in a file: for all experts in one tensor of three dimensions, or in a
 * tensor for each. It reads none of them.
 */
import { TidepoolError } from "../../errors.ts";
import type { TensorInfo } from "../../load/model-file.ts";
import type { ExpertsFeedForward } from "../../shape/ffn/experts.ts";
import type { LayerTensors, TensorNames } from "../arch/tensor-lookup.ts";

/** A matrix that every expert of a layer has. */
export interface ExpertMatrix {
  /** In GGUF, without the layer's prefix and what stands behind it. */
  name: string;
  columns: number;
  /** Of one expert. */
  rows: number;
}

const FUSED = "ffn_gate_up";

/** Gate, then up, or both in one; then down. */
export function expertMatrices(
  { gated, width }: ExpertsFeedForward,
  layer: LayerTensors,
  hiddenSize: number,
): ExpertMatrix[] {
  const inner = { columns: hiddenSize, rows: width };
  const down = { name: "ffn_down", columns: width, rows: hiddenSize };
  if (!gated) return [{ name: "ffn_up", ...inner }, down];
  if (layer.has(`${FUSED}_exps`)) return [{ name: FUSED, columns: hiddenSize, rows: 2 * width }, down];
  return [{ name: "ffn_gate", ...inner }, { name: "ffn_up", ...inner }, down];
}

/** The tensor of all experts, or one for each (the first Mixtral files). @throws TidepoolError `invalid_file`, `unsupported` */
export function expertTensors(
  names: TensorNames,
  layer: number,
  { name, columns, rows }: ExpertMatrix,
  count: number,
): TensorInfo[] {
  const whole = names.layer(layer, `${name}_exps`);
  const one = (expert: number): TensorInfo => {
    const each = `${name}.${expert}`;
    return names.require(names.layer(layer, each), `blk.${layer}.${each}.weight`);
  };
  const tensors = whole ? [whole] : Array.from({ length: count }, (_, expert) => one(expert));
  const shape = whole ? [columns, rows, count] : [columns, rows];
  for (const tensor of tensors) checkShape(tensor, shape);
  const [first] = tensors;
  const other = tensors.find(({ type }) => type !== first?.type);
  if (!other) return tensors;
  throw new TidepoolError(
    "unsupported",
    `${other.name} is ${other.type}, and another expert's is ${first?.type}: expected one type`,
    { tensor: other.name },
  );
}

/** @throws TidepoolError `invalid_file` if a tensor has other dimensions */
export function checkShape(tensor: TensorInfo, shape: readonly number[]): void {
  const [found, expected] = [tensor.shape, shape].map((sizes) => sizes.join(" x ").replace(/( x 1)+$/, ""));
  if (found === expected) return;
  throw new TidepoolError("invalid_file", `${tensor.name} is ${found}, expected ${expected}`, {
    tensor: tensor.name,
  });
}

/** The part of the tensors that is one expert's matrix: a slice of the tensor of all, or its own. */
export function placeOf(tensors: readonly TensorInfo[], expert: number, experts: number): TensorInfo {
  const [whole] = tensors;
  if (tensors.length > 1 || experts === 1) return tensors[expert] as TensorInfo;
  const { sizeBytes, offset } = whole as TensorInfo;
  const bytes = sizeBytes / experts;
  return { ...(whole as TensorInfo), offset: offset + expert * bytes, sizeBytes: bytes };
}
