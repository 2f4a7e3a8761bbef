"""Files that are no JSON lines are named as what they are, with what to do; blank lines are skipped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from qstep.data import RowError, count_rows, index_rows, numbered_rows, read_rows
from qstep.data.file_kinds import other_kind
from qstep.stages.grade import GradeConfig, grade
from qstep.tasks import load_problems

ROW = json.dumps({"question": "2+2?", "answer": "4", "response": "#### 4"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(json.loads(ROW), indent=2), "a JSON object over several lines: write each object on one line"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "a Git LFS pointer.*git lfs pull"),
        ("<!DOCTYPE html>\n<html></html>", "a web page: download the data itself"),
        ("- question: 2+2?\n  answer: 4\n", "looks like YAML"),
        ("---\nquestion: 2+2?\n", "looks like YAML"),
        ("question: 2+2?\nanswer: 4\n", "looks like YAML"),
        ("question,answer\n2+2?,4\n", "looks like a table: rename it to end in .csv"),
        ("question\tanswer\n2+2?\t4\n", "looks like a table: rename it to end in .tsv"),
        ("The answer is 4.\n", "plain text. qstep reads JSON lines"),
        ("PK\x03\x04", "a ZIP archive or an Excel file"),
        ("PAR1\x00", "Parquet: rename it to end in .parquet"),
        ("\x00\x01", "binary"),
        ("\xff\xfe{\x00", "UTF-16: convert it to UTF-8"),
        ("\xfe\xff\x00{", "UTF-16: convert it to UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["r.jsonl", "r.txt", "r"])
def test_another_kind_of_file_is_named(tmp_path: Path, content: str, says: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RowError, match=rf"{name}, .*1: .*{says}"):
        list(numbered_rows(path))
    with pytest.raises(RowError, match=says):
        grade(GradeConfig(path, tmp_path / "graded.jsonl"))
    with pytest.raises(RowError, match=says):
        index_rows(path, "prompt-completion")


def test_a_gzip_file_under_another_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(gzip.compress(ROW.encode()))
    with pytest.raises(RowError, match=r"compressed: rename it to end in \.jsonl\.gz"):
        list(read_rows(tmp_path / "r.jsonl"))


def test_a_pretty_printed_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"data": json.loads(ROW)}, indent=2))
    with pytest.raises(ValueError, match=r"r\.json is neither a list of objects nor an object of such lists"):
        list(read_rows(tmp_path / "r.json"))


@pytest.mark.parametrize("content", [f"{ROW}\nnonsense\n", '{"a": 1', f'{{"a": \n{ROW}\n', "[1]\n", "\n\n"])
def test_a_file_of_rows_with_a_bad_line_is_no_other_kind(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    assert other_kind(tmp_path / "r.jsonl") is None


def test_blank_lines_are_skipped_and_line_numbers_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f"\n{ROW}\n  \t\n\r\n{ROW}\n\n")
    assert [number for number, _ in numbered_rows(path)] == [2, 5] and count_rows(path) == 2
    assert len(list(read_rows(grade(GradeConfig(path, tmp_path / "graded.jsonl"))))) == 2
    assert [problem.id for problem in load_problems(str(path))] == ["r/train/0", "r/train/1"]
    path.write_text(f"{ROW}\n\n{{}}\n")
    with pytest.raises(RowError, match=r"r\.jsonl, line 3, field 'prompt': is missing"):
        load_problems(str(path))
