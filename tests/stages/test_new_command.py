"""A new command is one file of less than 60 lines and one entry of the table: the rest is there."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import toy_command
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.recipes import plan, read_recipe
from qstep.stages import commands


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = commands.Command("count", "toy_command", ("toy_command:CountConfig",), "count the words of responses")
    monkeypatch.setitem(commands.COMMANDS, "count", entry)  # type: ignore[arg-type]
    monkeypatch.setattr("qstep.cli.KNOWN", commands.COMMANDS)
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "responses": ["a b", "a b c", "a"]}])


def test_it_is_one_short_file() -> None:
    assert len(inspect.getsource(toy_command).splitlines()) < 60


def test_it_runs_resumes_and_says_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    command = "count --input rows.jsonl --output words.jsonl"
    assert main(command.split()) == 0
    assert "wrote words.jsonl (rows: 3; words: 6)" in capsys.readouterr().err
    assert [row["words"] for row in read_rows(Path("words.jsonl"))] == [2, 3, 1]
    assert main([*command.split(), "--rows_at_once", "3"]) == 0
    assert "words.jsonl is complete; nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--longest=2", "longest: 100 -> 2"),
        ("--longest=0", "--longest is 0; it must be at least 1"),
        ("--output=rows.jsonl", "--output rows.jsonl is also the file of --input"),
    ],
)
def test_its_options_are_checked_by_their_fields(option: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["count", "--input=rows.jsonl"]
    assert main([*given, "--output=words.jsonl"]) == 0
    assert main([*given, *([] if "output" in option else ["--output=words.jsonl"]), option]) == 1
    assert says in capsys.readouterr().err


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Counts the words of every response." in text and "--longest INT " in text
    assert "--input PATH                   rows with a `completion`. (required)" in text


def test_a_recipe_knows_it() -> None:
    stage = "title: t\nabout: a\noutput_dir: out\nstages:\n  words: {command: count, input: ./rows.jsonl%s}\n"
    keys = []
    for options in ("", ", rows_at_once: 3", ", longest: 2"):
        Path("r.yaml").write_text(stage % options)
        keys.append(plan(read_recipe(Path("r.yaml")), Path("out"), [0])[0].stages["words"].key)
    assert keys[0] == keys[1] != keys[2]
