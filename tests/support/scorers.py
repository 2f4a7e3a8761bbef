"""Scorers to test with: a real model and tokenizer, a new head, nothing trained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from qstep.models import ModelOptions, ScorerModel, StepContract
from qstep.tasks import miniature


def miniature_scorer(folder: Path, *, max_length: int = 128, step_separator: str = "\n") -> Path:
    """A scorer of the miniature's size, saved as `qstep train pqm` saves one."""
    torch.manual_seed(0)
    tokenizer = miniature.tokenizer()
    base = folder.with_name("base")
    Qwen3ForCausalLM(miniature.base_config()).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = ScorerModel.new(ModelOptions(model_name_or_path=str(base)))
    StepContract.create(
        tokenizer,
        step_separator=step_separator,
        separator_token="\n",
        max_length=max_length,
        aggregation="min",
        objective="pqm",
    ).attach(model.config)
    model.save(folder)
    tokenizer.save_pretrained(folder)
    return folder
