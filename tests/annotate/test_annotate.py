"""Step labels are evidence: what was not tried is no trial, what nobody knows is null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_engine import EOS, CharacterTokenizer
from qstep.annotate import OutcomePool, RolloutSettings, flip_labels, label_by_outcome, label_by_rollouts, label_exactly
from qstep.annotate.rollouts import prefixes_of
from qstep.data import read_responses, read_rows, write_jsonl
from qstep.generation import Request, SamplingSettings
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.tasks import Tasks, miniature
from qstep.types import Response, RolloutMethod, Row
from real_data import DATA, needs_data

TOKENIZER = CharacterTokenizer()
PROMPT = "7+8*3-9+1*2=\n"
LINES = miniature.solution(PROMPT).split("\n")  # 7+8=5, 5*3=5, 5-9=6, 6+1=7, 7*2=4, #4


class Solver:
    """Ends every response rightly, if it is given the room, without ids or log-probs as a server may; keeps the
    requests it saw."""

    tokenizer = TOKENIZER

    def __init__(self, with_ids: bool = True) -> None:
        self.with_ids = with_ids
        self.seen: list[Request] = []

    def decode(self, ids: list[int]) -> str:
        return TOKENIZER.decode(ids)

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        for request in requests:
            self.seen.append(request)
            begun = self.decode(request.prompt_ids).removeprefix(PROMPT)
            rest = miniature.solution(PROMPT).removeprefix(begun)[: request.limit(settings)]
            ids = [*TOKENIZER.encode(rest), EOS] if self.with_ids else None
            yield request, [Response(sample, rest, ids, None, "stop") for sample in request.samples]


def row(text: str, finish: str = "stop", **columns: Any) -> Row:
    ids = TOKENIZER.encode(text) + [EOS] * (finish == "stop")
    verdict = miniature.grade("4", text).verdict
    return {
        "id": "p#0",
        "problem_id": "p",
        "sample": 0,
        "task": "miniature",
        "prompt": PROMPT,
        "gold": "4",
        "completion": text,
        "completion_ids": ids,
        "finish_reason": finish,
        "verdict": verdict,
        **columns,
    }


def rollouts(limit: int, separator: str = "\n") -> RolloutSettings:
    return RolloutSettings(3, SamplingSettings(limit), separator)


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_right_response_cut_at_the_limit_knows_its_own_verdict(with_ids: bool) -> None:
    text = "\n".join(LINES)
    (labelled,) = label_by_rollouts(Solver(with_ids), [row(text, "length")], rollouts(len(text)))
    assert labelled["successes"] == [3, 3, 3, 3, 3, 1] and labelled["trials"] == [3, 3, 3, 3, 3, 1]
    assert labelled["labels"] == [1.0] * 6 and labelled["step_separator"] == "\n"


@pytest.mark.parametrize("ids", [True, False])
def test_rollouts_continue_from_the_same_tokens_whatever_names_the_lines(ids: bool) -> None:
    labelled = []
    for separator in ("\n", "split:line", "split:sentence"):
        given = row("\n".join(LINES))
        if not ids:
            del given["completion_ids"]
        solver = Solver()
        labelled += label_by_rollouts(solver, [given], rollouts(100, separator))
        prefixes = [solver.decode(request.prompt_ids).removeprefix(PROMPT) for request in solver.seen]
        assert prefixes == ["".join(line + "\n" for line in LINES[:n]) for n in range(1, 6)]
    assert [row.pop("step_separator") for row in labelled] == ["\n", "split:line", "split:sentence"]
    assert labelled[0] == labelled[1] == labelled[2]


def test_a_wrong_response_cut_at_the_limit_is_continued_only_where_there_is_room() -> None:
    cut = row("\n".join(LINES[:2]), "length")
    (full,) = label_by_rollouts(Solver(), [cut], rollouts(len(cut["completion"])))
    assert (full["successes"][-1], full["trials"][-1]) == (0, 1), "it failed within the limit"
    (longer,) = label_by_rollouts(Solver(), [cut], rollouts(100))
    assert (longer["successes"], longer["trials"]) == ([3, 3], [3, 3])


def test_a_limit_below_the_responses_is_refused() -> None:
    """Rollouts of right steps would be cut off, and the steps labelled wrong."""
    given = row("\n".join(LINES))
    length = len(given["completion_ids"])
    solver = Solver()
    with pytest.raises(ValueError, match=f"'p#0' has a response of {length} tokens, and its rollouts end at 13"):
        label_by_rollouts(solver, [given], rollouts(13))
    assert not solver.seen
    (labelled,) = label_by_rollouts(solver, [given], rollouts(length))
    assert labelled["labels"] == [1.0] * 6


@pytest.mark.parametrize("method", ["adaptive", "binary_search"])
def test_a_right_response_that_needs_no_rollouts_may_be_longer(method: RolloutMethod) -> None:
    settings = RolloutSettings(3, SamplingSettings(13), method=method)
    (labelled,) = label_by_rollouts(Solver(), [row("\n".join(LINES))], settings)
    assert [bool(label) for label in labelled["labels"]] == [True] * 6


def test_the_stage_refuses_a_short_limit_before_it_draws(tmp_path: Path) -> None:
    short = {**row("\n".join(LINES[:2]), "length"), "id": "a#0", "problem_id": "a"}
    source = write_jsonl_at(tmp_path / "graded.jsonl", [short, row("\n".join(LINES))])
    config = AnnotateConfig(source, tmp_path / "labels.jsonl", "monte_carlo", "fake", max_new_tokens=20, rows_at_once=1)
    solver = Solver()
    with pytest.raises(ValueError, match="its rollouts end at 20"):
        annotate(config, solver)
    assert not solver.seen


def test_ungradable_rollouts_are_no_trials_and_annotation_goes_on(tmp_path: Path) -> None:
    """A grader that shrugs at everything but the first step's rollouts."""
    rows = [{**row("\n".join(LINES), grader=Tasks("miniature", "my_task:shrug").named("miniature").version)}]
    source = write_jsonl_at(tmp_path / "graded.jsonl", rows)
    config = AnnotateConfig(
        source,
        tmp_path / "labels.jsonl",
        "monte_carlo",
        "fake",
        rollouts=3,
        max_new_tokens=64,
        grader="my_task:shrug",
    )
    (labelled,) = read_rows(annotate(config, Solver()))
    assert labelled["labels"] == [None] * 5 + [1.0] and labelled["trials"] == [0] * 5 + [1]
    meta = json.loads((tmp_path / "labels.meta.json").read_text())
    # 15 rollouts of 4 * 6 + 2 characters or fewer, and the end each: 3 * (27 + 21 + 15 + 9 + 3) tokens.
    taken = {"prefixes": 5, "tried": 5, "cut_short": 0, "drawn": 15, "tokens": 225}
    assert meta["summary"] == {"left_out_ungradable": 0, "steps": {"soft": 1, "null": 5}, "rollouts": taken}
    assert meta["settings"]["version"] == rows[0]["grader"], "another grader makes other labels"


