"""Studies that compare policies, and studies with variants: pairs of runs by seed and problem, computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from policy_studies import ALL, EVALUATE, HALF, THREE, evaluated, of_run, recipe
from qstep.evals import StudyAnswer, read_result
from qstep.evals.accuracy import Outcomes, VerdictCounts
from qstep.recipes import RecipeError, Run, read_recipe
from qstep.recipes.command import RunConfig, run
from qstep.recipes.study import Study, answer
from qstep.recipes.summary import summarise


def test_pass_at_k_with_ungradable_responses() -> None:
    """Of 4 responses 1 is right and 1 ungradable: 1 - C(3,2)/C(4,2) = 1/2 surely, 1 - C(2,2)/C(4,2) = 5/6 perhaps."""
    found = Outcomes.of_any([VerdictCounts(1, 2, 1), VerdictCounts(0, 4, 0), VerdictCounts(3, 1, 0)], 2)
    assert found.right.tolist() == pytest.approx([1 / 2, 0, 1])
    assert found.gradable.tolist() == pytest.approx([2 / 3, 1, 1])
    with pytest.raises(ValueError, match="pass@5 needs"):
        Outcomes.of_any([VerdictCounts(1, 3, 0)], 5)


def test_policies_are_compared_by_seed_and_problem(tmp_path: Path) -> None:
    """Sampled: +1/4, +1/2, +3/8 by seed. pass@2 of 2 right in 4 is 5/6, of 3 or 4 it is 1."""
    seeds = [([HALF, HALF], [THREE, THREE]), ([HALF, HALF], [ALL, ALL]), ([HALF, HALF], [ALL, THREE])]
    runs = [of_run(tmp_path, seed, base, dqo) for seed, (base, dqo) in enumerate(seeds)]
    study = recipe(tmp_path)
    summarise(study, runs, tmp_path)
    found = read_result(tmp_path / "claim.json", StudyAnswer)
    sampled = found.comparisons["sampled"]
    assert [of.mean for of in sampled.by_seed.values()] == [0.25, 0.5, 0.375]
    half = 4.302652729911275 * 0.125 / 3**0.5
    over = sampled.over_seeds
    assert (over.mean, over.low, over.high) == pytest.approx((0.375, 0.375 - half, 0.375 + half))
    assert (sampled.measure, sampled.n, found.verdict, found.auc) == ("sampled", None, "holds", None)
    assert found.comparisons["any of two"].over_seeds.mean == pytest.approx(1 / 6)
    assert found.comparisons["greedy"].over_seeds.mean == 0.0
    text = (tmp_path / "claim.md").read_text()
    assert "| difference of accuracy, in points | measure |" in text
    assert "| sampled | sampled | +37.5 [+6.4, +68.6] |" in text
    assert "| accuracy, mean over seeds | sampled | pass@2 | greedy |" in text
    assert "| dqo | 0.875 | 1.000 | 1.000 |" in text and "| base | 0.500 | 0.833 | 1.000 |" in text


def test_variants_are_compared_by_seed(tmp_path: Path) -> None:
    """The policy of one variant against that of another: +1/4 on each of three seeds, and ungradable ones apart."""
    variants = {"lam_0": {"eval_dqo": {"seed": 1}}, "lam_1": {}}
    comparisons = {"far above near": {"a": "lam_1/dqo", "b": "lam_0/dqo", "measure": "sampled"}}
    study = recipe(tmp_path, variants, comparisons=comparisons)
    runs = [of_run(tmp_path, seed, [HALF], [HALF], "lam_0") for seed in range(3)]
    runs += [of_run(tmp_path, seed, [HALF], [[3, 1, 4]], "lam_1") for seed in range(3)]
    found = answer(study, runs)
    assert [of.mean for of in found.comparisons["far above near"].by_seed.values()] == [0.25] * 3
    assert found.seeds["2"] == {"lam_1/dqo": {"sampled": 0.75}, "lam_0/dqo": {"sampled": 0.5}}


def test_policies_that_answered_other_problems_are_not_compared(tmp_path: Path) -> None:
    works = {
        "eval_base": evaluated(tmp_path, "eval_base", [HALF]),
        "eval_dqo": evaluated(tmp_path, "eval_dqo", [HALF], first=7),
    }
    with pytest.raises(ValueError, match="dqo and base answered different problems: evaluate both on the same"):
        answer(recipe(tmp_path), [Run(None, 0, tmp_path, works)])


def test_problems_of_the_same_ids_with_other_gold_answers_are_not_compared(tmp_path: Path) -> None:
    for number, (base, dqo) in enumerate([("gsm", "math"), ("gsm", "gsm"), ("gsm", None)]):
        where = tmp_path / str(number)
        works = {"eval_base": evaluated(where, "eval_base", [HALF], golds=base)}
        works["eval_dqo"] = evaluated(where, "eval_dqo", [ALL], golds=dqo)
        if number == 0:
            with pytest.raises(ValueError, match="dqo and base answered different problems"):
                answer(recipe(tmp_path), [Run(None, 0, where, works)])
        else:
            found = answer(recipe(tmp_path), [Run(None, 0, where, works)])
            assert found.comparisons["sampled"].by_seed["0"].mean == 0.5


def test_seeds_of_policies_with_the_same_problems_are_not_independent(tmp_path: Path) -> None:
    """Two equal seeds have the interval of one."""
    base, dqo = [HALF] * 6, [ALL, HALF, THREE, ALL, HALF, [1, 3, 0]]
    runs = []
    for seed in range(2):
        where, turned = tmp_path / str(seed), seed == 1  # an engine may finish in any order
        works = {"eval_base": evaluated(where, "eval_base", base, golds="gsm", turned=turned)}
        works["eval_dqo"] = evaluated(where, "eval_dqo", dqo, golds="gsm", turned=turned)
        runs.append(Run(None, seed, where, works))
    comparisons = {name: {"a": "dqo", "b": "base", "measure": name} for name in ("greedy", "sampled")}
    study = recipe(tmp_path, comparisons=comparisons)
    one, two = (answer(study, runs[:n]) for n in (1, 2))
    intervals = [found.comparisons["sampled"].over_problems.estimate for found in (one, two)]
    assert (intervals[0].low, intervals[0].high) == pytest.approx((intervals[1].low, intervals[1].high))


def test_variants_that_answered_other_problems_are_not_compared(tmp_path: Path) -> None:
    comparisons = {"x": {"a": "far/dqo", "b": "near/dqo", "measure": "sampled"}}
    runs = [
        Run(variant, 0, tmp_path, {"eval_dqo": evaluated(tmp_path / variant, "eval_dqo", [HALF], first)})
        for variant, first in (("near", 0), ("far", 1))
    ]
    study = recipe(tmp_path, {"near": {}, "far": {}}, comparisons=comparisons, results={"dqo": "eval_dqo"})
    with pytest.raises(ValueError, match="far/dqo and near/dqo answered different problems"):
        answer(study, runs)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"comparisons": {"x": {"a": "dqo", "b": "base", "n": 8}}}, "`measure`, which is greedy, sampled or pass@k"),
        ({"comparisons": {"x": {"a": "dqo", "b": "base", "measure": "pass@0"}}}, "`measure`, which is greedy"),
        ({"comparisons": {"x": {"a": "dqo", "b": "base", "measure": "pass@8"}}}, "pass@8 needs .* num_samples is 4"),
        (
            {"comparisons": {"x": {"a": "dq", "b": "base", "measure": "greedy"}}},
            r"no policy 'dq' is evaluated; there are base, dqo",
        ),
        ({"comparisons": {"x": {"a": {}, "b": "base", "measure": "greedy"}}}, "a and b must each be a policy"),
        ({"results": {"base": "eval_bas"}}, "results names an unknown stage 'eval_bas'"),
        ({"results": "eval_base"}, "name one of `qstep best-of-n`, or write `results: {policy: eval_base}`"),
    ],
)
def test_what_a_study_of_policies_cannot_answer_is_refused_before_anything_runs(
    tmp_path: Path, study: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run(RunConfig(recipe=recipe(tmp_path, **study).file))


def test_a_number_of_responses_in_quotes_is_refused(tmp_path: Path) -> None:
    written = yaml.safe_load(recipe(tmp_path).file.read_text())
    written["stages"]["eval_base"] = {**EVALUATE, "num_samples": "8"}
    (tmp_path / "claim.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(RecipeError, match="stage 'eval_base': num_samples is '8': give a whole number, without quotes"):
        Study.of(read_recipe(tmp_path / "claim.yaml"))


def test_a_policy_is_named_with_its_variant(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there are more/base, more/dqo, less/base, less/dqo"):
        Study.of(recipe(tmp_path, {"more": {}, "less": {}}))
