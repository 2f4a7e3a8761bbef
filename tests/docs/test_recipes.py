"""docs/recipes.md: its example runs as it stands, its keys are those there are, its study is one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from pages import ROOT
from qstep.cli import main
from qstep.data import write_jsonl
from qstep.recipes import Recipe
from qstep.recipes.study import Study

PAGE = (ROOT / "docs" / "recipes.md").read_text()
EXAMPLE, ROUNDS, STUDY, OF_POLICIES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chosen.yaml").write_text(EXAMPLE)
    rows = [{"question": f"{n}?", "answer": str(n), "responses": [f"#### {n}", f"#### {n + n % 2}"]} for n in range(4)]
    write_jsonl(Path("mine.jsonl"), rows)
    [command] = re.findall(r"qstep (run .*)", EXAMPLE)
    assert main(command.split()) == 0
    [results] = Path("runs/chosen/jobs").glob("best_of_n-*/best_of_n.json")
    assert json.loads(results.read_text())["curves"]["mean"]["1"]["mean"] == 0.75


def test_every_key_is_told() -> None:
    keys = {field.name for field in dataclasses.fields(Recipe)} - {"file"}
    assert not [key for key in keys if not re.search(rf"^\|[^|]*`{key}`", PAGE, re.MULTILINE)]
    study = yaml.safe_load(STUDY)["study"]
    assert set(study) == {"claim", "paper", "settings", "results", "comparisons"} and len(study["comparisons"]) == 3


def test_the_rounds_are_unrolled(tmp_path: Path) -> None:
    base = {"command": "train sft", "model_name_or_path": "./m", "train_file": "./rows.jsonl"}
    recipe = Recipe(Path("r.yaml"), "T", "A", {"base": base}, tmp_path, **yaml.safe_load(ROUNDS))
    stages = recipe.resolved(None, 0)
    assert stages["samples_1"].options["model_name_or_path"] == "${base}"
    assert stages["policy_2"].options["train_file"] == ["${graded_1}", "${graded_2}"]
    for round in (1, 2, 3):
        recipe.check(stages[f"samples_{round}"])


def test_the_study_of_policies_is_one(tmp_path: Path) -> None:
    evaluation = {"command": "evaluate", "model_name_or_path": "./m", "dataset_name": "miniature", "num_samples": 8}
    stages = dict.fromkeys(("eval_base", "eval_dqo"), evaluation)
    recipe = Recipe(Path("r.yaml"), "T", "A", stages, tmp_path, study=yaml.safe_load(OF_POLICIES)["study"])
    assert [comparison.at for comparison in Study.of(recipe).comparisons] == ["sampled", "pass@8"]
