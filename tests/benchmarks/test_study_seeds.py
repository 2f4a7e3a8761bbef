"""benchmarks/study_seeds.py: a study of seeds that were kept one by one is the study of the runs themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pages import ROOT
from policy_studies import ALL, HALF, THREE, of_run, recipe
from qstep.data import write_json
from qstep.recipes.study import answer

sys.path.insert(0, str(ROOT / "benchmarks"))
import study_seeds


def test_kept_seeds_give_the_same_answer(tmp_path: Path) -> None:
    written = recipe(tmp_path)
    seeds = [([HALF, HALF], [THREE, ALL]), ([HALF, ALL], [ALL, ALL]), ([HALF, HALF], [[1, 2, 1], THREE])]
    runs = [of_run(tmp_path, seed, base, dqo) for seed, (base, dqo) in enumerate(seeds)]
    again = []
    for run in runs:
        file = tmp_path / "kept" / f"{run.seed}.json"
        write_json(file, study_seeds.kept(written, run))
        again.append(study_seeds.restored(written, json.loads(file.read_text()), tmp_path / "restored"))
    assert answer(written, again) == answer(written, runs)
    content = json.loads((tmp_path / "kept" / "2.json").read_text())
    assert content["stages"]["eval_dqo"]["problems"]["sampled"] == "1/2/1 3/1/0"


def test_a_study_of_variants_is_refused(tmp_path: Path) -> None:
    comparisons = {"c": {"a": "x/dqo", "b": "y/base", "measure": "greedy"}}
    variants = {name: {"eval_base": {"model_name_or_path": f"./{name}"}} for name in "xy"}
    with pytest.raises(SystemExit, match="without variants"):
        study_seeds.stages_of(recipe(tmp_path, variants, comparisons=comparisons))
