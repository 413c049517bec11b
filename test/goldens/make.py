"""Makes the goldens of this folder: for each family of models a tiny one with random weights, as the `transformers` library
saves it, and the logits (or, with `pooling`, the vectors of texts) that `transformers` computes from the saved files in float32.

    python -m venv VENV && VENV/bin/pip install -r test/goldens/requirements.txt
    VENV/bin/python test/goldens/make.py [FAMILY ...]

It trains nothing. The weights are lumpy on purpose (rows of different sizes, norms that are not 1), because with even ones
a softmax or a norm is right by accident.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

SEED = 13
TOKENS = 40
VOCAB = 96
HERE = Path(__file__).parent

SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
PLAIN_ROPE = dict(rope_type="default", rope_theta=10_000.0)
LOCAL_GLOBAL = ["sliding_attention", "full_attention"]

GRANITE_FACTORS = dict(
    embedding_multiplier=12.0, residual_multiplier=0.5, attention_multiplier=0.2, logits_scaling=3.0
)
LATENT = dict(num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16)
DELTA = dict(
    head_dim=16,
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
)

GPT_OSS = dict(
    head_dim=16,
    sliding_window=8,
    layer_types=LOCAL_GLOBAL,
    num_local_experts=6,
    num_experts_per_tok=2,
    intermediate_size=32,
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=150_000.0,
        factor=8.0,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
        original_max_position_embeddings=32,
    ),
)


def experts(count):
    return dict(num_experts=count, num_experts_per_tok=2, moe_intermediate_size=16)


def routed(count):
    return dict(
        n_routed_experts=count,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_shared_experts=2,
        first_k_dense_replace=1,
    )


# Each family: the model type, how its weights are stored, what its config has beside SIZES (None removes a size), and what pools in
# models that make vectors.
FAMILIES = {
    "llama": dict(
        type="llama",
        dtype="bfloat16",
        shard="24KB",
        config=dict(
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=10_000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
    "mistral": dict(
        type="mistral",
        dtype="float16",
        config=dict(sliding_window=8, tie_word_embeddings=False, rope_parameters=PLAIN_ROPE),
    ),
    "qwen3": dict(
        type="qwen3",
        dtype="float32",
        shard="40KB",
        config=dict(
            head_dim=16,
            tie_word_embeddings=True,
            max_window_layers=1,
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters=dict(
                rope_type="yarn", rope_theta=10_000.0, factor=4.0, original_max_position_embeddings=64
            ),
        ),
    ),
    "smollm3": dict(
        type="smollm3",
        dtype="bfloat16",
        config=dict(tie_word_embeddings=True, no_rope_layers=[1, 0], rope_parameters=PLAIN_ROPE),
    ),
    "gemma3": dict(
        type="gemma3_text",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            sliding_window=8,
            layer_types=LOCAL_GLOBAL,
            query_pre_attn_scalar=20,
            tie_word_embeddings=True,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=1_000_000.0, factor=8.0),
                sliding_attention=PLAIN_ROPE,
            ),
        ),
    ),
    "qwen2": dict(
        type="qwen2",
        dtype="bfloat16",
        config=dict(tie_word_embeddings=False, rope_parameters=PLAIN_ROPE),
    ),
    "gemma": dict(type="gemma", dtype="bfloat16", config=dict(head_dim=16, rope_parameters=PLAIN_ROPE)),
    "seedoss": dict(
        type="seed_oss",
        dtype="bfloat16",
        config=dict(head_dim=16, attention_bias=True, tie_word_embeddings=False, rope_parameters=PLAIN_ROPE),
    ),
    "gemma2": dict(
        type="gemma2",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            sliding_window=8,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=2.5,
            final_logit_softcapping=1.5,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "phi3": dict(
        type="phi3",
        dtype="bfloat16",
        config=dict(
            original_max_position_embeddings=32,
            sliding_window=24,
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10_000.0,
                short_factor=[1.0, 1.5, 2.0, 2.5],
                long_factor=[1.0, 3.0, 9.0, 20.0],
            ),
        ),
    ),
    "ministral3": dict(
        type="ministral3",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=1_000_000.0,
                factor=4.0,
                original_max_position_embeddings=16,
                max_position_embeddings=64,
                beta_fast=32.0,
                beta_slow=1.0,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.1,
            ),
        ),
    ),
    "granite": dict(
        type="granite",
        dtype="bfloat16",
        config=dict(
            embedding_multiplier=12.0,
            residual_multiplier=0.5,
            attention_multiplier=0.2,
            logits_scaling=3.0,
            attention_bias=True,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "olmo3": dict(
        type="olmo3",
        dtype="bfloat16",
        config=dict(
            sliding_window=8,
            layer_types=LOCAL_GLOBAL,
            tie_word_embeddings=False,
            rope_parameters=dict(
                full_attention=dict(
                    rope_type="yarn",
                    rope_theta=500_000.0,
                    factor=8.0,
                    original_max_position_embeddings=32,
                    attention_factor=1.2,
                ),
                sliding_attention=dict(rope_type="default", rope_theta=500_000.0),
            ),
        ),
    ),
    "exaone4": dict(
        type="exaone4",
        dtype="bfloat16",
        config=dict(
            sliding_window=8,
            sliding_window_pattern=2,
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "hunyuan": dict(
        type="hunyuan_v1_dense",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="dynamic", rope_theta=10_000.0, alpha=50.0, factor=1.0),
        ),
    ),
    "ernie": dict(
        type="ernie4_5",
        dtype="bfloat16",
        config=dict(head_dim=16, use_bias=True, rope_parameters=PLAIN_ROPE),
    ),
    "glm4": dict(
        type="glm4",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "lfm2": dict(
        type="lfm2",
        dtype="bfloat16",
        config=dict(
            layer_types=["conv", "full_attention"],
            conv_L_cache=3,
            block_auto_adjust_ff_dim=True,
            block_multiple_of=8,
            block_ffn_dim_multiplier=1.0,
            intermediate_size=80,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "granitehybrid": dict(
        type="granitemoehybrid",
        dtype="bfloat16",
        config=dict(
            layer_types=["mamba", "attention"],
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=48,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=1,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_expand=2,
            position_embedding_type="nope",
            embedding_multiplier=12.0,
            residual_multiplier=0.5,
            attention_multiplier=0.2,
            logits_scaling=3.0,
            tie_word_embeddings=True,
        ),
    ),
    "mamba2": dict(
        type="mamba2",
        dtype="float32",
        config=dict(
            num_attention_heads=None,
            num_key_value_heads=None,
            intermediate_size=None,
            max_position_embeddings=None,
            num_heads=4,
            head_dim=16,
            state_size=16,
            n_groups=1,
            expand=2,
            conv_kernel=4,
            tie_word_embeddings=True,
        ),
    ),
    "falconh1": dict(
        type="falcon_h1",
        dtype="bfloat16",
        config=dict(
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=2,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_rms_norm=False,
            tie_word_embeddings=False,
            embedding_multiplier=5.65,
            lm_head_multiplier=0.04,
            attention_in_multiplier=1.2,
            attention_out_multiplier=0.9,
            key_multiplier=0.4,
            ssm_in_multiplier=1.25,
            ssm_out_multiplier=0.25,
            ssm_multipliers=[0.35, 0.25, 0.2, 0.5, 0.6],
            mlp_multipliers=[0.9, 0.4],
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "qwen35": dict(
        type="qwen3_5_text",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_conv_kernel_dim=4,
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1]
            ),
        ),
    ),
    "gpt2": dict(
        type="gpt2",
        dtype="float32",
        config=dict(num_key_value_heads=None, intermediate_size=None, n_inner=48, tie_word_embeddings=True),
    ),
    "gptneox": dict(
        type="gpt_neox",
        dtype="float16",
        config=dict(
            num_key_value_heads=None,
            use_parallel_residual=True,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "falcon": dict(
        type="falcon",
        dtype="bfloat16",
        config=dict(
            num_key_value_heads=None,
            num_kv_heads=2,
            intermediate_size=None,
            new_decoder_architecture=True,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "phi": dict(
        type="phi",
        dtype="float16",
        config=dict(
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "starcoder2": dict(
        type="starcoder2",
        dtype="bfloat16",
        config=dict(sliding_window=8, tie_word_embeddings=True, rope_parameters=PLAIN_ROPE),
    ),
    "stablelm": dict(
        type="stablelm",
        dtype="bfloat16",
        config=dict(
            use_qkv_bias=True,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "mixtral": dict(
        type="mixtral",
        dtype="bfloat16",
        config=dict(
            num_local_experts=6,
            num_experts_per_tok=2,
            intermediate_size=16,
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "qwen2moe": dict(
        type="qwen2_moe",
        dtype="bfloat16",
        config=dict(
            **experts(6),
            shared_expert_intermediate_size=24,
            mlp_only_layers=[0],
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "qwen3moe": dict(
        type="qwen3_moe",
        dtype="bfloat16",
        shard="40KB",
        config=dict(
            **experts(6), head_dim=16, norm_topk_prob=True, tie_word_embeddings=False, rope_parameters=PLAIN_ROPE
        ),
    ),
    "olmoe": dict(
        type="olmoe",
        dtype="bfloat16",
        config=dict(
            num_experts=6,
            num_experts_per_tok=3,
            intermediate_size=16,
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "lfm2moe": dict(
        type="lfm2_moe",
        dtype="bfloat16",
        config=dict(
            **experts(6),
            layer_types=["conv", "full_attention"],
            conv_L_cache=3,
            num_dense_layers=1,
            routed_scaling_factor=1.5,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "granitemoe": dict(
        type="granitemoeshared",
        dtype="bfloat16",
        config=dict(
            num_local_experts=6,
            num_experts_per_tok=2,
            intermediate_size=16,
            shared_intermediate_size=24,
            **GRANITE_FACTORS,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "granitehybridmoe": dict(
        type="granitemoehybrid",
        dtype="bfloat16",
        config=dict(
            layer_types=["mamba", "attention"],
            num_local_experts=6,
            num_experts_per_tok=2,
            intermediate_size=16,
            shared_intermediate_size=24,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=1,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_expand=2,
            position_embedding_type="nope",
            **GRANITE_FACTORS,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3next": dict(
        type="qwen3_next",
        dtype="bfloat16",
        config=dict(
            **experts(6),
            **DELTA,
            shared_expert_intermediate_size=24,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "qwen35moe": dict(
        type="qwen3_5_moe_text",
        dtype="bfloat16",
        config=dict(
            **experts(6),
            **DELTA,
            shared_expert_intermediate_size=24,
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1]
            ),
        ),
    ),
    "erniemoe": dict(
        type="ernie4_5_moe",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            moe_num_experts=6,
            moe_k=2,
            moe_intermediate_size=16,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "glm4moe": dict(
        type="glm4_moe",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            **routed(8),
            n_group=4,
            topk_group=2,
            routed_scaling_factor=1.5,
            attention_bias=True,
            use_qk_norm=True,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "deepseek2": dict(
        type="deepseek_v2",
        dtype="bfloat16",
        config=dict(
            **routed(6),
            **LATENT,
            q_lora_rank=None,
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=10_000.0,
                factor=8.0,
                original_max_position_embeddings=32,
                beta_fast=32.0,
                beta_slow=1.0,
                mscale=0.707,
                mscale_all_dim=0.707,
            ),
        ),
    ),
    "deepseek3": dict(
        type="deepseek_v3",
        dtype="bfloat16",
        config=dict(
            **routed(8),
            **LATENT,
            q_lora_rank=24,
            n_group=4,
            topk_group=2,
            routed_scaling_factor=2.5,
            tie_word_embeddings=False,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "bert": dict(type="bert", dtype="float32", pooling="cls", config=dict(num_key_value_heads=None, type_vocab_size=2)),
    "roberta": dict(
        type="roberta", dtype="float16", pooling="mean", config=dict(num_key_value_heads=None, pad_token_id=1)
    ),
    "xlmroberta": dict(
        type="xlm-roberta",
        dtype="bfloat16",
        pooling="cls",
        config=dict(num_key_value_heads=None, pad_token_id=1, bos_token_id=0),
    ),
    "modernbert": dict(
        type="modernbert",
        dtype="bfloat16",
        pooling="mean",
        config=dict(
            num_key_value_heads=None,
            num_hidden_layers=4,
            local_attention=16,
            global_attn_every_n_layers=3,
            cls_token_id=1,
            sep_token_id=2,
        ),
    ),
    "qwen3embedding": dict(
        type="qwen3",
        dtype="bfloat16",
        pooling="lasttoken",
        config=dict(head_dim=16, tie_word_embeddings=True, rope_parameters=PLAIN_ROPE),
    ),
    "gemmaembedding": dict(
        type="gemma3_text",
        architecture="gemma-embedding",
        dtype="bfloat16",
        pooling="mean",
        dense=[48, 24],
        config=dict(
            head_dim=16,
            sliding_window=16,
            layer_types=LOCAL_GLOBAL,
            query_pre_attn_scalar=20,
            use_bidirectional_attention=True,
            tie_word_embeddings=True,
            rope_parameters=dict(
                full_attention=dict(rope_type="default", rope_theta=1_000_000.0), sliding_attention=PLAIN_ROPE
            ),
        ),
    ),
    "nomicbert": dict(
        type="nomic_bert",
        dtype="bfloat16",
        pooling="mean",
        config=dict(
            num_key_value_heads=None,
            head_dim=8,
            type_vocab_size=2,
            rope_parameters=dict(rope_type="default", rope_theta=1000.0),
        ),
    ),
    "nemotronh": dict(
        type="nemotron_h",
        dtype="bfloat16",
        config=dict(
            num_hidden_layers=None,
            layers_block_type=["mamba", "moe", "attention", "mlp"],
            head_dim=16,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_groups=2,
            ssm_state_size=16,
            n_routed_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            moe_shared_expert_intermediate_size=24,
            routed_scaling_factor=1.5,
            tie_word_embeddings=False,
        ),
    ),
    "stablelm12": dict(
        type="stablelm",
        dtype="bfloat16",
        config=dict(
            qk_layernorm=True,
            use_parallel_residual=True,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5),
        ),
    ),
    "arcee": dict(type="arcee", dtype="bfloat16", config=dict(tie_word_embeddings=False, rope_parameters=PLAIN_ROPE)),
    "apertus": dict(
        type="apertus",
        dtype="bfloat16",
        config=dict(
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=12_000_000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
    # Published with code of their own: what they compute is what Llama and Granite do.
    "internlm2": dict(
        type="llama",
        dtype="bfloat16",
        published="internlm2",
        config=dict(tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0)),
    ),
    "minicpm": dict(
        type="granite",
        dtype="bfloat16",
        published="minicpm",
        config=dict(
            embedding_multiplier=12.0,
            residual_multiplier=1.4 / math.sqrt(2),
            attention_multiplier=1 / math.sqrt(8),
            logits_scaling=32 / 16,
            tie_word_embeddings=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "gptoss": dict(type="gpt_oss", dtype="bfloat16", config=GPT_OSS),
    "gptossmxfp4": dict(type="gpt_oss", dtype="bfloat16", experts="mxfp4", config=GPT_OSS),
    "gemma3n": dict(
        type="gemma3n_text",
        dtype="bfloat16",
        config=dict(
            num_hidden_layers=4,
            head_dim=16,
            sliding_window=8,
            layer_types=LOCAL_GLOBAL * 2,
            num_kv_shared_layers=2,
            activation_sparsity_pattern=[0.95, 0.0, 0.8, 0.0],
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=VOCAB,
            laurel_rank=8,
            tie_word_embeddings=True,
        ),
    ),
    "gemma4": dict(
        type="gemma4_text",
        dtype="bfloat16",
        config=dict(
            num_hidden_layers=4,
            head_dim=16,
            global_head_dim=32,
            sliding_window=8,
            layer_types=LOCAL_GLOBAL * 2,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=VOCAB,
            final_logit_softcapping=30.0,
            tie_word_embeddings=True,
        ),
    ),
    "gemma4moe": dict(
        type="gemma4_text",
        dtype="bfloat16",
        config=dict(
            head_dim=16,
            global_head_dim=32,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            sliding_window=8,
            layer_types=LOCAL_GLOBAL,
            hidden_size_per_layer_input=0,
            enable_moe_block=True,
            num_experts=6,
            top_k_experts=2,
            moe_intermediate_size=16,
            tie_word_embeddings=True,
        ),
    ),
}


def config_of(family):
    values = {**SIZES, **family["config"]}
    kept = {key: value for key, value in values.items() if value is not None or key not in SIZES}
    return AutoConfig.for_model(family["type"], **kept)


def fill(name, tensor, generator):
    """New values for one parameter, by what its name and its dimensions say that it is."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def uniform(low, high):
        return low + (high - low) * torch.rand(tensor.shape, generator=generator)

    if name.endswith("A_log"):
        return torch.log(uniform(1, 6))
    if name.endswith("dt_bias"):
        return uniform(-3, 0)
    if name.endswith("bias"):
        return 0.1 * normal(*tensor.shape)
    if tensor.dim() == 1:  # a norm around 1, or around 0 where 1 is added; D of Mamba-2
        centre = tensor.mean().item() if tensor.numel() else 0
        return round(centre) + 0.2 * normal(*tensor.shape)
    if "conv" in name and tensor.dim() == 3:
        return 0.5 * normal(*tensor.shape)
    rows = torch.exp(0.3 * normal(tensor.shape[0], *[1] * (tensor.dim() - 1)))
    return rows * normal(*tensor.shape) * 1.2 / math.sqrt(tensor.shape[-1])


