"""The examples of docs/files.md: each JSON row is written to the file of the command after it, which then runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import qstep
from pages import commands, section
from qstep.cli import main
from qstep.data import read_rows
from qstep.data.naming import NAMES


def test_every_example_of_responses_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("responses.jsonl").write_text('{"problem": "2+2?", "target": 4, "generation": "It is 4."}')
    assert main(shlex.split(commands("docs/files.md")[0])[1:]) == 0
    text = section("docs/files.md", "## Responses and problems")
    examples = re.findall(r"```json\n(.*?)```\s+```sh\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3 == len(commands("docs/files.md", "## Responses and problems"))
    verdicts = {}
    for row, command in examples:
        words = shlex.split(command)
        Path(words[words.index("--input") + 1]).write_text(row)
        assert main(words[1:]) == 0, command
        output = words[words.index("--output") + 1]
        verdicts[output] = [found["verdict"] for found in read_rows(Path(output))]
    assert verdicts == {
        "graded_other.jsonl": ["right"],
        "graded_qwen.jsonl": ["right", "wrong"],
        "graded_chats.jsonl": ["right"],
    }
    [call] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    rows = qstep.read_rows("other.jsonl")
    assert [row["verdict"] for row in eval(call, {"qstep": qstep, "rows": rows})] == ["right"]


def test_the_table_has_the_names_that_are_read() -> None:
    lines = section("docs/files.md", "## Responses and problems").splitlines()
    named = [re.findall(r"`(\w+)`", line) for line in lines if line.startswith("| ")][1:]
    assert named[:2] == [[*NAMES["prompt"]], [*NAMES["gold"]]] and named[2] + named[3] == [*NAMES["completion"]]
