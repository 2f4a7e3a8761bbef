"""Model cards: what training leaves, what `qstep card` adds, what the Hub reads, and what is private."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.report.card import MARKER
from qstep.scoring import StepScorer

TRAINING = ["--max_steps", "2", "--use_cpu", "true", "--report_to", "none", "--save_strategy", "no"]
TRAINING += ["--per_device_train_batch_size", "2", "--logging_steps", "1"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PQM scorer trained from a local folder, one of whose rows has no label."""
    folder = tmp_path_factory.mktemp("runs")
    rows = list(read_rows(rows_file))
    rows[0]["labels"] = [None] * len(rows[0]["labels"])
    write_jsonl(folder / "labelled.jsonl", rows)
    status = run(
        *("train", "pqm", "--train_file", folder / "labelled.jsonl", "--eval_file", rows_file, "--margin", 2),
        *("--eval_strategy", "steps", "--eval_steps", 2, "--model_name_or_path", base),
        *("--output_dir", folder / "pqm", *TRAINING),
    )
    assert status == 0
    return folder / "pqm"


def valid(card: Path) -> ModelCard:
    """The card, of which what the Hub reads comes back from its own reader as it was meant."""
    loaded = ModelCard.load(card)
    again = ModelCardData(**loaded.data.to_dict(), ignore_metadata_errors=False)
    assert again.to_yaml() == loaded.data.to_yaml()
    return loaded


def test_training_leaves_a_card(trained: Path, rows_file: Path) -> None:
    card = valid(trained / "README.md")
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "token-classification" and data["library_name"] == "transformers"
    assert data["tags"] == ["qstep", "pqm", "reasoning", "process-reward-model"]
    assert not {"base_model", "license", "datasets", "model-index"} & set(data), "nobody said them"
    text = card.text
    assert "| `labelled.jsonl` (training) | 63 | 1: no step has a label |" in text
    assert f"| `{rows_file.name}` (evaluation during training) | 64 | none |" in text
    contract = json.loads((trained / "config.json").read_text())["qstep"]
    assert f"(id {contract['separator_token_id']}, inserted by its id)" in text
    assert '| step separator | `"\\n"` |' in text and "| min of the Qs of its steps |" in text
    assert "| `margin` | 2.0 |" in text and "| `max_steps` | 2 |" in text and "| `learning_rate` | 5e-05 |" in text
    assert "| `lr_scheduler_type` | linear |" in text and "| `optim` | adamw_torch" in text
    assert '| `step_separator` | "\\n" |' in text
    assert not re.search(r"\b[A-Z]\w+\.[A-Z_]+\b|\| *(``)? *\|$", text, re.MULTILINE), (
        "no name of an Enum, no empty cell"
    )
    assert "lora_r" not in text and "adam_beta1" not in text
    lines = list(read_rows(trained / "train_log.jsonl"))
    loss = next(line["loss"] for line in reversed(lines) if "loss" in line)
    eval_loss = next(line["eval_loss"] for line in reversed(lines) if "eval_loss" in line)
    assert f"| `loss` | 2 | {loss:.4g} |" in text and f"| `eval_loss` | 2 | {eval_loss:.4g} |" in text
    assert "## Evaluation" not in text


def test_nothing_of_this_machine_is_in_a_card(trained: Path, base: Path) -> None:
    text = (trained / "README.md").read_text()
    for private in (str(trained.parent), str(base.parent), str(Path.home()), str(Path.cwd())):
        assert private not in text
    assert re.search(r"from a local model called `base\d+`", text)


