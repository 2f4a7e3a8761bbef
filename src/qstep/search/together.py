"""Searches many problems at once: the draws of all go to the engine as one batch, and their steps to the scorer."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qstep.data import encode_prompt, encode_text
from qstep.generation import Engine, Request, SamplingSettings
from qstep.search.methods import SEARCHES, SearchMethod
from qstep.search.tree import Draw, Drawn, Partial, Rated, SearchSettings, Tree
from qstep.types import FinishReason, Problem, Response, Row

if TYPE_CHECKING:
    from qstep.scoring import Scorer


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one problem's search: at least one candidate, the tree with the tokens it used, and the prompt."""

    candidates: list[Rated]
    tree: Tree
    prompt_ids: list[int]


def search_together(
    problems: Sequence[Problem],
    method: SearchMethod,
    settings: SearchSettings,
    engine: Engine,
    scorer: Scorer,
    *,
    score_tokens: int = 8192,
) -> list[Found]:
    """Searches all problems, which have distinct ids, in parallel. The result for one is independent of the others.

    A draw's seed follows from the problem's id, the tokens before it, and its index among the draws from there. So
    `best_of_n` draws the same responses as `qstep sample`.
    """
    trees = [Tree(settings, scorer.step_separator, scorer.aggregation) for _ in problems]
    start = SEARCHES[method].load()
    searches = {i: start(tree) for i, tree in enumerate(trees)}
    prompts = [encode_prompt(engine.tokenizer, problem.prompt) for problem in problems]
    found: dict[int, Found] = {}
    draws: dict[int, list[Draw]] = {}
    answers: dict[int, Any] = dict.fromkeys(searches)
    while answers:
        steps: dict[int, list[list[str]]] = {}
        for i, answer in answers.items():
            try:
                wanted: list[Any] = searches[i].send(answer)
            except StopIteration as end:
                found[i] = Found(end.value, trees[i], prompts[i])
            else:
                (draws if isinstance(wanted[0], Draw) else steps)[i] = wanted
        # Scoring comes first, so that afterwards all searches draw in one batch.
        if steps:
            answers = _scored(steps, problems, trees, scorer, score_tokens)
        else:
            answers, draws = _drawn(draws, problems, prompts, settings.sampling, engine, scorer.step_separator), {}
    return [found[i] for i in range(len(problems))]


def _scored(
    wanted: Mapping[int, list[list[str]]],
    problems: Sequence[Problem],
    trees: Sequence[Tree],
    scorer: Scorer,
    score_tokens: int,
) -> dict[int, list[list[float] | None]]:
    """The Qs of each problem's lists of steps, or None for those longer than the scorer's maximum."""
    rows: dict[tuple[int, int], Row] = {}
    for i, of_problem in wanted.items():
        for n, steps in enumerate(of_problem):
            row = {"id": problems[i].id, "prompt": problems[i].prompt, "completions": steps}
            row["step_separator"] = scorer.step_separator
            if scorer.fits(row):
                rows[i, n] = row
                trees[i].in_windows += scorer.in_windows(row)
    scored = (one for batch in scorer.score_rows(rows.values(), max_tokens=score_tokens) for one in batch)
    q_values = {place: of_row for place, (_, of_row) in zip(rows, scored, strict=True)}
    return {i: [q_values.get((i, n)) for n in range(len(of_problem))] for i, of_problem in wanted.items()}


def _drawn(
    wanted: Mapping[int, list[Draw]],
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    sampling: SamplingSettings,
    engine: Engine,
    separator: str,
) -> dict[int, list[Drawn]]:
    kinds: dict[tuple[bool, bool], dict[tuple[int, Partial], list[Draw]]] = defaultdict(lambda: defaultdict(list))
    for i, draws in wanted.items():
        for draw in draws:
            kinds[draw.whole, draw.greedy][i, draw.start].append(draw)
    drawn: dict[tuple[int, Draw], Drawn] = {}
    for (whole, greedy), starts in kinds.items():
        how = replace(sampling, stop=None if whole else separator)
        how = replace(how, temperature=0.0) if greedy else how
        names = {_key(problems[i], start): (i, start) for i, start in starts}

        def requests(names: Mapping[str, Any] = names, starts: Mapping[Any, list[Draw]] = starts) -> Iterator[Request]:
            for key, (i, start) in names.items():
                draws = starts[i, start]
                yield Request(key, [*prompts[i], *start.ids], [d.sample for d in draws], max_new_tokens=draws[0].limit)

        for request, responses in engine.sample(requests(), how):
            place = names[request.key]
            for draw, response in zip(starts[place], responses, strict=True):
                drawn[place[0], draw] = _continued(draw, response, engine, sampling.max_new_tokens)
    return {i: [drawn[i, draw] for draw in draws] for i, draws in wanted.items()}


def _key(problem: Problem, start: Partial) -> str:
    digest = hashlib.blake2b(repr((start.ids, start.text)).encode(), digest_size=12).hexdigest()
    return f"{problem.id}@{digest}" if start.ids else problem.id


def _continued(draw: Draw, response: Response, engine: Engine, max_new_tokens: int) -> Drawn:
    """The partial response after a draw, and its tokens. If the engine gives no tokens, the text is tokenized.

    A response is complete at its end of text or its length limit. At the draw's own limit it may continue.
    """
    start, stopped = draw.start, response.finish_reason == "stop"
    if response.token_ids is not None and start.sampled:
        ids = (*start.ids, *response.token_ids)
        text = engine.decode(list(ids[:-1] if stopped else ids))
        tokens = len(response.token_ids)
    else:
        text = start.text + response.text
        ids = tuple(encode_text(engine.tokenizer, text))
        tokens = min(len(encode_text(engine.tokenizer, response.text)) + stopped, draw.limit)
    had_all_the_room = response.finish_reason == "length" and draw.limit >= max_new_tokens - len(start.ids)
    full = had_all_the_room or len(ids) >= max_new_tokens
    ending: FinishReason | None = "stop" if stopped else "length" if full else None
    return Partial(ids, text, ending, start.sampled and response.token_ids is not None), max(tokens, 1)
