"""A stage's output on disk: `<name>.jsonl`, one row a line, and its sidecar `<name>.meta.json`.

Rows are only appended, complete lines at a time, and are on the disk before the writer continues. A killed stage
resumes with the same settings, skips the rows it has, and ends with the rows of an uninterrupted run. The sidecar
holds the stage, its settings and their fingerprint. So rows that were made with different settings never mix.
"""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import uuid
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import qstep
from qstep.types import Row
from qstep.words import counted


class RowError(ValueError):
    """A row that cannot be used. The message names the file, the line, the field, and what to do."""

    def __init__(self, path: Path, line: int, field: str | None, problem: str) -> None:
        unit = "row" if path.suffix in (".json", ".parquet") else "line"
        where = f"{path}, {unit} {line}" + (f", field {field!r}" if field else "")
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.line = line
        self.field = field
        self.problem = problem


class SettingsChanged(ValueError):
    """The rows on disk were made with other settings than the ones now asked for: `names` are those that differ."""

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = frozenset(names)


class StageBusy(RuntimeError):
    """Another process is writing the same rows."""


class StageFile:
    """The rows of one stage, open for appending by one process. Use as a context manager.

    done: the keys of the rows on disk. complete: whether `finish` was called, now or in an earlier run.
    Memory grows with the keys only, never with the rows.
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
        """Opens the rows at `path` (`*.jsonl`) to write or to resume them.

        An incomplete last line, left by a killed writer, is removed, and its row counts as not done. If the only
        changes are larger numbers for settings named in `may_grow`, the stage resumes with the new settings, even if
        it was complete.

        Raises:
            SettingsChanged: the rows there were made by another stage or with other settings.
            StageBusy: another writer has the file open.
            RowError: a line before the last is broken, lacks the key, or repeats one.
            ValueError: the sidecar is missing or unreadable, or the rows of a complete stage were changed.
        """
        path = Path(path)
        meta_path = _sidecar(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _lock(path)
        try:
            asked = _new_meta(stage, settings)
            if os.fstat(fd).st_size == 0 and not (meta_path.exists() and _read_meta(path)["complete"]):
                meta = asked  # nothing was made yet, under whatever settings
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
                        f"{path} holds {counted(len(done), 'complete row')}, but finished with {meta['rows']}, as "
                        f"{meta_path.name} says: it was changed since. Restore it, or delete both files"
                    )
                if digest.hexdigest() != meta.get("sha256", digest.hexdigest()):
                    raise ValueError(
                        f"{path} does not hold the rows it finished with, as {meta_path.name} says: it was changed "
                        "since. Restore it, or delete both files"
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
        """The summary given to `finish`; empty before."""
        return dict(self._meta.get("summary", {}))

    def append(self, rows: Sequence[Row]) -> None:
        """Writes rows, all or none, and returns when they are on the disk.

        A write that fails (disk full, file-size limit) is undone before its error propagates.

        Raises:
            ValueError: the stage is complete, or a row lacks its key, repeats one, or is not JSON. Nothing is
                written.
        """
        if self.complete:
            raise ValueError(f"{self.path} is complete; no row can be added")
        keys: set[str] = set()
        lines = []
        for index, row in enumerate(rows):
            name = row.get(self.key)
            if not isinstance(name, str):
                raise ValueError(f"{self.path}: row {index} to append needs a string as {self.key!r}, not {name!r}")
            if name in self.done or name in keys:
                raise ValueError(f"{self.path} has a row with {self.key} {name!r} already")
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
        """Marks the stage complete: its sidecar gets the number of rows, their SHA-256 and `summary`."""
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
            return _dump(row) + b"\n"
        except (TypeError, ValueError) as error:
            field = next((column for column, value in row.items() if not _is_json(value)), None)
            raise ValueError(
                f"{self.path}: row {name!r}, field {field!r} cannot be written as JSON: {error}"
            ) from error


# A forked child (a grading worker, say) shares its parent's lock and, if the parent were killed, would keep
# it.
_open_stages: weakref.WeakSet[StageFile] = weakref.WeakSet()


def _lock(path: Path) -> int:
    """A descriptor of the file at `path`, which is created if needed, locked for this process alone."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StageBusy(f"{path} is being written by another process; wait for it, or stop it") from None
        if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
            return fd
        os.close(fd)  # its last writer failed and deleted it after we opened it and before we locked it


def _close_in_child() -> None:
    for stage_file in list(_open_stages):
        stage_file.close()


os.register_at_fork(after_in_child=_close_in_child)


def read_rows(path: Path, *, allow_torn: bool = False) -> Iterator[Row]:
    """Yields the rows of a JSONL file in order.

    Raises RowError at a line that is not a JSON object. A broken last line is typical of an unfinished stage: with
    `allow_torn` it is left out instead.
    """
    for _, row in numbered_rows(Path(path), allow_torn=allow_torn):
        yield row


