"""Exports a scorer as a plain token classifier with a step contract. Its Q must be linear in one token's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from qstep.data import split_steps
from qstep.models import ScorerModel, StepContract
from qstep.models.adapters import merged
from qstep.models.loading import bare
from qstep.models.token_classifiers import head_name
from qstep.scoring.formats import ContractFormat, Format
from qstep.scoring.published.base import Published
from qstep.scoring.scorer import Scorer
from qstep.scoring.step_scorer import StepScorer
from qstep.types import Prompt

_PROBE: list[tuple[str, list[str]]] = [
    ("What is 12 + 30?", ["12 + 30 = 42.", "The answer is 42."]),
    ("Tom has 3 apples and eats one.\nHow many are left?", ["3 - 1 = 2", "So 2 are left, not 3.", "#### 2", "!"]),
]


def export_scorer(scorer: Scorer, folder: Path) -> None:
    """Writes the token classifier, its tokenizer and its step contract, and compares it with the scorer.

    Raises:
        ValueError: no such checkpoint can compute this kind of scorer, or the written one gives other Qs.
    """
    if not isinstance(scorer, StepScorer):
        raise ValueError("an ensemble is several models: export its members one by one")
    contract, form = _contract(scorer), scorer.format
    probe = _PROBE if isinstance(form, Published) else [_spread(form)]
    theirs = [scorer.score(question, steps) for question, steps in probe]
    classifier: Any = scorer.model.pretrained
    if hasattr(classifier, "merge_and_unload"):
        classifier = merged(classifier)
    classifier = bare(classifier)
    _make_scalar(classifier)
    contract.attach(classifier.config)
    classifier._weight_conversions = None  # weights that were renamed when they were loaded keep the new names
    classifier.save_pretrained(folder)
    form.tokenizer.save_pretrained(folder)
    dtype = str(classifier.dtype).removeprefix("torch.")
    exported = StepScorer.load(folder, device=scorer.model.device, dtype=dtype)  # type: ignore[arg-type]
    tolerance = 1e-4 if dtype == "float32" else 0.05
    for (question, steps), wanted in zip(probe, theirs, strict=True):
        as_messages = isinstance(form, Published) and contract.prompts == "messages"
        prompt: Prompt = [{"role": "user", "content": question}] if as_messages else question
        q_values = exported.score(prompt, steps)
        if any(abs(a - b) > tolerance * max(1.0, abs(a)) for a, b in zip(wanted, q_values, strict=True)):
            raise ValueError(f"the exported checkpoint gives other Qs: {q_values} instead of {wanted}")


def _spread(form: Format) -> tuple[str, list[str]]:
    """A prompt and steps made of tokens from the complete vocabulary, which may be small and without letters."""
    tokenizer = form.tokenizer
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    words = [ids[len(ids) * n // 64] for n in range(64)]
    texts = [str(tokenizer.decode(words[n : n + 16])) for n in (0, 16, 32, 48)]
    return texts[0], [step for text in texts[1:] for step in split_steps(text, form.step_separator)]


def _contract(scorer: StepScorer) -> StepContract:
    """The step contract that describes the scorer's format. Raises ValueError, saying why, if no contract does."""
    form, model = scorer.format, scorer.model
    if isinstance(form, ContractFormat):
        return form.contract
    if not isinstance(model, ScorerModel):
        raise ValueError(
            f"a scorer of kind {form.objective} reads its Q from a language model's words, which the step contract "
            "does not express. Only scorers with a classification head can be exported"
        )
    if not isinstance(bare(model.pretrained).get_submodule(head_name(bare(model.pretrained))), nn.Linear):
        raise ValueError(
            f"the head of a scorer of kind {form.objective} has two layers, and an exported head has one. vLLM serves "
            "its own class (Qwen2ForProcessRewardModel) without an export"
        )
    assert isinstance(form, Published)
    return form.contract()


@torch.no_grad()
def _make_scalar(classifier: Any) -> None:
    """Replaces the two outputs of a linear head by their difference, which is Q."""
    name = head_name(classifier)
    head: nn.Linear = classifier.get_submodule(name)
    if head.out_features == 2:
        scalar = nn.Linear(head.in_features, 1, bias=head.bias is not None, device=head.weight.device)
        scalar.weight.copy_(head.weight[1:] - head.weight[:1])
        if head.bias is not None:
            scalar.bias.copy_(head.bias[1:] - head.bias[:1])
        setattr(classifier, name, scalar)
    classifier.config.num_labels, classifier.config.problem_type = 1, "regression"
