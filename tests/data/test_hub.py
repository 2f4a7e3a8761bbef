"""Data sets of the Hub as inputs, read from a server on this machine by the command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_server import HubRepository, serving
from qstep.data import inputs_of, read_rows
from qstep.data.hub import HubId, is_hub_id

_QSTEP = "import sys; from qstep.cli import main; sys.exit(main(sys.argv[1:]))"


def rows(*numbers: int) -> bytes:
    lines = ({"question": f"{n}+1?", "answer": str(n + 1), "response": f"#### {n + 1}"} for n in numbers)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


REPOSITORY = HubRepository(
    "me/sums",
    {"README.md": b"# Sums", "train.jsonl": rows(1), "test.jsonl": rows(7, 8)},
    {"README.md": b"# Sums", "train.jsonl": rows(1, 2, 3), "test.jsonl": rows(7, 8)},
    tags={"v1": 0},
)
OLD, NEW = REPOSITORY.commits

Grade = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Grade, list[str]]]:
    """The command `qstep grade` with the server as its Hub and empty caches, and what the server was asked for."""
    with serving(REPOSITORY) as (address, asked):

        def grade(name: str, output: str, **environment: str) -> subprocess.CompletedProcess[str]:
            env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
            return subprocess.run(
                [sys.executable, "-c", _QSTEP, "grade", "--input", name, "--output", output],
                env={**os.environ, **env, "HF_HUB_OFFLINE": "0", **environment},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )

        yield grade, asked


def test_rows_are_those_of_the_commit_and_split_and_the_commit_is_recorded(
    hub: tuple[Grade, list[str]], tmp_path: Path
) -> None:
    grade, asked = hub
    for name, commit, split, prompts in (
        ("me/sums", NEW, "train", ["1+1?", "2+1?", "3+1?"]),
        ("me/sums@v1", OLD, "train", ["1+1?"]),
        ("me/sums/test", NEW, "test", ["7+1?", "8+1?"]),
    ):
        ran = grade(name, "out.jsonl")
        assert ran.returncode == 0, ran.stderr
        assert [row["prompt"] for row in read_rows(tmp_path / "out.jsonl")] == prompts
        meta = tmp_path / "out.meta.json"
        assert json.loads(meta.read_text())["settings"]["input"] == f"me/sums@{commit}/{split}"
        meta.unlink()
        (tmp_path / "out.jsonl").unlink()
    del asked[:]
    assert grade("me/sums@v1", "offline.jsonl", HF_HUB_OFFLINE="1").returncode == 0
    assert len([*read_rows(tmp_path / "offline.jsonl")]) == 1 and not asked
    unknown = grade("me/sums@v2", "no.jsonl", HF_HUB_OFFLINE="1")
    assert (unknown.returncode, asked) == (1, [])
    assert "HF_HUB_OFFLINE is set, and revision v2 of it is not on this machine. Give a file" in unknown.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("me/sums@v9", "me/sums has no revision 'v9': give a branch, tag or commit"),
        ("me/sums/dev", "me/sums has no split 'dev'; it has test and train"),
        ("me/sums:other", "me/sums has no configuration 'other'; it has default"),
        ("me/none", "me/none is neither a file or folder here nor a data set of the Hub"),
    ],
)
def test_what_the_hub_does_not_have_is_refused(name: str, problem: str, hub: tuple[Grade, list[str]]) -> None:
    ran = hub[0](name, "out.jsonl")
    assert ran.returncode == 1 and problem in ran.stderr


def test_a_hub_that_is_not_reached_is_an_error_though_a_copy_is_here(hub: tuple[Grade, list[str]]) -> None:
    grade, _ = hub
    assert grade("me/sums", "out.jsonl").returncode == 0
    ran = grade("me/sums", "again.jsonl", HF_ENDPOINT="http://127.0.0.1:9")
    assert ran.returncode == 1 and "the Hub was not reached" in ran.stderr and "HF_HUB_OFFLINE=1" in ran.stderr


def test_nothing_but_an_id_asks_the_hub(hub: tuple[Grade, list[str]], tmp_path: Path) -> None:
    """A path that exists wins, and a mistyped path in a folder that is here is no id."""
    grade, asked = hub
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "sums").write_bytes(rows(5))
    assert grade("me/sums", "out.jsonl").returncode == 0
    assert [row["prompt"] for row in read_rows(tmp_path / "out.jsonl")] == ["5+1?"]
    typo = grade("me/sum", "no.jsonl")
    assert "no such file or directory. It is not read as a data set of the Hub, because me is a folder" in typo.stderr
    plain = grade("sums", "no.jsonl")
    assert "sums: no such file or directory, and not the id of a data set of the Hub, which is owner/" in plain.stderr
    assert not asked


def test_the_form_of_an_id() -> None:
    assert HubId.of("a/b") == HubId("a/b")
    assert HubId.of("a/b@v1:main/test") == HubId("a/b", "v1", "main", "test")
    assert HubId.of("a/b@refs/convert/parquet/dev") == HubId("a/b", "refs/convert/parquet", None, "dev")
    for text in ("a", "./a/b", "/a/b", "../b", "a/b.jsonl", "a/b/c/d", "a/b/c.parquet", "~/b"):
        assert HubId.of(text) is None, text


def test_an_id_may_be_in_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(rows(1))
    assert inputs_of(Path("a.jsonl,me/sums/test")) == (Path("a.jsonl"), Path("me/sums/test"))
    assert is_hub_id(Path("me/sums/test"))
