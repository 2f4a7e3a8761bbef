"""Rollouts of prefixes: a model continues a response from the end of a step, and its answer is graded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qstep.data import encode_completion, encode_prompt, group_key, row_step_ends, steps_of
from qstep.data.parts import ends_with_step, has_ended
from qstep.generation import Engine, Request, SamplingSettings
from qstep.tasks import BUILT_IN, Tasks, grade_rows, opened_thinking
from qstep.types import Row

_OF_RESPONSE = {
    *("completion", "completion_ids", "logps_behavior", "finish_reason", "sample"),
    *("answer", "verdict", "reason", "grader", "label", "reward"),
    *("completions", "step_separator", "labels", "label_source", "successes", "trials", "rollouts"),
    *("q_values", "score", "step_rewards"),
}

Budgets = Mapping[tuple[str, str], int]
"""The maximum number of rollouts for each problem, by `qstep.data.group_key`."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens of a response up to the end of a step. `key` is the same for the same tokens of the same problem."""

    row: Row
    problem: tuple[str, str]
    ids: list[int]
    key: str


@dataclass(slots=True)
class Counts:
    """How the rollouts of a prefix ended. `trials` counts those of the `drawn` ones that could be graded.

    A right response may also count as a trial of its prefixes. `left` more rollouts may be drawn. `tokens` is the
    length of all rollouts; None if the engine returns no token ids.
    """

    left: int
    drawn: int = 0
    trials: int = 0
    successes: int = 0
    tokens: int | None = 0

    @property
    def evidence(self) -> tuple[int, int, int]:
        """Successes, trials, and rollouts left."""
        return self.successes, self.trials, self.left


def prefixes_of(engine: Engine, row: Row, separator: str, max_new_tokens: int) -> tuple[list[str], list[Prefix]]:
    """The steps of a response, and the prefixes to continue from.

    The last step needs no rollouts if the response ended by itself, is right, or fills the length limit: its verdict
    is known. That is not so if the steps are those of closed thinking, which an answer follows.

    Raises:
        ValueError: its tokens do not decode to its completion, or it was split at another separator.
    """
    steps = steps_of(row, separator)
    ids = encode_completion(engine.tokenizer, row)
    try:
        ends = row_step_ends(engine.tokenizer, row, steps, separator)
    except ValueError as error:
        raise ValueError(
            f"row {row['id']!r}: {error}. If another tokenizer than this model's made its completion_ids, remove that "
            "column"
        ) from None
    known = has_ended(row) or row["verdict"] == "right" or len(ids) >= max_new_tokens
    if known and ends_with_step(row, separator):
        ends = ends[:-1]
    problem_id, prompt = problem = group_key(row)
    prompt_ids = encode_prompt(engine.tokenizer, row["prompt"])
    continued = {**opened_thinking(engine.tokenizer, row["prompt"], prompt_ids), **row}

    def prefix(ids: list[int]) -> Prefix:
        digest = hashlib.blake2b(repr((prompt, ids)).encode(), digest_size=12).hexdigest()
        return Prefix(continued, problem, ids, f"{problem_id}@{digest}")

    return steps, [prefix(ids[: end + 1]) for end in ends]


class RolloutPool:
    """Draws rollouts of prefixes on request, at most `k` for each prefix and `budgets` for each problem.

    Rollout number i of a prefix does not depend on other requests or on their order.

    counts: the counts of each prefix, by its key. cut_short: keys of prefixes that got fewer rollouts than requested,
    because the budget of their problem was spent.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: SamplingSettings,
        k: int,
        tasks: Tasks = BUILT_IN,
        budgets: Budgets | None = None,
    ) -> None:
        self.counts: dict[str, Counts] = {}
        self.cut_short: set[str] = set()
        self._prefixes: dict[str, Prefix] = {}
        self._engine, self._sampling, self._k, self._tasks = engine, sampling, k, tasks
        self._unspent = None if budgets is None else dict(budgets)

    def add(self, prefix: Prefix, *, succeeded: bool = False) -> None:
        """Registers a prefix. With `succeeded`, its response, a right one, counts as a trial if the prefix has none."""
        if prefix.key not in self.counts:
            self._prefixes[prefix.key] = prefix
            self.counts[prefix.key] = Counts(self._k)
        counts = self.counts[prefix.key]
        if succeeded and not counts.trials:
            counts.successes = counts.trials = 1

    def draw(self, wanted: Mapping[str, int]) -> bool:
        """Draws the wanted number of rollouts for each prefix, as far as `k` and the budget allow, in one engine call.

        If the budget of a problem is too small for all, its prefixes get one rollout each in turn. Returns whether any
        rollout was drawn.
        """
        granted = self._granted({key: min(n, self.counts[key].left) for key, n in wanted.items()})
        if not granted:
            return False

        def requests() -> Iterator[Request]:
            for key, n in granted.items():
                prefix, first = self._prefixes[key], self.counts[key].drawn
                prompt_ids = [*encode_prompt(self._engine.tokenizer, prefix.row["prompt"]), *prefix.ids]
                room = self._sampling.max_new_tokens - len(prefix.ids)
                yield Request(key, prompt_ids, range(first, first + n), max_new_tokens=room)

        rollouts: list[Row] = []
        tokens: dict[str, int | None] = {}
        for request, responses in self._engine.sample(requests(), self._sampling):
            prefix = self._prefixes[request.key]
            lengths: list[int] = []
            for response in responses:
                if response.token_ids is None:
                    text = self._engine.decode(prefix.ids) + response.text
                else:
                    ids = [*prefix.ids, *response.token_ids]
                    text = self._engine.decode(ids[:-1] if response.finish_reason == "stop" else ids)
                    lengths.append(len(response.token_ids))
                ended = {"id": request.key, "completion": text, "finish_reason": response.finish_reason}
                rollouts.append({**_of_problem(prefix.row), **ended})
            tokens[request.key] = sum(lengths) if len(lengths) == len(responses) else None
        for key, n in granted.items():
            counts = self.counts[key]
            counts.drawn, counts.left = counts.drawn + n, counts.left - n
            counts.tokens = total([counts.tokens, tokens[key]])
        for row, grade in zip(rollouts, grade_rows(rollouts, self._tasks), strict=True):
            if grade.verdict != "ungradable":
                self.counts[row["id"]].trials += 1
                self.counts[row["id"]].successes += grade.verdict == "right"
        return True

    def _granted(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """The part of the wanted rollouts that the budgets allow."""
        if self._unspent is None:
            return {key: n for key, n in wanted.items() if n}
        granted: dict[str, int] = {}
        for turn in range(max(wanted.values(), default=0)):
            for key, n in wanted.items():
                if turn < n:
                    problem = self._prefixes[key].problem
                    if self._unspent[problem]:
                        self._unspent[problem] -= 1
                        granted[key] = granted.get(key, 0) + 1
                    else:
                        self.cut_short.add(key)
        return granted


def total(numbers: list[int | None]) -> int | None:
    """The sum of the numbers; None if one is unknown."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _of_problem(row: Row) -> Row:
    """The columns that a rollout has from its row: all that a grader may read, except for the response's own."""
    return {name: value for name, value in row.items() if name not in _OF_RESPONSE}
