"""Options that several commands share, each written once; a command's config inherits those that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qstep.data import check_separator, is_users_splitter, splitter_version
from qstep.runs.fingerprints import model_fingerprint, remembered_fingerprint
from qstep.runs.options import CHANGES_NOTHING, GIVEN, Bounds, Check, InSettings, Options, ReadIf, Reads
from qstep.types import Dtype

if TYPE_CHECKING:
    from qstep.calls import Server

_PATHS = ("/", "./", "../", "~")


def path_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """A file or a model's folder with its fingerprint; ValueError where what looks like a path is not there."""
    path = Path(value).expanduser()
    if path.is_file():
        yield value, remembered_fingerprint(path)
    elif path.is_dir():
        yield value, model_fingerprint(str(path))
    elif value.startswith(_PATHS):
        raise ValueError(f"{value} is missing")


def _splitter_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    if is_users_splitter(value):
        yield value, splitter_version(value)


ModelName = Annotated[str, Reads(path_inputs)]
"""A model's folder or Hub id."""

StepSeparator = Annotated[str, Check(check_separator), InSettings(splitter_version), Reads(_splitter_inputs)]
"""The text between steps, or the name of what cuts a response into them."""


@dataclass(kw_only=True)
class DeviceOptions(Options):
    """Where a model is computed.

    Args:
        device: cpu, cuda, or auto: the GPU where there is one.
        dtype: the precision of the weights.
    """

    GROUP = "device options"

    device: Annotated[str, CHANGES_NOTHING, ReadIf(engine="hf", endpoint=None)] = "auto"
    dtype: Annotated[Dtype, ReadIf(engine=("hf", "vllm"), endpoint=None)] = "float32"


@dataclass(kw_only=True)
class CallOptions(Options):
    """How a server is asked.

    Args:
        request_timeout_s: seconds that one call to a server may take, with its wait in the server's queue.
        retries: failed calls in a row, after the first, before the command stops. What is done stays on disk.
    """

    GROUP = "server options"
    READ_IF = ReadIf(engine="http", endpoint=GIVEN)

    request_timeout_s: Annotated[float, Bounds(least=1), CHANGES_NOTHING] = 600.0
    retries: Annotated[int, Bounds(least=0), CHANGES_NOTHING] = 8

    def _server(self, url: str, key: str) -> Server:
        """A server whose key, where it wants one, is in this environment variable."""
        from qstep.calls import Server

        return Server(url, os.environ.get(key) or None, self.request_timeout_s, self.retries)
