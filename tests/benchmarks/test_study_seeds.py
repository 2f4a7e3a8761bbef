"""benchmarks/study_seeds.py: a study of seeds that were kept one by one is the study of the runs themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pages import ROOT
from policy_studies import ALL, HALF, THREE, of_run, recipe
from qstep.data import write_json
from qstep.recipes import read_recipe
from qstep.recipes.study import answer

sys.path.insert(0, str(ROOT / "benchmarks"))
import study_seeds


def test_kept_seeds_give_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = recipe(tmp_path)
    seeds = [([HALF, HALF], [THREE, ALL]), ([HALF, ALL], [ALL, ALL]), ([HALF, HALF], [[1, 2, 1], THREE])]
    runs = [of_run(tmp_path, seed, base, dqo) for seed, (base, dqo) in enumerate(seeds)]
    again = []
    for run in runs:
        file = tmp_path / "kept" / f"{run.seed}.json"
        write_json(file, study_seeds.kept(written, [run]))
        again += study_seeds.restored(written, json.loads(file.read_text()), tmp_path / "restored")
    assert answer(written, again) == answer(written, runs)
    command = ["page", str(written.file), "--input", str(tmp_path / "kept"), "--output_dir", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", ["study_seeds.py", *command])
    study_seeds.main()
    assert "over 3 seeds" in (tmp_path / "page" / "claim.md").read_text()
    content = json.loads((tmp_path / "kept" / "2.json").read_text())
    assert content["variants"][""]["stages"]["eval_dqo"]["problems"]["sampled"] == "1/2/1 3/1/0"


def test_variants_are_kept_and_restored(tmp_path: Path) -> None:
    comparisons = {"c": {"a": "x/dqo", "b": "y/dqo", "measure": "sampled"}}
    variants = {name: {"eval_base": {"model_name_or_path": f"./{name}"}} for name in "xy"}
    written = recipe(tmp_path, variants, comparisons=comparisons)
    runs = [of_run(tmp_path, 5, [HALF], [ALL], "x"), of_run(tmp_path, 5, [HALF], [THREE], "y")]
    again = study_seeds.restored(written, study_seeds.kept(written, runs), tmp_path / "restored")
    assert answer(written, again) == answer(written, runs)
    assert answer(written, again).comparisons["c"].by_seed["5"].mean == 0.25


def test_a_study_of_scorers_is_refused() -> None:
    with pytest.raises(SystemExit, match="a study of policies"):
        study_seeds.stages_of(read_recipe(ROOT / "studies" / "margin.yaml"))
