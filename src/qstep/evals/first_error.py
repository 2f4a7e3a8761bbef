"""Finding the first wrong step of a response, as ProcessBench scores it (arXiv 2412.06559).

A scorer says that a step is wrong where its Q is below a threshold; the first such step is its prediction, and -1 where
there is none. Sigmoid(Q) of .5 is Q = 0, which is the Q that PQM gives the question.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstep.data import NO_ERROR
from qstep.evals.intervals import bootstrap_estimate, numbered, percentile_estimate, ratio_estimate, replicates


def predicted_first_error(q_values: Sequence[float], threshold: float) -> int:
    """The index of the first step whose Q is below the threshold, a Q too; -1 where none is."""
    return next((step for step, q_value in enumerate(q_values) if q_value < threshold), NO_ERROR)


@dataclass(frozen=True, slots=True)
class Judgements:
    """N responses with a known first error, and the thresholds at which a scorer finds it.

    Response i is judged right exactly where `low[i] < threshold <= high[i]`: its first wrong step is below the
    threshold, and none before it is. So all thresholds are looked at without looking at a step again. `problem` numbers
    the problems from 0, `erroneous` says which responses have an error. All [N].
    """

    problem: NDArray[np.int64]
    erroneous: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(
        cls, q_values: Sequence[Sequence[float]], first_errors: Sequence[int], problems: Sequence[Hashable]
    ) -> Judgements:
        """From the Q of each response's steps, the index of its first wrong step (-1 for none), and its problem.

        Raises ValueError, naming the response, on no step, a Q that is not finite, or a first error that is no step;
        and on no response.
        """
        if not len(q_values) == len(first_errors) == len(problems) > 0:
            raise ValueError(
                f"{len(q_values)} responses, {len(first_errors)} first errors and {len(problems)} problems: one of "
                "each for every response, of at least one"
            )
        bounds = np.empty((2, len(q_values)))
        for number, (of_steps, error) in enumerate(zip(q_values, first_errors, strict=True)):
            q = np.asarray(of_steps, dtype=np.float64)
            if q.ndim != 1 or not q.size or not np.isfinite(q).all():
                raise ValueError(f"response {number}: the Qs of its steps are {list(of_steps)}; each must be finite")
            if not NO_ERROR <= error < len(q):
                raise ValueError(f"response {number}: first error {error} is none of its {len(q)} steps, nor -1")
            before = q if error == NO_ERROR else q[:error]
            bounds[:, number] = -np.inf if error == NO_ERROR else q[error], before.min(initial=np.inf)
        return cls(numbered(problems), np.asarray(first_errors) != NO_ERROR, *bounds)

    def right(self, threshold: float) -> NDArray[np.bool_]:
        """Which responses are judged right at a threshold, [N]."""
        at = _finite(threshold)
        return (self.low < at) & (at <= self.high)


def first_error_report(judged: Judgements, threshold: float, *, seed: int = 0) -> dict[str, Any]:
    """ProcessBench's three numbers at a threshold (a Q), each with its 95 % interval over problems.

    `acc_error` is the share of responses with an error of which exactly the first wrong step is found, `acc_correct`
    the share of those without one in which nothing is found, and `f1` their harmonic mean, 0 where both are. None where
    there is no response of a kind; then `f1` is None too. `n_error` and `n_correct` count the responses.
    """
    table = _table(judged, threshold)
    counts = int(judged.erroneous.sum()), int((~judged.erroneous).sum())

    f1 = bootstrap_estimate(lambda drawn: _f1(table[drawn]), len(table), sum(counts), seed=seed)
    report = {
        "f1": asdict(f1) if all(counts) else None,
        "acc_error": _share(table[:, 0]),
        "acc_correct": _share(table[:, 1]),
    }
    return report | {"n_error": counts[0], "n_correct": counts[1]}


def mean_f1(subsets: Mapping[str, Judgements], threshold: float, *, seed: int = 0) -> dict[str, Any] | None:
    """The mean of the subsets' `f1`, each weighing the same, with its 95 % interval over the problems of each.

    None where a subset has none.
    """
    tables = [_table(judged, threshold) for judged in subsets.values()]
    means = [float(_f1(table)) for table in tables]
    if np.isnan(means).any():
        return None
    seeds = np.random.SeedSequence(seed).generate_state(len(tables))
    of_resamples = [_resampled_f1(table, int(seed)) for table, seed in zip(tables, seeds, strict=True)]
    n = sum(len(judged.problem) for judged in subsets.values())
    return asdict(percentile_estimate(float(np.mean(means)), np.mean(of_resamples, axis=0), n))


def threshold_sweep(judged: Judgements, thresholds: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """`f1`, `acc_error` and `acc_correct` at each threshold (a Q), [T]; NaN where there is no response of a kind."""
    at = _finite(thresholds)
    found: dict[str, NDArray[np.float64]] = {}
    for name, kind in (("acc_error", judged.erroneous), ("acc_correct", ~judged.erroneous)):
        some = kind & (judged.low < judged.high)
        begun, ended = (np.searchsorted(np.sort(bound[some]), at) for bound in (judged.low, judged.high))
        found[name] = (begun - ended) / kind.sum() if kind.any() else np.full(at.shape, np.nan)
    return {"f1": _harmonic(found["acc_error"], found["acc_correct"]), **found}


def choose_threshold(subsets: Sequence[Judgements]) -> float:
    """The threshold, a Q, at which the mean of the subsets' F1 is largest; of several the nearest to Q = 0.

    It lies in the middle between the Qs next to it. Raises ValueError where a subset lacks responses with an error, or
    without one.
    """
    if not subsets or not all(judged.erroneous.any() and not judged.erroneous.all() for judged in subsets):
        raise ValueError(
            "a threshold is chosen on responses with an error and responses without one: give some of each"
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
    """Thresholds, of which minus infinity is above the `low` of a response without an error."""
    return np.maximum(np.asarray(thresholds, dtype=np.float64), np.finfo(np.float64).min)


def _table(judged: Judgements, threshold: float) -> NDArray[np.float64]:
    """Of each problem [P, 2, 2]: of its responses with an error, and without one, how many are right, and all."""
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


def _share(of_problems: NDArray[np.float64]) -> dict[str, Any] | None:
    """The share of responses of a kind that are right, given right and all of each problem [P, 2]; None without any."""
    right, count = of_problems[of_problems[:, 1] > 0].T
    return asdict(ratio_estimate(right, count)) | {"n": int(count.sum())} if len(count) else None


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
    """2ab / (a + b), 0 where both are 0."""
    total = np.asarray(a + b)
    return np.divide(2 * a * b, total, out=np.zeros_like(total), where=total != 0)
