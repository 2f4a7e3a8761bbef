"""What a method learns from, as rows of TRL's dataset formats. The rows are chosen as in training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from qstep.data import has_turns, is_right
from qstep.data.inputs import unit_of
from qstep.models import StepContract, encode_row_steps
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.graded import ungraded
from qstep.objectives.kto import unjudged
from qstep.objectives.labels import hard_labels
from qstep.objectives.likelihood import not_right
from qstep.objectives.pairs import only_in_pairs, pairs_by_problem
from qstep.objectives.responses import encode_row, policy_rows
from qstep.objectives.source import RowsFile
from qstep.objectives.steps import StepSelection, stepwise_rows, without_labels
from qstep.types import ABSENT, Message, Pairs, Prompt, Row, TRLFormat

_KEPT_ROWS = 4096
"""How many rows are kept in memory. Those of one problem are read together."""


class ExportOptions(StepSelection, Protocol):
    """The options that decide which examples there are, and how they are written."""

    @property
    def format(self) -> TRLFormat: ...
    @property
    def pairs(self) -> Pairs: ...
    @property
    def seed(self) -> int: ...
    @property
    def responses(self) -> Literal["right", "every"]: ...
    @property
    def separator_token(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def stop_at_first_error(self) -> bool: ...


@dataclass
class Export:
    """The examples of a data set.

    Args:
        dataset: the rows that are used.
        numbers: `[N, k]`, the numbers of the k rows of each example.
        write: makes an example, without its ids, from its rows.
        lengths: returns the tokens of a row's prompt and of its response; None if tokens are not counted.
        counts: further counts for the summary.
    """

    dataset: GroupDataset
    numbers: NDArray[np.int64]
    write: Callable[..., Row]
    lengths: Callable[[Row], tuple[int, int]] | None
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.numbers):
            raise ValueError(f"{self.dataset.source}: no row can be used. Left out: {dict(self.dataset.left_out)}")
        if self.dataset.index.prompts == "mixed":
            raise ValueError(
                f"{self.dataset.source}: some prompts are strings and some are conversations. TRL takes all rows as it "
                "takes the first one. Write the two kinds to two files"
            )

    def rows(self) -> Iterator[Row]:
        """The examples."""
        read, index = lru_cache(_KEPT_ROWS)(self.dataset.row), self.dataset.index
        unit = unit_of(index.lines.files[0])  # lines are counted over all files, so that names are of one row each
        for numbers in self.numbers.tolist():
            rows = [read(number) for number in numbers]
            names = [
                str(row.get("id", f"{unit} {index.line(number)}")) for number, row in zip(numbers, rows, strict=True)
            ]
            problem = {"problem_id": rows[0]["problem_id"]} if "problem_id" in rows[0] else {}
            yield {"id": " > ".join(names), **problem, **self.write(*rows)}

    def summary(self) -> dict[str, Any]:
        """Counts for the sidecar.

        `tokens` are those of all examples. qstep computes each prompt once a problem, and each response once.
        """
        used = np.unique(self.numbers)
        problems = np.unique(self.dataset.index.table["problem"][used])
        counts = {"responses": len(used), "problems": len(problems), **self.counts, **self._tokens()}
        cut_off = int(self.dataset.index.table["truncated"][used].sum())
        more = {"cut_off_and_not_right": cut_off, "left_out": dict(self.dataset.left_out)}
        return {**counts, **{name: value for name, value in more.items() if value}}

    def _tokens(self) -> dict[str, int]:
        if self.lengths is None:
            return {}
        used, times = np.unique(self.numbers, return_counts=True)
        prompts, responses = np.array([self.lengths(self.dataset.row(number)) for number in used.tolist()]).T
        _, first = np.unique(self.dataset.index.table["problem"][used], return_index=True)
        return {
            "tokens": int(((prompts + responses) * times).sum()),
            "tokens_with_each_text_once": int(prompts[first].sum() + responses.sum()),
        }


def export_of(config: ExportOptions, source: RowsFile, tokenizer: PreTrainedTokenizerBase | None) -> Export:
    """The examples of a file.

    Raises:
        RowError: a row is bad.
        ValueError: no row can be used, or the prompts have a form that the format cannot hold.
    """
    lengths = None if tokenizer is None else _counter(tokenizer)
    if config.format == "stepwise":
        return _stepwise(config, source, tokenizer)
    if config.format == "preference":
        graded = policy_rows(source, config, tokenizer, "unpaired", ungraded)
        paired, without = only_in_pairs(graded, config.pairs, config.seed)
        found = [np.stack(pairs, axis=1) for pairs in pairs_by_problem(paired, "all", config.seed)]
        return Export(paired, np.concatenate(found), _preference, lengths, {"problems_without_a_pair": without})
    if config.format == "unpaired":
        dataset, write = policy_rows(source, config, tokenizer, "unpaired", unjudged, asks_right=True), _unpaired
    else:
        right = config.responses == "right"
        leave_out = not_right if right else lambda index: {}
        dataset = policy_rows(source, config, tokenizer, "prompt-completion", leave_out, asks_right=right)
        write = _demonstration
    return Export(dataset, dataset.rows[:, None], write, lengths)


def _counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[Row], tuple[int, int]]:
    def lengths(row: Row) -> tuple[int, int]:
        prompt, response = encode_row(tokenizer, row, f"row {row.get('id', '')!r}")
        return len(prompt), len(response.ids)

    return lengths


def _stepwise(config: ExportOptions, source: RowsFile, tokenizer: PreTrainedTokenizerBase | None) -> Export:
    def labels_of(row: Row) -> list[float]:
        """The labels through the last step that has one."""
        labels = hard_labels(row, config.threshold, config.stop_at_first_error)
        while labels and labels[-1] == ABSENT:
            labels.pop()
        return labels

    def write(row: Row) -> Row:
        labels = labels_of(row)
        steps = row["completions"][: len(labels)]
        return {"prompt": row["prompt"], "completions": steps, "labels": [label == 1 for label in labels]}

    contract = None
    if tokenizer is not None:
        contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation="min",
            objective="pqm",
        )

    def encode(tokenizer: PreTrainedTokenizerBase, row: Row, steps: int | None = None) -> tuple[int, int]:
        assert contract is not None
        prompt, response, _ = encode_row_steps(tokenizer, contract, row, steps)
        return len(prompt), len(response)

    def count(tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> int:
        return sum(encode(tokenizer, row))

    dataset = stepwise_rows(source, config, tokenizer, count, partial(without_labels, mask=False))
    if dataset.index.prompts != "string":
        raise ValueError(f"{source}: has conversations as prompts, and TRL's stepwise format has strings only")
    table = dataset.index.table
    doubtful = table["labelled"] < table["steps"]
    unsaid = [n for n in dataset.rows.tolist() if doubtful[n] and ABSENT in labels_of(dataset.row(n))]
    dataset.left_out += Counter({"a step without a label before one with a label": len(unsaid)})
    kept = dataset.rows[~np.isin(dataset.rows, unsaid)]

    def lengths(row: Row) -> tuple[int, int]:
        assert tokenizer is not None
        return encode(tokenizer, row, len(labels_of(row)))

    return Export(dataset, kept[:, None], write, None if tokenizer is None else lengths)


def _preference(better: Row, worse: Row) -> Row:
    chosen, rejected = _said(better), _said(worse)
    return {**_asked(better), "chosen": chosen, "rejected": rejected}


def _unpaired(row: Row) -> Row:
    return {**_demonstration(row), "label": bool(is_right(row))}


def _demonstration(row: Row) -> Row:
    return {**_asked(row), "completion": _said(row)}


def _asked(row: Row) -> Row:
    """The prompt, with its tools as JSON text in a column of their own."""
    prompt: Prompt = row["prompt"]
    if isinstance(prompt, str) or "tools" not in prompt[0]:
        return {"prompt": prompt}
    first = {name: value for name, value in prompt[0].items() if name != "tools"}
    return {"prompt": [first, *prompt[1:]], "tools": json.dumps(prompt[0]["tools"])}


def _said(row: Row) -> str | list[Message]:
    """The response as text, or as messages if the prompt is a conversation."""
    completion: str | list[Message] = row["completion"]
    if isinstance(row["prompt"], str) or has_turns(completion):
        return completion
    return [{"role": "assistant", "content": completion}]
