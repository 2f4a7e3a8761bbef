"""Which kind of scorer a checkpoint is, and loading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from qstep.models.loading import ADAPTER_CONFIG, bare, load_tokenizer
from qstep.models.policy import VALUE_FILE
from qstep.scoring.ensemble import Ensemble, is_ensemble, read_ensemble
from qstep.scoring.policies import Implicit, Policy
from qstep.scoring.published import Generative, MathShepherd, Published, QwenPRM, RLHFlow, Skywork, TRLClassifier
from qstep.scoring.scorer import Scorer
from qstep.scoring.step_scorer import StepScorer
from qstep.types import Dtype, ScorerKind

KINDS: Mapping[str, type[Published]] = {
    "qwen_prm": QwenPRM,
    "math_shepherd": MathShepherd,
    "rlhflow": RLHFlow,
    "skywork": Skywork,
    "trl": TRLClassifier,
    "implicit": Implicit,
    "generative": Generative,
    "policy": Policy,
}
"""The kinds but our own and the ensemble, and what makes a scorer of a checkpoint of each."""

_HEADS = {"Qwen2ForProcessRewardModel": "qwen_prm", "Qwen2ForPrmModel": "skywork"}


def load_scorer(
    name: str,
    kind: ScorerKind = "auto",
    *,
    reference: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: Dtype = "float32",
) -> Scorer:
    """The scorer of a folder or Hub id, or of a YAML file that names an ensemble (`read_ensemble`).

    Args:
        kind: whose computation; `auto` recognises it (`recognise`).
        reference: the model that `implicit` and `policy` compare with.
        options: the fields of the kind's dataclass (`KINDS`).

    Raises:
        ValueError: the kind is not recognised, does not read what is given, or does not fit the checkpoint.

    Example:
        >>> scorer = qstep.load_scorer("runs/pqm")
        >>> scorer.objective, scorer.aggregation
        ('pqm', 'min')
        >>> len(scorer.score("1+2*3=", ["1+2=3", "3*3=9", "#9"]))
        3
    """
    found = recognise(name) if kind == "auto" else kind
    if found not in ("implicit", "policy") and reference is not None:
        raise ValueError(f"--scorer_reference {reference} is given, and a scorer of kind {found} does not read it")
    if found in ("qstep", "ensemble") and options:
        where = "its step contract" if found == "qstep" else "its file"
        raise ValueError(f"--scorer_options {sorted(options)} are not read: {name} says all that in {where}")
    if found == "ensemble":
        ensemble = read_ensemble(Path(name))
        members = [load_scorer(**member, device=device, dtype=dtype) for member in ensemble.members]
        return Ensemble(members, ensemble.mean, ensemble.aggregation)
    if found == "qstep":
        return StepScorer.load(name, device=device, dtype=dtype)
    tokenizer = load_tokenizer(name)
    format = _format(name, found, tokenizer, options or {})
    model: Any = format.model(name, reference, dtype)
    rows = _embeddings(model).weight.shape[0]
    if rows <= max(tokenizer.get_vocab().values()):
        raise ValueError(f"{name}: its tokenizer has more tokens than its model ({rows}); they do not belong together")
    return StepScorer(model.to(device), format)


def recognise(name: str) -> ScorerKind:
    """The kind of a checkpoint, by its config.json and the names of its weights.

    Raises ValueError where they do not tell: a causal language model may be any of several kinds.
    """
    if is_ensemble(name):
        return "ensemble"
    folder = Path(name)
    if (folder / VALUE_FILE).exists():
        return "policy"
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        raise ValueError(f"{name} is an adapter without a config.json: merge it, and give --scorer_kind")
    config, _ = PretrainedConfig.get_config_dict(name)
    if isinstance(config.get("qstep"), dict):
        return "qstep"
    [architecture] = (config.get("architectures") or [""])[:1]
    if architecture in _HEADS:
        return _HEADS[architecture]  # type: ignore[return-value]
    if architecture.endswith("ForTokenClassification") and len(config.get("id2label") or "01") == 2:
        return "trl"
    if any(weight.startswith("v_head.") for weight in _weight_names(name)):
        return "skywork"
    raise ValueError(
        f"{name} is a {architecture or config.get('model_type')}, which may be a scorer of several kinds, or none: "
        f"give --scorer_kind, one of {', '.join(('qstep', *KINDS))}"
    )


def _format(name: str, kind: str, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> Published:
    made_by = KINDS[kind]
    known = sorted(field.name for field in fields(made_by) if field.init and field.name != "tokenizer")
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"--scorer_options {unknown} are not read by a scorer of kind {kind}, which reads {', '.join(known)}"
        )
    types = get_type_hints(made_by)
    for option, value in options.items():
        wanted, article = _taken(types[option])
        if type(value) not in wanted:
            raise ValueError(f"--scorer_options.{option} is {value!r}; a scorer of kind {kind} takes {article} there")
    config = AutoConfig.from_pretrained(name).get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    most = min(limit, tokenizer.model_max_length)
    length = options.get("max_length", most)
    if not 1 <= length <= limit:
        raise ValueError(f"--scorer_options.max_length is {length}; it must be from 1 to the model's {limit} positions")
    return made_by(**{**options, "tokenizer": tokenizer, "max_length": length})


def _taken(annotation: Any) -> tuple[tuple[type, ...], str]:
    """The types of values that an option of this annotation takes, and what they are called."""
    if annotation in (int, bool):
        return (annotation,), "a whole number" if annotation is int else "true or false"
    return ((int, float, type(None)), "a number") if annotation == float | None else ((str,), "a text")


def _embeddings(model: Any) -> Any:
    return bare(getattr(model, "policy", model).pretrained).get_input_embeddings()


def _weight_names(name: str) -> list[str]:
    """The names of a checkpoint's weights, as its safetensors say them."""
    index = cached_file(name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is not None:
        return list(json.loads(Path(index).read_text())["weight_map"])
    single = cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if single is None:
        return []
    with safe_open(single, "pt") as tensors:
        return list(tensors.keys())
