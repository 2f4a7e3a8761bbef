"""The chains of commands on README.md and the pages, each run whole: tiny models of the names that the page gives,
files of a few problems, and its sizes made small. What a page says about its options is what is run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pages import ROOT, commands, section
from published_scorers import MAKERS
from qstep.cli import main
from qstep.data import read_rows, write_jsonl

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL_LM = ("HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-Math-1.5B")
TINY_TRAINING = ["--max_steps", "1", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny language models, and a published scorer, in folders named as on the Hub."""
    folder = tmp_path_factory.mktemp("hub")
    for name in SMALL_LM:
        MAKERS["generative"](folder / name)
    MAKERS["qwen_prm"](folder / "Qwen" / "Qwen2.5-Math-PRM-7B")
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with these models."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def responses(problems: int, each: int) -> list[dict[str, str]]:
    """Lines like the README's: sums, of whose responses every other one is wrong in its second step."""
    rows = []
    for number in range(problems):
        total = number + 15
        for sample in range(each):
            said = total + sample % 2
            text = f"{number} apples at first\n{number} + 15 = {said}\n#### {said}"
            rows.append({"question": f"{number} apples and 15 more?", "answer": str(total), "response": text})
    return rows


def run(page: str, heading: str | None, smaller: dict[str, str]) -> list[str]:
    """Runs the commands under a heading, with some of their words replaced, each of which must be there."""
    lines = commands(page, heading)
    unused = {old for old in smaller if not any(old in line for line in lines)}
    assert lines and not unused, f"{page}: no longer has {unused}"
    for line in lines:
        for old, new in smaller.items():
            line = line.replace(old, new)
        arguments = shlex.split(line.replace("$'\\n'", "'\n'"), comments=True)[1:]
        extra = TINY_TRAINING if arguments[0] == "train" else []
        assert main(arguments + extra) == 0, line
    return lines


def test_a_response_scored_in_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len(code.splitlines()) == 5
    exec(code.replace('"cuda"', '"cpu"'), {})
    q_values = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert len(q_values) == 2 and all(isinstance(q, float) for q in q_values)


def test_best_of_n_of_an_own_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example line is one that `grade` takes, and the table has the rows of the table shown."""
    heading = "## Compare ways to choose among responses"
    [example] = re.findall(r"```json\n(.*?)```", section("README.md", heading), re.DOTALL)
    write_jsonl(here / "responses.jsonl", [json.loads(example), *responses(3, 12)])
    run("README.md", heading, {})
    [shown] = re.findall(r"```text\n(.*?)```", section("README.md", heading), re.DOTALL)
    row = r"│ ([a-z ]+?) +│"
    assert re.findall(row, shown) == re.findall(row, "".join(capsys.readouterr())) != []
    assert [row["verdict"] for row in read_rows(here / "runs/my/graded.jsonl")][:3] == ["right", "right", "wrong"]


def test_a_process_reward_model_of_an_own_file(here: Path) -> None:
    write_jsonl(here / "responses.jsonl", responses(6, 4))
    run("README.md", "## Train a process reward model", {"--num_problems 500": "--num_problems 4", "500": "4"})
    assert json.loads(Path("runs/my/pqm/qstep_checkpoint.json").read_text())["settings"]["stop_at_first_error"]
    assert json.loads(Path("runs/my/best_of_n.json").read_text())["problems"] == 2
    assert "apples at first" in Path("runs/my/report.html").read_text()


def test_a_policy(here: Path) -> None:
    write_jsonl(here / "gsm8k.jsonl", [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)])
    small = {
        "--dataset_name openai/gsm8k": "--max_new_tokens 8 --num_problems 2 --dataset_name gsm8k.jsonl",
        "--num_samples 16": "--num_samples 2",
    }
    run("README.md", "## Train a policy", small)
    assert json.loads(Path("runs/my/eval/results.json").read_text())


@pytest.mark.timeout(300)
def test_the_quickstart(here: Path) -> None:
    """From the CSV on the page, with some more lines, to the report."""
    page = "docs/quickstart.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    [table] = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    more = [f'"{row["question"]}",{row["answer"]},"{row["response"]}"\n' for row in responses(5, 4)]
    Path("responses.csv").write_text(table + "".join(more))
    assert len(list(read_rows(Path("responses.csv")))) == 22
    small = {
        "--num_problems 30": "--num_problems 3",
        "--offset 30": "--offset 3",
        "--num_problems 20": "--num_problems 3",
    }
    run(page, None, small)
    assert "apples at first" in Path("runs/quick/report.html").read_text()
    assert json.loads(Path("runs/quick/majority.json").read_text())["problems"] == 6


def test_published_labels_to_a_judged_scorer(here: Path) -> None:
    shepherd = {"input": "1 + 1? Step 1: 1 + 1 = 2 ки\nStep 2: The answer is: 2 ки", "task": "GSM8K"}
    shepherd["label"] = "1 + 1? Step 1: 1 + 1 = 2 +\nStep 2: The answer is: 2 -"
    write_jsonl(here / "shepherd.jsonl", [shepherd])
    wrong = {"id": "a", "problem": "1 + 1?", "steps": ["1 + 1 = 3", "So 3."], "label": 0, "generator": "g"}
    right = {**wrong, "id": "b", "steps": ["1 + 1 = 2"], "label": -1, "final_answer_correct": True}
    write_jsonl(here / "bench.jsonl", [{**wrong, "final_answer_correct": False}, right])
    write_jsonl(here / "responses.jsonl", responses(2, 2))
    assert main(["grade", "--input", "responses.jsonl", "--output", "graded.jsonl"]) == 0
    small = {
        "peiyi9979/Math-Shepherd": "shepherd.jsonl",
        "--dataset_name Qwen/ProcessBench": "--inputs bench.jsonl",
        "--bf16 true ": "",
    }
    run("docs/data.md", "## From published labels to a judged scorer", small)
    assert json.loads(Path("runs/processbench/results.json").read_text())["steps"]
    assert "pqm" in json.loads(Path("runs/best.json").read_text())["curves"]


def test_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run writes nothing; the YAML on the page is a config file."""
    write_jsonl(here / "responses.jsonl", responses(2, 2))
    page = "docs/commandline.md"
    dry, wet = (shlex.split(line)[1:] for line in commands(page))
    assert main(dry) == 0 and not Path("graded.jsonl").exists()
    assert main(wet) == 0 and len(list(read_rows(Path("graded.jsonl")))) == 4
    [config] = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    Path("grade.yaml").write_text(config.replace("graded.jsonl", "again.jsonl"))
    assert main(["grade", "--config", "grade.yaml"]) == 0
    assert Path("again.jsonl").read_bytes() == Path("graded.jsonl").read_bytes()


def test_steps_of_another_splitter(here: Path) -> None:
    rows = responses(2, 2)
    graded = [{"prompt": row["question"], "completion": row["response"], "gold": row["answer"]} for row in rows]
    write_jsonl(here / "responses.jsonl", graded)
    assert main(["grade", "--input", "responses.jsonl", "--output", "graded.jsonl"]) == 0
    run("docs/steps.md", None, {"<|endoftext|>": "<|im_end|>"})
    assert {row["step_separator"] for row in read_rows(Path("scored.jsonl"))} == {"split:sentence"}
