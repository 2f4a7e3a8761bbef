"""Scoring in groups: tokens that responses share are computed once, for every format and model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qstep.data import checked_prompt, checked_steps, first_cut, has_turns, refuse_turns
from qstep.models import ScorerModel, StepContract, check_length, collate_steps, moved
from qstep.models.inference import choose_device
from qstep.models.loading import load_tokenizer
from qstep.scoring.formats import ContractFormat, Encoded, Format
from qstep.scoring.scorer import Scored
from qstep.scoring.windows import encode_windows, longest
from qstep.types import Dtype, Prompt, Row


class GroupScorer(ABC):
    """Base class of scorers that work in batches.

    A Format turns rows into token sequences. A subclass computes them, in this process or at a server.
    """

    windows: bool = False
    """Whether responses longer than `max_length` are read in windows (`qstep.scoring.windows`)."""

    def __init__(self, format: Format) -> None:
        self.format = format
        self.step_separator, self.max_length = format.step_separator, format.max_length
        self.aggregation, self.objective = format.aggregation, format.objective

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q-value of each step.

        Raises:
            ValueError: prompt and steps are longer than `max_length` (nothing is truncated), or a step is blank or
                contains the separator.
            TypeError: the steps are not a list of strings, or the prompt is not one question.
        """
        row = {"prompt": checked_prompt(prompt), "completions": self._checked(steps)}
        [[(_, q_values)]] = self.score_rows([{"id": "score()", **row}])
        return q_values

    def _checked(self, steps: Sequence[str]) -> list[str]:
        taken = checked_steps(steps)
        for number, step in enumerate(taken):
            if not step.strip():
                raise ValueError(f"steps[{number}] is blank: leave it out")
        if (cut := first_cut(taken, self.step_separator, split_by_it=True)) is not None:
            raise ValueError(
                f"the step {cut[:60]!r} is several steps at this scorer's separator {self.step_separator!r}: give what "
                "qstep.split_steps(response, scorer.step_separator) returns"
            )
        return taken

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int = 8192) -> Iterator[list[Scored]]:
        """Scores rows with a `prompt` and steps in `completions`, in order. Memory does not grow with the rows.

        Yields a batch of rows at a time: it ends with the row that brings it to `max_tokens` tokens. Within a batch a
        prompt counts once, and so do equal responses to it. So rows that share a prompt should be neighbours.

        Raises:
            ValueError: a row is longer than `max_length`; the message names it. Nothing is truncated.
            TypeError: a row's `completions` are not a list of strings, or its `prompt` is not one question.
        """
        return self._score_batches(self._batches(rows, max_tokens))

    def fits(self, row: Row) -> bool:
        """Whether a row, as `score_rows` takes it, is within `max_length`, or can be read in windows."""
        _check(row)
        return self.format.fits(row) or self._windows(row) is not None

    def in_windows(self, row: Row) -> bool:
        """Whether a row that fits is read in windows."""
        return self.windows and not self.format.fits(row)

    def use_windows(self) -> None:
        """Reads responses longer than `max_length` in windows from now on. Raises ValueError if this kind cannot."""
        if self.format.sums_over_response:
            raise ValueError(
                f"a scorer of kind {self.objective} sums over all tokens of a response, so it cannot read it in "
                "windows. Leave long rows out with --over_long drop"
            )
        self.windows = True

    def _encode(self, row: Row) -> list[Encoded]:
        """The sequences of a row. If it is too long and has no windows, they are longer than `max_length`."""
        encoded = _encoded(row, self.format)
        return encoded if longest(encoded) <= self.max_length else self._windows(row) or encoded

    def _windows(self, row: Row) -> list[Encoded] | None:
        """The windows of a row that is too long. A response of several turns has none."""
        if not self.windows or has_turns(row.get("completion")):
            return None
        return encode_windows(self.format, row["prompt"], row["completions"])

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """How a prompt differs from those of training (`StepContract.unlike_training`)."""
        return self.format.unlike_training(prompt, instruction)

    @abstractmethod
    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        """The rows of each batch, in order, with their Qs."""

    def _batches(self, rows: Iterable[Row], max_tokens: int) -> Iterator[Pending]:
        batch = Pending()
        for row in rows:
            batch.add(row, self._encode, self.max_length)
            if batch.tokens >= max_tokens or len(batch.rows) >= max_tokens:
                yield batch
                batch = Pending()
        if batch.rows:
            yield batch


