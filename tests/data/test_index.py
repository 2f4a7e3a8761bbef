"""The index of a rows file: what it says of each row, when it is made again, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from qstep.data import RowError, cached, cached_array, index, index_rows, scanning, write_jsonl


def rows(n: int) -> list[dict]:
    """n rows of n / 4 problems; every 5th is ungradable."""
    return [
        {
            "id": f"p{i // 4}#{i % 4}",
            "problem_id": f"p{i // 4}",
            "prompt": f"Frage {i // 4}: wie groß?",
            "completion": f"a{i}\nb",
            "reward": None if i % 5 == 4 else i / 8,
        }
        for i in range(n)
    ]


def test_it_says_where_each_row_is_and_what_it_holds(tmp_path: Path) -> None:
    """Row 1: `{"id": "p0#1", ...}`, 18 characters of prompt, of which ß takes 2 bytes; `a1`, newline, `b` are 4."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows(9))
    found = index_rows(path, "unpaired")
    assert [found.row(i) for i in range(9)] == rows(9)
    assert found.table["problem"][0] == found.table["problem"][3] != found.table["problem"][4]
    assert np.isnan(found.table["outcome"]).tolist() == [i % 5 == 4 for i in range(9)]
    one = found.table[1]
    assert (one["outcome"], one["prompt_bytes"], one["prompt_extra"], one["response_bytes"]) == (0.125, 19, 1, 4)
    assert (one["steps"], one["ids"], one["graded"], one["behavior"]) == (-1, -1, True, False)
    assert found.separators == [None] and found.roles == [()]


def test_a_label_says_what_is_right_and_a_reward_only_where_there_is_none(tmp_path: Path) -> None:
    """A partial reward is not that of a right response; only a reward of 1 and more is."""
    path = tmp_path / "rows.jsonl"
    graded = [(False, 0.5), (True, 0.0), (None, 0.5), (None, 1.0), (None, 2.0), (None, None)]
    write_jsonl(path, [{"prompt": "p", "completion": "x", "label": a, "reward": b} for a, b in graded])
    assert index_rows(path, "unpaired").table["right"].tolist() == [0, 1, 0, 1, 1, -1]


