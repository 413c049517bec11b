/**
 * The feed-forward of two or three matrices as plain data, and what it costs. Its tensors and ops are in model/ffn/mlp.ts.
 */
import { stateless, type Cost, type CostUnits } from "../cost.ts";

/** "gelu" is x times the normal distribution's function, "gelu_tanh" its usual approximation, "relu2" ReLU squared, "clamped_swiglu" gpt-oss's. */
export type Activation = "silu" | "gelu_tanh" | "gelu" | "relu2" | "xielu" | "clamped_swiglu";

export interface MlpFeedForward {
  kind: "mlp";
  width: number;
  activation: Activation;
  /** false: there is no W_gate, and the activation is that of W_up x. */
  gated: boolean;
  /** The gate's rows stand above those of the other matrix in one tensor, "ffn_up" (Phi-3). */
  fused?: boolean;
  /** The constants of "xielu". */
  xielu?: Xielu;
  /**
   * Gates g become max(0, g - (mean + sparsity * standard deviation)) before the activation, over the gates of a token (Gemma 3n).
   * Default: they stay as they are.
   */
  sparsity?: number;
}

/**
 * xIELU (arXiv 2411.13010): positive * x^2 + slope * x where x > 0, else negative * (e^min(x, limit) - 1 - x) + slope * x.
 */
export interface Xielu {
  positive: number;
  negative: number;
  slope: number;
  limit: number;
}

/** From the four numbers as models are trained with them. */
export function xieluOf(alphaP: number, alphaN: number, beta: number, eps: number): Xielu {
  return { positive: softplus(alphaP), negative: beta + softplus(alphaN), slope: beta, limit: eps };
}

function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
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
