"""Names of models that are not a folder here: which are left to the Hub, and what is said of the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qstep.data import check_model_name
from qstep.models import ModelOptions, ScorerModel
from qstep.models.loading import load_causal_lm, load_tokenizer
from qstep.runs.fingerprints import model_fingerprint
from qstep.scoring import load_scorer, recognise


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models runs/pqm and policy, and a folder that holds none."""
    for name in ("runs/pqm", "policy", "runs/pqn_log"):
        (tmp_path / name).mkdir(parents=True)
        if name != "runs/pqn_log":
            (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("runs/pqn", r"is not a folder here\. Did you mean runs/pqm\?"),
        ("pqm", r"is not a folder here\. Did you mean runs/pqm\?"),
        ("polcy", r"is not a folder here\. Did you mean policy\?"),
        ("./runs/pqn", r"is not a folder here\. Did you mean runs/pqm\?"),
        ("/runs/nothing", r"is not a folder here\. Give a folder, or a Hub id such as owner/model\."),
        ("a/b/c", r"is not a folder here\. Give a folder"),
        ("policy/config.json", r"is a file\. "),
    ],
)
def test_a_misspelled_folder_is_refused_with_near_ones(name: str, says: str, here: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"^{name} {says}"):
        check_model_name(name)
    assert time.monotonic() - begun < 5, "nobody is asked"


@pytest.mark.parametrize("name", ["runs/pqm", "policy", "owner/model", "Qwen/Qwen2.5-Math-PRM-7B"])
def test_what_may_be_a_model_is_left_alone(name: str, here: Path) -> None:
    check_model_name(name)


def test_a_name_of_old_is_taken_from_the_cache(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="gpt2 is not a folder here"):
        check_model_name("gpt2")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    check_model_name("gpt2")


def test_a_long_common_path_makes_no_two_names_similar(here: Path) -> None:
    with pytest.raises(ValueError, match=r"nosuch is not a folder here\. Give a folder"):
        check_model_name(here / "nosuch")


def test_a_hub_id_that_is_not_reached_is_named() -> None:
    with pytest.raises(OSError, match=r"^nosuch/model is not a folder here\. As a Hub id it was not reached"):
        load_tokenizer("nosuch/model")


def test_a_folder_without_a_model_is_no_scorer(here: Path) -> None:
    with pytest.raises(ValueError, match=r"policy has no model: config\.json is missing"):
        recognise("policy")


def test_everything_that_loads_a_model_asks(here: Path) -> None:
    for load in (
        model_fingerprint, recognise, load_scorer, load_tokenizer, ScorerModel.load,
        lambda name: load_causal_lm(ModelOptions(model_name_or_path=name)),
        lambda name: ScorerModel.new(ModelOptions(model_name_or_path=name)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"pqm is not a folder here\. Did you mean runs/pqm\?"):
            load("pqm")
