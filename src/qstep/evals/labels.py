"""How far Monte-Carlo step labels agree with exact ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.evals.intervals import numbered, ratio_estimate


def label_agreement(
    exact: Sequence[Sequence[float | None]],
    successes: Sequence[Sequence[int] | None],
    trials: Sequence[Sequence[int] | None],
    problem_ids: Sequence[Hashable],
) -> dict[str, Any]:
    """Compares exact step labels with Monte-Carlo rollouts, given as a list of S steps for each row.

    A step without an exact label (None), or that was not tried (0 trials, or None for the row), is no evidence: it is
    left out and counted. Two readings of the rollouts: `hard`, correct if any succeeded (Math-Shepherd, arXiv
    2312.08935, Eq. 3), and `half`, correct if at least half did. For each: `agreement`, the share of steps labelled
    alike with its 95 % interval clustered by problem; Cohen's `kappa`, (agreement - chance) / (1 - chance), None where
    both labelled every step the same; and `confusion`, steps by exact and Monte-Carlo label. Also
    `n_problems`, `n_rows` and `n_steps` that were compared, `n_unlabelled_steps` and `n_untried_steps`. Raises
    ValueError, naming row and step, on lists of different lengths, an exact label other than 0, 1 and None,
    successes outside 0..trials, and where no step is left.
    """
    if not len(exact) == len(successes) == len(trials) == len(problem_ids):
        raise ValueError(
            f"{len(exact)} rows of exact labels, {len(successes)} of successes, {len(trials)} of trials and "
            f"{len(problem_ids)} problem ids: they must be the same rows"
        )
    problem: list[Hashable] = []
    truth_of, rate_of = list[bool](), list[float]()
    rows, unlabelled, untried = 0, 0, 0
    for row, (labels, hits, rollouts) in enumerate(zip(exact, successes, trials, strict=True)):
        if hits is None or rollouts is None:
            untried += len(labels)
            continue
        if not len(labels) == len(hits) == len(rollouts):
            raise ValueError(f"row {row} has {len(labels)} exact labels, {len(hits)} successes, {len(rollouts)} trials")
        before = len(problem)
        for step, (label, hit, rollout) in enumerate(zip(labels, hits, rollouts, strict=True)):
            if label not in (0, 1, None):
                raise ValueError(f"row {row}, step {step}: exact label {label!r} is not 0, 1 or None")
            if not 0 <= hit <= rollout:
                raise ValueError(f"row {row}, step {step}: {hit} successes in {rollout} trials")
            if label is None:
                unlabelled += 1
            elif rollout == 0:
                untried += 1
            else:
                problem.append(problem_ids[row])
                truth_of.append(bool(label))
                rate_of.append(hit / rollout)
        rows += len(problem) > before
    if not problem:
        raise ValueError("there is no step to compare: none has an exact label and a trial")
    numbers = numbered(problem)
    truth, rate = np.array(truth_of), np.array(rate_of)

    def compared(labels: NDArray[np.bool_]) -> dict[str, Any]:
        agreed = np.bincount(numbers, weights=truth == labels)
        agreement = ratio_estimate(agreed, np.bincount(numbers))
        chance = truth.mean() * labels.mean() + (1 - truth.mean()) * (1 - labels.mean())
        return {
            "agreement": asdict(agreement),
            "kappa": float((agreement.mean - chance) / (1 - chance)) if chance < 1 else None,
            "confusion": {
                "both_correct": int((truth & labels).sum()),
                "both_wrong": int((~truth & ~labels).sum()),
                "only_exact_correct": int((truth & ~labels).sum()),
                "only_monte_carlo_correct": int((~truth & labels).sum()),
            },
        }

    return {
        "n_problems": int(numbers.max()) + 1,
        "n_rows": rows,
        "n_steps": len(truth),
        "n_unlabelled_steps": unlabelled,
        "n_untried_steps": untried,
        "hard": compared(rate > 0),
        "half": compared(rate >= 0.5),
    }
