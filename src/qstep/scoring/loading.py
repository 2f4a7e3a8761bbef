"""Recognising the kind of a scorer, and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from qstep.data import check_model_name
from qstep.models.inference import choose_device, warn_of_slow_bf16
from qstep.models.loading import ADAPTER_CONFIG, bare, load_tokenizer
from qstep.models.policy import VALUE_FILE
from qstep.runs.near import did_you_mean
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.ensemble import Ensemble, is_ensemble, read_ensemble
from qstep.scoring.kinds import FORMATS, ScorerKind
from qstep.scoring.published.base import Published
from qstep.scoring.scorer import Scorer
from qstep.scoring.step_scorer import StepScorer
from qstep.types import Dtype


def format_of(kind: str) -> type[Published]:
    """The class that implements a kind."""
    members = vars(import_module(FORMATS[kind])).values()
    [found] = [member for member in members if getattr(member, "kind", None) == kind]
    return found


def load_scorer(
    name: str | Path,
    kind: ScorerKind = "auto",
    *,
    reference: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype = "float32",
    windows: bool = False,
) -> Scorer:
    """The scorer of a folder or Hub id, or of a YAML file that names an ensemble (`read_ensemble`).

    Args:
        kind: the kind of scorer; `auto` recognises it (`recognise`).
        reference: the model that `implicit` and `policy` compare with.
        options: the fields of the kind's dataclass (`qstep.scoring.kinds`).
        device: where the model runs. `auto` is the GPU if there is one, else the CPU.
        windows: read responses longer than the scorer's `max_length` in windows over their steps. Without it, they are
            refused.

    Raises:
        ValueError: the kind is not recognised, an option has no effect with it, it does not fit the checkpoint, or
            there is no such device.

    Example:
        >>> scorer = qstep.load_scorer("runs/pqm")
        >>> scorer.objective, scorer.aggregation
        ('pqm', 'min')
        >>> len(scorer.score("1+2*3=", ["1+2=3", "3*3=9", "#9"]))
        3
    """
    scorer = _loaded(str(name), kind, reference, options, choose_device(device), dtype)
    if isinstance(scorer, StepScorer):
        weight = next(scorer.model.parameters())
        warn_of_slow_bf16(weight.device, weight.dtype, "Give float32 as the dtype")
    if windows:
        scorer.use_windows()
    return scorer


def _loaded(
    name: str,
    kind: ScorerKind,
    reference: str | None,
    options: Mapping[str, Any] | None,
    device: torch.device,
    dtype: Dtype,
) -> Scorer:
    found = recognise(name) if kind == "auto" else kind
    check_kind(found, reference, options)
    if found == "ensemble":
        ensemble = read_ensemble(Path(name))
        for member in ensemble.members:
            check_kind(member.get("kind", "auto"), member.get("reference"), member.get("options"))
        members = [load_scorer(**member, device=device, dtype=dtype) for member in ensemble.members]
        return Ensemble(members, ensemble.mean, ensemble.aggregation)
    if found not in FORMATS:
        return StepScorer.load(name, device=device, dtype=dtype)
    tokenizer = load_tokenizer(name)
    format = _format(name, format_of(found), tokenizer, options or {})
    model: Any = format.model(name, reference, dtype)
    rows = _embeddings(model).weight.shape[0]
    if rows <= max(tokenizer.get_vocab().values()):
        raise ValueError(
            f"{name}: its tokenizer has more tokens than its model ({rows}). Use the tokenizer that belongs to the "
            "model"
        )
    return StepScorer(model.to(device), format)


def check_kind(kind: str, reference: str | None, options: Mapping[str, Any] | None) -> None:
    """Raises ValueError for a reference or an option that a scorer of this kind does not read, or a value out of range.

    If the kind is `auto`, the names of the options must be those of some kind.
    """
    kinds = ("auto", "qstep", *FORMATS, "ensemble")
    if kind not in kinds:
        raise ValueError(
            f"{kind!r} is not a kind of scorer{did_you_mean(kind, kinds)}: choose one of {', '.join(kinds)}"
        )
    if kind == "auto":
        known = {name for found in FORMATS for name in format_of(found).options()}
        for name in (options or {}).keys() - known:
            near = did_you_mean(name, known, "--scorer_options.{}")
            raise ValueError(f"--scorer_options.{name} is not read by any kind of scorer{near}")
        return
    made_by = format_of(kind) if kind in FORMATS else None
    if reference is not None and not (made_by and made_by.reads_reference):
        raise ValueError(
            f"--scorer_reference {reference} has no effect: a scorer of kind {kind} does not read it. Leave it out"
        )
    if made_by is not None:
        made_by.check(options or {})
    elif options:
        where = "step contract" if kind == "qstep" else "file"
        raise ValueError(
            f"--scorer_options {sorted(options)} have no effect: a scorer of kind {kind} has them in its {where}. "
            "Leave them out"
        )


def recognise(name: str) -> ScorerKind:
    """The kind of a checkpoint, found from its config.json and the names of its weights.

    Raises ValueError if these do not decide it: a causal language model may be of several kinds.
    """
    if is_ensemble(name):
        return "ensemble"
    check_model_name(name)
    folder = Path(name)
    if (folder / VALUE_FILE).exists():
        return "policy"
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        raise ValueError(
            f"{name} is an adapter without a config.json. Merge it with `qstep merge`, and give --scorer_kind"
        )
    try:
        config, _ = PretrainedConfig.get_config_dict(name)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{name} is not a folder here. As a Hub id it was not reached: {reason}") from error
    if folder.is_dir() and not config.get("model_type"):
        raise ValueError(f"{name} has no model: config.json is missing or names no model type")
    if isinstance(config.get("qstep"), dict):
        return "qstep"
    checkpoint = Checkpoint(name, config)
    for kind in FORMATS:
        if format_of(kind).recognises(checkpoint):
            return kind
    raise ValueError(
        f"The kind of scorer {name} (a {checkpoint.architecture or config.get('model_type')}) is not recognisable. "
        f"Give --scorer_kind, one of {', '.join(('qstep', *FORMATS))}"
    )


def _format(
    name: str, made_by: type[Published], tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]
) -> Published:
    config = AutoConfig.from_pretrained(name).get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    most = min(limit, tokenizer.model_max_length)
    length = options.get("max_length", most)
    if length > limit:
        raise ValueError(
            f"--scorer_options.max_length is {length}, but this model has only {limit} positions: lower it"
        )
    return made_by(**{**options, "tokenizer": tokenizer, "max_length": length})


def _embeddings(model: Any) -> Any:
    return bare(getattr(model, "policy", model).pretrained).get_input_embeddings()
