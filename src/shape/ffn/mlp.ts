/**
 * The gated feed-forward as plain data, and what it costs. Its tensors and ops are in model/ffn/mlp.ts.
 */
import { stateless, type Cost, type CostUnits } from "../cost.ts";

export type Activation = "silu" | "gelu_tanh";

export interface MlpFeedForward {
  kind: "mlp";
  width: number;
  activation: Activation;
  /** The gate's rows stand above those of the other matrix in one tensor, "ffn_up" (Phi-3). */
  fused?: boolean;
}

/** `matrices` of hiddenSize x width: 3 if gated, else 2; `active` experts run for each token. */
export interface MlpCostSizes {
  width: number;
  matrices: number;
  active?: number;
}

export function mlpCost({ hiddenSize }: CostUnits, { width, matrices, active = 1 }: MlpCostSizes): Cost {
  return stateless(2 * matrices * hiddenSize * width * active, 0, 0);
}
