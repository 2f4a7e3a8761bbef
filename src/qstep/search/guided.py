"""Searches guided by a step scorer: each method decides what to draw next from the Qs of its partial responses.

Each method is a search (see `qstep.search.tree`). It returns its candidates, which are complete or cut off. `choose`
finds the answer among them. With a budget, a method expands only while the budget left over lets the longest response
end. Then it completes the responses that it keeps, the best first, until the budget is spent. With a budget of at least
`max_new_tokens`, at least one response is not cut off by the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

from qstep.search.tree import ROOT, Partial, Rated, Search, Tree, cut, distinct


def best_of_n(tree: Tree) -> Search[list[Rated]]:
    """`width` complete responses, scored at their ends. Equal responses are kept, because they count in votes."""
    drawn = yield from tree.draw([(ROOT, sample) for sample in range(tree.settings.width)], whole=True)
    return (yield from tree.rate([cut(partial) for partial in drawn if partial is not None]))


def beam(tree: Tree) -> Search[list[Rated]]:
    """Beam search over steps: keeps the best `width / expand` of `width` partial responses, and draws `expand` next
    steps from each.

    See "Scaling LLM Test-Time Compute Optimally" (arXiv 2408.03314, section 5.2). The value of a partial response is
    its score. With `lookahead_steps` k it is the score k greedy steps later, and these steps are then discarded. A
    complete response stays in the beam as long as it is among the best. All complete responses are candidates. Equal
    partial responses take one place.
    """
    settings = tree.settings
    ended: list[Partial] = []
    kept = [ROOT]
    wanted = [(ROOT, sample) for sample in range(settings.width)]
    drawn = yield from tree.grow(wanted, reserve=tree.room(kept))
    while any(drawn):
        continued = {start for (start, _), partial in zip(wanted, drawn, strict=True) if partial is not None}
        alive = distinct([*(partial for partial in kept if partial not in continued), *drawn])
        ended += [partial for partial in distinct(drawn) if partial.finish_reason is not None]
        values = yield from _values(tree, alive)
        best = sorted(range(len(alive)), key=lambda i: -values[i])[: settings.width // settings.expand]
        kept = [alive[i] for i in best]
        going = [partial for partial in kept if partial.finish_reason is None]
        wanted = [(partial, sample) for partial in going for sample in range(settings.expand)]
        drawn = yield from tree.grow(wanted, reserve=tree.room(going))
    left = yield from tree.finish([(partial, 0) for partial in kept])
    return (yield from tree.rate(distinct([*ended, *left])))


def _values(tree: Tree, partials: Sequence[Partial]) -> Search[list[float]]:
    """The scores of partial responses `lookahead_steps` greedy steps later, or earlier if they or the budget end."""
    ahead = list(partials)
    reserve = tree.room(partial for partial in partials if partial.finish_reason is None)
    for _ in range(tree.settings.lookahead_steps):
        going = [i for i, partial in enumerate(ahead) if partial.finish_reason is None]
        grown = yield from tree.grow([(ahead[i], 0) for i in going], greedy=True, reserve=reserve)
        for i, partial in zip(going, grown, strict=True):
            ahead[i] = partial or ahead[i]
    rated = yield from tree.rate(ahead)
    return [response.score for response in rated]


def dvts(tree: Tree) -> Search[list[Rated]]:
    """Diverse verifier tree search: `width / expand` trees. Each tree repeatedly takes the best of `expand` steps.

    See "Scaling Test-Time Compute with Open Models" (Beeching et al., Hugging Face, 2024). The trees are independent,
    and draw differently from equal partial responses. All complete responses are candidates, also those not taken.
    """
    expand = tree.settings.expand
    ended: list[Partial] = []
    taken = dict.fromkeys(range(tree.settings.width // expand), ROOT)
    value = dict.fromkeys(taken, 0.0)
    going = list(taken)
    while going:
        wanted = [(taken[t], t * expand + i) for t in going for i in range(expand)]
        drawn = yield from tree.grow(wanted, reserve=tree.room(taken[t] for t in going))
        of_tree = {t: distinct(drawn[n * expand : (n + 1) * expand]) for n, t in enumerate(going)}
        rated = iter((yield from tree.rate([partial for partials in of_tree.values() for partial in partials])))
        for t, partials in of_tree.items():
            ended += [partial for partial in partials if partial.finish_reason is not None]
            if partials:
                best = max([next(rated) for _ in partials], key=lambda response: response.score)
                taken[t], value[t] = best.partial, best.score
        going = [t for t in going if of_tree[t] and taken[t].finish_reason is None]
    best_first = sorted(taken, key=lambda t: -value[t])
    left = yield from tree.finish([(taken[t], t * expand) for t in best_first])
    return (yield from tree.rate(distinct([*ended, *left])))