class StepScorer(GroupScorer):
    """A scorer ready to use: `score(prompt, steps)`, or `score_rows` for a stream of rows.

    Args:
        model: its `forward(batch)` gives the Q of each step, `[B, S]`, of a batch that `collate_steps` made.
        format: how prompts and steps become such batches.
    """

    def __init__(self, model: nn.Module, format: Format) -> None:
        super().__init__(format)
        self.model: Any = model.eval()

    def __repr__(self) -> str:
        device, dtype = self.model.device, str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({self.objective}, step_separator={self.step_separator!r}, "
            f"max_length={self.max_length}, aggregation={self.aggregation!r}, {device}, {dtype})"
        )

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "auto", dtype: Dtype = "float32") -> StepScorer:
        """Loads a checkpoint or an adapter of a step scorer, written by `qstep train` or `qstep export`.

        `device` is as in `load_scorer`.

        Raises ValueError if the checkpoint has no step contract, or one that does not fit its tokenizer.

        Example:
            >>> scorer = qstep.StepScorer.load("runs/pqm")
            >>> len(scorer.score("1+2*3=", ["1+2=3", "3*3=9", "#9"]))
            3
        """
        place = choose_device(device)
        model, tokenizer = ScorerModel.load(path, dtype).to(place), load_tokenizer(path)
        return cls(model, ContractFormat(tokenizer, StepContract.of(model.config, tokenizer)))

    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        return map(self._scored, batches)

    @torch.inference_mode()
    def _scored(self, pending: Pending) -> list[Scored]:
        groups, sequences = pending.groups, pending.sequences()
        if not sequences:
            return pending.scored([])
        batch = collate_steps(
            list(groups), [[ids for ids, _ in group] for group in groups.values()], [ends for *_, ends in sequences]
        )
        q_values = self.model(moved(batch, self.model.device))
        return pending.scored(q_values.cpu().tolist())


_Ids = tuple[int, ...]
_Sequence = tuple[_Ids, _Ids, _Ids]
"""The ids of a prompt, the ids after it, and the indices among those at which steps are read."""


@dataclass
class Pending:
    """Rows to compute together: the distinct prompts, the distinct sequences of each, and the sequences of each row."""

    groups: dict[_Ids, dict[tuple[_Ids, _Ids], None]] = field(default_factory=dict)
    rows: list[tuple[Row, list[_Sequence]]] = field(default_factory=list)
    known: dict[tuple[str, str], list[_Sequence]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, row: Row, encode: Callable[[Row], list[Encoded]], max_length: int) -> None:
        _check(row)
        turns = has_turns(row.get("completion"))
        name = repr(row["prompt"]), repr(row["completion"] if turns else row["completions"])
        if name not in self.known:
            encoded = encode(row)
            self.known[name] = [(tuple(shared), tuple(ids), tuple(ends)) for shared, ids, ends in encoded]
            for shared, ids, ends in self.known[name]:
                check_length(len(shared) + len(ids), max_length, f"row {row.get('id')!r}")
                if shared not in self.groups:
                    self.groups[shared] = {}
                    self.tokens += len(shared)
                if (ids, ends) not in self.groups[shared]:
                    self.groups[shared][ids, ends] = None
                    self.tokens += len(ids)
        self.rows.append((row, self.known[name]))

    def sequences(self) -> list[_Sequence]:
        """The sequences to compute, group by group."""
        return [(prompt, *sequence) for prompt, group in self.groups.items() for sequence in group]

    def scored(self, q_values: Sequence[Sequence[float]]) -> list[Scored]:
        """The rows with their Qs, from the Qs of the sequences, which may be padded."""
        q_of = {sequence: q[: len(sequence[2])] for sequence, q in zip(self.sequences(), q_values, strict=True)}
        return [(row, [q for sequence in sequences for q in q_of[sequence]]) for row, sequences in self.rows]


def _encoded(row: Row, format: Format) -> list[Encoded]:
    """The sequences of a row. Raises ValueError for several turns, if the format reads one."""
    if isinstance(format, ContractFormat):
        return format.encode_row(row)
    refuse_turns(row, "this kind of scorer reads one turn. Use a scorer of `qstep train`")
    return format.encode(row["prompt"], row["completions"])


def _check(row: Row) -> None:
    """Raises TypeError if a row's steps are not a list of strings, or its prompt is not one question."""
    where = f"row {row.get('id')!r}: "
    checked_prompt(row["prompt"], f"{where}prompt")
    checked_steps(row["completions"], f"{where}completions")
