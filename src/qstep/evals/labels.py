"""How far Monte-Carlo step labels agree with exact ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.evals.intervals import ratio_estimate


def label_agreement(
    exact: Sequence[Sequence[int]],
    successes: Sequence[Sequence[int]],
    trials: Sequence[Sequence[int]],
    problem_ids: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Compares exact step labels with Monte-Carlo rollouts, given as a list of S steps for each row.

    Two readings of the rollouts: `hard`, correct if any succeeded (Math-Shepherd, arXiv 2312.08935, Eq. 3),
    and `half`, correct if at least half did. For each: `agreement`, the share of steps labelled alike with
    its 95 % interval clustered by problem; Cohen's `kappa`, (agreement - chance) / (1 - chance), None where
    both labelled every step the same; and `confusion`, steps by exact and Monte-Carlo label. Also
    `n_problems`, `n_rows` and `n_steps`. Raises ValueError, naming row and step, on lists of different
    lengths, an exact label other than 0 and 1, trials below 1, or successes outside 0..trials.
    """
    if not len(exact) == len(successes) == len(trials) == len(problem_ids):
        raise ValueError(
            f"{len(exact)} rows of exact labels, {len(successes)} of successes, {len(trials)} of trials and "
            f"{len(problem_ids)} problem ids: they must be the same rows"
        )
    for row, (labels, hits, rollouts) in enumerate(zip(exact, successes, trials, strict=True)):
        if not len(labels) == len(hits) == len(rollouts):
            raise ValueError(f"row {row} has {len(labels)} exact labels, {len(hits)} successes, {len(rollouts)} trials")
        for step, (label, hit, rollout) in enumerate(zip(labels, hits, rollouts, strict=True)):
            if label not in (0, 1):
                raise ValueError(f"row {row}, step {step}: exact label {label!r} is not 0 or 1")
            if not (rollout >= 1 and 0 <= hit <= rollout):
                raise ValueError(f"row {row}, step {step}: {hit} successes in {rollout} trials")
    number = {problem_id: i for i, problem_id in enumerate(dict.fromkeys(problem_ids))}
    problem = np.repeat([number[problem_id] for problem_id in problem_ids], [len(labels) for labels in exact])
    if problem.size == 0:
        raise ValueError("there is no step to compare")
    truth = np.concatenate([np.asarray(labels, dtype=bool) for labels in exact])
    rate = np.concatenate([np.divide(hits, rollouts) for hits, rollouts in zip(successes, trials, strict=True)])

    def compared(labels: NDArray[np.bool_]) -> dict[str, Any]:
        steps = np.bincount(problem)
        agreed = np.bincount(problem, weights=truth == labels)
        with_steps = steps > 0
        agreement = ratio_estimate(agreed[with_steps], steps[with_steps], seed=seed, resamples=resamples)
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
        "n_problems": len(number),
        "n_rows": len(exact),
        "n_steps": len(truth),
        "hard": compared(rate > 0),
        "half": compared(rate >= 0.5),
    }
