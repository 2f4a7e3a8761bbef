"""How well scorers choose among the responses to a problem: best-of-n and votes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from qstep.evals.accuracy import Outcomes, accuracy, accuracy_difference, named_difference
from qstep.evals.measures import Aggregated, Curve, Difference, OverOptimisation, Shares
from qstep.evals.ways import UNSCORED, aggregated, weighted
from qstep.scoring.aggregation import aggregate
from qstep.search import answer_classes, best_of_n_accuracy, pass_at_k, vote_accuracy
from qstep.types import Aggregation

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The N responses to one problem, with their scores by each scorer.

    `correct` [N] is 1, 0, or None for an ungradable response. Equal `answers` [N] are equivalent, and None is no
    answer. `scores` maps each scorer to a score per response [N], on the scale of a Q. A response that must lose has
    -inf. Raises ValueError, naming the problem, for different lengths, no responses, another `correct`, or a NaN score.
    """

    problem_id: str
    correct: Sequence[int | None]
    answers: Sequence[Hashable | None]
    scores: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        problem, n = f"problem {self.problem_id!r}", len(self.correct)
        if n == 0 or not all(correct in (0, 1, None) for correct in self.correct):
            raise ValueError(f"{problem}: correct is {list(self.correct)}; give 0, 1 or None for each response")
        if len(self.answers) != n:
            raise ValueError(f"{problem}: {n} responses but {len(self.answers)} answers")
        for name, scores in self.scores.items():
            if len(scores) != n:
                raise ValueError(f"{problem}: {n} responses but {len(scores)} scores by {name!r}")
            if np.isnan(scores).any():
                raise ValueError(f"{problem}: score {int(np.isnan(scores).argmax())} by {name!r} is NaN")


def finished_first(group: ScoredGroup, finished: Sequence[bool]) -> ScoredGroup:
    """The group in which responses that were cut off [N] lose to those that ended.

    Their scores become -inf, and they have no vote if a response that ended has one. Without a response that ended, the
    group stays as it is.
    """
    if all(finished) or not any(finished):
        return group
    return ScoredGroup(
        group.problem_id,
        group.correct,
        votes_of_finished(group.answers, finished),
        {
            name: [score if ended else -math.inf for score, ended in zip(scores, finished, strict=True)]
            for name, scores in group.scores.items()
        },
    )


def votes_of_finished(answers: Sequence[Answer | None], finished: Sequence[bool]) -> Sequence[Answer | None]:
    """The answers [N] of responses that ended, None for the others; all answers if no response that ended has one."""
    votes = [answer if ended else None for answer, ended in zip(answers, finished, strict=True)]
    return votes if any(answer is not None for answer in votes) else answers


def numbers_to_compare(
    groups: Sequence[ScoredGroup], ns: Collection[int] | None = None
) -> tuple[list[int], list[bool]]:
    """The numbers n of responses to choose from, and for each problem whether it has enough for the largest.

    The default is 1, 2, 4, ... up to the number that every problem has. Raises ValueError if no problem has enough.
    """
    sizes = [len(group.correct) for group in groups]
    numbers = sorted({*ns}) if ns else sorted({*(2**i for i in range(min(sizes).bit_length())), min(sizes)})
    if max(sizes) < max(numbers):
        raise ValueError(
            f"no problem has {max(numbers)} responses, and none has more than {max(sizes)}: give a smaller ns"
        )
    return numbers, [size >= max(numbers) for size in sizes]


