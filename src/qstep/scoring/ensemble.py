"""Several scorers as one: the mean of their Qs for each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from qstep.scoring.kinds import FORMATS
from qstep.scoring.scorer import Scored, Scorer
from qstep.types import Aggregation, Prompt, Row

Mean = Literal["q", "probability"]
"""Whether Qs are averaged, or their sigmoids. The mean of sigmoids is returned as the Q that has this sigmoid."""

_MEMBER = ("scorer", "kind", "reference", "options")


@dataclass(kw_only=True)
class EnsembleFile:
    """The content of an ensemble's YAML file.

    Args:
        members: names of scorers. Or mappings with `scorer` and, if needed, `kind`, `reference` and `options`, which
            mean the same as the command's options `--scorer_kind` and so on.
        mean: whether `q` is averaged or `probability`.
        aggregation: how a response's score is computed from its Qs.
    """

    members: list[Any]
    mean: Mean = "q"
    aggregation: Aggregation = "min"


def is_ensemble(name: str) -> bool:
    """Whether the name of a scorer is that of an ensemble's file."""
    return Path(name).suffix in (".yaml", ".yml")


def read_ensemble(path: Path) -> EnsembleFile:
    """Reads the file. Each member becomes the arguments of `load_scorer`.

    Raises ValueError, naming the file, if it does not describe an ensemble.
    """
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    known = [field.name for field in fields(EnsembleFile)]
    if not isinstance(held, dict) or not isinstance(held.get("members"), list) or len(held["members"]) < 2:
        raise ValueError(f"{path}: an ensemble has `members`, a list of two or more scorers")
    if unknown := sorted(map(str, set(held) - set(known))):
        raise ValueError(f"{path} has {', '.join(unknown)}; an ensemble has {', '.join(known)}")
    for name, choices in (("mean", get_args(Mean)), ("aggregation", get_args(Aggregation))):
        if name in held and held[name] not in choices:
            raise ValueError(f"{path}: {name} is {held[name]!r}; choose one of {', '.join(choices)}")
    members = []
    for n, member in enumerate(held["members"], 1):
        member = {"scorer": member} if isinstance(member, str) else member
        if not isinstance(member, dict) or "scorer" not in member or set(member) - set(_MEMBER):
            raise ValueError(f"{path}: member {n} is {member!r}; give the name of a scorer, or {', '.join(_MEMBER)}")
        if not isinstance(member.get("options", {}), dict):
            raise ValueError(f"{path}: member {n} has the options {member['options']!r}; give names with values")
        if is_ensemble(str(member["scorer"])) or member.get("kind") == "ensemble":
            raise ValueError(f"{path}: member {n} is an ensemble itself; name its members here")
        if member.get("kind", "auto") not in ("auto", "qstep", *FORMATS):
            kinds = ", ".join(("auto", "qstep", *FORMATS))
            raise ValueError(f"{path}: member {n} is of kind {member['kind']!r}; choose one of {kinds}")
        members.append({"name": str(member["scorer"])} | {k: v for k, v in member.items() if k != "scorer"})
    return EnsembleFile(**held | {"members": members})


class Ensemble:
    """The mean of several scorers. All of them cut responses into steps in the same way."""

    def __init__(self, members: Sequence[Scorer], mean: Mean = "q", aggregation: Aggregation = "min") -> None:
        separators = {member.step_separator for member in members}
        if len(separators) > 1:
            raise ValueError(
                f"the ensemble's members cut responses into steps at {', '.join(map(repr, sorted(separators)))}: have "
                "them agree, with step_separator among a member's options"
            )
        self.members, self.mean, self.aggregation = list(members), mean, aggregation
        [self.step_separator] = separators
        self.max_length = min(member.max_length for member in members)
        self.objective = f"mean {mean} of {', '.join(member.objective for member in members)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.members!r}, mean={self.mean!r}, aggregation={self.aggregation!r})"

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The mean of each step."""
        return self._mean([member.score(prompt, steps) for member in self.members])

    def fits(self, row: Row) -> bool:
        """Whether the row is within every member's `max_length`."""
        return all(member.fits(row) for member in self.members)

    def use_windows(self) -> None:
        """Has every member read long responses in windows. Raises ValueError if one cannot."""
        for member in self.members:
            member.use_windows()

    def in_windows(self, row: Row) -> bool:
        """Whether a member reads the row in windows."""
        return any(member.in_windows(row) for member in self.members)

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """How a prompt differs from those of training, as the first member that finds a difference describes it."""
        return next(filter(None, (member.unlike_training(prompt, instruction) for member in self.members)), None)

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int = 8192) -> Iterator[list[Scored]]:
        """Scores rows as `StepScorer.score_rows` does. The batches are those of the first member."""
        first, *others = self.members
        for batch in first.score_rows(rows, max_tokens=max_tokens):
            together = [row for row, _ in batch]
            scored = [batch, *(chain.from_iterable(m.score_rows(together, max_tokens=max_tokens)) for m in others)]
            yield [(of_row[0][0], self._mean([q for _, q in of_row])) for of_row in zip(*scored, strict=True)]

    def _mean(self, q_values: Sequence[Sequence[float]]) -> list[float]:
        return [self._of_step(of_step) for of_step in zip(*q_values, strict=True)]

    def _of_step(self, q_values: Sequence[float]) -> float:
        if self.mean == "q":
            return math.fsum(q_values) / len(q_values)
        # log sum sigmoid(q) less log sum sigmoid(-q): finite where the probabilities round to 0 or 1.
        return _log_sum([_log_sigmoid(q) for q in q_values]) - _log_sum([_log_sigmoid(-q) for q in q_values])


def _log_sigmoid(q: float) -> float:
    return min(q, 0.0) - math.log1p(math.exp(-abs(q)))


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs))
