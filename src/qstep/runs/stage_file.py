"""A stage's output on disk: `<name>.jsonl`, with one row a line, and its sidecar `<name>.meta.json`.

Rows are appended as complete lines, and are on the disk before the writer continues. A killed stage resumes with the
same settings, skips the rows it has, and ends with the rows of an uninterrupted run. The sidecar holds the stage, its
settings and their fingerprint. So rows with different settings never mix.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import qstep
from qstep.data import RowError, canonical_json, count_rows, file_fingerprint, write_json
from qstep.data.jsonl import dump_row, is_json, lines_of, parse_row
from qstep.runs.dry_run import WouldWrite, is_dry_run
from qstep.types import Row
from qstep.words import counted


class SettingsChanged(ValueError):
    """The rows on disk were made with other settings than the current ones. `names` are the settings that differ."""

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = frozenset(names)


class StageBusy(RuntimeError):
    """Another process is writing the same rows."""


class StageFile:
    """The rows of one stage, open for appending by one process. Use it as a context manager.

    done: the keys of the rows on disk. complete: whether `finish` was called, in this run or an earlier one.
    It holds the keys in memory, but not the rows.
    """

    def __init__(
        self, path: Path, key: str, fd: int, meta: dict[str, Any], done: set[str], size: int, digest: hashlib._Hash
    ) -> None:
        self.path = path
        self.key = key
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
        key: str = "id",
        may_grow: Collection[str] = (),
    ) -> StageFile:
        """Opens the rows at `path` (`*.jsonl`) to write or resume them.

        A killed writer may leave an incomplete last line. It is removed, and its row is computed again. If the only
        changes are larger numbers for settings named in `may_grow`, the stage resumes with the new settings, even if
        it was complete.

        Raises:
            SettingsChanged: another stage or other settings made the existing rows.
            StageBusy: another writer has the file open.
            RowError: a line before the last is broken, lacks the key, or repeats one.
            ValueError: the sidecar is missing or unreadable, or the rows of a complete stage were changed.
            WouldWrite: this is a dry run, and nothing was opened.
        """
        path = Path(path)
        meta_path = _sidecar(path)
        if is_dry_run():
            raise WouldWrite(path, _outcome(path, _new_meta(stage, settings), may_grow))
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _lock(path)
        try:
            asked = _new_meta(stage, settings)
            if os.fstat(fd).st_size == 0 and not (meta_path.exists() and _read_meta(path)["complete"]):
                meta = asked  # there are no rows yet, so old settings do not matter
            else:
                meta = _read_meta(path)
                if meta["fingerprint"] != asked["fingerprint"]:
                    _refuse_changes(path, meta, asked, may_grow)
                    meta = asked
            if meta is asked:
                write_json(meta_path, meta)
            done, size, digest = _scan(path, key)
            if meta["complete"]:
                if len(done) != meta["rows"] or size != os.fstat(fd).st_size:
                    raise ValueError(
                        f"{path} has {counted(len(done), 'complete row')}, but {meta_path.name} says that it finished "
                        f"with {meta['rows']}, so it was changed. Restore it, or delete both files"
                    )
                if digest.hexdigest() != meta.get("sha256", digest.hexdigest()):
                    raise ValueError(
                        f"{path} has other rows than those it finished with, by their hash in {meta_path.name}. "
                        "Restore it, or delete both files"
                    )
            elif size != os.fstat(fd).st_size:
                os.ftruncate(fd, size)
                os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        stage_file = cls(path, key, fd, meta, done, size, digest)
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
            ValueError: the stage is complete, or a row lacks its key, repeats one, or is not JSON. Nothing is written.
        """
        if self.complete:
            raise ValueError(f"{self.path} is complete, so no row can be added: choose another file")
        keys: set[str] = set()
        lines = []
        for index, row in enumerate(rows):
            name = row.get(self.key)
            if not isinstance(name, str):
                raise ValueError(f"{self.path}: row {index} to append needs a string as {self.key!r}, not {name!r}")
            if name in self.done or name in keys:
                raise ValueError(f"{self.path} already has a row with {self.key} {name!r}")
            keys.add(name)
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
        self.done |= keys

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Marks the stage complete, and adds the number of rows, their SHA-256 and `summary` to the sidecar."""
        rows = {"rows": len(self.done), "sha256": self._digest.hexdigest()}
        finished = {**self._meta, "complete": True, **rows, "summary": dict(summary or {})}
        write_json(_sidecar(self.path), finished)
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
            _sidecar(self.path).unlink(missing_ok=True)
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
    return path.suffix != ".jsonl" or not _sidecar(path).exists() or bool(_read_meta(path)["complete"])


def finished(path: Path) -> str:
    """The fingerprint of a stage's input.

    Raises:
        ValueError: the stage that writes the input has not finished, so some rows would silently be missing.
    """
    if not is_finished(path):
        raise ValueError(f"{path} is unfinished: first run the command that writes it to its end")
    return file_fingerprint(path)


def _sidecar(path: Path) -> Path:
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is not a .jsonl file, but a stage writes rows: give a name that ends in .jsonl")
    return path.with_suffix(".meta.json")


def _new_meta(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    identity = canonical_json({"stage": stage, "settings": dict(settings)})
    return {
        **json.loads(identity),
        "fingerprint": hashlib.sha256(identity).hexdigest(),
        "complete": False,
        "qstep_version": qstep.__version__,
    }


def _read_meta(path: Path) -> dict[str, Any]:
    """The sidecar of the rows at `path`. Raises ValueError if it is missing or broken."""
    meta_path = _sidecar(path)
    if not meta_path.exists():
        raise ValueError(
            f"{path} has rows but no {meta_path.name}, so their settings are unknown: restore that file, or choose "
            "another output"
        )
    try:
        meta = parse_row(meta_path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{meta_path}: {error}; restore it, or delete it and {path.name}") from None
    if missing := {"stage", "settings", "fingerprint", "complete"} - meta.keys():
        raise ValueError(f"{meta_path} lacks {sorted(missing)}; restore it, or delete it and {path.name}")
    return meta


def _outcome(path: Path, asked: Mapping[str, Any], may_grow: Collection[str]) -> str:
    """What opening a stage would do to the rows at `path`. Raises SettingsChanged as opening it would."""
    rows = count_rows(path) if path.exists() else 0
    if not rows and not (_sidecar(path).exists() and _read_meta(path)["complete"]):
        return "new"
    meta = _read_meta(path)
    if meta["fingerprint"] != asked["fingerprint"]:
        _refuse_changes(path, meta, asked, may_grow)
        return f"extended after {rows} rows"
    return f"complete with {rows} rows: left unchanged" if meta["complete"] else f"resumed after {rows} rows"


def _refuse_changes(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], may_grow: Collection[str]) -> None:
    before = _flat({"stage": old["stage"], **old["settings"]})
    after = _flat({"stage": new["stage"], **new["settings"]})
    grown = {n for n in may_grow if n in before and n in after and float(before[n]) < float(after[n])}
    if before.keys() == after.keys() and all(before[n] == after[n] for n in before.keys() - grown):
        return
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changes = [f"  {name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}" for name in names]
    raise SettingsChanged(
        f"{path} was made with other settings:\n" + "\n".join(changes) + "\n"
        f"Choose another output, or delete {path.name} and {_sidecar(path).name}",
        names,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner` -> JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False)
    return flat


def _scan(path: Path, key: str) -> tuple[set[str], int, hashlib._Hash]:
    """The keys on disk, and the length and SHA-256 of the file without an incomplete last line."""
    done: set[str] = set()
    size, digest = 0, hashlib.sha256()
    for number, line, row in lines_of(path, allow_torn=True):
        if not line.endswith(b"\n"):
            break
        name = row.get(key)
        if not isinstance(name, str):
            raise RowError(path, number, key, "is missing or not a string. Did this stage write the file?")
        if name in done:
            raise RowError(path, number, key, f"{name!r} occurs twice: delete one of the rows")
        done.add(name)
        size += len(line)
        digest.update(line)
    return done, size, digest