def pack_experts(folder, generator):
    """Puts random experts in blocks of MXFP4 in place of a saved model's, in the layout in which gpt-oss is published."""
    file = folder / "model.safetensors"
    packed = {}
    for name, tensor in load_file(file).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = tensor
            continue
        count, columns, rows = tensor.shape
        blocks = torch.randint(0, 256, (count, rows, columns // 32, 16), generator=generator)
        scales = torch.randint(121, 125, (count, rows, columns // 32), generator=generator)
        packed[f"{name}_blocks"], packed[f"{name}_scales"] = blocks.to(torch.uint8), scales.to(torch.uint8)
    save_file(packed, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = dict(quant_method="mxfp4", modules_to_not_convert=kept)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def internlm2(config, tensors):
    """A saved Llama as InternLM2 is published: other names, and queries, key and value KV head by KV head in one matrix."""
    names = [
        ("model.embed_tokens", "model.tok_embeddings"),
        ("lm_head", "output"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
    ]
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in names:
            name = name.replace(old, new)
        renamed[name] = tensor
    groups = config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        parts = [renamed.pop(f"{prefix}self_attn.{part}_proj.weight") for part in "qkv"]
        grouped = torch.cat([part.view(groups, -1, config["hidden_size"]) for part in parts], 1)
        renamed[f"{prefix}attention.wqkv.weight"] = grouped.flatten(0, 1).contiguous()
    kept = "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers"
    kept = [*kept.split(), "num_key_value_heads", "rms_norm_eps", "vocab_size"]
    own = dict(bias=False, torch_dtype=config["dtype"], attn_implementation="eager", rope_theta=1_000_000.0)
    scaling = dict(type="dynamic", factor=2.0)
    return {**{key: config[key] for key in kept}, **own, "rope_scaling": scaling}, renamed


def minicpm(config, tensors):
    """A saved Granite as MiniCPM is published: its factors under other keys."""
    kept = "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers"
    kept = [*kept.split(), "num_key_value_heads", "rms_norm_eps", "vocab_size", "tie_word_embeddings"]
    own = dict(torch_dtype=config["dtype"], scale_emb=12, scale_depth=1.4, dim_model_base=16, rope_scaling=None)
    return {**{key: config[key] for key in kept}, **own}, tensors


def publish(folder, model_type):
    """Writes a saved model as one of another type, which computes the same."""
    config = json.loads((folder / "config.json").read_text())
    write = {"internlm2": internlm2, "minicpm": minicpm}[model_type]
    config, tensors = write(config, load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(model_type=model_type, **config), indent=2) + "\n")


def pooled(hidden, pooling):
    """The vector of a text, of its tokens' vectors."""
    return {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1]}[pooling]


def dense_layers(family, generator):
    """The matrices that pooled vectors pass through."""
    widths = [SIZES["hidden_size"], *family.get("dense", [])]
    return [torch.randn(rows, columns, generator=generator) / 6 for columns, rows in zip(widths, widths[1:])]


def write_sentence_files(folder, pooling, dense):
    """What sentence-transformers puts beside a model."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    for index, weight in enumerate(dense, 2):
        kinds.append((f"{index}_Dense", "Dense"))
        (folder / f"{index}_Dense").mkdir()
        save_file({"linear.weight": weight}, folder / f"{index}_Dense" / "model.safetensors")
        rows, columns = weight.shape
        identity = "torch.nn.modules.linear.Identity"
        config = dict(in_features=columns, out_features=rows, bias=False, activation_function=identity)
        (folder / f"{index}_Dense" / "config.json").write_text(json.dumps(config) + "\n")
    kinds.append((f"{len(dense) + 2}_Normalize", "Normalize"))
    modules = [
        dict(idx=idx, name=str(idx), path=path, type=f"sentence_transformers.models.{kind}")
        for idx, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules) + "\n")
    (folder / "1_Pooling").mkdir()
    flags = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    settings = {f"pooling_mode_{flag}": key == pooling for key, flag in flags.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings) + "\n")


def results(model, family, dense, generator):
    """What a golden says of its inputs, and the numbers that the model gives for them."""
    pooling = family.get("pooling")
    if pooling is None:
        tokens = torch.randint(3, VOCAB, (TOKENS,), generator=generator)
        return dict(vocabSize=VOCAB, tokens=tokens.tolist()), model(input_ids=tokens[None]).logits[0]
    inputs = [torch.randint(3, VOCAB, (count,), generator=generator) for count in (TOKENS, 7, 1)]
    vectors = [pooled(model(input_ids=each[None]).last_hidden_state[0], pooling) for each in inputs]
    vectors = torch.stack(vectors)
    for weight in dense:
        vectors = vectors @ weight.T
    return dict(inputs=[each.tolist() for each in inputs]), vectors


def make(name, family):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(SEED + sum(map(ord, name)))
    pooling = family.get("pooling")
    auto = AutoModel if pooling else AutoModelForCausalLM
    model = auto.from_config(config_of(family), attn_implementation="eager")
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            tensor.copy_(fill(key, tensor, generator))
        for key, tensor in model.named_buffers():  # some of which are trained all the same
            if key.endswith(("correction_bias", "expert_bias", "layer_scalar")):
                tensor.copy_(fill(key, tensor, generator))
    dtype = getattr(torch, family["dtype"])
    model.to(dtype).save_pretrained(folder, max_shard_size=family.get("shard", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    dense = dense_layers(family, generator)
    if pooling:
        write_sentence_files(folder, pooling, dense)
    if family.get("experts") == "mxfp4":
        pack_experts(folder, generator)
    saved = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        inputs, numbers = results(saved, family, dense, generator)
    if "published" in family:
        publish(folder, family["published"])
    np.asarray(numbers.numpy(), dtype="<f4").tofile(folder / ("vectors.f32" if pooling else "logits.f32"))
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix in (".json", ".safetensors"))
    files = sorted(map(str, found))
    golden = dict(
        architecture=family.get("architecture", family.get("published", family["type"])),
        **inputs,
        files=files,
        dtype=family["dtype"],
        seed=SEED,
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
    )
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{name}: {size} bytes in {len(files)} files, numbers {numbers.std():.2f} around {numbers.mean():.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FAMILIES:
        make(name, FAMILIES[name])
