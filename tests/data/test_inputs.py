"""One option for several files of rows: a list, a pattern and a folder are read like one file that has all rows."""

from __future__ import annotations

import gzip
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from qstep.data import RowError, index_rows, inputs_of, joined, numbered_rows, read_rows, rows_fingerprint, scanning
from qstep.data.inputs import Lines
from qstep.objectives.source import RowsFile
from qstep.runs.options import check_options
from qstep.runs.stage_file import finished
from qstep.stages.audit import AuditConfig, audit
from qstep.stages.commands import COMMANDS
from qstep.stages.grade import GradeConfig, grade


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n}+1=", "completion": f"{n + 1}" if n % 2 else "0", "gold": f"{n + 1}", "label": n % 2 == 1}
        for n in numbers
    ]


def write(path: Path, *numbers: int) -> Path:
    """Writes rows as the path's name says, JSON lines with a blank line first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n" + "".join(json.dumps(row) + "\n" for row in rows(*numbers))
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows(*numbers)), path)
    else:
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three files with rows 0 to 5 in the order of their names, and files that a command left with them."""
    write(tmp_path / "shards" / "a.jsonl", 0, 1)
    write(tmp_path / "shards" / "b.jsonl", 2)
    write(tmp_path / "shards" / "c.jsonl", 3, 4, 5)
    (tmp_path / "shards" / "a.meta.json").write_text('{"complete": true, "stage": 1, "settings": 1, "fingerprint": 1}')
    (tmp_path / "shards" / "a.jsonl.stepwise.index").write_bytes(b"\0")
    return tmp_path / "shards"


def spec(shards: Path, how: str) -> Path:
    if how == "list":
        return joined([shards / "a.jsonl", shards / "b.jsonl", shards / "c.jsonl"])
    return {"folder": shards, "pattern": shards / "*", "parts": Path(f"{shards}/[ab]*, {shards}/c.jsonl")}[how]


