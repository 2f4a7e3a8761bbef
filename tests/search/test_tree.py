"""The searches on a tree whose every leaf is known: what each draws, keeps, picks and spends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from qstep.generation import SamplingSettings
from qstep.search import SEARCHES, Found, SearchSettings, choose, search_together
from qstep.search.methods import SearchMethod
from qstep.search.tree import Partial, Rated, Tree
from qstep.tasks import miniature
from qstep.types import Problem, Response
from searching import KnownPolicy, KnownScorer, erring_policy, perfect_scorer

STEPS = {
    "": ["a", "b", "c", "d"],
    "a": ["a1", "a2"],
    "b": ["b1", "b2"],
    "c": ["c1", "c2"],
    "d": ["d1", "d2"],
}
Q = {"a": 2.0, "b": 1.0, "c": 0.0, "d": -1.0}
Q |= {"a1": -3.0, "a2": -2.0, "b1": 1.5, "b2": 0.5, "c1": 0.3, "c2": -0.3, "d1": -1.0, "d2": -2.0}
Q |= {f"#{step}": q for step, q in Q.items() if len(step) == 2}
"""First steps a to d; a looks best and is a trap. Then one of two, then the answer, which is its name."""

PROBLEM = Problem("p", "?\n", "b1", "math")


def walk(text: str, draw: tuple[str, int, bool]) -> str:
    """Draw i takes the i-th step there is, greedy the first, and so on to the answer; or ends the one that is begun."""
    _, sample, greedy = draw
    *steps, torn = text.removeprefix("?\n").split("\n")
    new = []
    while len(steps) < 2:
        there = STEPS[steps[-1] if steps else ""]
        there = [step for step in there if step.startswith(torn)] if not new else there
        new.append(there[0 if greedy else sample % len(there)])
        steps.append(new[-1])
    return "\n".join([*new, f"#{steps[1]}"])[len(torn) :]


def scorer(aggregation: str = "last") -> KnownScorer:
    return KnownScorer(lambda prompt, steps: [Q[step] for step in steps], aggregation)


def searched(
    method: SearchMethod,
    width: int,
    expand: int = 1,
    *,
    policy: KnownPolicy | None = None,
    by: KnownScorer | None = None,
    problem: Problem = PROBLEM,
    **options: int,
) -> Found:
    settings = SearchSettings(SamplingSettings(64), width, expand, **options)
    [found] = search_together([problem], method, settings, policy or KnownPolicy(walk), by or scorer())
    return found


def texts(found: Found) -> list[str]:
    return [rated.partial.text for rated in found.candidates]


def answer(found: Found) -> str:
    return texts(found)[choose(found.candidates)]


def test_best_of_n_scores_whole_responses() -> None:
    """Draws 0 to 3 are a/a1, b/b2, c/c1, d/d2: by their last Qs b2 has it, by the lowest b2 too, of c1 0.0."""
    found = searched("best_of_n", 4)
    assert texts(found) == ["a\na1\n#a1", "b\nb2\n#b2", "c\nc1\n#c1", "d\nd2\n#d2"]
    assert [rated.score for rated in found.candidates] == [-3.0, 0.5, 0.3, -2.0]
    assert answer(found) == "b\nb2\n#b2"
    assert found.tree.tokens_generated == 4 * 9, "eight characters and the end"
    assert found.tree.tokens_scored == 4 * 9


def test_equal_responses_of_best_of_n_are_kept_and_scored_once() -> None:
    by = scorer()
    found = searched("best_of_n", 8, by=by)
    assert texts(found)[:4] == texts(found)[4:]
    assert len(by.scored) == 4 and found.tree.tokens_scored == 4 * 9 and found.tree.tokens_generated == 8 * 9


def test_beam_of_one_walks_into_the_trap_and_of_two_does_not() -> None:
    """Keeping one of four: a (2.0), then a2 (-2.0 over -3.0). Keeping two: a and b, then b1 and b2 (1.5, 0.5)."""
    one = searched("beam", 4, 4)
    assert texts(one) == ["a\na2\n#a2"]
    # 4 first steps of 2 tokens, 4 draws of "a1\n" and "a2\n", 4 draws of "#a2" and the end
    assert one.tree.tokens_generated == 4 * 2 + 4 * 3 + 4 * 4
    two = searched("beam", 4, 2)
    assert texts(two) == ["b\nb1\n#b1", "b\nb2\n#b2"]
    assert answer(two) == "b\nb1\n#b1"
    assert two.tree.tokens_generated == 4 * 2 + 4 * 3 + 4 * 4
    # a to d; a1, a2, b1, b2 behind two tokens each; two answers of nine
    assert two.tree.tokens_scored == 4 * 2 + 4 * 5 + 2 * 9


def test_trees_of_dvts_know_nothing_of_each_other() -> None:
    """The first tree draws a and b and goes for a; the second c and d, and goes for c, then c1, which wins."""
    policy = KnownPolicy(walk)
    found = searched("dvts", 4, 2, policy=policy)
    assert texts(found) == ["a\na2\n#a2", "c\nc1\n#c1"]
    assert answer(found) == "c\nc1\n#c1"
    assert found.tree.tokens_generated == 4 * 2 + 4 * 3 + 4 * 4
    assert sorted(policy.asked) == [
        ("?\n", [0, 1, 2, 3], False),
        ("?\na\n", [0, 1], False),
        ("?\na\na2\n", [0, 1], False),
        ("?\nc\n", [2, 3], False),
        ("?\nc\nc1\n", [2, 3], False),
    ]


def test_trees_of_dvts_draw_differently_from_the_same_place() -> None:
    """Both trees take a, of which all draws are: the first has samples 0 and 1 from there, the second 2 and 3."""
    policy = KnownPolicy(lambda text, draw: "a\n" + walk(text + "a\n", draw) if text == "?\n" else walk(text, draw))
    searched("dvts", 4, 2, policy=policy)
    assert ("?\na\n", [0, 1, 2, 3], False) in policy.asked


def test_lookahead_sees_the_trap() -> None:
    """A greedy step on, a is worth -3.0, b 1.5, c 0.3, d -1.0: b it is. One of four kept, as in the beam above."""
    policy = KnownPolicy(walk)
    found = searched("lookahead", 4, 4, policy=policy, lookahead_steps=1)
    assert texts(found) == ["b\nb1\n#b1"]
    greedy = [begun for begun, _, greedy in policy.asked if greedy]
    assert sorted(greedy) == ["?\na\n", "?\nb\n", "?\nb\nb1\n", "?\nb\nb2\n", "?\nc\n", "?\nd\n"]
    # besides the beam's own: four steps of "x1\n", and "#b1", "#b2" with their ends
    assert found.tree.tokens_generated == (4 * 2 + 4 * 3 + 4 * 4) + 4 * 3 + 2 * 4
    assert found.candidates[0].q_values == [1.0, 1.5, 1.5], "its own Qs, not those ahead of it"
    two = searched("lookahead", 4, 4, lookahead_steps=2)
    assert texts(two) == ["b\nb1\n#b1"]


def test_a_response_that_ended_keeps_its_place_and_is_a_candidate() -> None:
    """Draw 0 answers at once (Q 0.4), draw 1 goes on from b (1.0). Kept, it is picked over b's end of -1.0; and of
    two that are drawn beside it, one has no place."""
    q = {"#x": 0.4, "b": 1.0, "c": 0.2, "b3": -1.0, "#b3": -1.0}
    by = KnownScorer(lambda prompt, steps: [q[step] for step in steps], "last")
    policy = KnownPolicy(
        lambda text, draw: (
            {0: "#x", 1: "b\nb3\n#b3", 2: "c\n#x"}[draw[1]]
            if text == "?\n"
            else "b3\n#b3"[-len("#b3") :]
            if "b3" in text
            else "b3\n#b3"
        )
    )
    found = searched("beam", 3, 1, policy=policy, by=by, max_steps=1)
    assert {rated.partial.finish_reason for rated in found.candidates} == {"stop", "length"}
    assert answer(found) == "#x", "b is better scored, but was cut off after one step"
    kept = searched("dvts", 3, 3, policy=policy, by=by)
    assert texts(kept) == ["#x", "b\nb3\n#b3"] and answer(kept) == "#x"


def test_blank_lines_end_no_step() -> None:
    """Every step has two line breaks before it: an engine stops at each, and the search goes on to the step's end."""

    def blanks_first(text: str, draw: tuple[str, int, bool]) -> str:
        begun = text.removeprefix("?\n")
        steps = begun.split()
        whole = "\n\n" + walk("".join(f"{step}\n" for step in ["?", *steps]), draw).replace("\n", "\n\n\n")
        done = "\n\n" + "".join(f"{step}\n\n\n" for step in steps)
        return (done + whole.strip("\n"))[len(begun) :]

    policy = KnownPolicy(blanks_first)
    found = searched("beam", 4, 2, policy=policy)
    assert [rated.partial.steps("\n") for rated in found.candidates] == [["b", "b1", "#b1"], ["b", "b2", "#b2"]]
    assert texts(found)[0] == "\n\nb\n\n\nb1\n\n\n#b1"
    assert {begun for begun, *_ in policy.asked} >= {"?\n", "?\n\n", "?\n\n\n", "?\n\n\nb\n", "?\n\n\nb\n\n"}