def write_jsonl_at(path: Path, rows: list[Row]) -> Path:
    write_jsonl(path, rows)
    return path


def test_what_cannot_be_trusted_is_refused() -> None:
    good = row("\n".join(LINES))
    other_ids = [(i + 1) % EOS for i in good["completion_ids"]]
    bad: list[tuple[Row, str]] = [
        ({**good, "completion_ids": other_ids}, "another tokenizer .* made its completion_ids"),
        ({**good, "verdict": "ungradable"}, "right and wrong rows only"),
        ({**good, "grader": "miniature 0"}, "use the same grader"),
        ({**good, "completions": LINES, "step_separator": "\n\n"}, r"split into steps at '\\n\\n', not at '\\n'"),
        ({**good, "completions": ["\n".join(LINES)]}, "contains the separator"),
    ]
    for changed, message in bad:
        with pytest.raises(ValueError, match=message):
            label_by_rollouts(Solver(), [changed], rollouts(64))
    without_ids = {name: value for name, value in good.items() if name not in ("completion_ids", "finish_reason")}
    (labelled,) = label_by_rollouts(Solver(), [without_ids], rollouts(64))
    assert labelled["labels"] == [1.0] * 6, "text alone is encoded"


def test_responses_of_two_prompts_under_one_problem_id_share_nothing() -> None:
    other = "1+1+1+1+1+1=\n"
    solver = Solver()
    rows = [row("\n".join(LINES)), {**row("\n".join(LINES)), "prompt": other, "id": "p#1"}]
    label_by_rollouts(solver, rows, rollouts(64))
    assert len(solver.seen) == 10


