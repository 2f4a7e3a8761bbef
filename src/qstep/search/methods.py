"""The search methods, one line for each. This table does not import the searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from qstep.runs.options import Such
from qstep.words import listed

if TYPE_CHECKING:
    from qstep.search.tree import Rated, Search, Tree


@dataclass(frozen=True, slots=True)
class SearchKind:
    """A search: its name on pages, and its `module:function`.

    `reads` names the options of `qstep search` that only some searches read: `expand`, `lookahead_steps`, `max_steps`.
    """

    label: str
    place: str
    reads: tuple[str, ...] = ()

    def load(self) -> Callable[[Tree], Search[list[Rated]]]:
        """The function that searches a tree (see `qstep.search.tree`)."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


_STEPS = ("expand", "max_steps")

SEARCHES = {
    "best_of_n": SearchKind("best of n", "qstep.search.guided:best_of_n"),
    "beam": SearchKind("beam search", "qstep.search.guided:beam", _STEPS),
    "dvts": SearchKind("diverse verifier tree search", "qstep.search.guided:dvts", _STEPS),
    "lookahead": SearchKind("lookahead search", "qstep.search.guided:beam", (*_STEPS, "lookahead_steps")),
}
"""Each method by its name. `lookahead` is `beam` with `lookahead_steps`."""


def readers_of(option: str) -> Such:
    """The methods that read an option of `qstep search`, for its `ReadIf`."""
    names = [name for name, search in SEARCHES.items() if option in search.reads]
    return Such(lambda method: option in SEARCHES[method].reads, f"--{{name}} {listed(names, 'or')}")


if TYPE_CHECKING:
    SearchMethod = str
else:
    SearchMethod = Literal[(*SEARCHES,)]
    """The name of a search method."""
