"""A stage's output on disk: `<name>.jsonl`, with one row a line, and its sidecar `<name>.meta.json`.

Rows are appended as complete lines, and are on the disk before the writer continues. A killed stage resumes with the
same settings, skips the rows it has, and ends with the rows of an uninterrupted run. The sidecar holds the stage, its
settings and their fingerprint. So rows with different settings never mix.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qstep.data import RowError, inputs_of, rows_fingerprint, write_json
from qstep.data.jsonl import dump_row, is_json, lines_of
from qstep.runs.dry_run import WouldWrite, is_dry_run
from qstep.runs.sidecar import Meta, new_meta, outcome, read_meta, sidecar, state_of
from qstep.types import Row
from qstep.words import counted


class StageBusy(RuntimeError):
    """Another process is writing the same rows."""


class StageFile:
    """The rows of one stage, open for appending by one process. Use it as a context manager.

    done: the ids of the rows on disk. complete: whether `finish` was called, in this run or an earlier one.
    It holds the ids in memory, but not the rows.
    """

    def __init__(self, path: Path, fd: int, meta: Meta, done: set[str], size: int, digest: hashlib._Hash) -> None:
        self.path = path
        self.done = done
        self._fd = fd
        self._meta = meta
        self._size = size
        self._digest = digest

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        stage: str,
        settings: Mapping[str, Any],
        may_grow: Collection[str] = (),
    ) -> StageFile:
        """Opens the rows at `path` (`*.jsonl`) to write or resume them.

        A killed writer may leave an incomplete last line. It is removed, and its row is computed again. If the only
        changes are larger numbers for settings named in `may_grow`, the stage resumes with the new settings, even if
        it was complete.

        Raises:
            SettingsChanged: another stage or other settings made the existing rows.
            StageBusy: another writer has the file open.
            RowError: a line before the last is broken, lacks an id, or repeats one.
            ValueError: the sidecar is missing or unreadable, or the rows of a complete stage were changed.
            WouldWrite: this is a dry run, and nothing was opened.
        """
        path = Path(path)
        meta_path = sidecar(path)
        asked = new_meta(stage, settings)
        if is_dry_run():
            state, meta = state_of(path, asked, may_grow)
            done, size, digest = _scan(path) if path.exists() and state != "new" else (set(), 0, None)
            if digest is not None and meta["complete"]:
                _refuse_changed_rows(path, meta, len(done), size, digest.hexdigest())
            raise WouldWrite(path, outcome(state, len(done)))
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _lock(path)
        try:
            state, meta = state_of(path, asked, may_grow)
            if state in ("new", "extended"):
                write_json(meta_path, meta)
            done, size, digest = _scan(path)
            if meta["complete"]:
                _refuse_changed_rows(path, meta, len(done), size, digest.hexdigest())
            elif size != os.fstat(fd).st_size:
                os.ftruncate(fd, size)
                os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        stage_file = cls(path, fd, meta, done, size, digest)
        _open_stages.add(stage_file)
        return stage_file

    @property
    def complete(self) -> bool:
        return bool(self._meta["complete"])

    @property
    def summary(self) -> dict[str, Any]:
        """The summary from `finish`, or an empty one before that."""
        return dict(self._meta.get("summary", {}))

    def append(self, rows: Sequence[Row]) -> None:
        """Writes all rows or none, and returns when they are on the disk.

        A failed write (disk full, file-size limit) is undone before its error propagates.

        Raises:
            ValueError: the stage is complete, or a row lacks an id, repeats one, or is not JSON. Nothing is written.
        """
        if self.complete:
            raise ValueError(f"{self.path} is complete, so no row can be added: choose another file")
        ids: set[str] = set()
        lines = []
        for index, row in enumerate(rows):
            name = row.get("id")
            if not isinstance(name, str):
                raise ValueError(f"{self.path}: row {index} to append needs a string as 'id', not {name!r}")
            if name in self.done or name in ids:
                raise ValueError(f"{self.path} already has a row with id {name!r}")
            ids.add(name)
            lines.append(self._encode(name, row))
        added = b"".join(lines)
        data = memoryview(added)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except BaseException as error:
            os.ftruncate(self._fd, self._size)
            if isinstance(error, OSError) and error.errno:
                error.filename = str(self.path)
            raise
        self._size += len(added)
        self._digest.update(added)
        self.done |= ids

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Marks the stage complete, and adds the number of rows, their SHA-256 and `summary` to the sidecar."""
        rows = {"rows": len(self.done), "sha256": self._digest.hexdigest()}
        finished = {**self._meta, "complete": True, **rows, "summary": dict(summary or {})}
        write_json(sidecar(self.path), finished)
        self._meta = finished

    def close(self) -> None:
        """Releases the file for other writers."""
        _open_stages.discard(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> StageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.done and not self.complete:
            self.path.unlink(missing_ok=True)
            sidecar(self.path).unlink(missing_ok=True)
        self.close()

    def _encode(self, name: str, row: Row) -> bytes:
        try:
            return dump_row(row) + b"\n"
        except (TypeError, ValueError) as error:
            field = next((column for column, value in row.items() if not is_json(value)), None)
            raise ValueError(
                f"{self.path}: row {name!r}, field {field!r} cannot be written as JSON: {error}"
            ) from error


# A forked child, such as a grading worker, shares its parent's lock. It would keep the lock if the parent were killed.
_open_stages: weakref.WeakSet[StageFile] = weakref.WeakSet()


def _lock(path: Path) -> int:
    """Opens the file at `path`, creates it if needed, and locks it for this process. Returns its descriptor."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StageBusy(f"another process is writing {path}: wait for it, or stop it") from None
        if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
            return fd
        os.close(fd)  # its last writer deleted it between our opening and locking it


def _close_in_child() -> None:
    for stage_file in list(_open_stages):
        stage_file.close()


os.register_at_fork(after_in_child=_close_in_child)


def is_finished(path: Path) -> bool:
    """Whether the stage that writes `path` has finished.

    A file without a sidecar, or one that is not `.jsonl`, belongs to no stage and counts as finished.
    """
    path = Path(path)
    return path.suffix != ".jsonl" or not sidecar(path).exists() or bool(read_meta(path)["complete"])


def finished(path: Path) -> str:
    """The fingerprint of a stage's input, which covers all of its files.

    Raises:
        ValueError: the stage that writes an input has not finished, so some rows would silently be missing.
    """
    for file in inputs_of(Path(path)):
        if not is_finished(file):
            raise ValueError(f"{file} is unfinished: first run the command that writes it to its end")
    return rows_fingerprint(path)


def _refuse_changed_rows(path: Path, meta: Meta, rows: int, size: int, digest: str) -> None:
    """Raises ValueError if the rows of a complete stage are not those that it finished with."""
    name = sidecar(path).name
    if rows != meta["rows"] or size != path.stat().st_size:
        raise ValueError(
            f"{path} has {counted(rows, 'complete row')}, but {name} says that it finished with {meta['rows']}, so it "
            "was changed. Restore it, or delete both files"
        )
    if digest != meta.get("sha256", digest):
        raise ValueError(
            f"{path} has other rows than those it finished with, by their hash in {name}. Restore it, or delete both "
            "files"
        )


def _scan(path: Path) -> tuple[set[str], int, hashlib._Hash]:
    """The ids on disk, and the length and SHA-256 of the file without an incomplete last line."""
    done: set[str] = set()
    size, digest = 0, hashlib.sha256()
    for number, line, row in lines_of(path, allow_torn=True):
        if not line.endswith(b"\n"):
            break
        name = row.get("id")
        if not isinstance(name, str):
            raise RowError(path, number, "id", "is missing or not a string. Did this stage write the file?")
        if name in done:
            raise RowError(path, number, "id", f"{name!r} occurs twice: delete one of the rows")
        done.add(name)
        size += len(line)
        digest.update(line)
    return done, size, digest
