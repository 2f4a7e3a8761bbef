"""What gives a stage of a recipe another key, and so another run: its inputs and what changes its output, no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from model_families import saved
from qstep.data import write_jsonl
from qstep.recipes import RecipeError, plan, read_recipe

TRAIN = "{command: train bce, train_file: ./rows.jsonl, model_name_or_path: ./model%s}"
SCORE = "{command: score, input: ./rows.jsonl, %s}"
SAMPLE = "{command: sample, model_name_or_path: ./model%s}"
BEST = "load_best_model_at_end: true, eval_strategy: steps, eval_file: ./rows.jsonl, eval_steps: 2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("model", "other", "member"):
        saved("llama", tmp_path / name)
    write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    members = [{"scorer": "./model"}, {"scorer": "./member", "kind": "implicit", "reference": "./other"}]
    (tmp_path / "ensemble.yaml").write_text(yaml.safe_dump({"members": members}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def key(stage: str) -> str:
    """The key of a recipe's one stage."""
    recipe = {"title": "t", "about": "a", "output_dir": "out", "stages": {"s": yaml.safe_load(stage)}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    return plan(read_recipe(Path("recipe.yaml")), Path("out"), [0])[0].stages["s"].key


def other_weights(name: str) -> None:
    file = Path(name, "model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


def longer(name: str) -> None:
    Path(name).write_text(Path(name).read_text() + "\n")


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (TRAIN % "", lambda: longer("rows.jsonl")),
        (TRAIN % "", lambda: other_weights("model")),
        (SCORE % "scorer: ./model", lambda: other_weights("model")),
        (
            SCORE % "scorer: ./model, scorer_kind: implicit, scorer_reference: ./other",
            lambda: other_weights("other"),
        ),
        (SCORE % "scorer: ./ensemble.yaml", lambda: longer("ensemble.yaml")),
        (SCORE % "scorer: ./ensemble.yaml", lambda: other_weights("member")),
        (SCORE % "scorer: ./ensemble.yaml", lambda: other_weights("other")),
        ("{command: evaluate processbench, inputs: {a: rows.jsonl}, scorer: model}", lambda: other_weights("model")),
    ],
)
def test_a_key_follows_what_a_stage_reads(stage: str, change: Callable[[], None], folder: Path) -> None:
    before = key(stage)
    assert key(stage) == before
    change()
    assert key(stage) != before


@pytest.mark.parametrize(
    ("stage", "changed", "is_another"),
    [
        (TRAIN % "", TRAIN % ", learning_rate: 1.0e-3", True),
        (TRAIN % "", TRAIN % ", logging_steps: 3", False),
        (TRAIN % "", TRAIN % ", report_to: none, disable_tqdm: true", False),
        (TRAIN % "", TRAIN % ", save_steps: 3", False),
        (TRAIN % f", {BEST}, save_steps: 2", TRAIN % f", {BEST}, save_steps: 4", True),
        (TRAIN % "", TRAIN % ", seconds: 9", False),
        (TRAIN % "", TRAIN % ", devices: 1", False),
        (TRAIN % "", TRAIN % ", devices: 2", True),
        (TRAIN % "", (TRAIN % "").replace("./rows", "rows").replace("./model", "model"), False),
        (SAMPLE % "", SAMPLE % ", max_rows: 7, device: cpu", False),
        (SAMPLE % "", SAMPLE % ", temperature: 0.5", True),
        (SCORE % "scorer: ./model, endpoint: 'http://h:1'", SCORE % "scorer: ./model, endpoint: 'http://h:2'", False),
        (SCORE % "scorer: ./model", SCORE % "scorer: ./model, endpoint: 'http://h:2'", True),
    ],
)
def test_a_key_follows_the_options_that_change_something(
    stage: str, changed: str, is_another: bool, folder: Path
) -> None:
    assert (key(stage) != key(changed)) == is_another


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        (SCORE % "scorer: ./nowhere", "scorer"),
        (SCORE % "scorer: ./model, scorer_reference: ../nowhere", "scorer_reference"),
        ("{command: score, input: nowhere.jsonl, scorer: ./model}", "input"),
        ("{command: sample, model_name_or_path: ./model, dataset_name: nowhere.jsonl}", "dataset_name"),
    ],
)
def test_what_is_missing_is_found_before_anything_runs(stage: str, option: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=rf"stage 's', option '{option}': .*nowhere.* is missing"):
        key(stage)


def test_a_key_does_not_follow_the_order_of_options(folder: Path) -> None:
    first = "{command: grade, input: ./rows.jsonl, deadline_s: 2.0, offset: 1}"
    assert key(first) == key("{offset: 1, deadline_s: 2.0, input: ./rows.jsonl, command: grade}")
