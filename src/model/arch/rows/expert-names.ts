/** What the tensors of experts are called in the safetensors of some families; the usual names are in ffn/experts.ts. */
import { expertNames } from "../../ffn/experts.ts";

export const QWEN_EXPERTS = expertNames("mlp", undefined, "shared_expert");

export const LFM2_EXPERTS = {
  ...expertNames("feed_forward", ["w1", "w3", "w2"]),
  "exp_probs_b.bias": "feed_forward.expert_bias",
};

export const ERNIE_EXPERTS = { "exp_probs_b.bias": "mlp.moe_statics.e_score_correction_bias" };

export const GPT_OSS_EXPERTS = {
  "attn_sinks.weight": "self_attn.sinks",
  ffn_gate_inp: "mlp.router",
  "ffn_gate_up_exps.bias": "mlp.experts.gate_up_proj_bias",
  "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
};

/** All experts are one tensor, and the shared one's gate and up another. */
export const GRANITE_EXPERTS = {
  ffn_gate_inp: "block_sparse_moe.router.layer",
  "ffn_gate_up_exps.weight": "block_sparse_moe.input_linear.weight",
  "ffn_down_exps.weight": "block_sparse_moe.output_linear.weight",
  ffn_up_shexp: "shared_mlp.input_linear",
  ffn_down_shexp: "shared_mlp.output_linear",
};
