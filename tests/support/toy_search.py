"""A search method as its author would add it: one file, and a line in `qstep.search.methods`."""

from __future__ import annotations

from qstep.search.tree import ROOT, Rated, Search, Tree, distinct


def best_start(tree: Tree) -> Search[list[Rated]]:
    """Draws `width` first steps, and finishes the one that the scorer likes best `expand` times."""
    wanted = [(ROOT, sample) for sample in range(tree.settings.width)]
    begun = distinct((yield from tree.grow(wanted, reserve=tree.room([ROOT]))))
    rated = yield from tree.rate(begun)
    best = max(rated, key=lambda of: of.score).partial
    finished = yield from tree.finish([(best, sample) for sample in range(tree.settings.expand)])
    return (yield from tree.rate(finished))
