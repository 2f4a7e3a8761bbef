"""What searches answer right, against the tokens they took."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import expit

from qstep.evals.accuracy import Outcomes, accuracy, accuracy_difference
from qstep.evals.results import ANSWERS
from qstep.search import vote


@dataclass(frozen=True, slots=True)
class Searched:
    """The candidates of one problem's search, N of them, and what it spent.

    `correct` [N] is 1, 0 or None for what cannot be graded; equal `answers` [N] are equivalent, None is no answer;
    `scores` [N] are on the scale of a Q; `chosen` is the index of the search's own answer, `cut_off` whether that
    did not end by itself.
    """

    correct: Sequence[int | None]
    answers: Sequence[Hashable | None]
    scores: Sequence[float]
    chosen: int
    cut_off: bool
    tokens_generated: int
    tokens_scored: int

    def answered(self, how: str) -> int | None:
        """Whether it is right by one of `ANSWERS`; None where that cannot be told."""
        match how:
            case "chosen":
                return self.correct[self.chosen]
            case "pass":
                return 1 if 1 in self.correct else None if None in self.correct else 0
            case "majority" | "weighted":
                won = vote(self.answers, expit(self.scores) if how == "weighted" else None)
                return self.correct[self.chosen if won is None else self.answers.index(won)]
            case _:
                raise ValueError(f"unknown way to answer {how!r}: use {', '.join(ANSWERS)}")


def search_report(
    searches: Mapping[str, Sequence[Searched]], budgets: Mapping[str, Hashable], *, seed: int = 0
) -> dict[str, Any]:
    """Accuracies of searches, by name, of the same problems in the same order.

    `report["searches"][name]` has an `accuracy` for each of `ANSWERS`, the mean and the largest `tokens_generated` and
    `tokens_scored` of a problem, and the share of its choices that are `cut_off`. `report["differences"]["a - b"]` is
    paired, of what the searches chose, for those of one budget, the earlier named first. Where nobody answers, a
    vote's answer is the search's own. Raises ValueError on no problem, and on different numbers of them.
    """
    outcomes = {name: {how: _outcomes(found, how) for how in ANSWERS} for name, found in searches.items()}
    return {
        "searches": {
            name: {
                **{how: accuracy(of) for how, of in outcomes[name].items()},
                "tokens_generated": _tokens([of.tokens_generated for of in found]),
                "tokens_scored": _tokens([of.tokens_scored for of in found]),
                "cut_off": float(np.mean([of.cut_off for of in found])),
            }
            for name, found in searches.items()
        },
        "differences": {
            f"{a} - {b}": accuracy_difference(outcomes[a]["chosen"], outcomes[b]["chosen"], seed=seed)
            for a, b in combinations(searches, 2)
            if budgets[a] == budgets[b]
        },
    }


def _outcomes(found: Sequence[Searched], how: str) -> Outcomes:
    right = [of.answered(how) for of in found]
    return Outcomes(np.array([r == 1 for r in right], float), np.array([r is not None for r in right], float))


def _tokens(of_problems: Sequence[int]) -> dict[str, float]:
    return {"mean": float(np.mean(of_problems)), "max": max(of_problems)}
