"""Rollouts spent by three methods: what each draws, to the rollout; what it makes of it; and that a budget holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from fake_engine import EOS, CharacterTokenizer
from qstep.annotate import Decision, RolloutSettings, label_by_rollouts
from qstep.data import group_key, read_rows, write_jsonl
from qstep.data.rows import check_row
from qstep.generation import Request, SamplingSettings
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.tasks import miniature
from qstep.types import Response, RolloutMethod, Row

TOKENIZER = CharacterTokenizer()
PROMPT = "1+1+1+1=\n"  # = 4
METHODS: tuple[RolloutMethod, ...] = get_args(RolloutMethod)
Succeeds = Callable[[str, int], bool]


class Scripted:
    """Ends a rollout rightly where `succeeds(steps so far, sample)` says so; keeps what it was asked, call by call."""

    tokenizer = TOKENIZER

    def __init__(self, succeeds: Succeeds) -> None:
        self.succeeds = succeeds
        self.calls: list[list[Request]] = []

    @property
    def drawn(self) -> int:
        return sum(len(request.samples) for call in self.calls for request in call)

    def decode(self, ids: list[int]) -> str:
        return TOKENIZER.decode(ids)

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        self.calls.append([*requests])
        for request in reversed(self.calls[-1]):  # the order is the engine's to choose
            begun = self.decode(request.prompt_ids).removeprefix(PROMPT)
            yield request, [self.respond(begun, sample) for sample in request.samples]

    def respond(self, begun: str, sample: int) -> Response:
        text = ("" if begun.endswith("\n") else "\n") + ("#4" if self.succeeds(begun, sample) else "#5")
        ids = [*TOKENIZER.encode(text), EOS]
        return Response(sample, text, ids, [-0.1] * len(ids), "stop")


def row(sample: int, text: str, finish: str = "stop", **columns: Any) -> Row:
    return {
        "id": f"p#{sample}",
        "problem_id": "p",
        "sample": sample,
        "task": "miniature",
        "prompt": PROMPT,
        "gold": "4",
        "completion": text,
        "completion_ids": TOKENIZER.encode(text) + [EOS] * (finish == "stop"),
        "finish_reason": finish,
        "verdict": miniature.grade("4", text).verdict,
        **columns,
    }


WRONG = row(0, "0\n1\n2\n3\n4\n5\n6\n#5")  # eight steps, seven prefixes to try


def settings(method: RolloutMethod, k: int = 4, limit: int = 64, **decision: float) -> RolloutSettings:
    return RolloutSettings(k, SamplingSettings(limit), method=method, decision=Decision(**decision))


def steps_in(begun: str) -> int:
    return len(begun.split())


def below(wrong: int) -> Succeeds:
    """Whatever goes on from a step before the first wrong one succeeds."""
    return lambda begun, sample: steps_in(begun) <= wrong


def later_and_later(begun: str, sample: int) -> bool:
    """The first rollout of one step succeeds, the second of two, the third of three ..."""
    return sample >= steps_in(begun) - 1


def test_a_threshold_of_zero_is_decided_by_the_first_success_or_by_the_last_failure() -> None:
    any_success = Decision()
    assert any_success.side(1, 1, 7) is True and any_success.side(1, 7, 1) is True
    assert any_success.side(0, 7, 1) is None and any_success.side(0, 8, 0) is False
    assert any_success.side(0, 0, 8) is None and any_success.side(0, 0, 0) is None, "no trial, no evidence"
    assert any_success.fewest(0, 0, 8) == any_success.fewest(0, 7, 1) == 1
    assert any_success.fewest(1, 1, 7) == any_success.fewest(0, 8, 0) == any_success.fewest(0, 0, 0) == 0


def test_an_interval_beyond_the_threshold_decides() -> None:
    """Beta(1, 1 + f) lies below p with probability 1 - (1 - p)^(1 + f): at p = 1/2 .969 for f = 4, .984 for f = 5; the
    interval at 95 % leaves .025 on either side. At 80 % it leaves .1, and f = 3 (.9375) suffices."""
    half = Decision(0.5)
    assert half.side(0, 4, 60) is None and half.side(0, 5, 60) is False
    assert half.side(4, 4, 60) is None and half.side(5, 5, 60) is True
    assert half.fewest(0, 0, 64) == 5 and half.fewest(3, 3, 61) == 2
    assert Decision(0.5, 0.8).fewest(0, 0, 64) == 3
    assert Decision(0.9).side(1, 1, 99) is None, "one of one is above .9, though Beta(2, 1) is mostly below"


def test_rollouts_that_could_not_change_the_side_are_not_drawn() -> None:
    half = Decision(0.5)
    assert half.side(2, 2, 2) is None and half.side(3, 3, 1) is True, "3 of 4 are more than half, come what may"
    assert half.side(0, 2, 2) is False, "2 of 4 are not more than half"
    assert half.side(1, 2, 0) is False and half.fewest(0, 0, 4) == 2


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": -0.1}, {"level": 1.0}, {"level": 0.0}])
def test_thresholds_and_levels_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        Decision(**options)


def test_monte_carlo_draws_all_of_every_prefix_at_once() -> None:
    engine = Scripted(later_and_later)
    (labelled,) = label_by_rollouts(engine, [WRONG], settings("monte_carlo"))
    assert (len(engine.calls), engine.drawn) == (1, 28)
    assert labelled["successes"] == [4, 3, 2, 1, 0, 0, 0, 0] and labelled["trials"] == [4] * 7 + [1]
    assert labelled["labels"] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert all(type(label) is float for label in labelled["labels"])
    taken = {"prefixes": 7, "tried": 7, "cut_short": 0, "drawn": 28, "tokens": 84}
    assert labelled["rollouts"] == taken, "three tokens each"


class CutOff(Scripted):
    """Each rollout reaches the limit right after an intermediate result that is the gold answer."""

    def respond(self, begun: str, sample: int) -> Response:
        ids = TOKENIZER.encode("\n3+1=4\n4-")
        return Response(sample, "\n3+1=4\n4-", ids, [-0.1] * len(ids), "length")


def test_a_rollout_that_was_cut_off_has_no_answer() -> None:
    """As a response that `qstep grade` grades. Its last number made the prefix right."""
    wrong = {**WRONG, "task": "math", "completion_ids": None}
    (labelled,) = label_by_rollouts(CutOff(lambda begun, sample: True), [wrong], settings("monte_carlo"))
    assert labelled["successes"] == [0] * 8 and labelled["trials"] == [4] * 7 + [1]


def test_adaptive_goes_on_where_it_is_undecided() -> None:
    """1 + 2 + 3 + 4 rollouts to the first success, and 4 of each prefix that has none."""
    engine = Scripted(later_and_later)
    (labelled,) = label_by_rollouts(engine, [WRONG], settings("adaptive"))
    assert labelled["successes"] == [1, 1, 1, 1, 0, 0, 0, 0] and labelled["trials"] == [1, 2, 3, 4, 4, 4, 4, 1]
    assert labelled["labels"] == [1.0, 0.5, 1 / 3, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert [len(call) for call in engine.calls[:4]] == [7, 6, 5, 4] and engine.drawn == 22
    assert [request.samples for request in engine.calls[2]] == [range(2, 3)] * 5, "new draws, not the same again"
    assert labelled["rollouts"]["decided"] == 7 and labelled["label_source"] == "adaptive"
    (plain,) = label_by_rollouts(Scripted(later_and_later), [WRONG], settings("monte_carlo"))
    assert [rate > 0 for rate in plain["labels"]] == [rate > 0 for rate in labelled["labels"]], "by construction"


def test_a_right_response_is_the_success_that_decides_its_prefixes() -> None:
    """It shares two steps with the wrong one. At a threshold above 0 one success says little: all nine are tried."""
    rows = [WRONG, row(1, "0\n1\n7\n8\n#4")]
    engine = Scripted(below(1))
    wrong, right = label_by_rollouts(engine, rows, settings("adaptive"))
    assert right["labels"] == [1.0] * 5 and right["trials"] == [1] * 5
    assert wrong["labels"] == [1.0, 1.0, *[0.0] * 6] and wrong["trials"] == [1, 1, 4, 4, 4, 4, 4, 1]
    assert engine.drawn == wrong["rollouts"]["drawn"] == 20 and right["rollouts"]["drawn"] == 0
    assert [of["rollouts"]["decided"] for of in (wrong, right)] == [7, 2]
    wrong, right = label_by_rollouts(Scripted(below(8)), rows, settings("adaptive", threshold=0.5))
    assert wrong["trials"] == [3] * 7 + [1] and right["trials"] == [3] * 4 + [1], "3 of 4 are more than half"


def test_adaptive_draws_as_many_at_once_as_could_decide() -> None:
    """At a half and 95 % that is five: where all succeed one round is enough. Where every other one does, it takes all
    k: after 15 of 16 rollouts 8 have succeeded, and 9 would be more than half."""
    engine = Scripted(lambda begun, sample: True)
    (labelled,) = label_by_rollouts(engine, [WRONG], settings("adaptive", k=16, threshold=0.5))
    assert labelled["trials"] == [5] * 7 + [1] and len(engine.calls) == 1
    engine = Scripted(lambda begun, sample: sample % 2 == 0)
    (labelled,) = label_by_rollouts(engine, [WRONG], settings("adaptive", k=16, threshold=0.5))
    assert labelled["trials"] == [16] * 7 + [1] and labelled["successes"] == [8] * 7 + [0]


# The prefixes are bisected: 3, then 1 or 5, then their neighbours. A right one takes one rollout, a wrong one four.
@pytest.mark.parametrize(("wrong", "rollouts"), [(0, 12), (1, 9), (2, 9), (3, 6), (4, 9), (5, 6), (6, 6), (7, 3)])
def test_binary_search_finds_the_first_wrong_step(wrong: int, rollouts: int) -> None:
    engine = Scripted(below(wrong))
    (labelled,) = label_by_rollouts(engine, [WRONG], settings("binary_search"))
    assert labelled["labels"] == [True] * wrong + [False] * (8 - wrong)
    assert engine.drawn == rollouts and sum(n > 0 for n in labelled["trials"][:-1]) == 3
    assert labelled["trials"][-1] == 1 and labelled["successes"][-1] == 0, "its own verdict"
    assert labelled["rollouts"]["tried"] == labelled["rollouts"]["decided"] == 3
    check_row(Path("labels.jsonl"), 1, labelled, "stepwise")


def test_binary_search_begins_where_a_right_response_parts() -> None:
    """A right one goes the same way for four steps: 5 is tried (wrong, four rollouts), then 4 (right, one)."""
    right = row(1, "0\n1\n2\n3\n7\n#4")
    engine = Scripted(below(5))
    labelled = label_by_rollouts(engine, [WRONG, right], settings("binary_search"))
    assert labelled[0]["labels"] == [True] * 5 + [False] * 3 and engine.drawn == 5
    assert labelled[1]["labels"] == [True] * 6
    assert labelled[1]["trials"] == labelled[1]["successes"] == [1] * 6, "it is a trial of its own steps"
    assert labelled[0]["trials"] == [1, 1, 1, 1, 1, 4, 0, 1] and labelled[0]["successes"] == [1, 1, 1, 1, 1, 0, 0, 0]
    elsewhere = [WRONG, {**right, "prompt": "1+1+2=\n"}]
    label_by_rollouts(engine := Scripted(below(5)), elsewhere, settings("binary_search"))
    assert engine.drawn == 6, "another problem's responses are no evidence"


@pytest.mark.parametrize(("method", "drawn"), [("monte_carlo", 40), ("binary_search", 9), ("adaptive", 37)])
def test_responses_of_a_problem_share_the_rollouts_of_their_prefixes(method: RolloutMethod, drawn: int) -> None:
    """Both begin with 0 1 2 3, the second goes on with 8 9 0: ten prefixes, the first right, nine wrong. Both
    searches try 3, 1 and 0 and find that the second step is the first wrong one."""
    other = row(1, "0\n1\n2\n3\n8\n9\n0\n#5")
    engine = Scripted(below(1))
    labelled = label_by_rollouts(engine, [WRONG, other], settings(method))
    assert engine.drawn == drawn == sum(of["rollouts"]["drawn"] for of in labelled)
    assert [of["rollouts"]["prefixes"] for of in labelled] == [7, 3], "the second row's own"
    hard = [[label > 0 for label in of["labels"]] for of in labelled]
    assert hard == [[True] + [False] * 7] * 2
    assert labelled[0]["trials"][:4] == labelled[1]["trials"][:4]


def test_binary_search_tries_the_last_step_of_a_response_that_was_cut_off() -> None:
    cut = row(0, "0\n1\n2", "length")
    for wrong, labels in ((2, [True, True, False]), (3, [True, True, True])):
        (labelled,) = label_by_rollouts(Scripted(below(wrong)), [cut], settings("binary_search"))
        assert labelled["labels"] == labels


@pytest.mark.parametrize(("method", "all_of_it"), [("monte_carlo", 28), ("binary_search", 9), ("adaptive", 22)])
def test_a_budget_is_spent_to_the_last_rollout_and_never_overspent(method: RolloutMethod, all_of_it: int) -> None:
    succeeds = below(1) if method == "binary_search" else later_and_later
    for budget in range(31):
        engine = Scripted(succeeds)
        (labelled,) = label_by_rollouts(engine, [WRONG], settings(method), budgets={group_key(WRONG): budget})
        assert engine.drawn == labelled["rollouts"]["drawn"] == min(budget, all_of_it)
        assert (labelled["rollouts"]["cut_short"] > 0) == (budget < all_of_it)


def test_a_budget_goes_round_the_prefixes() -> None:
    def labels(method: RolloutMethod, succeeds: Succeeds, budget: int) -> list[Any]:
        budgets = {group_key(WRONG): budget}
        return label_by_rollouts(Scripted(succeeds), [WRONG], settings(method), budgets=budgets)[0]["labels"]

    assert labels("monte_carlo", below(2), 3) == [1.0, 1.0, 0.0, None, None, None, None, 0.0]
    assert labels("monte_carlo", later_and_later, 10) == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "2 2 2 1 1 1 1"
    assert labels("adaptive", below(2), 9) == [1.0, 1.0, *[0.0] * 6], "7, and one more of two that are open"
    assert labels("binary_search", below(1), 3) == [None] * 7 + [False], "three failures of four decide nothing"
    assert labels("binary_search", below(1), 4) == [None] * 3 + [False] * 5
    assert labels("binary_search", below(5), 1) == [True] * 4 + [None] * 3 + [False]


@pytest.mark.parametrize(("method", "label"), [("binary_search", False), ("adaptive", 0.0)])
def test_rollouts_that_cannot_be_graded_decide_nothing(method: Any, label: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "graded.jsonl", [WRONG])
    config = AnnotateConfig(
        tmp_path / "graded.jsonl",
        tmp_path / "labels.jsonl",
        method,
        "fake",
        max_new_tokens=64,
        grader="my_task:shrug",
    )
    (labelled,) = read_rows(annotate(config, Scripted(below(8))))
    assert labelled["labels"] == [None] * 7 + [label] and labelled["trials"] == [0] * 7 + [1]
    drawn = 4 if method == "binary_search" else 28
    assert labelled["rollouts"]["drawn"] == drawn and labelled["rollouts"]["decided"] == 0


def some_problems() -> list[Row]:
    """Six problems of two prompts' texts with one to four responses each, right and wrong, of two to eight steps."""
    rows = []
    for problem in range(6):
        for sample in range(1 + problem % 4):
            text = "\n".join([*"0123456"[: 1 + (problem + 3 * sample) % 7], f"#{4 + sample % 2}"])
            rows.append({**row(sample, text), "id": f"{problem}#{sample}", "problem_id": str(problem)})
    return rows


