"""Rollouts of prefixes: how responses end that a model continues from the end of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qstep.data import encode_completion, encode_prompt, group_key, row_step_ends, steps_of
from qstep.generation import Engine, Request, SamplingSettings
from qstep.tasks import BUILT_IN, Tasks, grade_rows
from qstep.types import Row

_OF_RESPONSE = {
    *("completion", "completion_ids", "logps_behavior", "finish_reason", "sample"),
    *("answer", "verdict", "reason", "grader", "label", "reward"),
    *("completions", "step_separator", "labels", "label_source", "successes", "trials", "rollouts"),
    *("q_values", "score", "step_rewards"),
}

Budgets = Mapping[tuple[str, str], int]
"""The most rollouts of each problem, by `qstep.data.group_key`."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens of a response up to the end of a step. `key` is the same for the same tokens of the same problem."""

    row: Row
    problem: tuple[str, str]
    ids: list[int]
    key: str


@dataclass(slots=True)
class Counts:
    """How the rollouts of a prefix ended: those `drawn` that could be graded are `trials`, as is a right response that
    was counted for one.

    `left` may yet be drawn. `tokens` of all of them, None where the engine gives no ids.
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
    """The steps of a response, and the prefixes to continue from: all but the last where the verdict says it all.

    It does for the last step of a response that ended by itself, is right, or fills the length limit.

    Raises:
        ValueError: its tokens do not read as its completion, or it was split at another separator.
    """
    steps = steps_of(row, separator)
    ids = encode_completion(engine.tokenizer, row)
    try:
        ends = row_step_ends(engine.tokenizer, row, steps, separator)
    except ValueError as error:
        raise ValueError(
            f"row {row['id']!r}: {error}. Were its completion_ids made by another tokenizer than this model's? "
            "Then leave that column out"
        ) from None
    if row.get("finish_reason", "stop") == "stop" or row["verdict"] == "right" or len(ids) >= max_new_tokens:
        ends = ends[:-1]
    problem_id, prompt = problem = group_key(row)

    def prefix(ids: list[int]) -> Prefix:
        digest = hashlib.blake2b(repr((prompt, ids)).encode(), digest_size=12).hexdigest()
        return Prefix(row, problem, ids, f"{problem_id}@{digest}")

    return steps, [prefix(ids[: end + 1]) for end in ends]


class RolloutPool:
    """The rollouts of some prefixes, at most `k` each and `budgets` of each problem, drawn as they are asked for.

    Rollout number i of a prefix is the same whatever else was asked for, and when. A prefix that reaches the length
    limit has none.

    counts: by the key of the prefix. cut_short: the keys of those that got fewer than were asked for, the budget of
    their problem being spent.
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
        """Makes a prefix known, once. `succeeded` counts its response, a right one, as a trial of it if it has none."""
        if prefix.key not in self.counts:
            has_room = len(prefix.ids) < self._sampling.max_new_tokens
            self._prefixes[prefix.key] = prefix
            self.counts[prefix.key] = Counts(self._k if has_room else 0)
        counts = self.counts[prefix.key]
        if succeeded and not counts.trials:
            counts.successes = counts.trials = 1

    def draw(self, wanted: Mapping[str, int]) -> bool:
        """Draws as many more rollouts of each prefix as are wanted, left and affordable, in one call of the engine.

        Where the budget of a problem does not suffice, its prefixes get one rollout each in turn. Says whether any was
        drawn.
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
                rollouts.append({**_of_problem(prefix.row), "id": request.key, "completion": text})
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
        """What the budgets let be drawn of what is wanted."""
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
    """Their sum, None where one is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _of_problem(row: Row) -> Row:
    """What a rollout shares with the response it continues: all a grader may read but the response itself."""
    return {name: value for name, value in row.items() if name not in _OF_RESPONSE}