@pytest.mark.parametrize("method", ["beam", "dvts", "lookahead"])
def test_a_server_that_gives_no_text_ends_the_search(method: SearchMethod) -> None:
    """It says each time that the length limit was reached, or a step's end: without a letter, and without token ids."""
    for reason in ("length", "step"):
        policy = KnownPolicy(walk, gives_tokens=False)
        policy.respond = lambda request, begun, sample, settings, reason=reason: Response(
            sample, "", None, None, reason
        )
        found = searched(method, 4, 2, policy=policy)
        assert policy.calls <= 4 and {rated.partial.finish_reason for rated in found.candidates} <= {"length"}


def test_equal_responses_begun_take_one_place() -> None:
    """Eight draws of four first steps: of the four kept all differ."""
    policy = KnownPolicy(walk)
    searched("beam", 8, 2, policy=policy)
    assert {begun for begun, *_ in policy.asked if begun.count("\n") == 2} == {"?\na\n", "?\nb\n", "?\nc\n", "?\nd\n"}


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("gives_tokens", [True, False])
def test_a_budget_is_never_exceeded(method: SearchMethod, gives_tokens: bool) -> None:
    """Whatever the budget, what the engine wrote is what is counted and no more than it. One that holds a response of
    64 tokens leaves one that ended; and one that holds that beside what is spent without changes nothing."""
    problem = miniature.problems("test", 1)[0]
    options = {"lookahead_steps": 1} if method == "lookahead" else {}
    shape = (4, 1) if method == "best_of_n" else (4, 2)

    def found(budget: int | None) -> tuple[Found, int]:
        policy = erring_policy(gives_tokens=gives_tokens)
        return searched(
            method, *shape, policy=policy, by=perfect_scorer(), problem=problem, token_budget=budget, **options
        ), policy.tokens[problem.id]

    free, spent = found(None)
    assert free.tree.tokens_generated == spent
    for budget in [*range(1, 80, 3), *range(80, spent, 23), spent + 64]:
        limited, tokens = found(budget)
        assert limited.tree.tokens_generated == tokens <= budget
        assert limited.candidates and all(rated.partial.finish_reason for rated in limited.candidates)
        if budget >= 64:
            assert limited.candidates[choose(limited.candidates)].partial.finish_reason == "stop"
    assert limited.candidates == free.candidates