def by_hash(begun: str, sample: int) -> bool:
    return (7 * steps_in(begun) + 3 * sample) % 5 < 2


@pytest.mark.parametrize("method", METHODS)
def test_neither_order_nor_blocks_nor_a_torn_end_change_labels(method: RolloutMethod, tmp_path: Path) -> None:
    rows = some_problems()

    def run(name: str, given: list[Row], rows_at_once: int) -> tuple[dict[str, Row], dict[str, Any]]:
        write_jsonl(tmp_path / name / "graded.jsonl", given)
        config = AnnotateConfig(
            tmp_path / name / "graded.jsonl",
            tmp_path / name / "labels.jsonl",
            method,
            "fake",
            max_new_tokens=64,
            rollout_budget=40 if given == rows else None,
            rows_at_once=rows_at_once,
        )
        labelled = {of["id"]: of for of in read_rows(annotate(config, Scripted(by_hash)))}
        return labelled, json.loads((tmp_path / name / "labels.meta.json").read_text())

    whole, meta = run("whole", rows, 128)
    assert whole.keys() == {of["id"] for of in rows}
    assert run("small", rows, 1)[0] == whole
    assert meta["summary"]["rollouts"]["drawn"] == sum(of["rollouts"]["drawn"] for of in whole.values()) <= 40
    assert run("apart", rows[::-1], 2)[0].keys() == whole.keys()
    in_order, reversed_ = (run(name, given, 3)[0] for name, given in (("a", rows[1:]), ("b", rows[:0:-1])))
    assert {name: of["labels"] for name, of in in_order.items()} == {
        name: of["labels"] for name, of in reversed_.items()
    }
    # A writer killed in the middle of a write leaves part of a problem.
    lines = (tmp_path / "whole" / "labels.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "whole" / "labels.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])
    (tmp_path / "whole" / "labels.meta.json").write_text(json.dumps({**meta, "complete": False}))
    again, meta_again = run("whole", rows, 128)
    assert again == whole and meta_again["summary"] == meta["summary"]


