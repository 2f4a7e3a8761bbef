"""`qstep export`: a plain token classifier with one output that gives the same Qs, or nothing and a reason."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

import qstep.scoring.export as export_module
from killed_training import run, write_inputs
from pages import commands
from published_scorers import MAKERS, trl
from qstep.data import write_jsonl
from qstep.data.jsonl import write_json
from qstep.runs.fingerprints import model_fingerprint
from qstep.scoring import StepScorer, load_scorer
from qstep.stages.export import ExportConfig, export
from qstep.tasks import miniature
from scorers import miniature_scorer

STEPS = ["He starts with 3 apples.", "3 + 12 = 15", "The answer is 15."]


def exported(scorer: Path, output: Path, **options: Any) -> Path:
    return export(ExportConfig(scorer=str(scorer), output_dir=output, device="cpu", **options))


def plain(folder: Path, ids: list[int], places: list[int]) -> list[float]:
    """What any user of transformers, or vLLM, reads of the checkpoint."""
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    assert model.config.num_labels == 1 and json.loads((folder / "config.json").read_text())["qstep"]["version"] == 1
    assert model.config.architectures == [type(model).__name__]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, places, 0].tolist()


@pytest.mark.parametrize("kind", ["skywork", "trl"])
def test_a_linear_head_becomes_a_scalar_token_classifier(kind: str, tmp_path: Path) -> None:
    source = MAKERS[kind](tmp_path / kind)
    theirs = load_scorer(str(source), options={"max_length": 1000, "aggregation": "mean"})
    folder = exported(source, tmp_path / "out", scorer_options={"max_length": 1000, "aggregation": "mean"})
    ours = StepScorer.load(folder)
    wanted = theirs.score("How many apples?", STEPS)
    conversation = [{"role": "user", "content": "How many apples?"}]
    q_values = ours.score(conversation if kind == "skywork" else "How many apples?", STEPS)
    assert q_values == pytest.approx(wanted, abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = "How many apples?\n" if kind == "skywork" else "How many apples?"
    ids, places = [tokenizer.bos_token_id, *tokenizer.encode(question, add_special_tokens=False)], []
    for step in STEPS:
        ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
        places.append(len(ids) - 1)
    assert plain(folder, ids, places) == pytest.approx(wanted, abs=1e-4)
    assert (ours.max_length, ours.aggregation, ours.objective, ours.step_separator) == (1000, "mean", kind, "\n")
    assert exported(source, folder, scorer_options={"max_length": 1000, "aggregation": "mean"}) == folder
    with pytest.raises(ValueError, match="is not the export of"):
        exported(source, folder)


def test_our_own_and_their_adapters(tmp_path: Path) -> None:
    own = miniature_scorer(tmp_path / "own")
    folder = exported(own, tmp_path / "plain")
    assert StepScorer.load(folder).score("7+8=\n", ["7+8=5", "#5"]) == StepScorer.load(own).score(
        "7+8=\n", ["7+8=5", "#5"]
    )
    inputs = replace(write_inputs(tmp_path / "inputs"), use_peft=True, lora_r=4)
    adapter = run("pqm", inputs, tmp_path / "adapter")
    folder = exported(adapter, tmp_path / "merged")
    assert not (folder / "adapter_config.json").exists()
    problem = miniature.problems("train", 1)[0]
    steps = miniature.solution(problem.prompt).split("\n")
    wanted = StepScorer.load(adapter).score(problem.prompt, steps)
    assert StepScorer.load(folder).score(problem.prompt, steps) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("qwen_prm", "has two layers, and an exported head has one"),
        ("math_shepherd", "from a language model's words"),
        ("rlhflow", "from a language model's words"),
        ("generative", "from a language model's words"),
        ("implicit", "from a language model's words"),
        ("policy", "from a language model's words"),
    ],
)
def test_what_no_such_checkpoint_computes_is_refused(kind: str, says: str, tmp_path: Path) -> None:
    source = MAKERS[kind](tmp_path / kind)
    reference = str(tmp_path / f"{kind}_reference") if kind in ("implicit", "policy") else None
    with pytest.raises(ValueError, match=says):
        exported(source, tmp_path / "out", scorer_kind=kind, scorer_reference=reference)
    file = tmp_path / "both.yaml"
    file.write_text(f"members: [{miniature_scorer(tmp_path / 'a')}, {miniature_scorer(tmp_path / 'b')}]")
    with pytest.raises(ValueError, match="export its members"):
        exported(file, tmp_path / "out")
    with pytest.raises(ValueError, match="a is the scorer's own folder: give another"):
        exported(tmp_path / "a", tmp_path / "a")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_export_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, original = trl(tmp_path / "trl"), export_module._make_scalar

    def wrong(classifier: Any) -> None:
        original(classifier)
        with torch.no_grad():
            classifier.score.bias.add_(0.001)

    monkeypatch.setattr(export_module, "_make_scalar", wrong)
    with pytest.raises(ValueError, match="the exported checkpoint gives other Qs"):
        exported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_separator_of_several_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"separator ' ; -- ' is \d tokens"):
        exported(trl(tmp_path / "trl"), tmp_path / "out", scorer_options={"step_separator": " ; -- "})


def test_half_precision(tmp_path: Path) -> None:
    source = trl(tmp_path / "trl")
    folder = exported(source, tmp_path / "out", dtype="bfloat16")
    wanted = load_scorer(str(source), dtype="bfloat16").score("How many apples?", STEPS)
    assert StepScorer.load(folder, dtype="bfloat16").score("How many apples?", STEPS) == pytest.approx(wanted, abs=0.05)


def test_the_commands_of_the_page_of_scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `qstep` line of docs/scorers.md, with a tiny model at each name that it says."""
    from qstep.cli import main

    monkeypatch.chdir(tmp_path)
    for name, kind in (
        ("Qwen/Qwen2.5-Math-PRM-7B", "qwen_prm"),
        ("peiyi9979/math-shepherd-mistral-7b-prm", "math_shepherd"),
        ("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", "rlhflow"),
        ("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B", "skywork"),
        ("runs/trl-prm", "trl"),
        ("runs/implicit", "implicit"),
        ("runs/verifier", "generative"),
        ("runs/policy", "policy"),
    ):
        MAKERS[kind](tmp_path / name)
    reference = tmp_path / "runs" / "policy_reference"  # as a training records it
    base = {"name": reference.name, "on_hub": False, "path": f"../{reference.name}"}
    known = {"summary": {"base_model": base}, "settings": {"model": model_fingerprint(str(reference))}}
    write_json(tmp_path / "runs" / "policy" / "train_log.meta.json", known)
    question = "How many apples?"
    rows = [{"id": f"r{n}", "prompt": question, "completion": "\n".join(STEPS[n:]), "task": "math"} for n in range(3)]
    write_jsonl(tmp_path / "responses.jsonl", rows)
    page = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text()
    (tmp_path / "ensemble.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    lines = commands("docs/scorers.md")
    assert len(lines) >= 9
    for line in lines:
        arguments = subprocess.run(
            ["bash", "-c", f'printf "%s\\0" {line.removeprefix("qstep ")}'], capture_output=True, text=True, check=True
        )
        assert main(arguments.stdout.split("\0")[:-1]) == 0, line
    assert len(list(tmp_path.glob("*.jsonl"))) >= 9 and (tmp_path / "trl-scalar" / "config.json").exists()
