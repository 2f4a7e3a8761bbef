"""The one loop of commands that write rows: what is there is kept, the end says what was written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.runs.progress import counts_text
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.types import Row

ROWS: list[Row] = [{"id": f"{n}"} for n in range(7)]


class Stopped(Exception):
    pass


def written(path: Path, *, stop_after: int | None = None) -> list[list[str]]:
    """Writes seven rows in blocks of two, and returns the blocks that were computed."""
    computed: list[list[str]] = []

    def blocks() -> Iterator[list[Row]]:
        for block in in_blocks(ROWS, 2):
            if len(computed) == stop_after:
                raise Stopped
            computed.append([row["id"] for row in block])
            yield block

    def work(done: Collection[str]) -> Work:
        return Work(len(ROWS), blocks(), lambda rows: {"last": [row["id"] for row in rows][-1]})

    assert write_rows(path, "test", {"seed": 1}, work) == {"last": "6"}
    return computed


def test_a_stopped_run_resumes_and_a_finished_one_computes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(Stopped):
        written(path, stop_after=2)
    assert [row["id"] for row in read_rows(path)] == ["0", "1", "2", "3"]
    capsys.readouterr()
    assert written(path) == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]
    assert list(read_rows(path)) == ROWS, "rows that are there already are not written again"
    assert f"wrote {path} (rows: 7; last: 6)" in capsys.readouterr().err
    before = path.read_bytes()
    computed: list[Work] = []
    summary = write_rows(
        path, "test", {"seed": 1}, lambda done: computed.append(Work(0, [], lambda _: {})) or computed[0]
    )
    assert summary == {"last": "6"} and not computed and path.read_bytes() == before
    assert capsys.readouterr().err == f"{path} is complete; nothing to do\n"


def test_a_row_that_the_same_run_has_written_is_not_dropped(tmp_path: Path) -> None:
    """Rows with one id in two blocks are an error, as they are in one block."""
    work = Work(2, [[{"id": "a"}], [{"id": "a"}]], lambda _: {})
    with pytest.raises(ValueError, match="already has a row with id 'a'"):
        write_rows(tmp_path / "rows.jsonl", "test", {}, lambda done: work)


def test_counts_are_words() -> None:
    assert counts_text({"rows": 3, "verdicts": {"right": 2, "wrong": 1}}) == "rows: 3; verdicts: 2 right, 1 wrong"
    assert counts_text({"over_long": 0, "parts_not_used": {}, "rollouts": {"drawn": None}}) == (
        "over long: 0; parts not used: none; rollouts: unknown drawn"
    )


def test_a_command_ends_with_its_counts_and_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("r.jsonl"), [{"question": "1+1?", "answer": "2", "responses": ["#### 2", "#### 3", "Two?"]}])
    for words in ("wrote g.jsonl (rows: 3; verdicts: 1 right, 2 wrong, 0 ungradable)", "g.jsonl is complete"):
        assert main(["grade", "--input", "r.jsonl", "--output", "g.jsonl"]) == 0
        assert words in capsys.readouterr().err
    for command in ("best-of-n --inputs g.jsonl --output b.json", "report --results b.json --output p.html"):
        assert main(command.split()) == 0
        assert f"wrote {command.split()[-1]}\n" in capsys.readouterr().err
    assert json.loads(Path("b.json").read_text())["problems"] == 1
