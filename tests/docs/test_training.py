"""The commands of docs/training.md and docs/policies.md, with tiny models and files, and a step or two of training."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest

from chats import save_chat_model
from pages import ROOT, commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.objectives import METHODS
from qstep.tasks import miniature

TRAINING, POLICIES = "docs/training.md", "docs/policies.md"
TINY = ["--max_steps", "2", "--use_cpu", "true", "--report_to", "none", "--per_device_train_batch_size", "2"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.fixture
def folder(base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with models and files of the names that the pages use."""
    monkeypatch.chdir(tmp_path)
    for model in set(re.findall(r"(?:--model_name_or_path|--policy) (Qwen\S+)", text_of(TRAINING) + text_of(POLICIES))):
        shutil.copytree(base, model)
    save_chat_model(Path("chat"))
    problems = list(miniature.problems("train", 16))
    answers = {problem.id: problem.gold for problem in problems}
    rows = [{**row, "task": "miniature", "gold": answers[row["problem_id"]]} for row in read_rows(rows_file)]
    for name in ("train", "graded", "scored"):
        write_jsonl(Path(f"{name}.jsonl"), rows[:40])
    for name in ("test", "validation"):
        write_jsonl(Path(f"{name}.jsonl"), rows[40:])
    write_jsonl(Path("problems.jsonl"), [{"problem": problem.prompt, "answer": problem.gold} for problem in problems])
    with Path("responses.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("prompt", "response", "reward"))
        table.writerows((row["prompt"], row["completion"], row["reward"]) for row in rows[:40])
    return tmp_path


def run(page: str) -> set[str]:
    """Runs the page's commands and returns the methods it trains by."""
    for command in commands(page):
        small = command.replace("_steps 50", "_steps 1").replace("_tokens 1024", "_tokens 32")
        if "--columns.user" in small:  # only this model has a chat template
            small = small.replace("Qwen/Qwen2.5-0.5B-Instruct", "chat")
        arguments = shlex.split(small)[1:]
        if arguments[0] == "train":
            arguments += TINY if "--save_steps" in arguments else [*TINY, "--save_strategy", "no"]
        elif arguments[0] == "evaluate":
            arguments += ["--max_new_tokens", "32"]
        assert main(arguments) == 0, command
    return {shlex.split(command)[2] for command in commands(page) if command.startswith("qstep train")}


@pytest.mark.timeout(300)
def test_every_command_about_training_runs(folder: Path) -> None:
    assert run(TRAINING) == {"pqm", "bce", "orm", "dqo"}
    for method in METHODS:
        assert f"`{method}`" in text_of(TRAINING), method
    assert all((Path("runs") / name / "config.json").exists() for name in ("pqm", "orm", "dqo", "merged"))
    card = Path("runs/pqm/README.md").read_text()
    assert "train.jsonl" in card and "1e-05" in card
    assert set(re.findall(r"`(eval_[a-z/_]+)`", text_of(TRAINING))) <= {
        key for line in read_rows(Path("runs/best/train_log.jsonl")) for key in line
    }


@pytest.mark.timeout(300)
def test_every_command_about_policies_runs(folder: Path) -> None:
    assert run(POLICIES) == {name for name, method in METHODS.items() if method.kind == "policy"}
    assert all((Path("runs") / name / "config.json").exists() for name in ("policy", "dqo_steps"))
    assert "eval_accuracy" in {key for line in read_rows(Path("runs/watched/train_log.jsonl")) for key in line}
    assert len(list(read_rows(Path("runs/watched/eval_samples.jsonl")))) == 8, "four problems, two evaluations"
    assert Path("inspect.html").read_text().count('class="response"') == 4