def test_what_is_kept_is_finished_with_what_the_budget_leaves() -> None:
    """64 of 76 tokens are for an end, 62 behind a first step. The other 12 draw a to d (8), then a1 (3 of the 6 left)
    and a2 (3), so that b, which had none, stays (1.0) beside a2 (-2.0). Of the 62 left, what b needs, none can be drawn
    but to ends: b's first, by the first step there is, then that of a2."""
    policy = KnownPolicy(walk)
    found = searched("beam", 4, 2, policy=policy, token_budget=76)
    assert texts(found) == ["b\nb1\n#b1", "a\na2\n#a2"]
    assert found.tree.tokens_generated == 4 * 2 + 2 * 3 + 7 + 4
    assert [begun for begun, *_ in policy.asked[-3:]] == ["?\nb\n", "?\nb\nb1\n", "?\na\na2\n"]
    only = searched("beam", 4, 2, token_budget=64)
    assert texts(only) == ["a\na1\n#a1"] and only.tree.tokens_generated == 9, "one response, and no more"
    assert texts(searched("beam", 4, 2, token_budget=1)) == ["a"]


def test_what_a_budget_leaves_over_is_drawn_with() -> None:
    """Responses may have 64 tokens and have 9. Of 100 one is drawn (9), then one of 91, 82, 73, 64; of the 55 left,
    one each, until the twelfth is cut off after one token."""
    policy = KnownPolicy(walk)
    found = searched("best_of_n", 100, policy=policy, token_budget=100)
    assert [len(rated.partial.ids) for rated in found.candidates] == [9] * 11 + [1]
    assert found.candidates[-1].partial == Partial((ord("d"),), "d", "length")
    assert answer(found) == "b\nb2\n#b2"


