"""The user's own code, `module:object`. It is imported only if the user named it, never because a file of rows did."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

USER_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""The pattern of such names."""


def load_code(name: str, what: str) -> Any:
    """The object `module:object`, also of a module in the working directory.

    Raises ValueError, beginning with `what` it is to be, where there is none.
    """
    return _load(name, what)[0]


def code_version(name: str, what: str) -> str:
    """Names a user's `module:object` and the content of its file. Raises ValueError where it cannot be loaded."""
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
