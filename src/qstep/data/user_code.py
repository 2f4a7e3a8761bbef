"""Loads the user's own code, `module:object`. Only a name that the user gave is imported, never one from a file."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

USER_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""The pattern of `module:object`."""


def load_code(name: str, what: str) -> Any:
    """Loads `module:object`. The module may be in the working directory.

    Raises ValueError if it cannot be loaded. The message begins with `what`, the object's role.
    """
    return _load(name, what)[0]


def code_version(name: str, what: str) -> str:
    """A user's `module:object` with a digest of its file. Raises ValueError if it cannot be loaded."""
    return _load(name, what)[1]


def _load(name: str, what: str) -> tuple[Any, str]:
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"{what} {name!r} is not of the form module:{'object' if what == 'task' else 'function'}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there hides an installed module
    try:
        module = import_module(module_name)
        found = getattr(module, attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be loaded: {error}") from error
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    return found, f"{name} {hashlib.sha256(source).hexdigest()[:12]}"
