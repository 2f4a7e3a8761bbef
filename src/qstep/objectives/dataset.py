"""A file of rows as a training set: chunks of one problem's rows, read from the disk when they are needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from qstep.data import (
    Format,
    Index,
    bytes_growth,
    cached_array,
    encode_prompt,
    most_text_tokens,
    tokenizer_fingerprint,
)
from qstep.objectives.source import RowsFile
from qstep.objectives.verdicts import refuse_two_golds, refuse_unclear_rewards
from qstep.processes import first_then_all
from qstep.types import OverLong, Row, Truncated
from qstep.words import shortened

Item = dict[str, Any]
"""An item of a `GroupDataset`: some rows of one problem."""

Reasons = Mapping[str, NDArray[np.bool_]]
"""Reasons for leaving rows out, each with a mask of the index's rows."""

_NAMED = 5
"""How many rows beyond max_length an error names."""
_COUNTED = 32
"""How many rows' tokens are counted, to estimate those of all."""


class Selection(Protocol):
    """The options that decide which rows of a file are used, and how they are grouped."""

    @property
    def max_length(self) -> int: ...
    @property
    def over_long(self) -> OverLong: ...
    @property
    def truncated(self) -> Truncated: ...
    @property
    def right_at(self) -> float | None: ...
    @property
    def responses_per_prompt(self) -> int | None: ...


