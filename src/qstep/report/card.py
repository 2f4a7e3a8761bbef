"""The model card: the README.md of a trained model with its results, as the Hub shows it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data.hub import HubId, is_hub_id
from qstep.evals.measures import Measured
from qstep.evals.results import PolicyEvaluation, StepJudgement
from qstep.objectives import METHODS
from qstep.report.tables import accuracy_text
from qstep.runs.training_log import TRAINING_LOG, metrics_of
from qstep.types import Row

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MARKER = "<!-- Written by qstep"
"""How the line of a card begins that says who wrote it."""

_WRITTEN_BY = (
    f"{MARKER}, which overwrites this file. "
    "To keep your edits, delete this line: qstep then refuses to overwrite it. -->"
)
_SHOWN = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "num_train_epochs", "max_steps"),
    *("total_train_batch_size", "max_grad_norm", "seed"),
    *("bf16", "fp16"),
)
"""The settings of transformers' Trainer that a card shows, in addition to all of the method and the model."""
_NOT_SHOWN = ("method", "model", "train_file", "eval_file", "trust_remote_code", "resumed_from")
_PROMPTS = {
    None: "unknown",
    "string": "strings",
    "messages": "conversations, through the chat template",
    "mixed": "strings and conversations",
}
"""The meaning of the contract's `prompts`."""


def write_card(
    folder: Path,
    settings: Mapping[str, Any],
    summary: Mapping[str, Any],
    *,
    output: Path | None = None,
    results: Iterable[StepJudgement | PolicyEvaluation] = (),
    datasets: list[str] | None = None,
    license: str | None = None,
) -> Path:
    """Writes the card of a saved model from the settings and the summary of its training, and returns its path.

    The card names files and folders without their paths on this machine.
    """
    from huggingface_hub import ModelCard, ModelCardData

    import qstep
    from qstep.data import write_whole

    method, base = settings["method"], summary["base_model"]
    policy, adapter = METHODS[method].kind == "policy", (folder / "adapter_config.json").exists()
    evaluations, notes, index = [], list[str](), []
    for result in results:
        rows, said, entries = _evaluation(result)
        evaluations += rows
        notes += said
        index += entries
    name = folder.resolve().name
    data = ModelCardData(
        model_name=name if index else None,
        base_model=base["name"] if base["on_hub"] else None,
        datasets=datasets or None,
        license=license,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation" if policy else "token-classification",
        tags=["qstep", method.replace("_", "-"), "reasoning", *([] if policy else ["process-reward-model"])],
        eval_results=index or None,
    )
    text = ModelCard.from_template(
        data,
        template_str=resources.files("qstep.report").joinpath("card.md").read_text(encoding="utf-8"),
        marker=_WRITTEN_BY,
        name=name,
        version=qstep.__version__,
        about=_about(method, policy, adapter),
        from_base=f" from {base['name']}" if base["on_hub"] else f" from a local model called `{base['name']}`",
        files=list(_files(summary)),
        contract=None if policy else _contract(folder),
        settings=dict(_settings(settings)),
        metrics=list(_last_metrics(folder, summary.get("best_step"))),
        best_step=summary.get("best_step"),
        best_by=settings.get("metric_for_best_model"),
        evaluations=evaluations,
        notes=notes,
    )
    card_file = output or folder / "README.md"
    write_whole(card_file, [str(text).encode()])
    return card_file


def _about(method: str, policy: bool, adapter: bool) -> str:
    what = "A policy" if policy else "A step scorer, which gives each step of a response a Q-value (a logit)"
    return f"{what}{', as an adapter' if adapter else ''}. Method: `{method}`."


def _files(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for prefix, role in (("", "training"), ("eval_", "evaluation during training")):
        if f"{prefix}rows" in summary:
            left_out = summary[f"{prefix}left_out"]
            yield {
                "name": _cell(summary[f"{prefix}file"]),
                "role": role,
                "rows": summary[f"{prefix}rows"],
                "left_out": _cell(", ".join(f"{count}: {why}" for why, count in left_out.items()) or "none"),
            }


def _contract(folder: Path) -> dict[str, Any]:
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))["qstep"]
    return {
        "separator": _cell(json.dumps(stored["step_separator"], ensure_ascii=False)),
        "token": _cell(_visible(stored["separator_token"])),
        "token_id": stored["separator_token_id"],
        "prompts": _cell(_PROMPTS[stored.get("prompts")]),
        "instruction": _cell(stored.get("instruction") or ""),
        **{name: stored[name] for name in ("aggregation", "max_length", "objective")},
    }


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings of the method and the model, and some of transformers' Trainer."""
    from transformers import TrainingArguments

    common = {field.name for field in fields(TrainingArguments)}
    for name, value in settings.items():
        idle = value is None or (name.startswith("lora_") and not settings.get("use_peft"))
        if not idle and (name in _SHOWN or name not in common) and name not in _NOT_SHOWN:
            yield name, _cell(_visible(value))


