/**
 * A mixture of experts as plain data, and what it costs: a router chooses some of many small feed-forwards for each token. Its
 * tensors and ops are in model/ffn/experts.ts.
 */
import { addCost, stateless, type Cost, type CostUnits } from "../cost.ts";
import { mlpCost, type Activation, type MlpFeedForward } from "./mlp.ts";

/** How a router's logits become choices and weights. */
export interface ExpertRouting {
  /** Scores: softmax over all experts, or the sigmoid of each. A softmax over the chosen alone is the first, renormalised. */
  gate: "softmax" | "sigmoid";
  /** The scores of the chosen are divided by their sum. */
  renormalise: boolean;
  /** Multiplies the weights. */
  scale: number;
  /** Experts stand in so many groups, of which the best `used` are chosen from (DeepSeek-V3). */
  groups?: { count: number; used: number };
}

export interface ExpertsFeedForward {
  kind: "experts";
  experts: number;
  /** Experts of a token. */
  chosen: number;
  /** Of one expert. */
  width: number;
  activation: Activation;
  /** false: an expert is W_down(activation(W_up x)). */
  gated: boolean;
  /** Rows of gate and up alternate in their one tensor (gpt-oss in safetensors). Default: all gates stand first. */
  alternating?: true;
  routing: ExpertRouting;
  /** An expert that every token has; `sigmoidGate`: times the sigmoid of one more row of weights. */
  shared?: { mlp: MlpFeedForward; sigmoidGate: boolean };
  /** A feed-forward beside them all, with norms of its own: theirs and its are normed, then added (Gemma 4). */
  beside?: MlpFeedForward;
}

/** The router, and the experts that run for a token. */
export function expertsCost(units: CostUnits, ffn: ExpertsFeedForward): Cost {
  const { experts, chosen, width, gated, shared, beside } = ffn;
  const router = stateless(2 * units.hiddenSize * experts, 0, 0);
  const cost = addCost(router, mlpCost(units, { width, matrices: gated ? 3 : 2, active: chosen }));
  return [shared?.mlp, beside].reduce(
    (sum, mlp) =>
      mlp ? addCost(sum, mlpCost(units, { width: mlp.width, matrices: mlp.gated ? 3 : 2 })) : sum,
    cost,
  );
}