def test_the_budget_of_a_job_is_shared_by_steps(tmp_path: Path) -> None:
    """Eight steps and four, nine rollouts: 9 * 8 / 12 = 6 and 3."""
    short = {**row(0, "0\n1\n2\n#5"), "id": "q#0", "problem_id": "q"}
    write_jsonl(tmp_path / "graded.jsonl", [WRONG, short])
    config = AnnotateConfig(
        tmp_path / "graded.jsonl",
        tmp_path / "labels.jsonl",
        "monte_carlo",
        "fake",
        max_new_tokens=64,
        rollout_budget=9,
    )
    engine = Scripted(below(1))
    labelled = list(read_rows(annotate(config, engine)))
    assert engine.drawn == 9 and [of["trials"] for of in labelled] == [[1] * 6 + [0, 1], [1] * 4]
    meta = json.loads((tmp_path / "labels.meta.json").read_text())
    assert meta["summary"] == {
        "left_out_ungradable": 0,
        "steps": {"null": 1, "soft": 11},
        "rollouts": {"prefixes": 10, "tried": 9, "cut_short": 10, "drawn": 9, "tokens": 27},
    }


def test_labels_by_another_method_say_nothing_of_rollouts(tmp_path: Path) -> None:
    (labelled,) = label_by_rollouts(Scripted(below(1)), [WRONG], settings("adaptive"))
    write_jsonl(tmp_path / "labelled.jsonl", [labelled])
    config = AnnotateConfig(tmp_path / "labelled.jsonl", tmp_path / "outcome.jsonl", "outcome")
    (by_outcome,) = read_rows(annotate(config))
    assert "rollouts" not in by_outcome and by_outcome["label_source"] == "outcome"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("binary_search", {}, "--method binary_search needs a model that draws rollouts: give --model_name_or_path"),
        (
            "outcome",
            {"rollout_budget": 5},
            "--rollout_budget is 5, but it has no effect without --method monte_carlo, ",
        ),
        ("outcome", {"deadline_s": 9.0}, "--deadline_s is 9.0, but it has no effect without --method monte_carlo"),
        ("exact", {"grader": "mine:reward"}, "--grader is 'mine:reward', but it has no effect without --method"),
        ("exact", {"threshold": 0.5}, "--threshold is 0.5, but it has no effect without --method binary"),
        ("monte_carlo", {"model_name_or_path": "m", "threshold": 0.5}, "without --method binary_search or adaptive"),
        ("monte_carlo", {"model_name_or_path": "m", "level": 0.9}, "without --method binary_search or adaptive"),
        ("adaptive", {"model_name_or_path": "m", "level": 0.9}, "without a --threshold above 0"),
        ("adaptive", {"model_name_or_path": "m", "threshold": 1.0}, "threshold is 1.0; it must be at least 0"),
    ],
)
def test_options_that_nothing_reads_are_refused(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnotateConfig(Path("graded.jsonl"), Path("labels.jsonl"), method, **options)
