"""The relation of a score to the length of a response and its number of steps.

A scorer that chooses responses, or that serves as a reward, teaches a policy its preferences. If a score is the minimum
of the Qs, it prefers few steps, other things being equal. A policy may then learn to leave out separators ("separator
avoidance"). A preference for short responses is not a fault by itself, since right responses may be shorter. So it is
also measured among right responses and among wrong ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from qstep.evals.intervals import bootstrap_estimate, mean_estimate, members, numbered, times_drawn
from qstep.evals.measures import Lengths, Measured


def length_report(
    scores: Sequence[float],
    lengths: Mapping[str, Sequence[int]],
    right: Sequence[bool | None],
    problems: Sequence[Hashable],
    *,
    seed: int = 0,
) -> Lengths:
    """Rank correlations of scores [N] with lengths [N], and whether the best-scored responses have fewer steps.

    Each entry of `lengths` gets Spearman's rho over `all` responses, over `right` ones and over `wrong` ones (None in
    `right` is neither). `within_problem` is the mean over the problems in which rho is defined. The entry `steps` also
    gets `fewer_steps` (see `choice_has_fewer`) for all, right and wrong responses, and `single_step`, the share of
    responses with one step. Estimates have 95 % intervals over problems, and are None if nothing varies. Raises
    ValueError for different lengths, or without responses.
    """
    if not scores or any(len(mask) != len(scores) for mask in (right, problems, *lengths.values())):
        raise ValueError("lists differ in length: give a score, all lengths, `right` and a problem for every response")
    score = np.asarray(scores, dtype=np.float64)
    problem = numbered(problems)
    kinds = {
        "all": np.ones(len(score), bool),
        "right": np.array([verdict is True for verdict in right]),
        "wrong": np.array([verdict is False for verdict in right]),
    }
    correlation: dict[str, dict[str, Measured | None]] = {}
    for name, values in lengths.items():
        length = np.asarray(values, dtype=np.float64)
        correlation[name] = {
            kind: rank_correlation(score[mask], length[mask], problem[mask], seed=seed) for kind, mask in kinds.items()
        } | {"within_problem": within_problem_correlation(score, length, problem, seed=seed)}
    if "steps" not in lengths:
        return Lengths(correlation=correlation)
    steps = np.asarray(lengths["steps"])
    fewer = {kind: choice_has_fewer(score[mask], steps[mask], problem[mask]) for kind, mask in kinds.items()}
    return Lengths(correlation=correlation, fewer_steps=fewer, single_step=float((steps == 1).mean()))


def rank_correlation(a: ArrayLike, b: ArrayLike, problems: ArrayLike, *, seed: int = 0) -> Measured | None:
    """Spearman's rho of two lists [N] with its 95 % interval over problems [N]; None if a list is constant.

    A resample uses the ranks among all items.
    """
    ranks = [rankdata(values) for values in (a, b)]
    if not len(ranks[0]) or any(np.ptp(rank) == 0 for rank in ranks):
        return None
    _, problem = np.unique(np.asarray(problems), return_inverse=True)
    x, y = ((rank - rank.mean()) / rank.std() for rank in ranks)
    moments = [np.bincount(problem, weights=summand) for summand in (np.ones_like(x), x, y, x * x, y * y, x * y)]
    table = np.stack(moments, axis=-1)

    def rho(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        n, x, y, xx, yy, xy = np.moveaxis(times_drawn(drawn) @ table, -1, 0)
        spread = np.sqrt(np.clip(xx * n - x * x, 0, None) * np.clip(yy * n - y * y, 0, None))
        return np.divide(xy * n - x * y, spread, out=np.full_like(spread, np.nan), where=spread > 1e-9 * n * n)

    return Measured.of(bootstrap_estimate(rho, len(table), len(table), lowest=-1.0, seed=seed))


def within_problem_correlation(a: ArrayLike, b: ArrayLike, problems: ArrayLike, *, seed: int = 0) -> Measured | None:
    """The mean of Spearman's rho over the problems in which both lists vary; None if there is none."""
    x, y = np.asarray(a), np.asarray(b)
    rhos = []
    for places in members(problems):
        ranks = [rankdata(values[places]) for values in (x, y)]
        if all(np.ptp(rank) > 0 for rank in ranks):
            rhos.append(float(np.corrcoef(ranks)[0, 1]))
    if not rhos:
        return None
    found = np.array(rhos)
    return Measured.of(
        bootstrap_estimate(lambda drawn: found[drawn].mean(-1), len(found), len(found), lowest=-1.0, seed=seed)
    )


def choice_has_fewer(scores: ArrayLike, steps: ArrayLike, problems: ArrayLike) -> Measured | None:
    """How often the best-scored response of a problem has fewer steps than another response to it, with ties as half.

    This is the mean over problems with at least two responses. It is .5 if the choice is independent of the number of
    steps, and 1 if it always has the fewest. Responses that tie for the best score are averaged. Returns None if no
    problem has two responses.
    """
    score, count = np.asarray(scores), np.asarray(steps)
    shares = []
    for places in members(problems):
        of_score, of_count = score[places], count[places]
        others = len(of_count) - 1
        if others:
            more = (of_count[:, None] < of_count).sum(axis=1)
            same = (of_count[:, None] == of_count).sum(axis=1) - 1
            chosen = of_score == of_score.max()
            shares.append(float(((more + same / 2) / others)[chosen].mean()))
    return Measured.of(mean_estimate(shares)) if shares else None
