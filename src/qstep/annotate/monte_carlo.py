"""Monte-Carlo step labels: how often the policy, continuing from a step, still ends right.

See "Math-Shepherd" (arXiv 2312.08935). Successes and trials are kept, not only a bit: the soft label is their
ratio, the hard one whether any rollout succeeded. What was not tried is no trial: a step without one has no label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qstep.annotate.labels import with_labels
from qstep.data import encode_completion, encode_prompt, group_key, row_step_ends, steps_of
from qstep.generation import Engine, Request, SamplingSettings
from qstep.tasks import BUILT_IN, Tasks, grade_rows
from qstep.types import Row

_OF_RESPONSE = {
    *("completion", "completion_ids", "logps_behavior", "finish_reason", "sample"),
    *("answer", "verdict", "reason", "grader", "label", "reward"),
    *("completions", "step_separator", "labels", "label_source", "successes", "trials"),
    *("q_values", "score", "step_rewards"),
}


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How prefixes are continued: `k` rollouts each, `sampling.max_new_tokens` counting from the prompt."""

    k: int
    sampling: SamplingSettings
    separator: str = "\n"


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The tokens of a response up to the end of a step."""

    row: Row
    ids: list[int]

    @property
    def key(self) -> str:
        problem_id, prompt = group_key(self.row)
        digest = hashlib.blake2b(repr((prompt, self.ids)).encode(), digest_size=12).hexdigest()
        return f"{problem_id}@{digest}"


def label_by_rollouts(
    engine: Engine, rows: Sequence[Row], settings: RolloutSettings, tasks: Tasks = BUILT_IN
) -> list[Row]:
    """The rows with `completions`, and per step `successes`, `trials` and their ratio in `labels`.

    Responses of a problem that share a prefix share its rollouts. The last step of a response that ended by
    itself or is right needs none: its verdict is known (one trial); so too where the response fills the length
    limit. A rollout that cannot be graded is no trial, nor is one that the limit leaves no room for; a step without
    trials has the label null.

    Raises:
        ValueError: a row has no verdict, or one of another grader; its tokens do not read as its completion; or it
            was split at another separator.
    """
    for row in rows:
        if row.get("verdict") not in ("right", "wrong"):
            raise ValueError(
                f"row {row['id']!r} has verdict {row.get('verdict')!r}: annotate right and wrong rows only"
            )
        grader = tasks.of(row).version
        if row.get("grader", grader) != grader:
            raise ValueError(
                f"row {row['id']!r} was graded by {row['grader']!r}, and its rollouts would be by {grader!r}: "
                "use the same grader, or grade the rows again"
            )
    plans = [(row, *_prefixes(engine, row, settings)) for row in rows]
    wanted = {prefix.key: prefix for _, _, prefixes in plans for prefix in prefixes}
    counts = _count_successes(engine, list(wanted.values()), settings, tasks)
    return [
        _labelled(row, steps, [counts[prefix.key] for prefix in prefixes], settings.separator)
        for row, steps, prefixes in plans
    ]


def _prefixes(engine: Engine, row: Row, settings: RolloutSettings) -> tuple[list[str], list[_Prefix]]:
    """The steps of a row, and the prefixes to continue from: all but the last where the verdict says it all."""
    steps = steps_of(row, settings.separator)
    ids = encode_completion(engine.tokenizer, row)
    try:
        ends = row_step_ends(engine.tokenizer, row, steps, settings.separator)
    except ValueError as error:
        raise ValueError(
            f"row {row['id']!r}: {error}. Were its completion_ids made by another tokenizer than this model's? "
            "Then leave that column out"
        ) from None
    full = len(ids) >= settings.sampling.max_new_tokens
    if row.get("finish_reason", "stop") == "stop" or row["verdict"] == "right" or full:
        ends = ends[:-1]
    return steps, [_Prefix(row, ids[: end + 1]) for end in ends]


def _labelled(row: Row, steps: list[str], counts: list[tuple[int, int]], separator: str) -> Row:
    if len(counts) < len(steps):
        counts = [*counts, (int(row["verdict"] == "right"), 1)]
    labels = [successes / trials if trials else None for successes, trials in counts]
    return with_labels(row, steps, separator, labels, "monte_carlo", counts)


def _count_successes(
    engine: Engine, prefixes: Sequence[_Prefix], settings: RolloutSettings, tasks: Tasks
) -> dict[str, tuple[int, int]]:
    by_key = {prefix.key: prefix for prefix in prefixes}

    def requests() -> Iterator[Request]:
        for prefix in prefixes:
            left = settings.sampling.max_new_tokens - len(prefix.ids)
            if left > 0:
                prompt_ids = [*encode_prompt(engine.tokenizer, prefix.row["prompt"]), *prefix.ids]
                yield Request(prefix.key, prompt_ids, range(settings.k), max_new_tokens=left)

    rollouts: list[Row] = []
    for request, responses in engine.sample(requests(), settings.sampling):
        prefix = by_key[request.key]
        for response in responses:
            if response.token_ids is None:
                text = engine.decode(prefix.ids) + response.text
            else:
                ids = [*prefix.ids, *response.token_ids]
                text = engine.decode(ids[:-1] if response.finish_reason == "stop" else ids)
            rollouts.append({**_of_problem(prefix.row), "id": request.key, "completion": text})
    counts = {prefix.key: (0, 0) for prefix in prefixes}
    for row, grade in zip(rollouts, grade_rows(rollouts, tasks), strict=True):
        successes, trials = counts[row["id"]]
        if grade.verdict != "ungradable":
            counts[row["id"]] = (successes + (grade.verdict == "right"), trials + 1)
    return counts


def _of_problem(row: Row) -> Row:
    """What a rollout shares with the response it continues: all a grader may read but the response itself."""
    return {name: value for name, value in row.items() if name not in _OF_RESPONSE}