def _visible(value: Any) -> Any:
    """A setting as a card shows it: an Enum by its value, a string with white space escaped, a path by its name."""
    if isinstance(value, Enum):
        return value.value
    if not isinstance(value, str):
        return value
    if not value.isprintable() or value != value.strip():
        return json.dumps(value, ensure_ascii=False)
    return Path(value).name if Path(value).is_absolute() else value


def _last_metrics(folder: Path, step: int | None) -> Iterator[dict[str, Any]]:
    """The metrics in the last lines of the training log up to a step: one of training, and one of evaluation."""
    from qstep.data import read_rows

    last: dict[bool, Row] = {}
    for line in read_rows(folder / TRAINING_LOG):
        if step is None or line["step"] <= step:
            last["eval_loss" in line] = line
    for line in last.values():
        for name, value in metrics_of(line).items():
            if isinstance(value, int | float):
                yield {"name": name, "step": line["step"], "value": f"{value:.4g}"}


def _evaluation(
    result: StepJudgement | PolicyEvaluation,
) -> tuple[list[dict[str, Any]], list[str], list[EvalResult]]:
    """Rows of the card's table, notes on them, and entries of the Hub's index."""
    from huggingface_hub import EvalResult

    rows, notes, index = list[dict[str, Any]](), list[str](), list[EvalResult]()
    named = result.provenance["settings"].get("dataset_name") or ""
    of_hub = HubId.of(named) if is_hub_id(Path(named)) else None

    def add(
        data: str, metric: str, kind: str, task: str, estimate: Measured | None, responses: int | None, split: str
    ) -> None:
        if estimate is None or estimate.mean is None:
            return
        value = accuracy_text(Measured(estimate.mean, estimate.low, estimate.high))
        rows.append({"data": _cell(data), "metric": metric, "value": value, "responses": responses})
        index.append(
            EvalResult(
                task_type=task,
                dataset_type=of_hub.name if of_hub else data,
                dataset_name=data,
                dataset_config=of_hub.config if of_hub else None,
                dataset_split=split if of_hub else None,
                metric_type=kind,
                metric_name=metric,
                metric_value=round(estimate.mean, 4),
            )
        )

    if isinstance(result, PolicyEvaluation):
        data = Path(result.provenance["settings"]["dataset_name"]).name
        split = result.provenance["settings"]["split"]
        for mode, accuracy in result.accuracies.items():
            add(data, f"{mode} accuracy", "exact_match", "text-generation", accuracy, accuracy.samples, split)
        return rows, notes, index
    for name, subset in result.steps.items():
        metrics = {
            ("F1 of first wrong steps", "f1"): subset.f1,
            ("accuracy with an error", "accuracy"): subset.acc_error,
            ("accuracy without one", "accuracy"): subset.acc_correct,
            ("AUROC of steps", "roc_auc"): subset.auroc.get("step"),
            ("AUROC of steps at equal positions", "roc_auc"): subset.auroc.get("step_at_equal_position"),
            ("expected calibration error", "expected_calibration_error"): subset.calibration.ece,
        }
        for (metric, kind), estimate in metrics.items():
            add(name, metric, kind, "token-classification", estimate, subset.responses, name)
        for reason, count in subset.left_out.items():
            notes.append(_cell(f"{name}: {count} responses left out: {reason}"))
        if steps := subset.separators["steps_with_a_separator"]:
            notes.append(_cell(f"{name}: {steps} steps contain the step separator, and are scored as one step each"))
    threshold, chosen = result.threshold.value, result.threshold.chosen_on
    where = f", chosen on `{_cell(Path(chosen.source).name)}`, which is not evaluated" if chosen else ""
    notes.append(f"The scorer calls a step wrong if sigmoid(Q) is below {threshold:.4g}{where}.")
    return rows, notes, index


def _cell(value: Any) -> str:
    """A value as one cell of a table."""
    return " ".join(str(value).replace("|", "\\|").replace("`", "'").split())