def test_exact_labels_are_for_tasks_that_can_check_every_step() -> None:
    labelled = label_exactly(row("\n".join([*LINES[:2], "5-9=7", "#7"])))
    assert labelled["labels"] == [True, True, False, False] and labelled["step_separator"] == "\n"
    with pytest.raises(ValueError, match="outcome"):
        label_exactly({"task": "math", "prompt": "Q", "completion": "1+1=2"})


def response(sample: int, text: str, verdict: str, **columns: Any) -> Row:
    return {
        "id": f"q#{sample}",
        "problem_id": "q",
        "sample": sample,
        "task": "math",
        "prompt": "Q",
        "gold": "8",
        "completion": text,
        "verdict": verdict,
        **columns,
    }


GROUP = [
    response(0, "two and two\n2+2 = <<2+2=4>>4\n#### 8", "right"),
    response(1, "two and two\nso seven\n#### 7", "wrong"),
    response(2, "two and two\n2+2 = <<2+2=4>>4\n4*2 = 9\nmore\n#### 9", "wrong"),
    response(3, "perhaps\n2+2 =", "wrong", finish_reason="length"),
    response(4, "2+2 = 5\n#### 8", "right"),
    response(5, "two and two\nwho knows", "ungradable"),
]


def test_outcomes_of_a_group_label_what_they_show() -> None:
    pool = OutcomePool.of(GROUP)
    labelled = [label_by_outcome(row, pool) for row in GROUP[:5]]
    assert [row["labels"] for row in labelled] == [
        [True, True, True],
        [True, None, False],  # another response went right from the first step; "so seven" is nobody's evidence
        [True, True, False, False, False],  # 4*2 = 9 is false, and what follows it
        [None, None],  # cut off: where it went wrong is not known, nor that it did
        [True, True],  # a false equation that did not keep it from the right answer
    ]
    assert labelled[0]["successes"] == [1, 1, 1] and labelled[0]["trials"] == [3, 2, 1]
    assert labelled[1]["trials"] == [3, 1, 1] and labelled[1]["label_source"] == "outcome"
    elsewhere = label_by_outcome({**GROUP[1], "prompt": "R"}, pool)
    assert elsewhere["labels"] == [None, None, False], "another prompt is another problem"
    cut = {**response(6, "two and twox\n2+2", "wrong", finish_reason="length")}
    assert label_by_outcome(cut, OutcomePool.of([response(7, "two and two\nx2+2", "right")]))["labels"] == [None, None]


def test_flipped_labels_are_said_and_are_the_same_again(tmp_path: Path) -> None:
    """A label is turned over with the probability asked for, whatever the order of the rows; null stays null."""
    row = {**label_by_outcome(GROUP[1], OutcomePool.of(GROUP)), "labels": [True, None, False]}
    assert flip_labels(row, 1.0, seed=0)["labels"] == [False, None, True]
    assert flip_labels(row, 1.0, seed=0)["flipped"] == [0, 2]
    assert flip_labels(row, 0.0, seed=0)["labels"] == row["labels"]
    rows = [{**row, "id": str(i), "labels": [True] * 4} for i in range(1000)]
    turned = sum(len(flip_labels(row, 0.25, seed=1)["flipped"]) for row in rows)
    assert abs(turned - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    source = write_jsonl_at(tmp_path / "rows.jsonl", GROUP)
    for name in ("a.jsonl", "b.jsonl"):
        annotate(AnnotateConfig(source, tmp_path / name, "outcome", flip_share=0.5, seed=3))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert {row["label_source"] for row in read_rows(tmp_path / "a.jsonl")} == {"outcome, flipped"}
    with pytest.raises(ValueError, match=r"--flip_share is 1\.5; it must be from 0 to 1"):
        AnnotateConfig(source, tmp_path / "c.jsonl", "outcome", flip_share=1.5)
    with pytest.raises(
        ValueError, match=r"--flip_share is 0\.1, but it has no effect without --method exact or outcome"
    ):
        AnnotateConfig(source, tmp_path / "c.jsonl", "monte_carlo", "model", flip_share=0.1)


@pytest.mark.parametrize("option", [{"rollouts": 8}, {"temperature": 0.5}, {"dtype": "bfloat16"}, {"seed": 3}])
@pytest.mark.parametrize("method", ["exact", "outcome"])
def test_options_of_rollouts_are_refused_where_there_are_none(method: Any, option: Row, tmp_path: Path) -> None:
    paths = write_jsonl_at(tmp_path / "rows.jsonl", GROUP), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=f"--{next(iter(option))} is .*, but it has no effect without --method monte"):
        AnnotateConfig(*paths, method, **option)
    AnnotateConfig(*paths, method, seed=3, flip_share=0.5)
    AnnotateConfig(*paths, method, device="cpu")  # as a recipe gives it to all of its stages


