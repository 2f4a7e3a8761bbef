"""How well verifiers choose among the responses to a problem: best-of-n, votes, area under the ROC."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import rankdata

from qstep.evals.intervals import mean_estimate, paired_difference
from qstep.search import answer_classes, best_of_n_accuracy, pass_at_k, vote_accuracy
from qstep.types import Estimate


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One problem's N responses as verifiers see them.

    `correct` [N] is 1 or 0; equal `answers` [N] are equivalent answers, None is no answer; `scores` holds
    one score per response [N] by name of verifier, on the scale of a Q, -inf for a response that must lose.
    Raises ValueError, naming the problem, on different lengths, no response, another `correct`, or a NaN
    score.
    """

    problem_id: str
    correct: Sequence[int]
    answers: Sequence[Hashable | None]
    scores: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        problem, n = f"problem {self.problem_id!r}", len(self.correct)
        if n == 0 or not np.isin(self.correct, (0, 1)).all():
            raise ValueError(f"{problem}: correct must hold a 0 or 1 for each response, got {list(self.correct)}")
        if len(self.answers) != n:
            raise ValueError(f"{problem}: {n} responses but {len(self.answers)} answers")
        for name, scores in self.scores.items():
            if len(scores) != n:
                raise ValueError(f"{problem}: {n} responses but {len(scores)} scores by {name!r}")
            if np.isnan(scores).any():
                raise ValueError(f"{problem}: score {int(np.isnan(scores).argmax())} by {name!r} is NaN")


def best_of_n_curves(
    groups: Sequence[ScoredGroup], ns: Sequence[int], *, draws: int = 2048, seed: int = 0
) -> dict[str, dict[int, NDArray[np.float64]]]:
    """The expected accuracy of each way to choose among n responses, by method and n, one per problem [G].

    `majority` is the vote and `pass` a perfect verifier; for a verifier V, `V` is best-of-n and `V_weighted`
    the vote weighted by sigmoid(score). Expectations are over which n of its N responses a group shows:
    exact, except votes with more than `draws` subsets (see `vote_accuracy`), which then are the same for all
    methods and groups. Raises ValueError where a group has fewer than n responses or other verifiers than
    the first (naming it), or where a verifier's name would hide a method.
    """
    if not groups or not ns:
        raise ValueError("best-of-n needs at least one group and one n")
    verifiers = list(groups[0].scores)
    methods = ["majority", "pass", *verifiers, *(f"{name}_weighted" for name in verifiers)]
    if len({*methods, "mean", "differences"}) < len(methods) + 2:
        raise ValueError(f"verifiers {verifiers} hide a column of the report, which are {methods}, mean, differences")
    curves = {method: {n: np.empty(len(groups)) for n in ns} for method in methods}
    for g, group in enumerate(groups):
        if not 1 <= min(ns) <= max(ns) <= len(group.correct):
            raise ValueError(f"problem {group.problem_id!r} has {len(group.correct)} responses: too few for n in {ns}")
        if set(group.scores) != set(verifiers):
            raise ValueError(f"problem {group.problem_id!r} has scores by {list(group.scores)}, not by {verifiers}")
        classes, n_correct = answer_classes(group.answers), int(np.sum(group.correct))
        votes = {"majority": None} | {f"{name}_weighted": expit(group.scores[name]) for name in verifiers}
        for n in ns:
            curves["pass"][n][g] = pass_at_k(len(group.correct), n_correct, n)
            for name in verifiers:
                curves[name][n][g] = best_of_n_accuracy(group.scores[name], group.correct, n)
            for method, weights in votes.items():
                curves[method][n][g] = vote_accuracy(classes, group.correct, n, weights, draws=draws, seed=seed)
    return curves


def best_of_n_report(
    groups: Sequence[ScoredGroup],
    ns: Sequence[int],
    *,
    draws: int = 2048,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, dict[str, dict[str, Any]]]:
    """`best_of_n_curves` as estimates over problems: `report["pqm"]["8"]` is {"mean", "low", "high", "n"}.

    `report["mean"]` is the accuracy of one sample, at every n. `report["differences"]["pqm_minus_majority"]` is
    paired, at the largest n: each verifier V and `V_weighted` against `majority` and `mean`, and V against
    each verifier named after it (name the proposed one first), and `V_weighted` against V. Raises as
    `best_of_n_curves` does.
    """
    curves = best_of_n_curves(groups, ns, draws=draws, seed=seed)
    mean = np.array([np.mean(group.correct) for group in groups])
    report = {
        method: {str(n): asdict(mean_estimate(a, seed=seed, resamples=resamples)) for n, a in curve.items()}
        for method, curve in ({"mean": dict.fromkeys(ns, mean)} | curves).items()
    }
    chosen = {method: curve[max(ns)] for method, curve in curves.items()} | {"mean": mean}
    verifiers = list(groups[0].scores)
    judged = [*verifiers, *(f"{name}_weighted" for name in verifiers)]
    pairs = [*product(judged, ("majority", "mean")), *combinations(verifiers, 2)]
    pairs += [(f"{name}_weighted", name) for name in verifiers]
    report["differences"] = {
        f"{a}_minus_{b}": asdict(paired_difference(chosen[a], chosen[b], seed=seed, resamples=resamples))
        for a, b in pairs
    }
    return report


def auc(scores: ArrayLike, correct: ArrayLike) -> float | None:
    """The chance that a correct item outscores a wrong one, ties one half: the area under the ROC curve.

    Items are responses, or steps. None where one class is missing: then it is undefined. Raises ValueError on
    different lengths, a NaN score, or a `correct` other than 0 and 1 (drop absent step labels first).
    """
    score, right = np.asarray(scores, dtype=np.float64), np.asarray(correct)
    if score.ndim != 1 or score.shape != right.shape:
        raise ValueError(f"scores {score.shape} and correct {right.shape} must be two lists of one length")
    if np.isnan(score).any():
        raise ValueError(f"score {int(np.isnan(score).argmax())} is NaN")
    if not np.isin(right, (0, 1)).all():
        raise ValueError("correct must be 0 or 1: drop items without a label first")
    n_right = int(right.sum())
    n_wrong = len(right) - n_right
    if n_right == 0 or n_wrong == 0:
        return None
    rank_sum = rankdata(score)[right == 1].sum()
    return float((rank_sum - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def within_problem_auc(
    scores: Sequence[ArrayLike], correct: Sequence[ArrayLike], *, seed: int = 0, resamples: int = 2000
) -> Estimate | None:
    """The mean of `auc` over the problems that have both classes, a list of items each; None if none has.

    Its `n` counts those problems. This is what choosing among one problem's responses needs. The `auc` of
    all items together also rewards telling easy problems from hard ones, and can look good where this one is
    at chance. Raises ValueError naming the problem.
    """
    if len(scores) != len(correct):
        raise ValueError(f"scores of {len(scores)} problems but correct of {len(correct)}")
    areas: list[float] = []
    for problem, (of_scores, of_correct) in enumerate(zip(scores, correct, strict=True)):
        try:
            area = auc(of_scores, of_correct)
        except ValueError as error:
            raise ValueError(f"problem {problem}: {error}") from error
        if area is not None:
            areas.append(area)
    return mean_estimate(areas, seed=seed, resamples=resamples) if areas else None
