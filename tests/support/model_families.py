"""Tiny random models of every family that is supported, and what the tests of models ask of them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from qstep.models import ScorerModel, StepContract
from qstep.models.loading import without_dropout
from qstep.tasks import miniature

_SHAPE = dict(vocab_size=18, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128)
LLAMA = dict(**_SHAPE, intermediate_size=64, num_key_value_heads=2, initializer_range=0.06)
# Windows of 5 tokens, so that they matter; caps at 1 and 2, so that they bend what they cap.
_GEMMA = dict(**LLAMA, head_dim=8, sliding_window=5, query_pre_attn_scalar=8)
_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
_DELTA = dict(
    head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4
)

FAMILIES: dict[str, dict[str, object]] = {
    "llama": dict(**LLAMA, tie_word_embeddings=True),
    "qwen2": LLAMA,
    "qwen3": dict(**LLAMA, head_dim=8),
    "mistral": dict(**LLAMA, sliding_window=5),
    "gemma2": dict(**_GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=1.0),
    "gemma3_text": _GEMMA,
    "phi3": dict(**LLAMA, pad_token_id=0),
    "olmo2": LLAMA,
    "gpt2": dict(vocab_size=18, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "gpt_neox": dict(**_SHAPE, intermediate_size=64),
    "opt": dict(**_SHAPE, ffn_dim=64, word_embed_proj_dim=32),
    "granite": dict(**LLAMA, logits_scaling=3.0),
    "qwen3_moe": dict(**LLAMA, **_EXPERTS, head_dim=8),
    "mixtral": dict(**LLAMA, num_local_experts=4),
    "gpt_oss": dict(**LLAMA, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=5),
    "deepseek_v3": dict(
        **{k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
        **dict(num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8),
        **dict(v_head_dim=12, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2),
        **dict(moe_intermediate_size=16, first_k_dense_replace=1),
    ),
    "gemma4_text": dict(**LLAMA, head_dim=8, sliding_window=5, hidden_size_per_layer_input=0),
    "olmo3": dict(**LLAMA, sliding_window=5),
    "glm4_moe": dict(
        **LLAMA,
        **dict(head_dim=8, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        **dict(n_group=1, topk_group=1, first_k_dense_replace=1),
    ),
}
PADDED: dict[str, dict[str, object]] = {
    "stablelm": LLAMA,
    "bloom": dict(vocab_size=18, hidden_size=32, n_layer=2, n_head=4),
    "mamba": dict(vocab_size=18, hidden_size=32, num_hidden_layers=2, state_size=4),
    "mamba2": dict(
        vocab_size=18, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2
    ),
    "qwen3_5_text": dict(**LLAMA, **_DELTA, layer_types=["linear_attention", "full_attention"]),
    "qwen3_next": dict(**LLAMA, **_DELTA, **_EXPERTS, layer_types=["linear_attention", "full_attention"]),
    "lfm2": dict(**LLAMA, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "falcon_h1": dict(
        **LLAMA, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, lm_head_multiplier=0.5
    ),
    "nemotron_h": dict(
        **{k: v for k, v in LLAMA.items() if k != "num_hidden_layers"},
        **dict(head_dim=8, layers_block_type=["mamba", "attention", "mlp"], ssm_state_size=8, mamba_num_heads=8),
        **dict(mamba_head_dim=8, n_groups=2, chunk_size=8),
    ),
    "llama4_text": dict(**LLAMA, head_dim=8, attention_chunk_size=5, num_local_experts=4, intermediate_size_mlp=64),
}


def tiny_config(family: str) -> PretrainedConfig:
    ends = dict(bos_token_id=None, eos_token_id=16)
    return AutoConfig.for_model(family, **ends | {"pad_token_id": 17} | (FAMILIES | PADDED)[family])


def tiny(family: str, seed: int = 0) -> PreTrainedModel:
    """A causal language model with the miniature's vocabulary, its weights larger than a fresh one's."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(without_dropout(tiny_config(family)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model.eval()


def saved(family: str, folder: Path, seed: int = 0) -> Path:
    """Such a model and the miniature's tokenizer in a folder."""
    tiny(family, seed).save_pretrained(folder)
    miniature.tokenizer().save_pretrained(folder)
    return folder


def with_contract(scorer: ScorerModel) -> ScorerModel:
    """The scorer with a step contract of the miniature's newlines, as training gives it one."""
    StepContract.create(
        miniature.tokenizer(),
        step_separator="\n",
        separator_token="\n",
        max_length=64,
        aggregation="min",
        objective="pqm",
    ).attach(scorer.config)
    return scorer
