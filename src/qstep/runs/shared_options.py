"""Options that several commands share. A command's config inherits those that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qstep.data import check_separator, is_users_splitter, joined, rows_fingerprint, splitter_version
from qstep.runs.fingerprints import model_fingerprint, remembered_fingerprint
from qstep.runs.options import CHANGES_NOTHING, Bounds, Check, InSettings, NotInSettings, Options, Reads, Written
from qstep.types import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qstep.calls import Server

_PATHS = ("/", "./", "../", "~")


def path_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """Yields a file or a model's folder with its fingerprint. Raises ValueError for a path that does not exist."""
    path = Path(value).expanduser()
    if path.is_file():
        yield value, remembered_fingerprint(path)
    elif path.is_dir():
        yield value, model_fingerprint(str(path))
    elif value.startswith(_PATHS):
        raise ValueError(f"{value} is missing: check the path")


def _splitter_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    if is_users_splitter(value):
        yield value, splitter_version(value)


def rows_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """Yields the files that an option of rows names, with their fingerprint. Raises ValueError if one is missing."""
    try:
        yield value, rows_fingerprint(Path(value).expanduser())
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing: {error.strerror}") from None


RowsInput = Annotated[Path, Written(list[Path], joined), Reads(rows_inputs)]
"""A file of rows, several of them, a folder or pattern of files, or a Hub id (`qstep.data.inputs`)."""

ModelName = Annotated[str, Reads(path_inputs)]
"""A model's folder or Hub id."""


def _check_url(option: str, url: str) -> None:
    from qstep.calls import checked_url

    checked_url(url, f"--{option}")


ServerUrl = Annotated[str, Check(_check_url)]
"""The address of a server."""

StepSeparator = Annotated[str, Check(check_separator), InSettings(splitter_version), Reads(_splitter_inputs)]
"""The string between steps, or the name of a splitter that cuts responses into steps."""


def _has_template(config: Any) -> bool:
    return config.chat_template_path is not None


def _template_version(value: str) -> str:
    """The fingerprint of a template's file or of a model's folder; a Hub id is its own."""
    return next((fingerprint for _, fingerprint in path_inputs("chat_template_path", value)), value)


# Settings have no entry without it, so that files of earlier versions are resumed.
ChatTemplate = Annotated[str, Reads(path_inputs), InSettings(_template_version), NotInSettings(unless=_has_template)]
"""A file with a chat template, or a model that has one."""


RightAt = Annotated[float | None, Bounds(least=-1e9, most=1e9)]
"""The reward from which a response without a label is right; 1 if None."""


@dataclass(kw_only=True)
class ChatOptions(Options):
    """How conversations become text.

    Args:
        chat_template_path: a file with a chat template in Jinja, or a model whose template is used, in place of the
            tokenizer's own. Trained weights keep it.
        chat_template_kwargs: arguments of the chat template, such as
            `--chat_template_kwargs.enable_thinking false`. Trained weights keep them.
        end_of_turn: the token that ends an assistant's turn. The default is the chat template's.
    """

    GROUP = "chat options"

    chat_template_path: ChatTemplate | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    end_of_turn: str | None = None

    def with_chat(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer with these options. Says by which token a conversation ends, if that is not the usual one.

        Raises ValueError if there is no chat template, or if the tokenizer does not know what an option names.
        """
        from qstep.data.chat import say_ending
        from qstep.data.chat_settings import read_template, with_chat

        template = read_template(self.chat_template_path) if self.chat_template_path else None
        changed = with_chat(tokenizer, self.chat_template_kwargs, self.end_of_turn, template)
        if self.end_of_turn is None:
            say_ending(changed)
        return changed


@dataclass(kw_only=True)
class DeviceOptions(Options):
    """Where a model runs.

    Args:
        device: cpu, cuda or auto. With auto, the model runs on the GPU if there is one.
        dtype: the type of the weights. `auto` keeps the type in the checkpoint.
    """

    GROUP = "device options"

    device: Annotated[str, CHANGES_NOTHING] = "auto"
    dtype: Dtype = "float32"


@dataclass(kw_only=True)
class CallOptions(Options):
    """How to call a server.

    Args:
        request_timeout_s: maximum duration of one call to a server in seconds, including the wait in its queue.
        retries: how often a failed call is repeated before the command stops. Finished rows stay on disk.
    """

    GROUP = "server options"

    request_timeout_s: Annotated[float, Bounds(least=1), CHANGES_NOTHING] = 600.0
    retries: Annotated[int, Bounds(least=0), CHANGES_NOTHING] = 8

    def _server(self, url: str, key: str) -> Server:
        """The server at a URL. The environment variable `key` holds its access key, if it needs one."""
        from qstep.calls import Server

        return Server(url, os.environ.get(key) or None, self.request_timeout_s, self.retries)