class GroupDataset(Dataset[Item]):
    """Chunks of one problem's rows. Batches consist of chunks; a problem is a (problem_id, prompt).

    Item i is `{"rows": [Row, ...], "row_index": [int, ...], "where": [str, ...], "weight": 1}`. It holds at most
    `responses_per_prompt` responses of one problem (all of them if None). `row_index` has the rows' numbers in the
    file, and `where` their names for errors. Item ~i is the same with weight 0. `lengths[i]` is a rough size in tokens,
    `tokens[i]` a closer estimate.

    left_out: the number of rows left out for each reason. truncated: the number of kept rows that were cut off and are
    not right. rows: the numbers of the kept rows, problem by problem.
    columns: further columns of the items, by the row's number (reference log-probabilities, for example).
    """

    def __init__(
        self,
        source: RowsFile,
        index: Index,
        rows: NDArray[np.int64],
        responses_per_prompt: int | None,
        left_out: Counter[str],
        *,
        count_tokens: Callable[[Row, str], int] | None = None,
    ) -> None:
        if not len(rows):
            raise ValueError(f"{source}: no row can be used. Left out: {dict(left_out)}")
        self.source, self.index, self.left_out = source, index, left_out
        self.count_tokens = count_tokens
        self.columns: dict[str, Any] = {}
        problems = index.table["problem"][rows]
        _, first, inverse = np.unique(problems, return_index=True, return_inverse=True)
        order = np.argsort(first[inverse], kind="stable")  # problems in order of first appearance, rows in file order
        self.rows = rows[order]
        self.truncated = int(index.table["truncated"][self.rows].sum())
        problems = problems[order]
        begins = np.flatnonzero(np.r_[True, problems[1:] != problems[:-1]])
        sizes = np.diff(np.r_[begins, len(problems)])
        most = responses_per_prompt or int(sizes.max())
        chunks = -(-sizes // most)  # of each problem
        within = np.arange(chunks.sum()) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        self.starts = np.repeat(begins, chunks) + within * most
        self.ends = np.minimum(self.starts + most, np.repeat(begins + sizes, chunks))
        prompts, responses = _sizes(index.table[self.rows])
        self.lengths = np.add.reduceat(responses, self.starts) + prompts[self.starts]

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Estimated tokens of each item: `lengths`, scaled to agree with the counted tokens of a sample of rows."""
        if self.count_tokens is None:
            return self.lengths
        sample = self.rows[:: -(-len(self.rows) // _COUNTED)]
        sizes = sum(int(part.sum()) for part in _sizes(self.index.table[sample]))
        counted = sum(self.count_tokens(self.row(number), self.where(number)) for number in sample.tolist())
        return np.ceil(self.lengths * (counted / max(sizes, 1))).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Item:
        item = index if index >= 0 else ~index
        numbers = self.row_numbers(item)
        rows = [self.row(number) for number in numbers]
        if any(row["prompt"] != rows[0]["prompt"] for row in rows):
            raise ValueError(
                f"{self.where(numbers[0])}: its prompt differs from that of another row with the same hash. Give each "
                "row a problem_id"
            )
        where = [self.where(number) for number in numbers]
        more = {name: [column[number] for number in numbers] for name, column in self.columns.items()}
        return {"rows": rows, "row_index": numbers, "where": where, "weight": float(index >= 0), **more}

    def __getitems__(self, parts: list[list[int]]) -> list[list[Item]]:
        """The items of each part of a micro-batch, for a DataLoader."""
        return [[self[item] for item in part] for part in parts]

    def row_numbers(self, item: int) -> list[int]:
        """The rows of an item."""
        return self.rows[self.starts[item] : self.ends[item]].tolist()

    def row(self, number: int) -> Row:
        """The row with this number in the file, counted from 0."""
        return self.index.row(number)

    def where(self, number: int) -> str:
        """How an error names a row."""
        return self.source.at(self.index.line(number)) if self.source.argument else self.index.where(number)


def _sizes(table: NDArray[np.void]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The sizes of each row's prompt and response: its tokens if they are stored, else a quarter of its bytes."""
    return table["prompt_bytes"] // 4, np.where(table["ids"] >= 0, table["ids"], table["response_bytes"] // 4)


def select_rows(
    source: RowsFile,
    format: Format,
    config: Selection,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    leave_out: Callable[[Index], Reasons],
    encode: Callable[[PreTrainedTokenizerBase, Row, str], int],
    fixed_tokens: Callable[[NDArray[np.void]], NDArray[np.int64]],
    step_separator: str | None,
    forbidden: Sequence[str] = (),
    reads_ids: bool = False,
    asks_right: bool = False,
) -> GroupDataset:
    """The rows of a file that can be trained on.

    Args:
        tokenizer: None if lengths do not matter.
        leave_out: returns the rows to leave out, by reason.
        encode: returns a row's number of tokens; its third argument names the row in errors.
        fixed_tokens: an upper limit for each row's tokens outside its texts, such as separators, or for those that are
            known exactly.
        step_separator: the separator that the rows must have; None if steps do not matter.
        forbidden: strings that no step may contain.
        asks_right: whether the method asks which responses are right.
        reads_ids: whether `encode` takes the `completion_ids` of a row instead of its text. `fixed_tokens` counts them.

    Raises:
        RowError: a row is bad, another separator split its steps, a problem has two gold answers, or it is not
            clear which responses are right.
        ValueError: rows are longer than `max_length` and `over_long` is `refuse`, or no row is left.
    """
    index = source.index(format, forbidden).with_verdicts(config.right_at)
    table = index.table
    if asks_right or config.truncated != "keep":
        refuse_unclear_rewards(source, index)
    refuse_two_golds(source, index)
    if step_separator is not None:
        _refuse_other_separators(source, index, step_separator)
    kept = np.ones(len(table), bool)
    left_out: Counter[str] = Counter()
    truncated = {"cut off and not right": table["truncated"]} if config.truncated == "drop" else {}
    for reason, rows in {**leave_out(index), **truncated}.items():
        left_out[reason] += int((rows & kept).sum())
        kept &= ~rows
    if tokenizer is not None:
        most = _most_tokens(source, index, tokenizer, reads_ids=reads_ids) + fixed_tokens(table)
        doubtful = np.flatnonzero(kept & (most > config.max_length))
        lengths = _exact_lengths(source, index, doubtful, config.max_length, tokenizer, encode)
        long = doubtful[lengths > config.max_length]
        if len(long) and config.over_long == "refuse":
            raise _too_long(source, index, long, lengths[lengths > config.max_length], config.max_length)
        left_out["longer than max_length"] += len(long)
        kept[long] = False
    count_tokens = None if tokenizer is None else partial(encode, tokenizer)
    return GroupDataset(
        source, index, np.flatnonzero(kept), config.responses_per_prompt, +left_out, count_tokens=count_tokens
    )


def _exact_lengths(
    source: RowsFile,
    index: Index,
    rows: NDArray[np.int64],
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[PreTrainedTokenizerBase, Row, str], int],
) -> NDArray[np.int64]:
    """The numbers of tokens of these rows, which are kept next to the file."""
    if not len(rows):
        return np.empty(0, np.int64)
    key = {
        "file": index.identity,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "format": index.format,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "max_length": max_length,
    }

    def measure() -> tuple[dict[str, Any], NDArray[Any]]:
        found = [encode(tokenizer, index.row(row), source.at(index.line(row))) for row in rows.tolist()]
        return {}, np.array(found, "<i8")

    dtype: np.dtype[Any] = np.dtype("<i8")
    return first_then_all(lambda: cached_array(index.cached_as, f"{index.format}.lengths", key, dtype, measure))[1]


