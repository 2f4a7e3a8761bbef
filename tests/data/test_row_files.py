"""Files of rows as people have them: each kind gives the same rows, to a command, an index and Python."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pytest
from pyarrow import feather, parquet

import qstep
from qstep.data import RowError, index_rows, read_responses, read_rows
from qstep.data.row_files import as_lines
from qstep.stages.grade import GradeConfig, grade

ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1=", "completion": "1+1=2\n#2", "label": True, "gold": "2"},
    {"prompt": "1+1=", "completion": "", "label": False, "gold": "2"},
]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".jsonl"):
        path.write_text("\ufeff" + lines, encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    elif name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith((".arrow.gz", ".parquet.gz")):
        plain = write(folder, name.removesuffix(".gz"), rows)
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    elif name.endswith(".arrow"):
        feather.write_feather(pyarrow.Table.from_pylist(rows), str(path), compression="uncompressed")
    elif name.endswith("folder"):
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        with path.open("w", newline="") as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, names, delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


KINDS = [
    "rows.arrow",
    "rows.arrow.gz",
    "rows.parquet.gz",
    "rows.jsonl",
    "rows.json",
    "rows.jsonl.gz",
    "rows.parquet",
    "folder",
    "rows.csv",
    "rows.tsv",
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, ROWS)
    assert list(read_rows(path)) == ROWS
    index = index_rows(path, "unpaired")
    assert [index.row(i)["label"] for i in range(len(index))] == [True, False]
    output = grade(GradeConfig(input=path, output=tmp_path / "graded" / "out.jsonl"))
    assert [row["verdict"] for row in read_rows(output)] == ["right", "wrong"]
    assert qstep.read_rows(path) == ROWS


@pytest.mark.parametrize("start", ["\n", " \r\n\n", "\ufeff\n"])
def test_blank_lines_before_a_list_are_skipped(start: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(start + json.dumps(ROWS, indent=1))
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("end", ["", "\n\n"])
def test_an_object_of_lists_is_read_on_one_line_too(indent: int | None, end: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"none": [], "one": ROWS, "two": ROWS[:1]}, indent=indent) + end)
    assert list(read_rows(path)) == [*ROWS, ROWS[0]]
    path.write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=indent) + end)
    with pytest.raises(ValueError, match="has the splits train, test"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": [{"role": "user", "content": "Q"}]}],
        [{"turns": [{"text": "Q"}], "question": "Q"}],
        [{"turns": [{"text": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}],
        [{"turns": [{"text": "Q"}]}, {"turns": [{"text": "R"}]}],
    ],
)
def test_a_row_that_begins_with_a_list_is_a_row(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_rows(path)) == rows


def test_a_changed_file_is_converted_again(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", ROWS)
    first = as_lines(path)
    written = first.stat().st_mtime_ns
    assert as_lines(path) == first and first.stat().st_mtime_ns == written
    write(tmp_path, "rows.csv", [*ROWS, ROWS[0]])
    assert len(list(read_rows(path))) == 3


def test_cells_are_text_and_nothing_is_guessed(tmp_path: Path) -> None:
    """A number is an answer's text, an empty cell is null, and only columns that are never text are JSON."""
    path = tmp_path / "rows.csv"
    path.write_text('question,answer,response,note,labels,reward,prompt\n2+3?,05,5,,"[true, null]",,\n')
    [row] = read_rows(path)
    assert row == {"question": "2+3?", "answer": "05", "response": "5", "labels": [True, None]} | {
        "note": None,
        "reward": None,
    }, "a column that may not be null is missing"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"a,b\n1,2,3\n", "a.csv, row 1: has 3 fields, and the first line has 2"),
        ("a.csv", b"a,b\n1\n", "a.csv, row 1: has 1 fields, and the first line has 2"),
        ("a.csv", b"a,a\n1,2\n", "a.csv: the first line has 'a' twice; rename one"),
        ("a.csv", b"a;b\n1;2\n", r"a.csv: its columns are separated by semicolons\. Save it with commas"),
        ("a.csv", b'{"a": 1, "b": 2}\n', r"a.csv has JSON on its first line: rename it to end in \.jsonl"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv, after line .: a quotation mark is never closed"),
        ("a.arrow", b"x", "a.arrow is not an Arrow file"),
        ("a.csv", b"a\n\xff\n", "a.csv, after line 0: not UTF-8. Save the file as UTF-8"),
        ("a.parquet", b"x", "a.parquet is not a Parquet file"),
        ("a.json", b"[1]", "a.json, row 1: is not an object"),
        ("a.json", b"[{]", "a.json is not JSON"),
        ("a.json", b'{\n"train": [{"a": 1}], "test": [{"a": 2}]}', "a.json has the splits train, test. Write the rows"),
        ("a.jsonl.gz", gzip.compress(mtime=0, data=b'{"a": 1}\n{\n'), "a.jsonl.gz, line 2: not JSON"),
        ("a.txt", b"hello\n", "a.txt, row 1: not JSON .* plain text.* names end in .json, .parquet, .csv"),
    ],
)
def test_what_is_no_rows_is_named(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((RowError, ValueError), match=problem):
        list(read_rows(path))
    assert not as_lines_left(tmp_path)


def as_lines_left(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.name.endswith(".rows.jsonl")]


def test_folders_that_are_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder, but not one that Dataset\.save_to_disk wrote"):
        list(read_rows(tmp_path))
    both = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match="has the splits train, test: give the folder of one of them"):
        list(read_rows(tmp_path / "both"))


