"""What is in a file of rows: labels, lengths, repeated responses, and what it shares with other files.

A soft label above 0 counts as right, because some rollout succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from qstep.data import (
    Format,
    Index,
    contradicting_rows,
    encode_prompt,
    encode_response,
    encode_text,
    encode_texts,
    repeated_rows,
    rising_rows,
    two_golds,
)
from qstep.data.records import have_same_rewards
from qstep.evals.measures import (
    NAMED,
    GoldRows,
    LabelShares,
    NamedRows,
    OverLongRows,
    SharedRows,
    Spread,
    TokenSpread,
    TwoGolds,
    VerdictShares,
)
from qstep.evals.own_samples import OwnSamples
from qstep.evals.results import Audit
from qstep.models import StepContract, encode_row_steps
from qstep.runs.progress import bar
from qstep.tasks import BUILT_IN, Tasks, is_users
from qstep.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def audit_rows(
    index: Index,
    *,
    train_file: str = "",
    tokens: TokenSpread | None = None,
    own_samples: OwnSamples | None = None,
    shared: Mapping[str, SharedRows] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tasks: Tasks = BUILT_IN,
) -> Audit:
    """The findings of one file. `tasks` compares gold answers; those of other users' tasks are compared as text.

    A duplicate is a response that an earlier row has too: the same prompt and steps (completion). Two duplicates
    contradict one another if one says true where the other says false, or if their rewards differ. Soft labels, which
    are estimates, and null contradict nothing.
    """
    table = index.table
    graded = ~np.isnan(table["outcome"])
    right, wrong, unknown = (int((table["right"] == code).sum()) for code in (1, 0, -1))
    found = Audit(
        train_file=train_file,
        rows=len(table),
        format=index.format,
        problems=len(np.unique(table["problem"])),
        prompts=len(np.unique(table["prompt"])),
        problems_with_two_rewards=len(np.unique(table["problem"][graded & ~have_same_rewards(table)])),
        responses_per_problem=Spread.of(np.unique(table["problem"], return_counts=True)[1]),
        characters={
            part: Spread.of(table[f"{part}_bytes"] - table[f"{part}_extra"]) for part in ("prompt", "response")
        },
        responses=VerdictShares(right=right, wrong=wrong, unknown=unknown, right_share=_share(right, right + wrong)),
        duplicates=NamedRows.of(index, repeated_rows(index)),
        contradictions=NamedRows.of(index, contradicting_rows(index)),
        golds=_golds(index, tasks),
        tokens=tokens,
        own_samples=own_samples,
        shared=dict(shared or {}),
        failures=[],
        provenance=dict(provenance or {}),
    )
    return _with_steps(found, index) if index.format == "stepwise" else found


def _golds(index: Index, tasks: Tasks) -> GoldRows:
    def same(first: Row, row: Row) -> bool:
        task = row.get("task", tasks.task)
        comparable = task == tasks.task or not is_users(task)
        return comparable and tasks.named(task).same_answer(first["gold"], row["gold"])

    pairs = two_golds(index, same)
    examples = [
        TwoGolds(
            line=index.place(b), gold=index.row(b)["gold"], other_line=index.place(a), other_gold=index.row(a)["gold"]
        )
        for a, b in pairs[:NAMED]
    ]
    return GoldRows(examples=examples, **asdict(NamedRows.of(index, np.array([b for _, b in pairs], np.int64))))


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
        rising=NamedRows.of(index, rising_rows(index)),
    )


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
    merging = np.zeros(len(index), bool)
    with bar("audit", len(index)) as advance:
        for number in range(len(index)):
            row = index.row(number)
            tokens[number], merging[number] = count(row), _merges(tokenizer, row, index.format)
            advance(1)
    long = np.flatnonzero(tokens > max_length)
    labelled, above = (int(index.table[name][long].sum()) for name in ("labelled", "above"))
    over_long = OverLongRows(
        **asdict(NamedRows.of(index, long)), labelled_steps=labelled, wrong_labels=labelled - above
    )
    return TokenSpread(
        **asdict(Spread.of(tokens)), over_long=over_long, merging=NamedRows.of(index, np.flatnonzero(merging))
    )


def _merges(tokenizer: PreTrainedTokenizerBase, row: Row, format: Format) -> bool:
    """Whether prompt and response have other tokens as one text than apart, as training reads them.

    It does not matter for a conversation, and for a response whose tokens the row has.
    """
    prompt, steps = row["prompt"], format == "stepwise"
    if not isinstance(prompt, str) or (row.get("completion_ids") is not None and not steps):
        return False
    response = "".join(row["completions"][:1]) if steps else row["completion"]
    apart = encode_texts(tokenizer, [prompt, response])
    return encode_text(tokenizer, prompt + response) != [*chain.from_iterable(apart)]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