def _too_long(
    source: RowsFile, index: Index, rows: NDArray[np.int64], lengths: NDArray[np.int64], max_length: int
) -> ValueError:
    first = zip(rows.tolist(), lengths[:_NAMED], strict=False)
    named = shortened([f"{source.line(index.line(row))} ({tokens})" for row, tokens in first], len(rows))
    return ValueError(
        f"{source}: {len(rows)} rows are longer than --max_length {max_length} tokens: {named}. "
        "qstep truncates nothing. Raise --max_length, or leave these rows out with --over_long drop."
    )


def _refuse_other_separators(source: RowsFile, index: Index, wanted: str) -> None:
    for code, separator in enumerate(index.separators):
        if separator is not None and separator != wanted:
            raise source.error(
                index.line(int(np.flatnonzero(index.table["separator"] == code)[0])),
                "step_separator",
                f"is {separator!r}, but --step_separator is {wanted!r}. Give --step_separator {separator!r}",
            )


def _most_tokens(
    source: RowsFile, index: Index, tokenizer: PreTrainedTokenizerBase, *, reads_ids: bool
) -> NDArray[np.int64]:
    """An upper limit for the tokens of each row's prompt and texts; with `reads_ids` without texts that have ids.

    The limit is the largest integer if it is not known for this kind of tokenizer. Raises RowError for a conversation
    that the tokenizer cannot read.
    """
    table = index.table
    growth = bytes_growth(tokenizer)
    if growth is None:
        return np.full(len(table), np.iinfo(np.int32).max, np.int64)
    framings = []
    for code, roles in enumerate(index.roles):
        try:
            framings.append(_framing(tokenizer, roles))
        except ValueError as error:
            first = int(np.flatnonzero(table["roles"] == code)[0])
            raise source.error(index.line(first), "prompt", str(error)) from None
    framing = np.array(framings)[table["roles"]]

    def most(part: str, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        size, extra = (table[f"{part}_{measure}"].astype(np.int64) for measure in ("bytes", "extra"))
        return most_text_tokens(size, extra, texts, growth)

    response = most("response", 1 + np.maximum(table["steps"], 0).astype(np.int64))
    texts = most("prompt", framing) + (np.where(table["ids"] >= 0, 0, response) if reads_ids else response)
    return np.where(table["structured"], np.iinfo(np.int32).max, texts)


def _framing(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...]) -> int:
    """Tokens of a prompt outside its texts: beginning-of-text, or what the chat template puts around messages."""
    if not roles:
        return 2
    return len(encode_prompt(tokenizer, [{"role": role, "content": "x"} for role in roles])) + 8 * len(roles)
