"""benchmarks/study_seeds.py: a study of seeds that were kept one by one is the study of the runs themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pages import ROOT
from policy_studies import ALL, HALF, THREE, of_run, recipe
from qstep.data import write_jsonl
from qstep.recipes import Recipe, Run, read_recipe
from qstep.recipes.study import answer

sys.path.insert(0, str(ROOT / "benchmarks"))
import study_seeds


def keep(folder: Path, written: Recipe, runs: list[Run]) -> None:
    for run in runs:
        for work in run.stages.values():
            work.finish(1.0)
    write_jsonl(folder / f"{runs[0].seed}.jsonl", study_seeds.kept(written, runs))


def page(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["study_seeds.py", "page", *map(str, arguments)])
    study_seeds.main()


def test_kept_seeds_give_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = recipe(tmp_path)
    seeds = [([HALF, HALF], [THREE, ALL]), ([HALF, ALL], [ALL, ALL]), ([HALF, HALF], [[1, 2, 1], THREE])]
    runs = [of_run(tmp_path, seed, base, dqo) for seed, (base, dqo) in enumerate(seeds)]
    for run in runs:
        keep(tmp_path / "kept", written, [run])
    page(monkeypatch, written.file, "--input", tmp_path / "kept", "--output_dir", tmp_path / "page")
    rows = [row for seed in range(3) for row in study_seeds.read_rows(tmp_path / "kept" / f"{seed}.jsonl")]
    assert answer(written, study_seeds.restored(written, rows, tmp_path / "again")) == answer(written, runs)
    assert "over 3 seeds" in (tmp_path / "page" / "claim.md").read_text()
    assert "seed 2: commit " in capsys.readouterr().out


def test_variants_are_kept_and_restored(tmp_path: Path) -> None:
    comparisons = {"c": {"a": "x/dqo", "b": "y/dqo", "measure": "sampled"}}
    variants = {name: {"eval_base": {"model_name_or_path": f"./{name}"}} for name in "xy"}
    written = recipe(tmp_path, variants, comparisons=comparisons)
    keep(tmp_path, written, [of_run(tmp_path, 5, [HALF], [ALL], "x"), of_run(tmp_path, 5, [HALF], [THREE], "y")])
    again = study_seeds.restored(written, study_seeds.read_rows(tmp_path / "5.jsonl"), tmp_path / "restored")
    assert answer(written, again).comparisons["c"].by_seed["5"].mean == 0.25


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="give a study of policies"):
        study_seeds.stages_of(read_recipe(ROOT / "studies" / "margin.yaml"))
    written = recipe(tmp_path)
    with pytest.raises(SystemExit, match=r"is not done: run `qstep run .*claim.yaml --seeds 7` first"):
        list(study_seeds.kept(written, [of_run(tmp_path, 7, [HALF], [ALL])]))
    with pytest.raises(SystemExit, match="has no seeds"):
        page(monkeypatch, written.file, "--input", tmp_path / "none", "--output_dir", tmp_path / "page")
