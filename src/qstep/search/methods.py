"""The search methods, one line for each. This table does not import the searches."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qstep.search.tree import Rated, Search, Tree


METHODS = {
    "best_of_n": "qstep.search.guided:best_of_n",
    "beam": "qstep.search.guided:beam",
    "dvts": "qstep.search.guided:dvts",
    "lookahead": "qstep.search.guided:beam",
}
"""The `module:function` of each method by its name. `lookahead` is `beam` with `lookahead_steps`."""


def load_method(name: SearchMethod) -> Callable[[Tree], Search[list[Rated]]]:
    """The function that searches a tree (see `qstep.search.tree`)."""
    module, _, function = METHODS[name].partition(":")
    return getattr(import_module(module), function)


if TYPE_CHECKING:
    SearchMethod = str
else:
    SearchMethod = Literal[(*METHODS,)]
    """The name of a search method."""