def test_a_saved_data_set_is_read_without_its_format(tmp_path: Path) -> None:
    """A format hides columns and makes NumPy's numbers."""
    shown = datasets.Dataset.from_list(ROWS).with_format("numpy", columns=["label"])
    shown.save_to_disk(tmp_path / "folder")
    assert list(read_rows(tmp_path / "folder")) == ROWS


@pytest.mark.parametrize("content", [gzip.compress(b'{"a": 1}\n' * 99)[:30], b'{"a": 1}\n'], ids=["cut", "plain"])
def test_a_damaged_gz_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz is damaged or incomplete: .* Copy or download it again"):
        list(read_rows(tmp_path / "rows.jsonl.gz"))


def test_a_missing_reward_is_the_same_in_every_file(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"prompt": ["1+1=", "2+2="], "completion": ["2", "4"], "reward": [1.0, None]})
    frame["label"] = [None, True]
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({**frame, "label": [None, 1.0]}).to_csv(tmp_path / "b.csv", index=False)
    for name in ("a.csv", "a.parquet", "b.csv"):
        index = index_rows(tmp_path / name, "unpaired")
        assert [index.row(n)["reward"] for n in (0, 1)] == [1.0, None], name
        assert [index.row(n)["label"] for n in (0, 1)] == [None, True], name


def test_a_chosen_column_of_a_csv_file_is_read_as_its_own_name_would_be(tmp_path: Path) -> None:
    """Cells are text, so a reward, a label, and steps under other names are JSON. An empty response is a text."""
    rows = [{"q": "1+1=", "out": "1+1=2", "rating": "3", "steps": '["1+1=2"]'}, {"q": "1+1=", "out": "", "rating": ""}]
    chosen = {"question": "q", "response": "out"}
    path = write(tmp_path, "a.csv", rows)
    index = index_rows(path, "unpaired", columns={**chosen, "reward": "rating", "completions": "steps"})
    assert [index.row(n)["reward"] for n in (0, 1)] == [3, None]
    assert index.row(0)["completions"] == ["1+1=2"] and index.row(1)["completion"] == ""
    labelled = write(tmp_path, "b.tsv", [{"q": "1+1=", "out": "2", "correct": "True"}])
    assert index_rows(labelled, "unpaired", columns={**chosen, "label": "correct"}).row(0)["label"] is True
    both = index_rows(Path(f"{path},{labelled}"), "prompt-completion", columns=chosen)
    assert [both.row(n)["completion"] for n in (0, 1, 2)] == ["1+1=2", "", "2"]
    known = write(tmp_path, "c.csv", [{"question": "1+1=", "generation": ""}])
    assert index_rows(known, "prompt-completion").row(0)["completion"] == ""
    lines = write(tmp_path, "a.jsonl", rows[:1])
    with pytest.raises(RowError, match="field 'rating': is '3'; give a finite number"):
        index_rows(lines, "unpaired", columns={**chosen, "reward": "rating"})


