"""Data sets of the Hub as inputs, read from a server on this machine by the command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_server import HubRepository, serving
from qstep.data import inputs_of, read_rows
from qstep.data.hub import HubId, is_hub_id

_READ = """
import json, sys
from pathlib import Path
from qstep.data import read_rows, rows_fingerprint
for name in sys.argv[1:]:
    try:
        found = [rows_fingerprint(Path(name)), [row["question"] for row in read_rows(Path(name))]]
    except (OSError, ValueError) as error:
        found = ["error", str(error)]
    print(json.dumps(found))
"""
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

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Run, list[str]]]:
    """Runs Python code with the server as its Hub and empty caches. Also what the server was asked for."""
    with serving(REPOSITORY) as (address, asked):

        def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
            env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
            return subprocess.run(
                [sys.executable, "-c", code, *arguments],
                env={**os.environ, **env, "HF_HUB_OFFLINE": "0", **environment},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )

        yield run, asked


def found(ran: subprocess.CompletedProcess[str]) -> list[list[Any]]:
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_rows_are_those_of_the_commit_and_the_split(hub: tuple[Run, list[str]]) -> None:
    """Offline, what was read before is read again. A Hub that is not reached is an error, though a copy is here."""
    run, asked = hub
    online = found(
        run(_READ, "me/sums", "me/sums@v1", "me/sums/test", "me/sums@v9", "me/sums/dev", "me/sums:b", "me/no")
    )
    assert online[:3] == [
        [f"me/sums@{NEW}/train", ["1+1?", "2+1?", "3+1?"]],
        [f"me/sums@{OLD}/train", ["1+1?"]],
        [f"me/sums@{NEW}/test", ["7+1?", "8+1?"]],
    ]
    problems = (
        "me/sums has no revision 'v9': give a branch, tag or commit",
        "me/sums has no split 'dev'; it has test and train",
        "me/sums has no configuration 'b'; it has default",
        "me/no is neither a file or folder here nor a data set of the Hub",
    )
    for (kind, said), problem in zip(online[3:], problems, strict=True):
        assert kind == "error" and problem in said
    del asked[:]
    *offline, unknown = found(run(_READ, "me/sums", "me/sums@v1", "me/sums@v2", HF_HUB_OFFLINE="1"))
    assert offline == online[:2] and not asked
    assert "HF_HUB_OFFLINE is set, and revision v2 of it is not on this machine. Give a file" in unknown[1]
    [[_, unreached]] = found(run(_READ, "me/sums", HF_ENDPOINT="http://127.0.0.1:9"))
    assert "the Hub was not reached" in unreached and "HF_HUB_OFFLINE=1" in unreached


def test_a_command_records_the_commit(hub: tuple[Run, list[str]], tmp_path: Path) -> None:
    ran = hub[0](_QSTEP, "grade", "--input", "me/sums@v1", "--output", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    assert [row["verdict"] for row in read_rows(tmp_path / "out.jsonl")] == ["right"]
    assert json.loads((tmp_path / "out.meta.json").read_text())["settings"]["input"] == f"me/sums@{OLD}/train"


def test_nothing_but_an_id_asks_the_hub(hub: tuple[Run, list[str]], tmp_path: Path) -> None:
    """A path that exists wins, and a mistyped path in a folder that is here is no id."""
    run, asked = hub
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "sums").write_bytes(rows(5))
    (_, prompts), (_, typo), (_, plain) = found(run(_READ, "me/sums", "me/sum", "sums"))
    assert prompts == ["5+1?"]
    assert "no such file or directory. It is not read as a data set of the Hub, because me is a folder" in typo
    assert "no such file or directory, and not the id of a data set of the Hub, which is owner/" in plain
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
