"""Results as files: each kind is written and read back alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from qstep.data import write_json
from qstep.evals import BestOfN, Page, RecipeResult, StudyAnswer, as_json, holds, read_result, write_result
from qstep.evals.results import Result

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("demo_seeds", RecipeResult),
        ("gsm8k_verifiers", Page),
        ("gsm8k_process_rewards", Page),
        ("search_miniature", Page),
        ("gsm8k_verifiers_best_of_n", BestOfN),
        ("chain_sums_gpu", BestOfN),
        *((f"study_{study}", StudyAnswer) for study in ("margin", "verifiers", "label_budget", "aggregation")),
    ],
)
def test_results_on_file_are_read_and_written_back_alike(name: str, kind: type[Result], tmp_path: Path) -> None:
    """The content and its order are the same; the kind comes first."""
    old = SHIPPED / f"{name}.json"
    found = read_result(old, kind)
    write_result(tmp_path / "new.json", found)
    written = (tmp_path / "new.json").read_text()
    assert written.startswith(f'{{\n  "kind": "{kind.kind}",\n')
    assert written == json.dumps(json.loads(old.read_text()), indent=2, ensure_ascii=False) + "\n"
    assert read_result(tmp_path / "new.json", kind) == found
    assert holds(kind)(tmp_path / "new.json") and not any(
        holds(other)(tmp_path / "new.json") for other in get_args(Result) if other is not kind
    )


def best_of_n(**changes: Any) -> dict[str, Any]:
    of = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 4}
    report = {"kind": "best-of-n", "problems": 4, "responses": 8, "ungradable_share": 0.0, "left_out": {}, "ns": [1]}
    report |= {"curves": {"mean": {"1": of}}, "differences": {}, "auc": {}, "provenance": {}}
    return report | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ns": ["1"]}, r"\['ns'\]\[0\] is '1', not a whole number"),
        ({"curves": {"mean": {"1": 0.5}}}, r"\['curves'\]\['mean'\]\['1'\] is 0.5, not a mapping with mean, low"),
        ({"curves": {"mean": {"1": {"mean": 0.9, "low": 0.1, "high": 0.5}}}}, r".*\['1'\]: the interval \[0.1, 0.5\]"),
        ({"problems": True}, r"\['problems'\] is True, not a whole number"),
        ({"auc": None}, r"\['auc'\] is None, not a mapping"),
        ({"auc": {"v": {}}}, r": differences has none of 'v' and 'majority'"),
        ({"ns": [1, 2]}, r": curves\['mean'\] has no '2', which is in ns"),
        ({"ns": []}, r": ns is empty"),
        ({"kind": []}, r" is not a result of `qstep best-of-n`"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", best_of_n(**changes))
    with pytest.raises(ValueError, match=rf"r\.json{says}"):
        read_result(tmp_path / "r.json", BestOfN)


def test_a_missing_field_and_another_kind_are_named(tmp_path: Path) -> None:
    without = best_of_n()
    del without["problems"], without["ns"]
    write_json(tmp_path / "r.json", without)
    with pytest.raises(ValueError, match="has no problems and no ns"):
        read_result(tmp_path / "r.json", BestOfN)
    with pytest.raises(ValueError, match=r"r\.json is not a result of `qstep run` or `qstep report --summary`"):
        read_result(tmp_path / "r.json", StudyAnswer, Page)
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match=r"r\.json is not a result of `qstep report --summary`"):
        read_result(tmp_path / "r.json", Page)
    assert not holds(Page)(tmp_path / "r.json")
    write_json(tmp_path / "r.json", {name: value for name, value in best_of_n().items() if name != "kind"})
    with pytest.raises(ValueError, match=r"r\.json is not a result of `qstep best-of-n`"):
        read_result(tmp_path / "r.json", BestOfN)


def test_what_was_not_measured_is_left_out_and_null_stays(tmp_path: Path) -> None:
    of = {"mean": 0.0, "low": -0.5, "high": 0.5, "n": 4, "a": "v"}
    differences = {b: {**of, "b": b} for b in ("majority", "mean")}
    write_json(tmp_path / "r.json", best_of_n(length={}, auc={"v": {"response": None}}, differences=differences))
    found = read_result(tmp_path / "r.json", BestOfN)
    assert found.aggregations is None and found.length == {}
    written = as_json(found)
    assert "aggregations" not in written and written["length"] == {} and written["auc"] == {"v": {"response": None}}
    assert json.loads(json.dumps(written)) == written
