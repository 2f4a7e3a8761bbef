"""A stage's file against kills, torn writes, full disks, second writers and changed settings."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qstep.data import RowError, canonical_json, count_rows, read_rows, write_json
from qstep.runs.sidecar import SettingsChanged
from qstep.runs.stage_file import StageBusy, StageFile, is_finished

SETTINGS = {"temperature": 1.0, "model": {"name": "tiny", "layers": 2}}


def open_stage(path: Path, **changes: Any) -> StageFile:
    return StageFile.open(path, stage="sample", settings={**SETTINGS, **changes})


def row(index: int, size: int = 40) -> dict[str, Any]:
    """A row determined by its number, with text that a torn byte breaks."""
    filler = random.Random(index).choices('aé∑😀\n"\\', k=size)
    return {"id": f"p/{index}", "text": "".join(filler), "logps": [-0.1 * index, -1e-9]}


def in_child(work: Callable[[], str]) -> str:
    """Runs `work` in a forked child and returns its answer, or the name and text of its error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = work()
        except (OSError, ValueError, RuntimeError) as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer


def test_rows_come_back_and_the_sidecar_tells_their_story(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0), row(1)])
        assert not stage.complete and not is_finished(path)
        stage.append([])
        stage.append([row(2)])
        stage.finish({"right": 2})
        assert stage.complete
    assert list(read_rows(path)) == [row(0), row(1), row(2)]
    assert count_rows(path) == 3 and is_finished(path)
    meta = json.loads((tmp_path / "deep" / "rows.meta.json").read_text())
    assert meta["stage"] == "sample" and meta["settings"] == SETTINGS
    assert (meta["complete"], meta["rows"], meta["summary"]) == (True, 3, {"right": 2})
    assert not list(path.parent.glob(".*"))
    with open_stage(path) as again:
        assert again.complete and again.done == {"p/0", "p/1", "p/2"}
        with pytest.raises(ValueError, match="complete"):
            again.append([row(3)])


def test_0_and_0_0_are_the_same_setting(tmp_path: Path) -> None:
    """Python gives a float where the command line has read a whole number."""
    path = tmp_path / "rows.jsonl"
    with open_stage(path, warmup=0, share=1.0) as stage:
        stage.append([row(0)])
        stage.finish({})
    with open_stage(path, warmup=0.0, share=1) as again:
        assert again.complete
    with pytest.raises(SettingsChanged, match=r"warmup: 0 -> 0\.5"):
        open_stage(path, warmup=0.5, share=1)


def test_a_users_file_counts_as_finished(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "a"}')
    assert is_finished(path) and list(read_rows(path)) == [{"id": "a"}]


def content(path: Path) -> list[bytes]:
    """The rows of a file, whatever their order."""
    return sorted(map(canonical_json, read_rows(path)))


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"text": "no key"}, "needs a string as 'id'"),
        ({"id": 3}, "needs a string as 'id'"),
        ({"id": "p/0"}, "already"),
        ({"id": "p/7"}, "already"),
        ({"id": "n", "logps": [float("nan")]}, "field 'logps'"),
        ({"id": "n", "reward": float("-inf")}, "field 'reward'"),
        ({"id": "n", "score": {1, 2}}, "field 'score'"),
        ({"id": "n", "text": "\ud800"}, "field 'text'"),
    ],
)
def test_a_bad_row_writes_nothing(tmp_path: Path, bad: dict[str, Any], what: str) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0)])
        before = path.read_bytes()
        with pytest.raises(ValueError, match=what):
            stage.append([row(7), bad])
        assert path.read_bytes() == before and stage.done == {"p/0"}
        stage.append([row(7)])


