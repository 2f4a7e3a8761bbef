"""The search methods, one line for each. This table does not import the searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qstep.search.tree import Rated, Search, Tree


@dataclass(frozen=True, slots=True)
class SearchKind:
    """A search: its name on pages, its `module:function`, and the options of `qstep search` that it reads.

    Its rows record these options.
    """

    label: str
    place: str
    options: tuple[str, ...]

    def load(self) -> Callable[[Tree], Search[list[Rated]]]:
        """The function that searches a tree (see `qstep.search.tree`)."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


_BEAM = ("width", "expand", "max_steps", "token_budget")

SEARCHES = {
    "best_of_n": SearchKind("best of n", "qstep.search.guided:best_of_n", ("width", "token_budget")),
    "beam": SearchKind("beam search", "qstep.search.guided:beam", _BEAM),
    "dvts": SearchKind("diverse verifier tree search", "qstep.search.guided:dvts", _BEAM),
    "lookahead": SearchKind(
        "lookahead search",
        "qstep.search.guided:beam",
        ("width", "expand", "lookahead_steps", "max_steps", "token_budget"),
    ),
}
"""The methods by name. `lookahead` is `beam` with `lookahead_steps`."""


def readers(option: str) -> tuple[str, ...]:
    """The methods that read an option."""
    return tuple(name for name, method in SEARCHES.items() if option in method.options)


if TYPE_CHECKING:
    SearchMethod = str
else:
    SearchMethod = Literal[(*SEARCHES,)]
    """The name of a search method."""
