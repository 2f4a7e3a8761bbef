"""What is in a file of rows: labels, lengths, repeated responses, and what it shares with other files.

A soft label above 0 counts as right, because some rollout succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qstep.data import (
    Format,
    Index,
    RowError,
    Source,
    contradicting_rows,
    encode_prompt,
    encode_response,
    index_rows,
    numbered_rows,
    repeated_rows,
    rising_rows,
)
from qstep.data.records import prompt_hash
from qstep.evals.measures import LabelShares, NamedRows, OverLongRows, SharedRows, Spread, TokenSpread, VerdictShares
from qstep.evals.results import Audit
from qstep.models import StepContract, encode_row_steps
from qstep.runs.progress import bar
from qstep.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def audit_rows(
    index: Index,
    *,
    train_file: str = "",
    tokens: TokenSpread | None = None,
    shared: Mapping[str, SharedRows] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Audit:
    """The findings of one file.

    A duplicate is a response that an earlier row has too: the same prompt and steps (completion). Two duplicates
    contradict one another if one says true where the other says false. Soft labels, which are estimates, and null
    contradict nothing.
    """
    table = index.table
    right, wrong, unknown = (int((table["right"] == code).sum()) for code in (1, 0, -1))
    found = Audit(
        train_file=train_file,
        rows=len(table),
        format=index.format,
        problems=len(np.unique(table["prompt"])),
        responses_per_problem=Spread.of(np.unique(table["prompt"], return_counts=True)[1]),
        characters={
            part: Spread.of(table[f"{part}_bytes"] - table[f"{part}_extra"]) for part in ("prompt", "response")
        },
        responses=VerdictShares(right=right, wrong=wrong, unknown=unknown, right_share=_share(right, right + wrong)),
        duplicates=NamedRows.of(repeated_rows(index)),
        contradictions=NamedRows.of(contradicting_rows(index)),
        tokens=tokens,
        shared=dict(shared or {}),
        failures=[],
        provenance=dict(provenance or {}),
    )
    return _with_steps(found, index) if index.format == "stepwise" else found


def _with_steps(found: Audit, index: Index) -> Audit:
    table = index.table
    steps = np.maximum(table["steps"], 0)
    right, labelled = int(table["above"].sum()), int(table["labelled"].sum())
    return replace(
        found,
        steps_per_response=Spread.of(steps),
        labels=LabelShares(
            right=right,
            wrong=labelled - right,
            null=int(steps.sum()) - labelled,
            soft=int(table["soft"].sum()),
            right_share=_share(right, labelled),
        ),
        without_steps=int((steps == 0).sum()),
        without_labels=int(((steps > 0) & (table["labelled"] == 0)).sum()),
        rising=NamedRows.of(rising_rows(index)),
    )


def format_of(path: Path) -> Format:
    """The format of a file by its first row's columns: the most informative that fits."""
    row = next((row for _, row in numbered_rows(path)), {})
    if row.get("completions") is not None and row.get("labels") is not None:
        return "stepwise"
    return "unpaired" if {"label", "reward"} & row.keys() else "prompt-completion"


def shared_with(index: Index, path: Path) -> SharedRows:
    """What the rows of `index` share with a file, which holds rows or a benchmark's problems."""
    source = Source.of(str(path))
    _, first = next(source.rows(), (0, {}))
    question = next((column for column in ("problem", "question") if isinstance(first.get(column), str)), None)
    if "prompt" in first or question is None:
        return shared_rows_of(index, index_rows(path, format_of(path)))

    def questions() -> Iterator[str]:
        for line, row in source.rows():
            if not isinstance(row.get(question), str):
                raise RowError(source.path, line, question, f"is {row.get(question)!r}; give the question as a string")
            yield row[question]

    return shared_problems_of(index, questions())


def shared_rows_of(index: Index, other: Index) -> SharedRows:
    """What a file shares with another: problems (by their prompts, not their ids), the rows of these, and responses.

    Responses are compared only if both files have the same format.
    """
    same = index.format == other.format
    responses = np.isin(index.table["response"], np.unique(other.table["response"])) if same else np.zeros(0, bool)
    return _shared(index, other.table["prompt"], int(responses.sum()))


def shared_problems_of(index: Index, prompts: Iterable[str]) -> SharedRows:
    """What a file shares with a file of problems only."""
    return _shared(index, np.fromiter(map(prompt_hash, prompts), "<u8"), responses=0)


def _shared(index: Index, prompts: NDArray[np.uint64], responses: int) -> SharedRows:
    ours = index.table["prompt"]
    rows = np.flatnonzero(np.isin(ours, prompts))
    return SharedRows(problems=len(np.unique(ours[rows])), responses=responses, **asdict(NamedRows.of(rows)))


def token_lengths(
    index: Index, tokenizer: PreTrainedTokenizerBase, *, step_separator: str, separator_token: str, max_length: int
) -> TokenSpread:
    """Tokens of each prompt with its response, and the rows and labels lost to `max_length`."""
    count: Callable[[Row], int]
    if index.format == "stepwise":
        contract = StepContract.create(
            tokenizer,
            step_separator=step_separator,
            separator_token=separator_token,
            max_length=max_length,
            aggregation="min",
            objective="audit",
        )

        def count(row: Row) -> int:
            prompt, response, _ = encode_row_steps(tokenizer, contract, row)
            return len(prompt) + len(response)
    else:

        def count(row: Row) -> int:
            return len(encode_prompt(tokenizer, row["prompt"])) + len(encode_response(tokenizer, row).ids)

    tokens = np.zeros(len(index), np.int64)
    with bar("audit", len(index)) as advance:
        for number in range(len(index)):
            tokens[number] = count(index.row(number))
            advance(1)
    long = np.flatnonzero(tokens > max_length)
    labelled, above = (int(index.table[name][long].sum()) for name in ("labelled", "above"))
    over_long = OverLongRows(**asdict(NamedRows.of(long)), labelled_steps=labelled, wrong_labels=labelled - above)
    return TokenSpread(**asdict(Spread.of(tokens)), over_long=over_long)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
