"""Decoding guided by a step scorer: what each method draws next, given the Qs of what it has.

Each is a search (see `qstep.search.tree`) that returns its candidates, whole responses and what was cut off, from
which `pick` takes the answer. With a budget, a method expands only while that leaves the longest response enough to
end. Then it draws what it keeps to its end, the best first, as far as the budget reaches: of a budget of
`max_new_tokens` or more, it does not cut off one response at least.
"""

from __future__ import annotations

from collections.abc import Sequence

from qstep.search.tree import ROOT, Partial, Rated, Search, Tree, cut, distinct


def best_of_n(tree: Tree) -> Search[list[Rated]]:
    """`width` whole responses, scored at their ends. Equal ones are kept, for votes."""
    drawn = yield from tree.draw([(ROOT, sample) for sample in range(tree.settings.width)], whole=True)
    return (yield from tree.rate([cut(partial) for partial in drawn if partial is not None]))


def beam(tree: Tree) -> Search[list[Rated]]:
    """Beam search over steps: of `width` responses begun the best `width / expand` are kept, and each drawn on `expand`
    times by one step.

    See "Scaling LLM Test-Time Compute Optimally" (arXiv 2408.03314, section 5.2). The value of a response begun is its
    score, or, with `lookahead_steps` k, the score k greedy steps later, which are drawn for that alone. A response
    that has ended keeps its place among the best as long as it is one of them; all that ended are candidates. Equal
    responses begun take one place.
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
    """The scores of responses begun, each `lookahead_steps` greedy steps later, or where it or the budget ends."""
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
    """Diverse verifier tree search: `width / expand` trees, in each the best of `expand` steps is taken, and so on.

    See "Scaling Test-Time Compute with Open Models" (Beeching et al., Hugging Face, 2024). Trees know nothing of each
    other and draw differently from equal responses begun. All that ended are candidates, taken or not.
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