@pytest.mark.parametrize("block", [0, 1], ids=["qstep", "transformers"])
def test_the_card_s_python_gives_the_scorer_s_qs(block: int, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets, run in the folder above with the miniature's words."""
    monkeypatch.chdir(trained.parent)
    question, steps = "7+8*3=\n", ["7+8=5", "5*3=5"]
    code = re.findall(r"```python\n(.*?)```", (trained / "README.md").read_text(), re.DOTALL)[block]
    for old, new in zip(("the question", "the first step", "the second step"), (question, *steps), strict=True):
        assert f'"{old}"' in code
        code = code.replace(f'"{old}"', repr(new))
    found: dict[str, Any] = {}
    exec(code.replace("scorer.score(", "q_values = scorer.score("), found)
    expected = StepScorer.load(trained).score(question, steps)
    assert torch.as_tensor(found["q_values"]).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def results(trained: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judged")
    assert run("evaluate", "processbench", "--scorer", trained, "--inputs.mini", rows_file, "--output_dir", out) == 0
    return out / "results.json"


def test_results_become_the_hub_s_index(trained: Path, results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "moved")
    assert (
        run(
            *("card", "--model", folder, "--results", results, "--license", "apache-2.0"),
            *("--datasets", '["openai/gsm8k"]'),
        )
        == 0
    )
    card = valid(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.datasets == ["openai/gsm8k"]
    measured = json.loads(results.read_text())["steps"]["mini"]
    index = {of.metric_name: of for of in card.data.eval_results or []}
    assert index["F1 of first wrong steps"].metric_value == pytest.approx(measured["f1"]["mean"], abs=1e-4)
    assert index["AUROC of steps"].metric_type == "roc_auc" and index["AUROC of steps"].dataset_name == "mini"
    assert "[{low:.3f}, {high:.3f}] | 64 |".format(**measured["f1"]) in card.text
    assert "sigmoid(Q) is below 0.5." in card.text and str(tmp_path) not in card.content
    before = (folder / "README.md").read_text()
    assert run("card", "--model", folder, "--output", tmp_path / "other.md") == 0
    assert "## Evaluation" not in (tmp_path / "other.md").read_text()
    assert (folder / "README.md").read_text() == before


def test_what_a_card_cannot_say_is_refused(
    trained: Path, results: Path, base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "of another"}))
    no_results = {
        "empty": {},
        "chosen": {"problems": 3, "curves": {}, "provenance": {"settings": {}}},
        "audit": {"steps": 3, "problems": 2, "provenance": {}},
        "page": {"steps": {"pqm": {}}, "provenance": {}},
    }
    for name, of in no_results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    written = (folder / "README.md").read_text()
    for arguments, says in (
        (("--model", folder, "--results", results), "has results of another model"),
        *((("--model", folder, "--results", tmp_path / f"{name}.json"), "is not a result of") for name in no_results),
        (("--model", base), "has no train_log.meta.json"),
    ):
        assert run("card", *arguments) == 1
        assert says in capsys.readouterr().err
    marker = next(line for line in written.splitlines() if MARKER in line)
    assert marker.endswith("To keep your edits, delete this line: qstep then refuses to overwrite it. -->")
    earlier = "<!-- Written by qstep, which writes it anew; without this line it is yours. -->\nAn earlier card."
    (folder / "README.md").write_text(written.replace(marker, earlier))
    assert run("card", "--model", folder) == 0
    overwritten = (folder / "README.md").read_text()
    assert marker in overwritten and "An earlier card." not in overwritten
    (folder / "README.md").write_text(written.replace(marker, "Mine."))
    assert run("card", "--model", folder) == 1
    assert "README.md" in capsys.readouterr().err
    assert "Mine." in (folder / "README.md").read_text()


def test_a_policy_s_card(base: Path, rows_file: Path, tmp_path: Path) -> None:
    assert (
        run(
            *("train", "dqo", "--train_file", rows_file, "--model_name_or_path", base, "--beta", 0.05),
            *("--output_dir", tmp_path / "dqo", *TRAINING),
        )
        == 0
    )
    card = valid(tmp_path / "dqo" / "README.md")
    assert card.data.pipeline_tag == "text-generation" and card.data.tags == ["qstep", "dqo", "reasoning"]
    assert "AutoModelForCausalLM" in card.text and "Step contract" not in card.text and "| `beta` | 0.05 |" in card.text


def test_results_belong_to_a_policy_by_its_weights(
    base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its folder: the policy may be trained again there, or move. A file of problems may be gone by then."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_jsonl(Path("data/problems.jsonl"), [{"question": "1+1=\n", "answer": "2"}])
    for seed in (1, 2):
        train = ("train", "sft", "--train_file", rows_file, "--model_name_or_path", base, "--seed", seed)
        assert run(*train, "--output_dir", f"policy{seed}", *TRAINING) == 0
    evaluate = ("evaluate", "--model_name_or_path", "policy1", "--dataset_name", "data/problems.jsonl")
    assert run(*evaluate, "--max_new_tokens", 4, "--output_dir", "judged") == 0
    shutil.rmtree("data")
    Path("policy1").rename("moved")
    Path("policy2").rename("policy1")
    capsys.readouterr()
    assert run("card", "--model", "policy1", "--results", "judged/results.json") == 1
    assert "has results of another model" in capsys.readouterr().err
    assert run("card", "--model", "moved", "--results", "judged/results.json") == 0
    (first, *_) = valid(Path("moved/README.md")).data.eval_results or []
    assert first.dataset_type == first.dataset_name == "problems.jsonl" and first.dataset_split is None
    results = json.loads(Path("judged/results.json").read_text())
    Path("old.json").write_text(json.dumps(results | {"policy": None}))
    assert run("card", "--model", "moved", "--results", "old.json") == 1
    assert "does not say which files the policy had: evaluate it again" in capsys.readouterr().err


def test_an_adapter_s_card_replaces_peft_s(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """peft writes a card of its own, with the base model's path in it."""
    pytest.importorskip("peft")
    assert (
        run(
            *("train", "bce", "--train_file", rows_file, "--model_name_or_path", base, "--use_peft", "true"),
            *("--lora_r", 4, "--output_dir", tmp_path / "bce", *TRAINING),
        )
        == 0
    )
    card = valid(tmp_path / "bce" / "README.md")
    assert card.data.library_name == "peft" and "| `lora_r` | 4 |" in card.text
    assert MARKER in card.content and str(base) not in card.content


def test_a_finished_folder_is_pushed_once(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is replaced. What it gets is complete: the card, the marker and a log that says so."""
    import huggingface_hub
    import transformers.trainer

    uploaded: list[dict[str, bytes]] = []

    class Hub:
        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Url", (), {"repo_id": f"me/{repo_id}"})()

        def upload_folder(self, *, folder_path: Path, repo_id: str, **options: Any) -> None:
            assert repo_id == "me/pqm-mini"
            uploaded.append({file.name: file.read_bytes() for file in Path(folder_path).iterdir() if file.is_file()})

    monkeypatch.setattr(transformers.trainer, "hf_api", Hub)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    given = (
        *("train", "pqm", "--train_file", rows_file, "--model_name_or_path", base, "--push_to_hub", "true"),
        *("--hub_model_id", "pqm-mini", "--output_dir", tmp_path / "pqm", *TRAINING[:-6], *TRAINING[-4:]),
        *("--save_strategy=steps", "--save_steps=1"),
    )
    assert run(*given) == 0
    (files,) = uploaded
    assert MARKER.encode() in files["README.md"]
    assert json.loads(files["train_log.meta.json"])["complete"] and "qstep_checkpoint.json" in files
    assert "training_args.bin" not in files
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "pqm").iterdir() if file.is_file()}
    assert run(*given) == 0 and uploaded == [files, files], "as after an upload that failed"
