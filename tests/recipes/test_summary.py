"""What came of a recipe with variants: one table across them, and claims over the seeds that all have."""

from __future__ import annotations

import pytest

from qstep.evals import Page
from qstep.evals.measures import Accuracy, Difference
from qstep.recipes.summary import across_variants, claims


def page(pqm: float, best: str | None = None) -> Page:
    """A report in which PQM@4 is right so often; it may have found another way to choose the best."""
    of = {name: {"1": Accuracy(0.5, 0.4, 0.6, 9), "4": Accuracy(mean, mean - 0.1, mean + 0.1, 9)}
          for name, mean in (("mean", 0.5), ("pqm", pqm))}  # fmt: skip
    found = [Difference(pqm - 0.5, pqm - 0.7, pqm - 0.3, 9, a="pqm", b="mean", among=4)]
    if best:
        found.append(Difference(0.2, 0.1, 0.3, 9, a=best, b="majority", among=4))
    return Page(verifiers=of, comparisons={difference.name: difference for difference in found})


def test_variants_stand_in_one_table() -> None:
    """Means over the seeds of .7 and .8; the half-width of two with .1 each is sqrt(2) .1 / 2 = .0707."""
    tables = list(across_variants("T", {"short": {1: page(0.6)}, "long": {1: page(0.7), 2: page(0.8)}}))
    assert [title.split(" by variant")[0] for title, _, _ in tables] == ["T: accuracy", "T: difference of accuracies"]
    _, columns, rows = tables[0]
    assert columns == ["variant", "one response@4", "PQM@4"]
    assert rows[0] == ["short", "0.500 [0.400, 0.600]", "0.600 [0.500, 0.700]"]
    assert rows[1] == ["long", "0.500 [0.429, 0.571]", "0.750 [0.679, 0.821]"]
    assert tables[1][2][1] == ["long", "0.250 [0.109, 0.391]"]
    assert list(across_variants("T", {"alone": {1: page(0.6)}, "failed": {}})) == []


def test_seeds_with_the_same_problems_know_no_more_than_one() -> None:
    """Four seeds with +.030 [-.010, .070]: with problems of their own the half-width is .04 / 2."""
    difference = Difference(0.03, -0.01, 0.07, 100, a="dqo", b="base", mode="sampled")
    for digests, half in (("pppp", 0.04), ("pppq", 0.02), ([None] * 4, 0.02)):
        pages = {
            seed: Page(problems=problems, comparisons={difference.name: difference})
            for seed, problems in enumerate(digests)
        }
        claim = claims(pages)[difference.name]
        assert (claim.low, claim.high) == pytest.approx((0.03 - half, 0.03 + half))
        table = next(across_variants("T", {"x": pages, "y": pages}))
        assert table[2][0] == ["x", f"0.030 [{0.03 - half:.3f}, {0.03 + half:.3f}]"]


def test_what_only_some_seeds_found_best_is_no_claim() -> None:
    found = claims({1: page(0.7, "bce_weighted"), 2: page(0.9, "pqm_weighted")})
    assert list(found) == ["pqm@4 - mean"]
    claim = found["pqm@4 - mean"]
    assert claim.mean == pytest.approx(0.3) and claim.seeds == 2 and claim.above_zero_on_every_seed
    both = claims({1: page(0.7, "bce_weighted"), 2: page(0.9, "bce_weighted")})
    assert list(both) == ["pqm@4 - mean", "bce_weighted@4 - majority"]