def test_changed_settings_are_listed_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0)])
    before = path.read_bytes()
    with pytest.raises(SettingsChanged) as refusal:
        open_stage(path, temperature=0.7, model={"name": "big", "layers": 2}, top_p=0.9)
    message = str(refusal.value)
    assert "temperature: 1.0 -> 0.7" in message and 'model.name: "tiny" -> "big"' in message
    assert "top_p: (absent) -> 0.9" in message and "layers" not in message and "another output" in message
    with pytest.raises(SettingsChanged, match="stage"):
        StageFile.open(path, stage="grade", settings=SETTINGS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("sidecar", [None, b"", b"{", b"[]", b'{"stage": "sample"}', b"\x00" * 40])
def test_rows_without_a_readable_sidecar_are_refused(tmp_path: Path, sidecar: bytes | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a"}\n')
    if sidecar is not None:
        (tmp_path / "rows.meta.json").write_bytes(sidecar)
    with pytest.raises(ValueError, match=r"rows\.meta\.json"):
        open_stage(path)
    assert path.read_text() == '{"id": "a"}\n'


def test_a_torn_tail_at_every_byte_of_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0), row(1), row(2)])
        stage.finish()
    meta = path.with_suffix(".meta.json")
    whole, wanted = path.read_bytes(), content(path)
    unfinished = {**json.loads(meta.read_text()), "complete": False}
    start = whole.rindex(b"\n", 0, -1) + 1
    write_json(meta, unfinished)
    for cut in range(start, len(whole)):
        for tail in (b"", b"\x00" * 50):
            path.write_bytes(whole[:cut] + tail)
            if cut + len(tail) > start and (cut < len(whole) - 1 or tail):
                with pytest.raises(RowError, match=r"line 3: not .* incomplete"):
                    list(read_rows(path))
                assert list(read_rows(path, allow_torn=True)) == [row(0), row(1)]
            with open_stage(path) as stage:
                assert stage.done == {"p/0", "p/1"} and path.stat().st_size == start
                stage.append([row(2)])
            assert content(path) == wanted


def test_a_break_before_the_tail_is_an_error_and_repairs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0)])
    good = path.read_bytes()
    for middle, what in [
        (b'{"id": "x\n', "line 2: not JSON"),
        (b"\x00\x00\n", "line 2: not JSON"),
        (b"\n", "line 2: not JSON"),
        (b"\xff\n", "line 2: not UTF-8"),
        (b"7\n", "line 2: a number, not a JSON object"),
        (b'{"id": "x", "q": NaN}\n', "line 2: NaN is not JSON"),
        (b"[" * 100_000 + b"\n", "line 2: JSON nested too deeply"),
        (b'{"id": "\\ud800"}\n', "line 2: a lone surrogate"),
        (b'{"no": 1}\n', "line 2, field 'id'"),
        (good, "line 2, field 'id': 'p/0' occurs twice"),
    ]:
        broken = good + middle + b'{"id": "last"}\n'
        path.write_bytes(broken)
        with pytest.raises(RowError, match=what):
            open_stage(path)
        assert path.read_bytes() == broken


def test_a_finished_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        stage.append([row(0), row(1)])
        stage.finish()
    for size in (0, 10, path.stat().st_size - 1):
        os.truncate(path, size)
        with pytest.raises(ValueError, match="finished with 2"):
            open_stage(path)
        assert path.stat().st_size == size
        path.write_bytes(b"".join(json.dumps(row(i)).encode() + b"\n" for i in range(2)))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with open_stage(path) as stage:
        with pytest.raises(StageBusy, match=r"rows\.jsonl"):
            open_stage(path)
        assert in_child(lambda: open_stage(path) and "opened").startswith("StageBusy")
        list(read_rows(path))  # closing a reader's descriptor must not give the lock away
        assert in_child(lambda: open_stage(path) and "opened").startswith("StageBusy")
        stage.append([row(0)])
    with open_stage(path) as stage:
        assert stage.done == {"p/0"}


def test_a_killed_writers_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    read, write = os.pipe()
    writer = os.fork()
    if writer == 0:
        stage = open_stage(path)
        worker = os.fork()
        if worker == 0:
            os.write(write, os.getpid().to_bytes(8, "little"))
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        stage.close()
        os._exit(0)
    worker = int.from_bytes(os.read(read, 8), "little")
    try:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        open_stage(path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read)
        os.close(write)