def test_one_problem_id_with_two_prompts_is_two_problems(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    same = [{"problem_id": "p", "prompt": prompt, "completion": "x"} for prompt in ("a", "b", "a")]
    turns = [
        {"problem_id": "p", "prompt": [{"role": r, "content": "a"}], "completion": "x"} for r in ("user", "system")
    ]
    write_jsonl(path, [*same, *turns])
    found = index_rows(path, "prompt-completion")
    problems = found.table["problem"].tolist()
    assert problems[0] == problems[2] and len(set(problems)) == 4
    assert [found.roles[i] for i in found.table["roles"]] == [(), (), (), ("user",), ("system",)]


def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three byte ranges, cut within lines, with roles and separators that each process numbers for itself."""
    path = tmp_path / "rows.jsonl"
    many = rows(30)
    for i, row in enumerate(many):
        row["step_separator"] = "\n" if i > 14 else "\n\n"
        if i > 22:
            row["prompt"] = [{"role": "user", "content": "hm"}]
    write_jsonl(path, many)
    alone, _ = scanning.scan_file(path, "unpaired", ())
    monkeypatch.setattr(scanning, "_BYTES_A_PROCESS", path.stat().st_size // 3)
    monkeypatch.setattr(scanning, "cores", lambda: 3)
    together, words = scanning.scan_file(path, "unpaired", ())
    assert np.array_equal(alone.tobytes(), together.tobytes())
    assert words == {"separators": ["\n\n", "\n"], "roles": [[], ["user"]], "ending": ""}


@pytest.mark.parametrize("line", [2, 17, 30])
def test_a_bad_row_is_named_by_its_line_in_the_file(line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    many = rows(30)
    many[line - 1]["reward"] = "much"
    many[29]["completion"] = 7 if line < 30 else "x"
    write_jsonl(path, many)
    monkeypatch.setattr(scanning, "_BYTES_A_PROCESS", path.stat().st_size // 3)
    monkeypatch.setattr(scanning, "cores", lambda: 3)
    with pytest.raises(RowError, match=rf"rows\.jsonl, line {line}, field 'reward': is 'much'"):
        index_rows(path, "unpaired")


def test_broken_json_and_a_torn_end_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows(3))
    path.write_bytes(path.read_bytes() + b'{"id": "p9')
    with pytest.raises(RowError, match=r"line 4: not JSON .* Correct or delete this line"):
        index_rows(path, "unpaired")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="has no rows"):
        index_rows(path, "unpaired")


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    many = rows(6)
    many[5]["id"] = many[2]["id"]
    write_jsonl(path, many)
    with pytest.raises(RowError, match=r"line 6, field 'id': 'p0#2' occurs twice \(first on line 3\)"):
        index_rows(path, "unpaired")


def test_a_step_that_contains_the_separator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": "p", "completions": ["a", "b\nc"], "labels": [True, False]}])
    assert len(index_rows(path, "stepwise")) == 1
    with pytest.raises(RowError, match=r"line 1, field 'completions': the step 'b\\nc' contains the separator '\\n'"):
        index_rows(path, "stepwise", forbidden=["\n"])


def test_it_is_kept_until_the_content_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows(8))
    builds = []
    build = index.scan_file
    monkeypatch.setattr(index, "scan_file", lambda *args: builds.append(args) or build(*args))
    first = index_rows(path, "unpaired")
    again = index_rows(path, "unpaired")
    assert len(builds) == 1 and isinstance(again.table, np.memmap)
    assert np.array_equal(first.table.tobytes(), again.table.tobytes())
    kept = path.with_name("rows.jsonl.unpaired.index")
    whole = kept.read_bytes()
    for broken in (b"", b"{}\n", whole[:-1], b"\xff" * 40):
        kept.write_bytes(broken)
        assert len(index_rows(path, "unpaired")) == 8
        assert kept.read_bytes() == whole
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"a3", b"a9"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert index_rows(path, "unpaired").row(3)["completion"] == "a9\nb"
    assert len(builds) == 6
    assert not list(tmp_path.glob(".*"))


def test_a_cache_that_another_run_replaces_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between writing a cache and mapping it, and between reading its key and mapping it."""
    write, memmap, dtype = cached.write_whole, np.memmap, np.dtype("<i8")
    place = tmp_path / "rows.jsonl.lengths"

    def replace() -> None:
        header = json.dumps({"key": {"of": 9}, "rows": 3, "words": {}}).encode()
        write(place, [header, b"\n", np.full(3, 9).tobytes()])

    def lengths(of: int) -> list[int]:
        array = cached_array(
            tmp_path / "rows.jsonl", "lengths", {"of": of}, dtype, lambda: ({}, np.full(3, of, dtype))
        )[1]
        return array.tolist()

    with monkeypatch.context() as patch:
        patch.setattr(cached, "write_whole", lambda *arguments: (write(*arguments), replace()))
        assert lengths(1) == [1, 1, 1]
    assert lengths(1) == [1, 1, 1]
    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", lambda *arguments: (replace(), memmap(*arguments))[1])
        assert lengths(1) == [1, 1, 1]
    assert lengths(9) == [9, 9, 9]


def test_a_folder_that_cannot_be_written_puts_it_into_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows(8))
    write = cached.write_whole

    def refuse(place: Path, chunks: list[bytes]) -> None:
        if place.parent == tmp_path or os.environ.get("FULL"):
            raise OSError("read-only")
        write(place, chunks)

    monkeypatch.setattr(cached, "write_whole", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_rows(path, "unpaired")
    assert [file.name for file in tmp_path.rglob("*.index")] == ["rows.jsonl.unpaired.index"]
    assert json.loads(next(tmp_path.rglob("*.index")).read_bytes().split(b"\n")[0])["rows"] == 8
    monkeypatch.setenv("FULL", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert len(index_rows(path, "unpaired")) == 8


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_row_that_was_changed_to_the_same_size_is_refused(keep_times: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": f"q{i}", "completions": ["a"], "labels": [True]} for i in range(3)])
    found = index_rows(path, "stepwise")
    before = path.stat()
    path.write_text(
        path.read_text().replace(
            '"q1", "completions": ["a"], "labels": [true]', '"zz", "completions": ["a"], "labels": [null]'
        )
    )
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert found.row(0)["prompt"] == "q0" and found.row(2)["prompt"] == "q2"
    with pytest.raises(RowError, match=r"rows\.jsonl, line 2: was changed after the file was indexed"):
        found.row(1)
