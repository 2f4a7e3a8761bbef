"""Data sets of several files, whose rows are named by their own files, and names that are neither file nor Hub id."""

from __future__ import annotations

from pathlib import Path

import pytest

from published_rows import TRL
from qstep.data import RowError, Source, read_rows, write_jsonl
from qstep.stages.convert import ConvertConfig, convert
from qstep.tasks import load_problems
from raw_rows import write


def test_rows_of_several_files_are_named_by_their_own(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", TRL, TRL), write(tmp_path / "b.jsonl", TRL)
    for name in (f"{a},{b}", f"{tmp_path}/*.jsonl"):
        output = tmp_path / "out" / f"rows{len(name)}.jsonl"
        rows = list(read_rows(convert(ConvertConfig(name, output))))
        assert [(row["id"], row["source"]) for row in rows] == [("a/0", "a"), ("a/1", "a"), ("b/0", "b")]


def test_a_problem_has_one_id_in_all_lists_of_files(tmp_path: Path) -> None:
    """Blank lines count as lines, and not in the ids."""
    a, b, c = (tmp_path / f"{name}.jsonl" for name in "abc")
    for file in (a, b, c):
        file.write_text(f'\n{{"question": "{file.stem}?", "answer": "1"}}\n')
    assert [p.id for p in load_problems(f"{a},{b}", split="test")] == ["a/test/0", "b/test/0"]
    assert [(p.id, p.prompt) for p in load_problems(f"{c},{b}")] == [("c/train/0", "c?"), ("b/train/0", "b?")]
    b.write_text('{"question": "b?"}\n')
    with pytest.raises(RowError, match=r"b\.jsonl, line 1, field 'gold'"):
        load_problems(f"{a},{b}")
    with pytest.raises(ValueError, match="which has no splits"):
        load_problems(f"{a},{b}", split="dev")


def test_files_of_one_name_are_named_by_their_folders(tmp_path: Path) -> None:
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        write_jsonl(tmp_path / part / "rows.jsonl", [{"question": part, "answer": "1"}])
    problems = load_problems(f"{tmp_path}/*/rows.jsonl")
    assert [p.id for p in problems] == ["one/rows.jsonl/train/0", "two/rows.jsonl/train/0"]


def test_a_path_to_nothing_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(FileNotFoundError, match="not read as a data set of the Hub, because data is a folder here"):
        load_problems("data/problems")
    with pytest.raises(FileNotFoundError, match="no such file or directory, and not the id of a data set of the Hub"):
        load_problems("./some/where/else/problems")
    assert not Source.of("owner/problems").is_file
