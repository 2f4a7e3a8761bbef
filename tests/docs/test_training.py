"""The commands of docs/training.md, with tiny models and files of those names and a step or two of each training."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pages import ROOT, commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.objectives import METHODS
from qstep.tasks import miniature

PAGE = "docs/training.md"
TEXT = (ROOT / PAGE).read_text()


@pytest.mark.timeout(300)
def test_every_command_of_the_page_runs(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model in re.findall(r"--model_name_or_path (Qwen\S+)", TEXT):
        shutil.copytree(base, model, dirs_exist_ok=True)
    rows = list(read_rows(rows_file))
    answers = {problem.id: problem.gold for problem in miniature.problems("train", 16)}
    rows = [{**row, "task": "miniature", "gold": answers[row["problem_id"]]} for row in rows]
    for name in ("train", "graded", "scored"):
        write_jsonl(Path(f"{name}.jsonl"), rows[:40])
    for name in ("test", "validation"):
        write_jsonl(Path(f"{name}.jsonl"), rows[40:])
    tiny = ["--max_steps", "2", "--use_cpu", "true", "--report_to", "none", "--per_device_train_batch_size", "2"]
    for command in commands(PAGE):
        small = command.replace("_steps 50", "_steps 1").replace("_tokens 1024", "_tokens 32")
        arguments = shlex.split(small)[1:]
        if arguments[0] == "train":
            arguments += tiny if "--save_steps" in arguments else [*tiny, "--save_strategy", "no"]
        assert main(arguments) == 0, command
    trained = {shlex.split(command)[2] for command in commands(PAGE) if command.startswith("qstep train")}
    assert trained == {*METHODS} - {"mse", "pqm_theoretical", "pqm_ablation"}
    for method in METHODS:
        assert f"`{method}`" in TEXT, method
    assert all((Path("runs") / folder / "config.json").exists() for folder in ("pqm", "orm", "dqo_steps", "merged"))
    assert "eval_accuracy" in {key for line in read_rows(Path("runs/watched/train_log.jsonl")) for key in line}
    assert len(list(read_rows(Path("runs/watched/eval_samples.jsonl")))) == 8, "four problems, two evaluations"
    assert Path("inspect.html").read_text().count('class="response"') == 4
    card = Path("runs/pqm/README.md").read_text()
    assert "train.jsonl" in card and "1e-05" in card
    assert set(re.findall(r"`(eval_[a-z/_]+)`", TEXT)) <= {
        key for line in read_rows(Path("runs/best/train_log.jsonl")) for key in line
    }
