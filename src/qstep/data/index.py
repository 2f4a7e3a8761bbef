"""An index of a JSONL file: where its rows lie and what they hold, found in one pass and kept next to the file.

A training set of a million rows is read once, checked row by row in several processes, and never parsed again
until its content changes: `<name>.<format>.index` holds some 150 bytes a row and is mapped into memory, not read. It
knows nothing of tokenizers, models or methods, so all of these share it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qstep.cores import cores
from qstep.data.jsonl import RowError, canonical_json, file_fingerprint, parse_row, write_whole
from qstep.data.rows import Format, check_row, is_right, last_text, outcome
from qstep.data.splitters import is_named, splitter_version, use_splitter
from qstep.data.steps import first_cut
from qstep.types import Prompt, PromptKind, Row

_VERSION = 5
_BYTES_A_PROCESS = 1 << 25
"""A process checks this much in a second, so a smaller file gets one process only."""
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from qstep.data.index import scan_for_parent; scan_for_parent()"

COLUMNS: np.dtype[np.void] = np.dtype(
    [
        ("offset", "<i8"),  # where the line begins
        ("size", "<i4"),  # its bytes
        ("problem", "<u8"),  # hash of (problem_id, prompt): what makes a group
        ("prompt", "<u8"),  # hash of the prompt alone: two files may give one problem two ids
        ("response", "<u8"),  # hash of the prompt and the steps; of the completion in a format without steps
        ("labelling", "<u8"),  # hash of the labels, 0 where no step has one
        ("id", "<u8"),  # hash of the id, 0 without one
        ("content", "<u8"),  # hash of the line's bytes
        ("outcome", "<f8"),  # the reward, NaN where nobody knows
        ("lowest", "<f8"),  # of the labels, NaN where no step has one
        ("highest", "<f8"),
        ("last", "<f8"),  # the last step's label, NaN where it has none
        ("prompt_bytes", "<i4"),  # of the prompt's text, or its messages' texts
        ("prompt_extra", "<i4"),  # bytes beyond one a character
        ("response_bytes", "<i4"),  # of the completion, or in the format stepwise of the steps' texts
        ("response_extra", "<i4"),
        ("steps", "<i4"),  # number of `completions`, -1 without
        ("labelled", "<i4"),  # number of steps with a label
        ("above", "<i4"),  # number of steps with a label above 0
        ("soft", "<i4"),  # number of steps with a number for a label
        ("right", "<i4"),  # whether the response is right: 1 or 0, -1 where nobody knows
        ("ids", "<i4"),  # number of `completion_ids`, -1 without
        ("roles", "<i4"),  # who speaks in the prompt, an entry of `Index.roles`
        ("separator", "<i4"),  # an entry of `Index.separators`
        ("graded", "?"),  # has a label or a reward, null or not
        ("behavior", "?"),  # has logps_behavior
        ("rewarded", "?"),  # has step_rewards
        ("rises", "?"),  # a step has a higher label than one before it
        ("blank", "?"),  # has neither a text nor completion_ids
    ]
)
_PACK = struct.Struct("<qi" + "Q" * 6 + "d" * 4 + "i" * 12 + "?" * 5).pack


@dataclass(frozen=True)
class Index:
    """A file's rows, in the file's order; row i is line i + 1.

    table: one record of `COLUMNS` a row. separators: how rows say their steps were split (None: they do not).
    roles: the roles of the messages of prompts, `()` for a string. ending: the string that all prompts end with, None
    if all are the same one. fingerprint: SHA-256 of the file.
    """

    path: Path
    format: Format
    fingerprint: str
    table: NDArray[np.void]
    separators: list[str | None]
    roles: list[tuple[str, ...]]
    ending: str | None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def prompts(self) -> PromptKind:
        """Whether prompts are strings, conversations or some of each."""
        kinds = {bool(roles) for roles in self.roles}
        return "mixed" if len(kinds) == 2 else "messages" if kinds == {True} else "string"

    @property
    def instruction(self) -> str | None:
        """What all prompts end with after a blank line; None if there is no such text or only one prompt."""
        _, _, instruction = (self.ending or "").partition("\n\n")
        return instruction or None

    def row(self, index: int) -> Row:
        """The row of that number, read from the file. Raises RowError if it was changed since."""
        with self.path.open("rb") as file:
            file.seek(int(self.table["offset"][index]))
            text = file.read(int(self.table["size"][index]))
        if _bytes_hash(text) != self.table["content"][index]:
            raise RowError(self.path, index + 1, None, "was changed after the file was indexed; start again")
        return _checked(self.path, index + 1, text, self.format, ())


def index_rows(path: Path, format: Format, *, forbidden: Sequence[str] = ()) -> Index:
    """The index of a JSONL file: the stored one if the content is unchanged, else a new one.

    Every row is checked by `check_row`. The index is stored next to the file. If that folder is read-only it goes to
    `~/.cache/qstep`, and if that is read-only too it stays in memory.

    Args:
        forbidden: strings that no step may contain, such as the scorer's separator, or splitters that may cut no step.

    Raises:
        RowError: a row is bad, a step contains a forbidden string, or two rows have the same id.
        ValueError: the file is empty.
    """
    path = Path(path).resolve()
    fingerprint = file_fingerprint(path)
    separators = [splitter_version(separator) for separator in forbidden]
    key = {"version": _VERSION, "file": fingerprint, "format": format, "forbidden": separators}

    def built() -> tuple[dict[str, Any], NDArray[Any]]:
        table, texts = _build(path, format, forbidden)
        return texts, table

    texts, table = cached_array(path, f"{format}.index", key, COLUMNS, built)
    roles = [tuple(roles) for roles in texts["roles"]]
    return Index(path, format, fingerprint, table, texts["separators"], roles, texts["ending"])


def cached_array(
    path: Path, suffix: str, key: dict[str, Any], dtype: np.dtype[Any], build: Any
) -> tuple[dict[str, Any], NDArray[Any]]:
    """An array derived from the file at `path`, and a few words about it, mapped from `<path>.<suffix>`.

    `build() -> (words, array)` makes both where no cache of the same `key` is found. The cache is one line of
    JSON and the array's bytes, replaced as a whole: a reader sees an old one or a new one.
    """
    places = [folder / f"{path.name}.{suffix}" for folder in cache_folders(path)]
    for place in places:
        with suppress(OSError, ValueError):
            return _mapped(place, key, dtype)
    words, array = build()
    header = {"key": key, "rows": len(array), "words": words}
    for place in places:
        with suppress(OSError):
            write_whole(place, [canonical_json(header) + b"\n", np.ascontiguousarray(array).view(np.uint8).data])
            with suppress(ValueError):  # of another key by now
                return _mapped(place, key, dtype)
            break
    return words, array


def cache_folders(path: Path) -> Iterator[Path]:
    """Folders for files derived from this one: its own folder first, then one in the user's cache."""
    yield path.parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    yield cache / "qstep" / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _mapped(place: Path, key: dict[str, Any], dtype: np.dtype[Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    """The words and the array of a cache. Raises ValueError if it is not a whole one of that key.

    The file is opened once: another run may put one of another key in its place at any moment.
    """
    with place.open("rb") as file:
        line = file.readline()
        header = json.loads(line)
        if not isinstance(header, dict) or not {"key", "rows", "words"} <= header.keys() or header["key"] != key:
            raise ValueError(f"{place} is not a cache of this key")
        if os.fstat(file.fileno()).st_size != len(line) + header["rows"] * dtype.itemsize:
            raise ValueError(f"{place} is not whole")
        return header["words"], np.memmap(file, dtype, "r", len(line), (header["rows"],))


def _checked(path: Path, line: int, text: bytes, format: Format, forbidden: Sequence[str]) -> Row:
    try:
        raw = parse_row(text)
    except ValueError as error:
        raise RowError(path, line, None, f"{error}. Correct or delete this line") from None
    row = check_row(path, line, raw, format)
    for separator in forbidden if "completions" in row else ():
        cut = first_cut(row["completions"], separator, split_by_it=row.get("step_separator") == separator)
        if cut is not None:
            raise RowError(
                path,
                line,
                "completions",
                f"the step {cut[:60]!r} contains the separator {separator!r}: split it there, or choose another one "
                "(--step_separator, --separator_token)",
            )
    return row


def _build(path: Path, format: Format, forbidden: Sequence[str]) -> tuple[NDArray[np.void], dict[str, Any]]:
    size = path.stat().st_size
    workers = min(cores(), max(1, size // _BYTES_A_PROCESS))
    bounds = [size * i // workers for i in range(workers + 1)]
    if workers == 1:
        records = io.BytesIO()
        found = [_scan(path, 0, size, format, forbidden, records)]
        table = np.frombuffer(records.getbuffer(), COLUMNS)
    else:
        table, found = _in_processes(path, bounds, format, forbidden)
    before = 0
    for part in found:
        if part["stopped_at"] is not None:
            _raise_what_is_wrong(path, before + part["rows"] + 1, part["stopped_at"], format, forbidden)
        before += part["rows"]
    if before == 0:
        raise ValueError(f"{path} has no rows")
    words: dict[str, Any] = {}
    for name, column_name in (("separators", "separator"), ("roles", "roles")):
        codes: dict[str, int] = {}
        start = 0
        for part in found:
            mapping = np.array([codes.setdefault(json.dumps(value), len(codes)) for value in part[name]], "<i4")
            column = table[column_name][start : start + part["rows"]]
            column[:] = mapping[column]
            start += part["rows"]
        words[name] = [json.loads(value) for value in codes]
    endings = _Ending()
    for part in found:
        endings.join(part["prompt"], part["ending"])
    words["ending"] = endings.found
    _refuse_repeated_ids(path, table, format)
    return table, words


def _in_processes(
    path: Path, bounds: list[int], format: Format, forbidden: Sequence[str]
) -> tuple[NDArray[np.void], list[dict[str, Any]]]:
    """Each process is a program of its own, so nothing of the calling program is imported or forked."""
    with tempfile.TemporaryDirectory(prefix="qstep-index-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for i, (start, end) in enumerate(pairwise(bounds)):
                request = {
                    "path": str(path),
                    "start": start,
                    "end": end,
                    "format": format,
                    "forbidden": list(forbidden),
                    "records": f"{folder}/{i}",
                }
                process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                processes.append(process)
                assert process.stdin
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            found = []
            for process in processes:
                assert process.stdout
                answer = process.stdout.read()
                if process.wait() != 0:
                    raise RuntimeError(f"a process that reads {path} ended with status {process.returncode}")
                found.append(json.loads(answer))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return np.concatenate([np.fromfile(f"{folder}/{i}", COLUMNS) for i in range(len(found))]), found


def scan_for_parent() -> None:
    """What a process of `index_rows` runs: a request on stdin, the records in a file, what was found on stdout."""
    request = json.loads(sys.stdin.buffer.read())
    for separator in filter(is_named, request["forbidden"]):
        use_splitter(separator)  # as the parent process did
    with open(request.pop("records"), "wb") as records:
        found = _scan(Path(request.pop("path")), **request, records=records)
    sys.stdout.write(json.dumps(found))


def _scan(
    path: Path, start: int, end: int, format: Format, forbidden: Sequence[str], records: BinaryIO
) -> dict[str, Any]:
    """Writes a record for each line that begins in `[start, end)`. Stops at the first bad one."""
    separators: dict[str | None, int] = {}
    roles: dict[tuple[str, ...], int] = {}
    ending = _Ending()
    rows = 0
    stopped_at: int | None = None
    with path.open("rb") as file:
        if start > 0:
            file.seek(start - 1)
            start += len(file.readline()) - 1
        offset = start
        while offset < end:
            text = file.readline()
            try:
                row = _checked(path, 0, text, format, forbidden)
            except RowError:
                stopped_at = offset
                break
            records.write(_record(row, format, offset, text, separators, roles))
            ending.add(last_text(row["prompt"]))
            offset += len(text)
            rows += 1
    return {
        "rows": rows,
        "stopped_at": stopped_at,
        "separators": list(separators),
        "roles": list(roles),
        "prompt": ending.prompt,
        "ending": ending.found,
    }


class _Ending:
    """What all prompts that were added end with: `found`, None while they are all the same `prompt`."""

    def __init__(self) -> None:
        self.prompt: str | None = None
        self.found: str | None = None

    def add(self, prompt: str) -> None:
        if self.prompt is None:
            self.prompt = prompt
        elif self.found is not None or prompt != self.prompt:
            self._shorten(prompt)

    def join(self, prompt: str | None, ending: str | None) -> None:
        """Adds what was found in another part of the file."""
        if prompt is not None:
            self.add(prompt)
        if ending is not None:
            self._shorten(ending)

    def _shorten(self, text: str) -> None:
        known = self.found if self.found is not None else self.prompt or ""
        if self.found is None or not text.endswith(known):
            pairs = zip(reversed(known), reversed(text), strict=False)
            common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(known), len(text)))
            self.found = known[len(known) - common :]


def _record(
    row: Row,
    format: Format,
    offset: int,
    text: bytes,
    separators: dict[str | None, int],
    roles: dict[tuple[str, ...], int],
) -> bytes:
    prompt, steps, ids = row["prompt"], row.get("completions"), row.get("completion_ids")
    turns = [] if isinstance(prompt, str) else [(message["role"], message["content"]) for message in prompt]
    speakers = tuple(role for role, _ in turns)
    prompt_text = prompt if isinstance(prompt, str) else "".join(content for _, content in turns)
    response = "".join(steps) if format == "stepwise" and steps else row.get("completion", "")
    prompt_bytes, response_bytes = len(prompt_text.encode()), len(response.encode())
    reward, right, labels = outcome(row), is_right(row), row.get("labels") or [None]
    known = [label for label in labels if label is not None]
    separator, nan = row.get("step_separator"), float("nan")
    return _PACK(
        offset,
        len(text),
        _hash((row.get("problem_id"), turns or prompt)),
        prompt_hash(prompt),
        _hash((turns or prompt, steps if format == "stepwise" else response)),
        _hash(labels) if known else 0,
        _hash(row["id"]) if "id" in row else 0,
        _bytes_hash(text),
        nan if reward is None else reward,
        min(known, default=nan),
        max(known, default=nan),
        nan if labels[-1] is None else labels[-1],
        prompt_bytes,
        prompt_bytes - len(prompt_text),
        response_bytes,
        response_bytes - len(response),
        -1 if steps is None else len(steps),
        len(known),
        sum(label > 0 for label in known),
        sum(isinstance(label, float) for label in known),
        -1 if right is None else int(right),
        -1 if ids is None else len(ids),
        roles.setdefault(speakers, len(roles)),
        separators.setdefault(separator, len(separators)),
        "label" in row or "reward" in row,
        row.get("logps_behavior") is not None,
        row.get("step_rewards") is not None,
        any(after > before for after, before in zip(known[1:], accumulate(known, min), strict=False)),
        ids is None and not response.strip(),
    )


def prompt_hash(prompt: Prompt) -> int:
    """The number that represents a prompt in an index."""
    return _hash(prompt if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt])


def _hash(value: Any) -> int:
    return _bytes_hash(repr(value).encode())


def _bytes_hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


def _raise_what_is_wrong(path: Path, line: int, offset: int, format: Format, forbidden: Sequence[str]) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        text = file.readline()
    _checked(path, line, text, format, forbidden)
    raise RowError(path, line, None, "the file was changed while it was read; start again")


def _refuse_repeated_ids(path: Path, table: NDArray[np.void], format: Format) -> None:
    order = np.argsort(table["id"], kind="stable")
    hashes = table["id"][order]
    same = np.flatnonzero((hashes[1:] == hashes[:-1]) & (hashes[1:] != 0))
    if not len(same):
        return
    index = Index(path, format, "", table, [], [], None)
    first, second = min(
        ((int(order[i]), int(order[i + 1])) for i in same),
        key=lambda pair: pair[1],
    )
    name = index.row(second)["id"]
    if index.row(first)["id"] == name:
        raise RowError(
            path, second + 1, "id", f"{name!r} occurs twice (first on line {first + 1}). Give each row its own id"
        )
