"""`qstep score` on files: how steps are split, what is too long, what a kill leaves, batches bounded by tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qstep.data import read_rows, write_jsonl
from qstep.scoring import StepScorer
from qstep.stages.score import ScoreConfig, score
from qstep.tasks import miniature
from scorers import miniature_scorer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


def responses(problems: int = 3, each: int = 4) -> list[dict[str, Any]]:
    """Responses whose lengths differ, as `qstep sample` writes them."""
    return [
        {"id": f"{problem.id}#{i}", "problem_id": problem.id, "prompt": problem.prompt, "task": "miniature"}
        | {"completion": "\n".join(miniature.solution(problem.prompt).split("\n")[i:])}
        for problem in miniature.problems("train", problems)
        for i in range(each)
    ]


def scored(tmp_path: Path, rows: list[dict[str, Any]], scorer: Path, **options: Any) -> list[dict[str, Any]]:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return list(
        read_rows(score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", scorer=str(scorer), **options)))
    )


def test_rows_without_steps_are_split_as_the_scorer_was_taught(scorer: Path, tmp_path: Path) -> None:
    rows = responses()
    alone = StepScorer.load(scorer)
    for row, out in zip(rows, scored(tmp_path, rows, scorer), strict=True):
        assert out["step_separator"] == "\n" and out["completions"] == row["completion"].split("\n")
        assert out["q_values"] == pytest.approx(alone.score(row["prompt"], out["completions"]), abs=1e-5)
        assert out["score"] == min(out["q_values"])
        assert out["step_rewards"] == pytest.approx(torch.sigmoid(torch.tensor(out["q_values"])).tolist())
        assert {name: out[name] for name in row} == row


def test_responses_made_elsewhere(scorer: Path, tmp_path: Path) -> None:
    """Nested responses to a question, without ids: each gets a row, and the scores it has when written by qstep."""
    rows = responses(2, 3)
    nested = [
        {"question": prompt, "answer": "5", "responses": [r["completion"] for r in rows if r["prompt"] == prompt]}
        for prompt in dict.fromkeys(row["prompt"] for row in rows)
    ]
    theirs = scored(tmp_path / "theirs", nested, scorer, task="miniature")
    ours = scored(tmp_path, rows, scorer)
    assert [row["q_values"] for row in theirs] == [row["q_values"] for row in ours]
    assert len({row["id"] for row in theirs}) == 6 and {row["task"] for row in theirs} == {"miniature"}


def test_steps_of_another_separator_are_refused(scorer: Path, tmp_path: Path) -> None:
    row = responses(1, 1)[0]
    for changes, says in (
        (
            {"completions": ["7+8=5"], "step_separator": "\n\n"},
            r"rows.jsonl: row 'other' was split into steps at '\\n\\n', not at '\\n'.* Write the rows again",
        ),
        ({"completions": ["7+8=5\n5*3=5", "#5"]}, r"row 'other' has a step that contains the separator"),
    ):
        with pytest.raises(ValueError, match=says):
            scored(tmp_path / str(len(changes)), [row, {**row, "id": "other"} | changes], scorer)
    kept = scored(tmp_path, [{**row, "completions": ["7+8=5", "#5"], "step_separator": "\n"}], scorer)
    assert kept[0]["completions"] == ["7+8=5", "#5"] and len(kept[0]["q_values"]) == 2


def test_a_scorer_of_steps_that_a_users_function_cuts_runs_it_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstep.data.splitters._users", {})
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    folder = miniature_scorer(tmp_path / "scorer", step_separator="split:my_splitter:before_answers")
    rows = responses(1, 2)
    with pytest.raises(
        ValueError, match=r"your own function, and it is not loaded\. Give --step_separator split:my_splitter:before_an"
    ):
        scored(tmp_path / "refused", rows, folder)
    with pytest.raises(ValueError, match=r"is 'split:line', but .* was trained on steps cut at 'split:my_splitter"):
        scored(tmp_path / "refused", rows, folder, step_separator="split:line")
    split = [{**row, "completions": ["7+8=5"], "step_separator": "split:my_splitter:before_answers"} for row in rows]
    assert len(scored(tmp_path / "split", split, folder)) == 2, "rows that are split need no splitter"
    done = scored(tmp_path / "named", rows, folder, step_separator="split:my_splitter:before_answers")
    lines = rows[0]["completion"].split("\n")
    assert done[0]["completions"] == ["\n".join(lines[:-1]), lines[-1]] and len(done[0]["q_values"]) == 2
    assert done[0]["step_separator"] == "split:my_splitter:before_answers"
    meta = (tmp_path / "named" / "out.meta.json").read_text()
    assert "split:my_splitter:before_answers " in meta, "the settings name the function with its file's content"


def test_over_long_rows_are_refused_with_a_count_before_any_is_scored(
    scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of five rows have 40 steps of 6 tokens, which 128 do not hold."""
    rows = responses(1, 3)
    long = [{**rows[0], "id": f"long {i}", "completion": "\n".join(["7+8=5"] * 40)} for i in range(2)]
    mixed = [rows[0], long[0], *rows[1:], long[1]]
    with pytest.raises(
        ValueError, match=r"2 rows are longer .* max_length of 128 tokens \('long 0', 'long 1'\)\. Leave"
    ):
        scored(tmp_path, mixed, scorer)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}, "nothing was begun"
    kept = scored(tmp_path, mixed, scorer, over_long="drop")
    assert [row["id"] for row in kept] == [row["id"] for row in rows]
    assert "over long: 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="was written with --over_long drop, without 2 rows"):
        scored(tmp_path, mixed, scorer)


@pytest.mark.parametrize("score_tokens", [1, 60, 200])
def test_a_stopped_run_ends_with_the_same_rows(
    score_tokens: int, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each of its batches in turn, it goes on where it was: the same bytes as uninterrupted."""
    rows = responses()
    whole = scored(tmp_path, rows, scorer, score_tokens=score_tokens)
    stopped = tmp_path / "stopped"
    original, forwards = StepScorer._scored, 0

    def stopping(self: StepScorer, pending: Any) -> Any:
        nonlocal forwards
        forwards += 1
        if forwards % 2 == 0:
            raise KeyboardInterrupt
        return original(self, pending)

    monkeypatch.setattr(StepScorer, "_scored", stopping)
    for _ in range(len(rows) + 1):
        try:
            scored(stopped, rows, scorer, score_tokens=score_tokens)
            break
        except KeyboardInterrupt:
            continue
    assert (stopped / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert [row["id"] for row in whole] == [row["id"] for row in rows]


def test_a_batch_is_bounded_by_its_tokens(scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 200 tokens and the row that passed them, however many rows there are: memory does not grow."""
    sizes = []
    load = StepScorer.load

    def watched(*arguments: Any, **options: Any) -> StepScorer:
        found = load(*arguments, **options)
        found.model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0]["input_ids"].numel()))
        return found

    monkeypatch.setattr(StepScorer, "load", watched)
    scored(tmp_path, responses(20, 4), scorer, score_tokens=200)
    assert max(sizes) <= 200 + 128 and len(sizes) > 3
    assert max(sizes[:-1]) - min(sizes[:-1]) <= 128
