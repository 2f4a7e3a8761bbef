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
_LLAMA = dict(**_SHAPE, intermediate_size=64, num_key_value_heads=2, initializer_range=0.06)
# Windows of 5 tokens, so that they matter; caps at 1 and 2, so that they bend what they cap.
_GEMMA = dict(**_LLAMA, head_dim=8, sliding_window=5, query_pre_attn_scalar=8)

FAMILIES: dict[str, dict[str, object]] = {
    "llama": dict(**_LLAMA, tie_word_embeddings=True),
    "qwen2": _LLAMA,
    "qwen3": dict(**_LLAMA, head_dim=8),
    "mistral": dict(**_LLAMA, sliding_window=5),
    "gemma2": dict(**_GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=1.0),
    "gemma3_text": _GEMMA,
    "phi3": dict(**_LLAMA, pad_token_id=0),
    "olmo2": _LLAMA,
    "gpt2": dict(vocab_size=18, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "gpt_neox": dict(**_SHAPE, intermediate_size=64),
    "opt": dict(**_SHAPE, ffn_dim=64, word_embed_proj_dim=32),
    "granite": dict(**_LLAMA, logits_scaling=3.0),
}
REFUSED: dict[str, dict[str, object]] = {
    "bloom": dict(vocab_size=18, hidden_size=32, n_layer=2, n_head=4),
    "mamba": dict(vocab_size=18, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def tiny_config(family: str) -> PretrainedConfig:
    ends = dict(bos_token_id=None, eos_token_id=16)
    return AutoConfig.for_model(family, **ends | {"pad_token_id": 17} | (FAMILIES | REFUSED)[family])


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