def numbered_rows(path: Path, *, allow_torn: bool = False) -> Iterator[tuple[int, Row]]:
    """Like `read_rows`, with each row's line number, counted from 1."""
    for number, _, row in _lines(path, allow_torn=allow_torn):
        yield number, row


def count_rows(path: Path) -> int:
    """The number of lines of a JSONL file, which are not parsed."""
    with Path(path).open("rb") as lines:
        return sum(1 for _ in lines)


def is_finished(path: Path) -> bool:
    """Whether the rows at `path` are complete: False for a stage that was stopped before its end.

    A file without a sidecar, or one that is not `.jsonl`, is not a stage's, and counts as finished.
    """
    path = Path(path)
    return path.suffix != ".jsonl" or not _sidecar(path).exists() or bool(_read_meta(path)["complete"])


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes. A stage records it for each input."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value, UTF-8, keys sorted. Raises ValueError at NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON, through `write_whole`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(Path(path), [text.encode()])


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Replaces `path` by the rows, one a line, through `write_whole`."""
    write_whole(Path(path), (_dump(row) + b"\n" for row in rows))


def write_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Replaces `path` by the chunks, one after another: a reader sees the old file or the new one, never a part.

    Makes its folder. Raises OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # the message names the file that the user knows
            error.filename, error.filename2 = str(path), None
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of files, is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sidecar(path: Path) -> Path:
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: a stage's rows are a .jsonl file")
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
    """The sidecar of the rows at `path`; ValueError where it is absent or broken."""
    meta_path = _sidecar(path)
    if not meta_path.exists():
        raise ValueError(
            f"{path} has rows but no {meta_path.name}, so the settings that made them are unknown: "
            "restore that file, or choose another place to write to"
        )
    try:
        meta = parse_row(meta_path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{meta_path}: {error}; restore it, or delete it and {path.name}") from None
    if missing := {"stage", "settings", "fingerprint", "complete"} - meta.keys():
        raise ValueError(f"{meta_path} lacks {sorted(missing)}; restore it, or delete it and {path.name}")
    return meta


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
        f"Choose another place to write to, or delete {path.name} and {_sidecar(path).name}",
        names,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner` -> JSON text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False)
    return flat


def _lines(path: Path, *, allow_torn: bool) -> Iterator[tuple[int, bytes, Row]]:
    """Yields each line's number, counted from 1, its bytes and its row."""
    with path.open("rb") as lines:
        line = lines.readline()
        number = 0
        while line:
            number += 1
            following = lines.readline()
            try:
                row = parse_row(line)
            except ValueError as error:
                whole = line.endswith(b"\n") or line.startswith(b"[")
                if following or (whole and not allow_torn):
                    raise RowError(path, number, None, f"{error}. Correct or delete this line") from None
                if not allow_torn:
                    raise RowError(
                        path,
                        number,
                        None,
                        f"{error}. The last line is incomplete: finish the stage that wrote it, or correct the line",
                    ) from None
                return
            yield number, line, row
            line = following


def _scan(path: Path, key: str) -> tuple[set[str], int, hashlib._Hash]:
    """The keys on disk, and the length and the SHA-256 of the file up to its torn tail."""
    done: set[str] = set()
    size, digest = 0, hashlib.sha256()
    for number, line, row in _lines(path, allow_torn=True):
        if not line.endswith(b"\n"):
            break
        name = row.get(key)
        if not isinstance(name, str):
            raise RowError(path, number, key, "is missing or no string. Was the file written by this stage?")
        if name in done:
            raise RowError(path, number, key, f"{name!r} occurs twice; delete one of the rows")
        done.add(name)
        size += len(line)
        digest.update(line)
    return done, size, digest


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _is_json(value: Any) -> bool:
    try:
        _dump(value)
    except (TypeError, ValueError):
        return False
    return True


_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_MAY_OVERFLOW = (b"0e00", b"0e+00", b"0" * 300)
"""How a number beyond floating point looks, once all its digits are replaced by 0."""


def parse_row(text: bytes) -> Row:
    """Parses one JSON object. Raises ValueError, with a message for the file's user, for anything else."""
    try:
        row = json.loads(text.decode(), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        if text.startswith(codecs.BOM_UTF8):
            raise ValueError("the file begins with a byte-order mark: save it as UTF-8 without one") from None
        if text.startswith(b"["):
            raise ValueError(
                "a JSON list begins here: a .jsonl file has one object on each line, as `jq -c '.[]'` writes"
            ) from None
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise ValueError(f"not JSON ({what} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not a JSON object")
    digits_alike = text.translate(_DIGITS_ALIKE)
    if any(sign in digits_alike for sign in _MAY_OVERFLOW) and not _is_json(row):
        raise ValueError("a number too large to be finite")
    if b"\\u" in text and not _is_json(row):
        raise ValueError("a lone surrogate escape, which is not text")
    return row


def refuse_constant(name: str) -> NoReturn:
    """What `json.loads` calls for NaN and infinities. Raises ValueError."""
    raise ValueError(f"{name} is not JSON; write null for a value that is absent")
