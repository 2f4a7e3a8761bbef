"""Studies: a claim is answered over seeds, by hand-computed intervals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qstep.evals import (
    BestOfN,
    ScoredGroup,
    StudyAnswer,
    aggregation_report,
    as_json,
    best_of_n_report,
    read_result,
    write_result,
)
from qstep.evals.measures import Measured
from qstep.recipes import Recipe, RecipeError, Run, Work, read_recipe
from qstep.recipes.command import RunConfig, run
from qstep.recipes.recipe import Stage
from qstep.recipes.study import Study, answer, over_seeds, verdict
from qstep.recipes.study_page import page
from qstep.recipes.summary import summarise
from qstep.runs.provenance import provenance
from qstep.stages.commands import COMMANDS
from qstep.types import Estimate

COMPARISONS = {
    "a above b": {"a": "a", "b": "b", "n": 2},
    "beside": {"a": ["a", "b"], "b": "mean", "n": 1, "decides": False},
}
STUDY = {"claim": "P", "paper": "51", "settings": "fixed", "results": "choice", "comparisons": COMPARISONS}


def recipe(folder: Path, **study: Any) -> Recipe:
    stages = {"choice": {"command": "best-of-n", "inputs": "rows.jsonl"}}
    written = {"title": "T", "about": "A", "output_dir": str(folder), "stages": stages, "study": {**STUDY, **study}}
    (folder / "claim.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return read_recipe(folder / "claim.yaml")


Problem = tuple[list[int], list[float], list[float]]


def runs(folder: Path, *seeds: list[Problem], names: list[str | None] | None = None) -> list[Run]:
    """A run for each seed, each of problems with what is right among two responses, and the scores of a and of b.

    `names` has, for each seed, a letter for each problem, or None for results of an earlier version.
    """
    found = []
    for seed, problems in enumerate(seeds):
        groups = [
            ScoredGroup(str(i), right, [None, None], {"a": a, "b": b}) for i, (right, a, b) in enumerate(problems)
        ]
        qs = {"a": [[[q, 1.0] for q in a] for _, a, _ in problems]}
        auc = {"response_within_problem": Measured(0.75, None, None), "step_within_problem": Measured(0.5, None, None)}
        chosen = best_of_n_report(groups, [1, 2])
        aggregations, outcomes = aggregation_report(groups, qs, [1, 2], ["min", "last"])
        report = BestOfN(
            problems=2,
            responses=4,
            ungradable_share=0.0,
            left_out={"problems": 0},
            ns=[1, 2],
            curves=chosen.curves,
            outcomes=chosen.outcomes | outcomes,
            problem_names=None if names is None or names[seed] is None else list(names[seed] or ""),
            differences=chosen.differences,
            auc={"a": auc, "c": {"response_within_problem": None}},
            provenance=provenance({}),
            aggregations=aggregations,
        )
        write_result(folder / f"{seed}.json", report)
        work = Work(
            "key",
            Stage("choice", COMMANDS["best-of-n"], {}),
            folder,
            {"output": folder / f"{seed}.json"},
            {},
            frozenset(),
        )
        found.append(Run(None, seed, folder, {"choice": work}))
    return found


A_WINS = ([1, 0], [1.0, 0.0], [0.0, 1.0])
TIE = ([1, 0], [1.0, 0.0], [1.0, 0.0])


def test_students_interval_over_seeds() -> None:
    # mean .2, standard deviation .1, three seeds: half = 4.302653 * .1 / sqrt(3) = .248414
    estimate = over_seeds([0.1, 0.2, 0.3])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.2, -0.048414, 0.448414), abs=1e-6)
    assert estimate.n == 3
    for few in ([0.4], [0.4, 0.4], [0.3, 0.5]):
        alone = over_seeds(few)
        assert (alone.mean, alone.low, alone.high, alone.n) == (pytest.approx(0.4), -1.0, 1.0, len(few))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_equal_seeds_are_not_certain(count: int) -> None:
    """All of two is open; of n >= 3 a share u = z^2 / (n + z^2) may be unlike: [.01 - 1.01 u, .01 + .99 u]."""
    estimate = over_seeds([0.01] * count)
    unseen = 1 if count == 2 else 3.841459 / (count + 3.841459)
    low, high = (-1, 1) if count == 2 else (0.01 - 1.01 * unseen, 0.01 + 0.99 * unseen)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-5)
    assert verdict([estimate]) == "cannot tell at this scale"


def test_a_seed_without_a_gradable_answer_is_left_out_and_named(tmp_path: Path) -> None:
    """Three seeds in which a beats b by 1, .5, 1, and one in which nothing can be graded."""
    lost = ([None, None], [1.0, 0.0], [0.0, 1.0])
    made_runs = runs(tmp_path, [A_WINS, A_WINS], [A_WINS, TIE], [lost, lost], [A_WINS, A_WINS])
    study = recipe(tmp_path)
    summarise(study, made_runs, tmp_path)
    found = json.loads((tmp_path / "claim.json").read_text())
    decided = found["comparisons"]["a above b"]
    assert decided["left_out"] == ["2"] and set(decided["by_seed"]) == {"0", "1", "3"}
    assert decided["over_seeds"]["mean"] == pytest.approx(5 / 6) and decided["over_seeds"]["n"] == 3
    text = (tmp_path / "claim.md").read_text()
    assert "Left out of a above b: seeds 2, where nothing that one of the two chose could be graded." in text
    assert "3 of 3" in text and "(3 seeds)" in text
    nowhere = answer(study, runs(tmp_path, [lost]))
    assert nowhere.verdict == "cannot tell at this scale" and "nothing gradable" in page(study, nowhere)
    json.dumps(as_json(nowhere), allow_nan=False)


def test_verdicts() -> None:
    above, below, across = Estimate(0.15, 0.1, 0.2, 3), Estimate(-0.15, -0.2, -0.1, 3), Estimate(0, -0.1, 0.1, 3)
    assert verdict([above, above]) == "holds"
    assert verdict([above, below]) == "does not hold"
    assert verdict([above, across]) == verdict([]) == "cannot tell at this scale"


def test_a_claim_is_answered_over_seeds(tmp_path: Path) -> None:
    # of two problems a picks right where b picks wrong: in both, in one, in both
    found = answer(recipe(tmp_path), runs(tmp_path, [A_WINS, A_WINS], [A_WINS, TIE], [A_WINS, A_WINS]))
    decided = found.comparisons["a above b"]
    assert [of.mean for of in decided.by_seed.values()] == [1.0, 0.5, 1.0]
    half = 4.302652729911275 * (1 / 12) ** 0.5 / 3**0.5
    over = dataclasses.asdict(decided.over_seeds)
    assert over == pytest.approx({"mean": 5 / 6, "low": 5 / 6 - half, "high": 5 / 6 + half, "n": 3})
    assert found.verdict == "holds"
    beside = found.comparisons["beside"]  # one response chosen of one is any response, whoever chooses
    assert beside.over_seeds.mean == 0.0 and not beside.decides
    assert found.seeds["1"]["b"] == {"1": 0.5, "2": 0.5}


def test_the_page_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = recipe(tmp_path)
    made_runs = runs(tmp_path, [A_WINS, TIE, A_WINS], [A_WINS] * 3, [A_WINS] * 3)
    monkeypatch.setattr("sys.argv", ["qstep", "run", str(study.file), "--seeds", "0,1"])
    summarise(study, made_runs, tmp_path)
    text = (tmp_path / "claim.md").read_text()
    assert text == page(study, read_result(tmp_path / "claim.json", StudyAnswer))
    assert "**Holds**, over 3 seeds." in text
    # 2/3, 1, 1: standard deviation .19245, half 4.302653 * .19245 / sqrt(3) = .47807
    assert "| a above b | 2 | +88.9 [+41.1, +136.7] |" in text and "| 3 of 3 |" in text
    assert "| beside (exploratory) | 1 | +0.0 [-56.1, +56.1] |" in text
    assert "| a | 0.500 | 1.000 |" in text and "| majority |" in text and "a_weighted" not in text
    assert "| AUC within a problem, mean over seeds | right responses | right steps |" in text
    assert "| a | 0.750 | 0.500 |" in text
    made = provenance({})
    assert (
        f"`qstep run {study.file} --seeds 0,1`, commit {made['git_commit']}, {made['hardware']}; seeds 0, 1, 2." in text
    )


def test_a_scorer_is_compared_by_its_aggregations(tmp_path: Path) -> None:
    asked = recipe(tmp_path, comparisons={"the least above the last": {"a": "a/min", "b": "a/last", "n": 2}})
    found = answer(asked, runs(tmp_path, [A_WINS, A_WINS], [A_WINS, A_WINS]))
    # by the least Q a is always right; by the last, which is the same for both responses, every other time
    assert found.comparisons["the least above the last"].over_seeds.mean == 0.5
    assert set(found.seeds["0"]) == {"a/min", "a/last", "majority", "mean", "pass"}


def of_variants(folder: Path, names: list[str | None], *problems: list[Problem]) -> StudyAnswer:
    """The answer about the best of `new` against that of `old`, each from results of its own."""
    comparisons = {"x": {"a": "new/a", "b": "old/a", "n": 2}}
    study = dataclasses.replace(recipe(folder, comparisons=comparisons), variants={"old": {}, "new": {}})
    old, new = runs(folder, *problems, names=names)
    return answer(study, [dataclasses.replace(old, variant="old"), dataclasses.replace(new, variant="new", seed=0)])


def test_variants_are_paired_by_problem(tmp_path: Path) -> None:
    """The same results in another order differ by 0 on each problem, so the interval is the one of values without
    spread: z^2 / (4 + z^2) of what is left. Paired by position, it went from -1 to 1."""
    lost = ([1, 0], [0.0, 1.0], [1.0, 0.0])
    old = [A_WINS, lost, A_WINS, lost]
    found = of_variants(tmp_path, ["abcd", "badc"], old, [lost, A_WINS, lost, A_WINS]).comparisons["x"].over_problems
    assert (found.mean, found.high) == pytest.approx((0.0, 3.841459 / 7.841459))
    others: list[list[str | None]] = [["abcd", "abce"], ["abcd", None]]
    for names in others:
        with pytest.raises(RecipeError, match="comparison 'x': old/a and new/a have different problems: give both"):
            of_variants(tmp_path, names, old, old)
    assert of_variants(tmp_path, [None, None], old, old).comparisons["x"].over_problems.mean == 0.0
    with pytest.raises(RecipeError, match="have different problems"):
        of_variants(tmp_path, [None, None], old, old[:3])


def test_seeds_with_the_same_problems_are_one_sample_of_problems(tmp_path: Path) -> None:
    """Three equal seeds know no more about the problems than one; with problems of their own they do."""
    lost = ([1, 0], [0.0, 1.0], [1.0, 0.0])
    one = [A_WINS, lost, TIE, A_WINS, TIE, A_WINS]
    alone = answer(recipe(tmp_path), runs(tmp_path, one)).comparisons["a above b"].over_problems
    other = [*reversed(one)]
    same = answer(recipe(tmp_path), runs(tmp_path, one, other, one, names=["abcdef", "fedcba", "abcdef"]))
    found = same.comparisons["a above b"].over_problems
    assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high))
    own = answer(recipe(tmp_path), runs(tmp_path, one, one, one, names=["abcdef", "ghijkl", "mnopqr"]))
    width, of_one = (e.high - e.low for e in (own.comparisons["a above b"].over_problems.estimate, alone.estimate))
    assert width == pytest.approx(of_one / 3**0.5)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"comparison": {}}, "`study` must be a mapping with claim, comparisons, paper, results, settings"),
        ({"results": ["choice"]}, "results names an unknown stage"),
        ({"comparisons": {"x": {"a": [], "b": "b", "n": 2}}}, "comparison 'x': a and b must each be a way to choose"),
        (
            {"comparisons": {"x": {"a": [["a"]], "b": "b", "n": 2}}},
            "comparison 'x': a and b must each be a way to choose",
        ),
        ({"results": "choise"}, r"results names an unknown stage 'choise' \(did you mean 'choice'"),
        ({"comparisons": {"x": {"a": "a", "b": "b"}}}, "comparison 'x' must be a mapping with `a`, `b`"),
        ({"comparisons": {"x": {"a": "a", "b": "b", "n": "2"}}}, "comparison 'x' must be a mapping with `a`, `b`"),
    ],
)
def test_a_malformed_study_is_refused_before_anything_runs(tmp_path: Path, study: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(RunConfig(recipe=recipe(tmp_path, **study).file))


def test_a_way_to_choose_that_is_not_there_is_named(tmp_path: Path) -> None:
    asked = recipe(tmp_path, comparisons={"x": {"a": "c", "b": "b", "n": 2}})
    with pytest.raises(RecipeError, match="comparison 'x': the results have no 'c' at n = 2; they have mean, majority"):
        answer(asked, runs(tmp_path, [A_WINS]))


def test_a_studys_results_are_those_of_best_of_n(tmp_path: Path) -> None:
    stages = {"choice": {"command": "grade", "input": "rows.jsonl"}}
    of_grade = dataclasses.replace(recipe(tmp_path), stages=stages)
    with pytest.raises(RecipeError, match="results names a stage of `qstep grade`: name one of `qstep best-of-n`"):
        Study.of(of_grade)


def test_the_command_of_a_page_is_the_one_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran the stages: a job shared with another study was run by that study's command."""
    study, made_runs = recipe(tmp_path), runs(tmp_path, [A_WINS], [A_WINS])
    given = ["run", str(study.file), "--seeds", "0,1", "--values.k", "9"]
    monkeypatch.setattr("sys.argv", ["qstep", *given])
    assert answer(study, made_runs).provenance["command"] == " ".join(["qstep", *given])


def test_a_stage_like_another_is_what_that_is(tmp_path: Path) -> None:
    stages = {"graded": {"command": "grade", "input": "rows.jsonl"}, "choice": {"like": "graded"}}
    with pytest.raises(RecipeError, match="results names a stage of `qstep grade`"):
        Study.of(dataclasses.replace(recipe(tmp_path), stages=stages))
