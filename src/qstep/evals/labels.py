"""The agreement of Monte-Carlo step labels with exact ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstep.data import check_row, numbered_rows
from qstep.evals.intervals import numbered, ratio_estimate
from qstep.evals.measures import Agreement, LabelAgreement, Measured
from qstep.types import Row


def label_agreement(
    exact: Sequence[Sequence[float | None]],
    successes: Sequence[Sequence[int] | None],
    trials: Sequence[Sequence[int] | None],
    problem_ids: Sequence[Hashable],
) -> LabelAgreement:
    """Compares exact step labels with Monte-Carlo rollouts. Each argument has a list of S steps for each row.

    Steps without an exact label (None) or without trials (0, or None for the row) are left out and counted. The
    rollouts have two readings. `hard` is correct if any rollout succeeded (Math-Shepherd, arXiv 2312.08935, Eq. 3), and
    `half` is correct if at least half did. Each reading has three measures. `agreement` is the share of equal labels,
    with its 95 % interval clustered by problem. `kappa` is Cohen's, (agreement - chance) / (1 - chance), or None if
    chance agreement is 1. `confusion` counts steps by exact and Monte-Carlo label.

    `n_problems`, `n_rows` and `n_steps` count what was compared; `n_unlabelled_steps` and `n_untried_steps` count the
    steps left out. Raises ValueError, naming row and step, for lists of different lengths, an exact label other than 0,
    1 and None, successes outside 0..trials, or if no step is left.
    """
    steps = _compared_steps(exact, successes, trials, problem_ids)
    if not steps.problems:
        raise ValueError("there are no steps to compare: none has both an exact label and a rollout")
    problems, truth, rate = numbered(steps.problems), np.array(steps.truth), np.array(steps.rate)
    return LabelAgreement(
        n_problems=int(problems.max()) + 1,
        n_rows=steps.rows,
        n_steps=len(truth),
        n_unlabelled_steps=steps.unlabelled,
        n_untried_steps=steps.untried,
        hard=_agreement(truth, rate > 0, problems),
        half=_agreement(truth, rate >= 0.5, problems),
    )


@dataclass(slots=True)
class _Steps:
    """The steps to compare: the problem, exact label and success rate of each. The others are counted."""

    problems: list[Hashable] = field(default_factory=list)
    truth: list[bool] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    rows: int = 0
    unlabelled: int = 0
    untried: int = 0


def _compared_steps(
    exact: Sequence[Sequence[float | None]],
    successes: Sequence[Sequence[int] | None],
    trials: Sequence[Sequence[int] | None],
    problem_ids: Sequence[Hashable],
) -> _Steps:
    if not len(exact) == len(successes) == len(trials) == len(problem_ids):
        raise ValueError(
            f"{len(exact)} rows of exact labels, {len(successes)} of successes, {len(trials)} of trials and "
            f"{len(problem_ids)} problem ids: give all of them for the same rows"
        )
    steps = _Steps()
    for row, (labels, hits, rollouts) in enumerate(zip(exact, successes, trials, strict=True)):
        if hits is None or rollouts is None:
            steps.untried += len(labels)
            continue
        _check_row(row, labels, hits, rollouts)
        before = len(steps.problems)
        for label, hit, rollout in zip(labels, hits, rollouts, strict=True):
            if label is None:
                steps.unlabelled += 1
            elif rollout == 0:
                steps.untried += 1
            else:
                steps.problems.append(problem_ids[row])
                steps.truth.append(bool(label))
                steps.rate.append(hit / rollout)
        steps.rows += len(steps.problems) > before
    return steps


def _check_row(row: int, labels: Sequence[float | None], hits: Sequence[int], rollouts: Sequence[int]) -> None:
    if not len(labels) == len(hits) == len(rollouts):
        raise ValueError(f"row {row} has {len(labels)} exact labels, {len(hits)} successes, {len(rollouts)} trials")
    for step, (label, hit, rollout) in enumerate(zip(labels, hits, rollouts, strict=True)):
        if label not in (0, 1, None):
            raise ValueError(f"row {row}, step {step}: exact label {label!r} is not 0, 1 or None")
        if not 0 <= hit <= rollout:
            raise ValueError(f"row {row}, step {step}: {hit} successes in {rollout} trials")


def _agreement(truth: NDArray[np.bool_], labels: NDArray[np.bool_], problems: NDArray[np.int64]) -> Agreement:
    """The agreement of exact and Monte-Carlo labels, each [S], of steps of these problems [S]."""
    agreement = ratio_estimate(np.bincount(problems, weights=truth == labels), np.bincount(problems))
    chance = truth.mean() * labels.mean() + (1 - truth.mean()) * (1 - labels.mean())
    return Agreement(
        agreement=Measured.of(agreement),
        kappa=float((agreement.mean - chance) / (1 - chance)) if chance < 1 else None,
        confusion={
            "both_correct": int((truth & labels).sum()),
            "both_wrong": int((~truth & ~labels).sum()),
            "only_exact_correct": int((truth & ~labels).sum()),
            "only_monte_carlo_correct": int((~truth & labels).sum()),
        },
    )


def read_label_agreement(files: Mapping[str, Path]) -> LabelAgreement:
    """The `label_agreement` of two files, `exact` and `monte_carlo`, over the rows of the latter.

    Raises:
        RowError: a row has no id, problem_id, steps or labels.
        ValueError: the files have other names, or a row is missing in the exact file or has other steps there.
    """
    if set(files) != {"exact", "monte_carlo"}:
        raise ValueError(f"--labels names {sorted(files)}: give two files, --labels.exact and --labels.monte_carlo")
    rows = list(_labelled(files["monte_carlo"]))
    wanted = {row["id"] for row in rows}
    exact = {row["id"]: row for row in _labelled(files["exact"]) if row["id"] in wanted}
    for row in rows:
        if row["completions"] != exact.get(row["id"], {}).get("completions"):
            raise ValueError(f"{files['exact']} has no row {row['id']!r} with the steps of {files['monte_carlo']}")
    return label_agreement(
        [exact[row["id"]]["labels"] for row in rows],
        [row.get("successes") for row in rows],
        [row.get("trials") for row in rows],
        [row["problem_id"] for row in rows],
    )


def _labelled(path: Path) -> Iterator[Row]:
    return (check_row(path, line, row, "stepwise", need=("id", "problem_id")) for line, row in numbered_rows(path))
