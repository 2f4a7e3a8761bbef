"""`qstep sample`: which prompts fit, before anything is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_families import saved
from qstep.data import read_rows, write_jsonl
from qstep.runs.sidecar import read_meta
from qstep.stages.sample import SampleConfig, sample
from qstep.tasks import miniature


def test_prompts_that_do_not_fit_are_found_before_the_first_response(tmp_path: Path) -> None:
    """Refused with their number and length, or left out and counted; nothing stays of the refused run."""
    base = saved("llama", tmp_path / "base")  # 128 positions
    miniature.tokenizer().save_pretrained(base)
    questions = ["1+2*3=\n"] * 3 + ["1+2*" * 29 + "3=\n"]
    problems = [{"id": f"p{i}", "question": question, "answer": "9"} for i, question in enumerate(questions)]
    write_jsonl(tmp_path / "p.jsonl", problems)
    options: dict[str, Any] = dict(
        model_name_or_path=str(base), dataset_name=str(tmp_path / "p.jsonl"), num_samples=2, max_new_tokens=16
    )
    output = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"1 prompt and --max_new_tokens 16 exceed the 128 positions .*\(119 tokens\)"):
        sample(SampleConfig(output=output, **options))
    assert not output.exists() or not output.read_text()
    found = list(read_rows(sample(SampleConfig(output=output, over_long="drop", **options))))
    assert len(found) == 6
    assert read_meta(output)["summary"]["over_long"] == 1
    with pytest.raises(ValueError, match="was written with --over_long drop, without 1 problem"):
        sample(SampleConfig(output=output, **options))


def test_further_responses_follow_the_first_ones(tmp_path: Path) -> None:
    """Two and then two more are the four that are drawn at once: other ids, other random numbers."""
    base = saved("llama", tmp_path / "base")
    miniature.tokenizer().save_pretrained(base)
    options: dict[str, Any] = dict(
        model_name_or_path=str(base), dataset_name="miniature", num_problems=2, max_new_tokens=8
    )
    drawn = {
        name: list(read_rows(sample(SampleConfig(output=tmp_path / f"{name}.jsonl", **options, **more))))
        for name, more in {
            "first": {"num_samples": 2},
            "further": {"num_samples": 2, "first_sample": 2},
            "all": {"num_samples": 4},
        }.items()
    }
    order = [row["id"] for row in drawn["all"]]
    apart = sorted(drawn["first"] + drawn["further"], key=lambda row: order.index(row["id"]))
    for row, expected in zip(apart, drawn["all"], strict=True):
        # A batch of other rows may change the last bits.
        assert row.pop("logps_behavior") == pytest.approx(expected.pop("logps_behavior"), abs=1e-5)
    assert apart == drawn["all"]
    settings = {name: read_meta(tmp_path / f"{name}.jsonl")["settings"] for name in drawn}
    assert "first_sample" not in settings["first"], "files of earlier versions are resumed"
    assert settings["further"]["first_sample"] == 2