def test_only_cells_hold_messages_as_text(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completion": json.dumps([{"role": "assistant", "content": "hi"}])}]
    written = rows[0]["completion"]
    for name, text in (("a.csv", "hi"), ("a.tsv.csv", "hi"), ("a.jsonl", written), ("a.csv.jsonl", written)):
        assert index_rows(write(tmp_path, name, rows), "prompt-completion").row(0)["completion"] == text


@pytest.mark.parametrize("column", ["response", "text", "generations", "code", "responses", "mine"])
def test_a_cell_with_a_list_of_responses(column: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"question": "1+1?", "answer": "2", column: ["It is 3.", "It is 2."], "finish_reasons": ["length", "stop"]}
    cells = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
    for name, written in (("a.jsonl", row), ("a.csv", cells)):
        path = write(tmp_path, name, [written])
        rows = list(read_responses(path, columns={"response": "mine"} if column == "mine" else None))
        assert [found["completion"] for found in rows] == row[column]
        assert [found["finish_reason"] for found in rows] == ["length", "stop"]
    assert caplog.text.count("each entry is read as a response") == (column in ("response", "text", "mine"))


def test_a_cell_that_only_looks_like_a_list_of_responses_is_not_cut(tmp_path: Path) -> None:
    """A list among texts is refused, in each order. Numbers, messages, and a text in JSON lines stay as they are."""
    texts = [{"question": "Q", "response": text} for text in ('["a", "b"]', "c")]
    for rows in (texts, texts[::-1]):
        with pytest.raises(RowError, match=r"row 2, field 'response': is a .*, and there are .* on row 1\. Write"):
            list(read_responses(write(tmp_path, "a.csv", rows)))
    rows = [{"question": "Q", "response": text} for text in ("[1, 2]", "[]", "['a', 'b']", '[["a"]]', "", "[a")]
    assert [r["completion"] for r in read_responses(write(tmp_path, "b.csv", rows))] == [r["response"] for r in rows]
    assert [r["completion"] for r in read_responses(write(tmp_path, "c.jsonl", texts))] == ['["a", "b"]', "c"]


def test_a_null_counts_as_missing_in_every_file(tmp_path: Path) -> None:
    row = {"prompt": "1+1=", "completion": "2", "reward": 1, "finish_reason": None, "gold": None, "sample": None}
    for name in ("a.json", "a.jsonl", "a.parquet", "a.csv"):
        found = index_rows(write(tmp_path, name, [row]), "unpaired").row(0)
        assert not found.keys() & {"finish_reason", "gold", "sample"}, name
    unnamed = [{"problem": None, "question": "1+1=", "response": "2"}]
    assert index_rows(write(tmp_path, "b.jsonl", unnamed), "prompt-completion").row(0)["prompt"] == "1+1="


def test_a_column_that_nothing_reads_is_no_obstacle(tmp_path: Path) -> None:
    """Times become text and NaN null, in a file, in memory and for training alike. What JSON cannot hold is named."""
    at = datetime(2026, 1, 2, 3, 4)
    frame = pandas.DataFrame([{**row, "at": at, "x": float("nan")} for row in ROWS])
    frame.to_parquet(tmp_path / "rows.parquet")
    for rows in (read_rows(tmp_path / "rows.parquet"), index_rows(tmp_path / "rows.parquet", "unpaired")):
        first = next(iter(rows)) if not hasattr(rows, "row") else rows.row(0)
        assert (first["at"], first["x"], first["completion"]) == ("2026-01-02T03:04:00", None, ROWS[0]["completion"])
    qstep.write_rows(frame, tmp_path / "rows.jsonl")
    assert [row["at"] for row in read_rows(tmp_path / "rows.jsonl")] == ["2026-01-02T03:04:00"] * 2
    frame["image"] = [None, b"\xff"]
    frame.to_parquet(tmp_path / "images.parquet")
    with pytest.raises(RowError, match=r"images\.parquet, row 2: column 'image' holds what JSON cannot .* Drop"):
        list(read_rows(tmp_path / "images.parquet"))
    with pytest.raises(ValueError, match=r"^rows\[1\]: column 'image' holds what JSON cannot"):
        qstep.write_rows(frame, tmp_path / "images.jsonl")
    with pytest.raises(ValueError, match="write_rows writes JSON lines"):
        qstep.write_rows(frame, tmp_path / "images.parquet")