def test_responses_made_elsewhere_are_annotated_by_outcome(tmp_path: Path) -> None:
    plain = [
        {"question": row["prompt"], "answer": "8", "text": row["completion"], "model": "m", "verdict": row["verdict"]}
        for row in GROUP
    ]
    for line in plain:
        line["gold"] = line.pop("answer")
    source = write_jsonl_at(tmp_path / "made_elsewhere.jsonl", plain)
    rows = list(read_rows(annotate(AnnotateConfig(source, tmp_path / "labels.jsonl", "outcome"))))
    assert [row["labels"] for row in rows[:2]] == [[True, True, True], [True, None, False]]
    assert len(rows) == 5 and rows[0]["model"] == "m" and rows[0]["task"] == "math"
    meta = json.loads((tmp_path / "labels.meta.json").read_text())
    # Whether row 3 was cut off is not known any more: it counts as ended, so its last step is wrong.
    assert meta["summary"] == {"left_out_ungradable": 1, "steps": {"null": 2, "right": 8, "wrong": 5}}


def test_steps_that_nothing_separates_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl_at(tmp_path / "graded.jsonl", GROUP)
    annotate(AnnotateConfig(source, tmp_path / "labels.jsonl", "outcome", step_separator=" / "))
    assert "no response has more than one step. Check --step_separator, which is ' / '" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_mark_that_is_a_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl_at(
        tmp_path / "graded.jsonl", [{**row, "completion": f"<think>\n{row['completion']}"} for row in GROUP]
    )
    annotate(AnnotateConfig(source, tmp_path / "labels.jsonl", "outcome"))
    said = " ".join(capsys.readouterr().err.split())
    assert "responses a mark such as <think> is a step of its own" in said and "split:paragraph" in said


@needs_data
def test_real_responses_are_cut_into_tokens_of_a_real_tokenizer() -> None:
    """Text of twelve models, tokens of another: every step gets its prefix, and rollouts only where they are needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<eos>"])}
    bytes_bpe = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_bpe.decoder = decoders.ByteLevel()
    engine = Solver()
    engine.tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_bpe, eos_token="<eos>")  # type: ignore[assignment]
    rows = list(read_responses(DATA / "gsm8k_responses.jsonl", limit=3))
    assert len(rows) == 36
    for row in rows:
        steps, prefixes = prefixes_of(engine, {**row, "verdict": "wrong"}, "\n", 100_000)
        assert len(prefixes) == len(steps) - 1
        for step, prefix in zip(steps, prefixes, strict=False):
            text = engine.tokenizer.decode(prefix.ids)
            assert row["completion"].startswith(text) and text.strip().endswith(step)


@pytest.mark.parametrize("first", [0, 1, 4])
def test_the_first_of_a_problem_are_those_of_the_least_sample(first: int, tmp_path: Path) -> None:
    rows = [
        {"id": f"{p}#{i}", "problem_id": p, "sample": first + i, "prompt": f"{p}?", "gold": "2", "completion": "#2"}
        | {"verdict": "right" if i else "ungradable"}
        for p in "ab"
        for i in (3, 1, 0, 2)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    config = AnnotateConfig(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", "outcome", max_per_problem=3)
    assert sorted(row["id"] for row in read_rows(annotate(config))) == ["a#1", "a#2", "b#1", "b#2"]