@pytest.mark.parametrize("how", ["list", "folder", "pattern", "parts"])
def test_several_files_are_one_in_rows_results_and_index(
    how: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(tmp_path / "one.jsonl", *range(6))
    path = spec(shards, how)
    assert [file.name for file in inputs_of(path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert list(read_rows(path)) == rows(*range(6))
    graded = [grade(GradeConfig(input=p, output=tmp_path / f"{how}{n}.jsonl")) for n, p in enumerate([one, path])]
    assert graded[0].read_bytes() == graded[1].read_bytes()
    alone, index = index_rows(one, "unpaired"), index_rows(path, "unpaired")
    assert [index.row(i) for i in range(6)] == [alone.row(i) for i in range(6)] == rows(*range(6))
    assert [index.place(i) for i in range(6)] == [
        *("2 of a.jsonl", "3 of a.jsonl", "2 of b.jsonl", "2 of c.jsonl", "3 of c.jsonl", "4 of c.jsonl")
    ]
    monkeypatch.setattr(scanning, "_BYTES_A_PROCESS", 120)
    monkeypatch.setattr(scanning, "cores", lambda: 4)
    shared, _ = scanning.scan_file(path, "unpaired", ())
    assert shared.tobytes() == index.table.tobytes()


def test_caches_of_several_files_are_not_those_of_the_first(shards: Path) -> None:
    several = index_rows(joined([shards / "a.jsonl", shards / "b.jsonl"]), "unpaired")
    other = index_rows(joined([shards / "a.jsonl", shards / "c.jsonl"]), "unpaired")
    first = index_rows(shards / "a.jsonl", "unpaired")
    assert [len(several), len(other), len(first)] == [3, 5, 2]
    assert len({several.cached_as, other.cached_as, first.cached_as}) == 3
    assert [file.name for file in inputs_of(shards)] == ["a.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.parametrize(("name", "unit"), [("b.jsonl", "line 2"), ("b.jsonl.gz", "line 2"), ("b.parquet", "row 1")])
def test_errors_name_the_file_and_the_row_in_it(name: str, unit: str, tmp_path: Path) -> None:
    """The first row of the second file is bad, after a blank line in JSON lines."""
    path = joined([write(tmp_path / "a.jsonl", 0, 1, 2), write(tmp_path / name, 9)])
    bad = write(tmp_path / name, 3)
    if bad.suffix == ".parquet":
        parquet.write_table(
            pyarrow.Table.from_pylist([{"prompt": "p", "completion": "1", "gold": "1", "label": "no"}]), bad
        )
    else:
        text = b'\n{"prompt": "p", "completion": "1", "gold": "1", "label": "no"}\n'
        bad.write_bytes(gzip.compress(text, mtime=0) if bad.suffix == ".gz" else text)
    for read in (
        lambda: index_rows(path, "unpaired"),
        lambda: grade(GradeConfig(input=path, output=tmp_path / "o.jsonl")),
    ):
        with pytest.raises(RowError) as error:
            read()
        assert str(error.value).startswith(f"{bad}, {unit}, field 'label': is 'no'")


def test_other_rows_are_named_in_their_files(tmp_path: Path) -> None:
    for name, gold in (("a", "1"), ("b", "2")):
        row = {"id": "x", "prompt": "p", "completion": "1", "gold": gold, "label": True}
        (tmp_path / f"{name}.jsonl").write_text(f"\n\n{json.dumps(row)}\n")
    path = joined([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    with pytest.raises(
        RowError, match=r"b\.jsonl, line 3, field 'id': 'x' occurs twice \(first on line 3 of a\.jsonl\)"
    ):
        index_rows(path, "unpaired")
    with pytest.raises(RowError, match=r"b\.jsonl, line 3, field 'gold'.* has '1' on line 3 of a\.jsonl"):
        grade(GradeConfig(input=path, output=tmp_path / "graded.jsonl"))


def test_the_lines_of_the_files_are_counted_once_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were counted for each row, so the time grew with the square of the rows."""
    for name in ("a", "b"):
        rows = "".join(f'{name}{n},"[""x"", ""y""]","[true, null]"\n' for n in range(20))
        (tmp_path / f"{name}.csv").write_text(f"prompt,steps,ratings\n{rows}")
    counted: list[Path] = []
    count = Lines.first_lines.func
    first_lines = cached_property(lambda lines: counted.append(lines.path) or count(lines))
    first_lines.__set_name__(Lines, "first_lines")
    monkeypatch.setattr(Lines, "first_lines", first_lines)
    source = RowsFile(tmp_path, columns={"completions": "steps", "labels": "ratings"})
    index = source.index("stepwise")
    assert [index.row(number)["labels"] for number in range(40)] == [[True, None]] * 40
    assert source.at(index.line(21)) == index.where(21) == f"{tmp_path / 'b.csv'}, row 2"
    assert counted == [tmp_path]


def test_the_fingerprint_covers_content_and_order_of_all_files(shards: Path) -> None:
    a, b, c = inputs_of(shards)
    found = {rows_fingerprint(joined(files)) for files in ([a, b, c], [a, c, b], [a, b], [a])}
    write(c, 3, 4)
    found.add(rows_fingerprint(shards))
    assert len(found) == 5
    (shards / "b.meta.json").write_text('{"complete": false, "stage": 1, "settings": 1, "fingerprint": 1}')
    with pytest.raises(ValueError, match=r"b\.jsonl is unfinished"):
        finished(shards)


def test_a_list_in_a_file_of_options_is_one_with_commas(shards: Path) -> None:
    [config] = COMMANDS["grade"].check(
        {"input": [str(shards / "a.jsonl"), str(shards / "b.jsonl")], "output": "o.jsonl"}
    )
    assert config.input == Path(f"{shards}/a.jsonl,{shards}/b.jsonl")
    [added] = COMMANDS["grade"].parse(["--input+", "a.jsonl", "--input+", "b.jsonl", "--output", "o.jsonl"])
    assert added.input == Path("a.jsonl,b.jsonl")
    with pytest.raises(ValueError, match=r"x,y\.jsonl has a comma in its name"):
        joined([Path("a.jsonl"), Path("x,y.jsonl")])


def test_what_names_no_files_is_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, problem in {
        "shards/*.csv": "no file of rows matches this pattern",
        "shards/*.index": r"no file of rows matches .*another ending: a\.jsonl\.stepwise\.index",
        "shards/a.jsonl,shards/x.jsonl": r"no such file or directory: 'shards/x\.jsonl'",
        "shards/a.jsonl,shards/*": r"names shards/a\.jsonl twice",
    }.items():
        with pytest.raises((OSError, ValueError), match=problem):
            list(read_rows(Path(path)))
    write(shards / "d.parquet", 7)
    with pytest.raises(ValueError, match=r"has files of several kinds \(\.jsonl, \.parquet\).* as shards/\*\.jsonl"):
        list(read_rows(Path("shards")))


@pytest.mark.parametrize("how", ["list", "folder", "pattern", "parts"])
def test_an_output_is_none_of_the_inputs(how: str, shards: Path, tmp_path: Path) -> None:
    """A file that the pattern or folder would have at the next run is refused at the first."""
    new = {"list": "b.jsonl", "parts": "ab.jsonl"}.get(how, "new.jsonl")
    with pytest.raises(ValueError, match=r"--output .* is also the file of --input"):
        check_options(GradeConfig(input=spec(shards, how), output=shards / new))
    with pytest.raises(ValueError, match=r"--output .* is also the file of --input"):
        GradeConfig(input=Path(f"{shards}/x*.jsonl,{spec(shards, how)}"), output=shards / new)
    GradeConfig(input=spec(shards, how), output=tmp_path / "shards2" / new)


def test_a_missing_list_too_long_for_a_name_is_no_crash(tmp_path: Path) -> None:
    many = joined([write(tmp_path / f"part-{n:03}.jsonl", n) for n in range(300)])
    assert len(list(numbered_rows(many))) == 300


def test_audit_names_lines_in_their_files(shards: Path) -> None:
    write(shards / "b.jsonl", 1)
    found = audit(AuditConfig(train_file=shards))
    assert (found.train_file, found.duplicates.lines) == ("a.jsonl, b.jsonl, c.jsonl", ["2 of b.jsonl"])


def test_a_file_under_two_names_is_read_once_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    for other in (tmp_path / "link.jsonl", tmp_path / "." / ".." / tmp_path.name / "rows.jsonl"):
        with pytest.raises(ValueError, match="twice: its rows would be read twice"):
            inputs_of(Path(f"{tmp_path}/rows.jsonl,{other}"))