def test_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """A writer is killed 20 times; what it acknowledged is always there, and the end is the same.

    A writer has 30 rows to write in a life and then waits, so a parent that the machine wakes late still finds rows
    left for the next; it is killed once the parent has read the names of a random number of them.
    """
    rng = random.Random(7)
    lives, share = 20, 30
    rows = [row(i, size=rng.choice([10, 300, 15_000])) for i in range(lives * share + 60)]
    with open_stage(tmp_path / "calm.jsonl") as stage:
        stage.append(rows)
        stage.finish()
    path = tmp_path / "rows.jsonl"

    def write_in_threes(stage: StageFile, left: list[dict[str, Any]], told: int | None = None) -> None:
        for start in range(0, len(left), 3):
            batch = left[start : start + 3]
            stage.append(batch)
            if told is not None:
                os.write(told, "".join(f"{r['id']}\n" for r in batch).encode())
                time.sleep(0.001)

    acknowledged: set[str] = set()
    cut_short = 0
    for _ in range(lives):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            with open_stage(path) as stage:
                os.write(write, b"\n")
                write_in_threes(stage, [r for r in rows if r["id"] not in stage.done][:share], told=write)
                time.sleep(60)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = [pipe.readline() for _ in range(rng.randrange(1, share))]
            time.sleep(rng.uniform(0, 0.002))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told += pipe
        named = {line.strip() for line in told} - {""}
        cut_short += len(named) < share
        acknowledged |= named
        with open_stage(path) as stage:
            assert acknowledged <= stage.done
    assert cut_short > 0, "a kill is to strike a writer at work"
    with open_stage(path) as stage:
        write_in_threes(stage, [r for r in rows if r["id"] not in stage.done])
        stage.finish()
    assert len(list(read_rows(path))) == len(rows)
    assert content(path) == content(tmp_path / "calm.jsonl")


def test_a_full_disk_is_undone_and_survived(tmp_path: Path) -> None:
    """The file-size limit lets half of a write through; it is cut off, and the rows can come later."""
    path = tmp_path / "rows.jsonl"

    def fill() -> str:
        with open_stage(path) as stage:
            stage.append([row(0)])
            size = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
            try:
                stage.append([row(1, 5000)])
            except OSError as error:
                problem = f"{type(error).__name__} of {Path(error.filename).name}"
            assert path.stat().st_size == size and stage.done == {"p/0"}
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            stage.append([row(1, 5000)])
            return problem

    assert in_child(fill) == "OSError of rows.jsonl"
    assert list(read_rows(path)) == [row(0), row(1, 5000)]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write = os.write
    with open_stage(path) as stage:
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
        stage.append([row(0), row(1)])
    assert list(read_rows(path)) == [row(0), row(1)]


def test_an_interrupted_write_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"

    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    with open_stage(path) as stage:
        stage.append([row(0)])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupted)
            stage.append([row(1)])
        assert stage.done == {"p/0"}
        stage.append([row(1)])
    assert list(read_rows(path)) == [row(0), row(1)]


def test_a_read_only_folder_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)

        def attempt() -> str:
            if os.geteuid() == 0:
                os.setuid(65534)  # permissions do not bind root
            open_stage(Path(folder) / "rows.jsonl")
            return "opened"

        assert in_child(attempt).startswith("PermissionError") and "rows.jsonl" in in_child(attempt)
        Path(folder).chmod(0o700)


def test_rows_changed_to_the_same_size_after_the_end_are_refused(tmp_path: Path) -> None:
    """Also where the stage was resumed once, and where the sidecar of an older qstep has no SHA-256."""
    path, options = tmp_path / "out.jsonl", {"stage": "grade", "settings": {"a": 1}}
    for ids in (["x"], ["y", "z"]):
        with StageFile.open(path, **options) as file:
            file.append([{"id": name, "verdict": "right"} for name in ids])
    with StageFile.open(path, **options) as file:
        file.finish()
    with StageFile.open(path, **options) as file:
        assert file.complete
    path.write_text(path.read_text().replace("right", "wrong", 1))
    with pytest.raises(ValueError, match="has other rows than those it finished with"):
        StageFile.open(path, **options)
    sidecar = path.with_suffix(".meta.json")
    meta = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({name: value for name, value in meta.items() if name != "sha256"}))
    with StageFile.open(path, **options) as file:
        assert file.complete
