"""Finding the first wrong step of a response, as ProcessBench scores it (arXiv 2412.06559).

A scorer calls a step wrong if its Q is below a threshold. It predicts the first such step, or -1 if there is none.
sigmoid(Q) = .5 corresponds to Q = 0, which is the Q that PQM gives to the question.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstep.data import NO_ERROR
from qstep.evals.intervals import bootstrap_estimate, numbered, percentile_estimate, ratio_estimate, replicates
from qstep.evals.measures import FirstErrors, Measured


def predicted_first_error(q_values: Sequence[float], threshold: float) -> int:
    """The index of the first step whose Q is below the threshold (also a Q), or -1 if there is none."""
    return next((step for step, q_value in enumerate(q_values) if q_value < threshold), NO_ERROR)


@dataclass(frozen=True, slots=True)
class Judgements:
    """N responses with a known first error, and the thresholds at which a scorer finds it.

    Response i is judged right if `low[i] < threshold <= high[i]`: its first wrong step is below the threshold, and no
    step before it is. So any threshold can be evaluated without its steps. `problem` numbers the problems from 0, and
    `erroneous` is true for responses with an error. All have shape [N].
    """

    problem: NDArray[np.int64]
    erroneous: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(
        cls, q_values: Sequence[Sequence[float]], first_errors: Sequence[int], problems: Sequence[Hashable]
    ) -> Judgements:
        """From the Qs of each response's steps, the index of its first wrong step (-1 for none), and its problem.

        Raises ValueError, naming the response, if it has no steps, a Q is not finite, or its first error is not a step.
        Also raises it without responses.
        """
        if not len(q_values) == len(first_errors) == len(problems) > 0:
            raise ValueError(
                f"{len(q_values)} responses, {len(first_errors)} first errors and {len(problems)} problems: give one "
                "of each for every response, and at least one response"
            )
        bounds = np.empty((2, len(q_values)))
        for number, (of_steps, error) in enumerate(zip(q_values, first_errors, strict=True)):
            q = np.asarray(of_steps, dtype=np.float64)
            if q.ndim != 1 or not q.size or not np.isfinite(q).all():
                raise ValueError(f"response {number}: the Qs of its steps are {list(of_steps)}; each must be finite")
            if not NO_ERROR <= error < len(q):
                raise ValueError(f"response {number}: first error {error} must be -1 or one of its {len(q)} steps")
            before = q if error == NO_ERROR else q[:error]
            bounds[:, number] = -np.inf if error == NO_ERROR else q[error], before.min(initial=np.inf)
        return cls(numbered(problems), np.asarray(first_errors) != NO_ERROR, *bounds)

    def right(self, threshold: float) -> NDArray[np.bool_]:
        """Whether each response is judged right at a threshold, [N]."""
        at = _finite(threshold)
        return (self.low < at) & (at <= self.high)


def first_error_report(judged: Judgements, threshold: float, *, seed: int = 0) -> FirstErrors:
    """ProcessBench's three numbers at a threshold (a Q), each with its 95 % interval over problems.

    `acc_error` is the share of responses with an error in which exactly the first wrong step is found. `acc_correct` is
    the share of responses without an error in which no step is called wrong. `f1` is their harmonic mean, and 0 if both
    are 0. A value is None if there are no such responses, and then `f1` is None too. `n_error` and `n_correct` count
    the responses.
    """
    table = _table(judged, threshold)
    counts = int(judged.erroneous.sum()), int((~judged.erroneous).sum())

    f1 = bootstrap_estimate(lambda drawn: _f1(table[drawn]), len(table), sum(counts), seed=seed)
    return FirstErrors(
        f1=Measured.of(f1) if all(counts) else None,
        acc_error=_share(table[:, 0]),
        acc_correct=_share(table[:, 1]),
        n_error=counts[0],
        n_correct=counts[1],
    )


def position_accuracy(first_errors: Sequence[int], problems: Sequence[Hashable]) -> Measured | None:
    """The largest `acc_error` of a scorer that reads nothing and names the same step in each response.

    That step is the commonest first wrong one. The 95 % interval is over problems, as if it had been chosen on other
    responses. Returns None if no response has an error.
    """
    errors = np.asarray(first_errors)
    some = errors != NO_ERROR
    if not some.any():
        return None
    named = errors[some] == np.bincount(errors[some]).argmax()
    problem = numbered([problem for problem, wrong in zip(problems, some, strict=True) if wrong])
    return _share(np.stack([np.bincount(problem, weights=named), np.bincount(problem)], axis=-1))


def mean_f1(subsets: Mapping[str, Judgements], threshold: float, *, seed: int = 0) -> Measured | None:
    """The mean `f1` of the subsets with equal weights, and its 95 % interval over the problems of each.

    Returns None if a subset has no `f1`.
    """
    tables = [_table(judged, threshold) for judged in subsets.values()]
    means = [float(_f1(table)) for table in tables]
    if np.isnan(means).any():
        return None
    seeds = np.random.SeedSequence(seed).generate_state(len(tables))
    of_resamples = [_resampled_f1(table, int(seed)) for table, seed in zip(tables, seeds, strict=True)]
    n = sum(len(judged.problem) for judged in subsets.values())
    free = sum(len(table) - 1 for table in tables)
    return Measured.of(percentile_estimate(float(np.mean(means)), np.mean(of_resamples, axis=0), free + 1, n))


def threshold_sweep(judged: Judgements, thresholds: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """`f1`, `acc_error` and `acc_correct` at each threshold (a Q), [T]. NaN if there are no such responses."""
    at = _finite(thresholds)
    found: dict[str, NDArray[np.float64]] = {}
    for name, kind in (("acc_error", judged.erroneous), ("acc_correct", ~judged.erroneous)):
        some = kind & (judged.low < judged.high)
        begun, ended = (np.searchsorted(np.sort(bound[some]), at) for bound in (judged.low, judged.high))
        found[name] = (begun - ended) / kind.sum() if kind.any() else np.full(at.shape, np.nan)
    return {"f1": _harmonic(found["acc_error"], found["acc_correct"]), **found}


def choose_threshold(subsets: Sequence[Judgements]) -> float:
    """The threshold, a Q, with the largest mean F1 of the subsets. If several have it, the one closest to Q = 0.

    It lies in the middle between two neighbouring Qs. Raises ValueError if a subset lacks responses with an error, or
    responses without one.
    """
    if not subsets or not all(judged.erroneous.any() and not judged.erroneous.all() for judged in subsets):
        raise ValueError(
            "choosing a threshold needs responses with an error and responses without one: give some of each"
        )
    bounds = np.unique(np.concatenate([np.r_[judged.low, judged.high] for judged in subsets]))
    bounds = bounds[np.isfinite(bounds)]
    between = (bounds[:-1] + bounds[1:]) / 2
    between = np.where(between > bounds[:-1], between, bounds[1:])  # neighbouring floats have no middle
    candidates = np.r_[bounds[0], between, bounds[-1] + 1]
    f1 = np.mean([threshold_sweep(judged, candidates)["f1"] for judged in subsets], axis=0)
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best).argmin()])


def _finite(thresholds: ArrayLike) -> NDArray[np.float64]:
    """The thresholds, with minus infinity replaced so that it exceeds the `low` of responses without an error."""
    return np.maximum(np.asarray(thresholds, dtype=np.float64), np.finfo(np.float64).min)


def _table(judged: Judgements, threshold: float) -> NDArray[np.float64]:
    """For each problem, the right and all responses, with an error and without one: [P, 2, 2]."""
    right = judged.right(threshold)
    return np.stack(
        [
            np.stack(
                [np.bincount(judged.problem, weights=hits, minlength=judged.problem.max() + 1) for hits in pair], -1
            )
            for pair in ((right & kind, kind) for kind in (judged.erroneous, ~judged.erroneous))
        ],
        axis=1,
    )


def _share(of_problems: NDArray[np.float64]) -> Measured | None:
    """The share of right responses, from the right and all responses of each problem [P, 2]; None without any."""
    right, count = of_problems[of_problems[:, 1] > 0].T
    return replace(Measured.of(ratio_estimate(right, count)), n=int(count.sum())) if len(count) else None


def _accuracies(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sums = table.sum(axis=-3)
    with np.errstate(invalid="ignore"):
        shares = sums[..., 0] / sums[..., 1]
    return shares[..., 0], shares[..., 1]


def _f1(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return _harmonic(*_accuracies(table))


def _resampled_f1(table: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    return replicates(lambda drawn: _f1(table[drawn]), len(table), seed=seed)


def _harmonic(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """2ab / (a + b), or 0 if both are 0."""
    total = np.asarray(a + b)
    return np.divide(2 * a * b, total, out=np.zeros_like(total), where=total != 0)
