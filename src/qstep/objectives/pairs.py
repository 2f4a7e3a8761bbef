"""The pairs of a problem's responses that preference methods learn from. `qstep pairs` writes the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstep.objectives.dataset import GroupDataset
from qstep.types import Pairs


class ProblemPairs(NamedTuple):
    """The pairs of one problem: the row numbers of the better responses, and of the worse ones."""

    better: NDArray[np.int64]
    worse: NDArray[np.int64]


def pairs_by_problem(dataset: GroupDataset, pairs: Pairs, seed: int) -> Iterator[ProblemPairs]:
    """The pairs of each problem in turn. A problem whose rewards are all the same has none.

    The draw of `one` depends on the seed and the problem, not on other problems in the file.
    """
    table = dataset.index.table
    for item in range(len(dataset)):
        rows = np.array(dataset.row_numbers(item))
        rewards = table["outcome"][rows].astype(np.float32)  # as the loss compares them
        if pairs == "best_worst":
            better, worse = np.array([rewards.argmax()]), np.array([rewards.argmin()])
            different = rewards[better] > rewards[worse]
            better, worse = better[different], worse[different]
        else:
            better, worse = np.nonzero(rewards[:, None] > rewards)
        if pairs == "one" and len(better):
            drawn = np.random.default_rng([seed, int(table["problem"][rows[0]])]).integers(len(better), size=1)
            better, worse = better[drawn], worse[drawn]
        yield ProblemPairs(rows[better], rows[worse])


def only_in_pairs(dataset: GroupDataset, pairs: Pairs, seed: int) -> tuple[GroupDataset, int]:
    """The rows that are in a pair, a problem to each item, and the number of problems without a pair.

    The pairs of the result's problems are all those with different rewards. Other rows are counted in `left_out`.
    """
    found = [np.unique(np.concatenate(chosen)) for chosen in pairs_by_problem(dataset, pairs, seed)]
    sizes = dataset.ends - dataset.starts
    without = np.array([not len(rows) for rows in found])
    kept = np.concatenate(found).astype(np.int64)
    alone = int(sizes[without].sum())
    reasons = {"without two rewards": alone, "not in a chosen pair": len(dataset.rows) - alone - len(kept)}
    left_out = dataset.left_out + Counter(reasons)
    paired = GroupDataset(
        dataset.source, dataset.index, np.sort(kept), None, left_out, count_tokens=dataset.count_tokens
    )
    return paired, int(without.sum())