def best_of_n_curves(
    groups: Sequence[ScoredGroup], ns: Sequence[int], *, draws: int = 2048, seed: int = 0
) -> dict[str, dict[int, Outcomes]]:
    """The outcomes of each way to choose among n responses: `curves[method][n]` over G problems.

    `mean` is one response, `majority` the vote, and `pass` a perfect scorer. For a scorer V, `V` is best-of-n and
    `V_weighted` is the vote weighted by sigmoid(score). Chances are over subsets of n of the N responses of a group.
    They are exact, except for votes with more than `draws` subsets (see `vote_accuracy`). Those use the same random
    subsets for all methods and groups. A chosen response may be ungradable. `pass` is ungradable if no response of the
    subset is right and one is ungradable.

    Raises ValueError, naming the group, if it has fewer than n responses or other scorers than the first. Also raises
    it if a scorer has the name of another method.
    """
    if not groups or not ns:
        raise ValueError("best-of-n needs at least one problem and one n")
    verifiers = list(groups[0].scores)
    methods = [*UNSCORED, *verifiers, *map(weighted, verifiers)]
    if len(set(methods)) < len(methods):
        taken = next(name for name in methods if methods.count(name) > 1)
        raise ValueError(f"two ways to choose are called {taken!r}: give the scorer another name")
    chances = {method: {n: np.empty((2, len(groups))) for n in ns} for method in methods}
    for g, group in enumerate(groups):
        if not 1 <= min(ns) <= max(ns) <= len(group.correct):
            raise ValueError(f"problem {group.problem_id!r} has {len(group.correct)} responses: too few for n in {ns}")
        if set(group.scores) != set(verifiers):
            raise ValueError(f"problem {group.problem_id!r} has scores by {list(group.scores)}, not by {verifiers}")
        right = np.array([correct == 1 for correct in group.correct], dtype=np.float64)
        gradable = np.array([correct is not None for correct in group.correct], dtype=np.float64)
        votes = {"majority": None} | {weighted(name): expit(group.scores[name]) for name in verifiers}
        classes = answer_classes(group.answers)
        n_right, n_unknown = int(right.sum()), int(len(right) - gradable.sum())
        for n in ns:
            chosen: dict[str, Callable[[NDArray[np.float64]], float]] = {"mean": lambda share: float(share.mean())}
            chosen |= {name: partial(best_of_n_accuracy, group.scores[name], n=n) for name in verifiers}
            for method, weights in votes.items():
                chosen[method] = partial(vote_accuracy, classes, n=n, weights=weights, draws=draws, seed=seed)
            for method, share in chosen.items():
                chances[method][n][:, g] = share(right), share(gradable) if n_unknown else 1.0
            any_right = pass_at_k(len(right), n_right, n)
            some_unknown = pass_at_k(len(right), n_right + n_unknown, n) - any_right
            chances["pass"][n][:, g] = any_right, 1 - some_unknown
    return {method: {n: Outcomes(*of_n) for n, of_n in curve.items()} for method, curve in chances.items()}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The result of `best_of_n_report`, with the names of `BestOfN`."""

    curves: dict[str, Curve]
    outcomes: dict[str, dict[str, Shares]]
    differences: dict[str, Difference]
    over_optimisation: dict[str, OverOptimisation]


def best_of_n_report(
    groups: Sequence[ScoredGroup],
    ns: Sequence[int],
    *,
    draws: int = 2048,
    seed: int = 0,
) -> Chosen:
    """`best_of_n_curves` as accuracies: `curves["pqm"]["8"]` is an `accuracy`.

    `outcomes["pqm"]["8"]` has the `right` and `gradable` shares of each problem, for comparisons elsewhere.

    `differences["pqm_minus_majority"]` is paired, at the largest n. Each scorer V and its `V_weighted` are compared
    with `majority` and `mean`, V with each later scorer (name the proposed one first), and `V_weighted` with V.

    `over_optimisation["pqm"]` is about each V and `V_weighted`. `peak_n` is the n of its highest accuracy. `drop` is
    the paired difference from there to the largest n, or None if the curve is highest there. A choice that gets worse
    with larger n has met responses that the scorer overrates. The peak is the maximum on these problems, so a small
    drop may be chance even if its interval excludes 0. Raises as `best_of_n_curves` does.
    """
    curves = best_of_n_curves(groups, ns, draws=draws, seed=seed)
    verifiers = list(groups[0].scores)
    for name in filter(partial(_is_verdict, groups), verifiers):
        _log.warning(
            "the score of %r is 1 for each right answer and 0 for each wrong one: it seems to be the verdict, and not "
            "the score of a scorer",
            name,
        )
    judged = [*verifiers, *map(weighted, verifiers)]
    pairs = [*product(judged, ("majority", "mean")), *combinations(verifiers, 2)]
    pairs += [(weighted(name), name) for name in verifiers]
    return Chosen(
        curves={method: _accuracies(curve) for method, curve in curves.items()},
        outcomes={method: _shares(curve) for method, curve in curves.items()},
        differences=_differences(curves, pairs, max(ns), seed),
        over_optimisation={name: over_optimisation(curves[name], seed=seed) for name in judged},
    )


def _is_verdict(groups: Sequence[ScoredGroup], name: str) -> bool:
    return all(
        score == correct
        for group in groups
        for score, correct in zip(group.scores[name], group.correct, strict=True)
        if correct is not None
    )


def _accuracies(curve: Mapping[int, Outcomes]) -> Curve:
    return {str(n): accuracy(outcomes) for n, outcomes in curve.items()}


def _differences(
    curves: Mapping[str, Mapping[int, Outcomes]], pairs: Iterable[tuple[str, str]], n: int, seed: int
) -> dict[str, Difference]:
    at_n = {name: curve[n] for name, curve in curves.items()}
    return {f"{a}_minus_{b}": named_difference(at_n, a, b, among=n, seed=seed) for a, b in pairs}


def _shares(curve: Mapping[int, Outcomes]) -> dict[str, Shares]:
    """The right and gradable shares of each problem, by n."""
    return {
        str(n): Shares(right=outcome.right.tolist(), gradable=outcome.gradable.tolist()) for n, outcome in curve.items()
    }


def over_optimisation(curve: Mapping[int, Outcomes], *, seed: int = 0) -> OverOptimisation:
    """`peak_n`, the smallest n of the highest accuracy of a curve, and the `drop` from there to its largest n.

    The drop is an `accuracy_difference` with a paired interval, or None if the curve is highest at its end. Both are
    None if nothing is gradable at some n.
    """
    means = {n: mean for n in sorted(curve) if (mean := accuracy(curve[n]).mean) is not None}
    if len(means) < len(curve):
        return OverOptimisation(peak_n=None, drop=None)
    peak = max(means, key=lambda n: means[n])
    last = max(curve)
    drop = accuracy_difference(curve[peak], curve[last], seed=seed) if means[peak] > means[last] else None
    return OverOptimisation(peak_n=peak, drop=drop)


def aggregation_report(
    groups: Sequence[ScoredGroup],
    q_values: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    ns: Sequence[int],
    hows: Sequence[Aggregation],
    *,
    draws: int = 2048,
    seed: int = 0,
) -> tuple[dict[str, Aggregated], dict[str, dict[str, Shares]]]:
    """Best-of-n and the weighted vote of each scorer, for several aggregations of a response's Qs.

    `q_values` maps each scorer to Qs by group, response and step. A response that must lose by its score loses here
    too. In the first result, `["pqm"].curves["min"]["8"]` is an accuracy of best-of-n, and `min_weighted` is the vote.
    `differences` are paired, for each pair of aggregations at the largest n. The second result, `["pqm/min"]`, has
    outcomes as in `best_of_n_report`. Raises ValueError for an unknown aggregation, and as `best_of_n_curves` does.
    """
    unknown = [how for how in hows if how not in get_args(Aggregation)]
    if unknown:
        raise ValueError(f"unknown aggregation {unknown[0]!r}: choose one of {', '.join(get_args(Aggregation))}")
    report: dict[str, Aggregated] = {}
    outcomes: dict[str, dict[str, Shares]] = {}
    for name, of_groups in q_values.items():
        scored = [
            ScoredGroup(
                group.problem_id,
                group.correct,
                group.answers,
                {_BY + how: _aggregated(group.scores.get(name), of_responses, how) for how in hows},
            )
            for group, of_responses in zip(groups, of_groups, strict=True)
        ]
        found = best_of_n_curves(scored, ns, draws=draws, seed=seed)
        curves = {how: found[_BY + how] for how in (*hows, *map(weighted, hows))}
        report[name] = Aggregated(
            curves={how: _accuracies(curve) for how, curve in curves.items()},
            differences=_differences(curves, combinations(hows, 2), max(ns), seed),
        )
        outcomes |= {aggregated(name, how): _shares(curves[how]) for how in hows}
    return report, outcomes


def _aggregated(scores: Sequence[float] | None, q_values: Sequence[Sequence[float]], how: Aggregation) -> list[float]:
    """The responses' scores by an aggregation, -inf for those whose own score is."""
    found = [aggregate(of_steps, how) for of_steps in q_values]
    if scores is None:
        return found
    return [-math.inf if own == -math.inf else score for own, score in zip(scores, found, strict=True)]


_BY = "by "
"""Keeps the aggregation `mean` apart from the way to choose of that name."""