def test_max_steps_cuts_off() -> None:
    found = searched("beam", 4, 2, max_steps=2)
    assert [
        (text, rated.partial.finish_reason) for text, rated in zip(texts(found), found.candidates, strict=True)
    ] == [
        ("a\na1\n", "length"),
        ("a\na2\n", "length"),
        ("b\nb1\n", "length"),
        ("b\nb2\n", "length"),
    ]
    assert answer(found) == "b\nb1\n"


def test_what_the_scorer_cannot_hold_loses_and_is_counted() -> None:
    """Steps of more than two characters in all are too long: only first steps are scored; nothing fails."""
    by = scorer()
    by.max_length = 1
    found = searched("beam", 4, 4, by=by)
    assert texts(found) == ["a\na1\n#a1"], "of two that are too long, the first"
    assert found.candidates[0] == Rated(found.candidates[0].partial, None, float("-inf"))
    assert found.tree.too_long == 2 + 1


@pytest.mark.parametrize("method", SEARCHES)
def test_problems_do_not_depend_on_each_other_nor_on_token_ids(method: SearchMethod) -> None:
    problems = miniature.problems("test", 6)
    settings = SearchSettings(
        SamplingSettings(64), 4, 1 if method == "best_of_n" else 2, int(method == "lookahead"), token_budget=150
    )

    def run(some: Sequence[Problem], **options: bool) -> list[Found]:
        return search_together(some, method, settings, erring_policy(**options), perfect_scorer())

    def known(found: list[Found]) -> list[list[tuple[str, str | None, float]]]:
        return [[(r.partial.text, r.partial.finish_reason, r.score) for r in of.candidates] for of in found]

    together = run(problems)
    assert together == run(problems), "a rerun is identical"
    assert together == [found for problem in problems for found in run([problem])]
    assert known(together) == known(run(problems, gives_tokens=False))
    assert not any(r.partial.sampled for of in run(problems, gives_tokens=False) for r in of.candidates)


def test_problems_are_drawn_and_scored_together() -> None:
    """40 problems of up to ten steps take an engine call a step, not one a problem."""
    policy = erring_policy()
    settings = SearchSettings(SamplingSettings(64), 4, 2)
    search_together(miniature.problems("test", 40), "beam", settings, policy, perfect_scorer())
    assert policy.calls <= 10


def test_with_a_perfect_scorer_beam_beats_best_of_n_at_the_same_budget() -> None:
    """Each of about seven steps is wrong in three of ten cases, so a whole response is right in one of twelve."""
    problems = miniature.problems("test", 60)

    def right(method: SearchMethod, width: int, expand: int) -> tuple[float, float]:
        settings = SearchSettings(SamplingSettings(64), width, expand, token_budget=400)
        found = search_together(problems, method, settings, erring_policy(), perfect_scorer())
        answers = [answer(of) for of in found]
        shares = [text == miniature.solution(problem.prompt) for problem, text in zip(problems, answers, strict=True)]
        return sum(shares) / 60, sum(of.tree.tokens_generated for of in found) / 60

    best, best_tokens = right("best_of_n", 16, 1)
    beam, beam_tokens = right("beam", 8, 4)
    assert beam > 0.9 > 0.7 > best > 0.2
    assert beam_tokens <= best_tokens <= 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"width": 6, "expand": 4}, "width 6 is not a multiple of expand 4"),
        ({"width": 4, "token_budget": 0}, "token_budget is 0"),
        ({"width": 4, "max_steps": 0}, "max_steps is 0"),
        ({"width": 4, "lookahead_steps": -1}, "lookahead_steps is -1"),
    ],
)
def test_settings_that_cannot_be_meant(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSettings(SamplingSettings(64), **options)


def test_steps_of_a_response_begun() -> None:
    """What follows the last separator is a step only of a response that has ended; blanks are none."""
    assert Partial((1,), "a\n\nb", None).steps("\n") == ["a"]
    assert Partial((1,), "a\n\nb", "length").steps("\n") == ["a", "b"]
    assert Partial((1,), "\n \n", None).steps("\n") == []
    assert Partial((1,), "a", None).steps("\n") == []


def test_the_answer_is_one_that_ended() -> None:
    def rated(score: float, reason: str) -> Rated:
        return Rated(Partial((1,), "x", reason), [score], score)

    assert choose([rated(5.0, "length"), rated(-5.0, "stop"), rated(-4.0, "stop"), rated(-4.0, "stop")]) == 2
    assert choose([rated(-1.0, "length"), rated(1.0, "length")]) == 1
    assert choose([rated(float("-inf"), "length")]) == 0


def test_a_tree_without_a_budget_has_all_tokens_left() -> None:
    assert Tree(SearchSettings(SamplingSettings(8), 1), "\n", "min").tokens_left == float("inf")
