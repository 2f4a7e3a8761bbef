"""`qstep search` and `qstep compare-search` on files: rows, resuming, refusals, real tiny models, the page."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pages import commands
from qstep.cli import main
from qstep.data import canonical_json, check_completion_ids, read_rows, write_jsonl
from qstep.evals import ANSWERS
from qstep.runs.stage_file import read_meta
from qstep.scoring import StepScorer, load_scorer
from qstep.search.methods import SEARCHES, SearchKind, SearchMethod
from qstep.stages.compare_search import CompareSearchConfig, compare_search
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.sample import SampleConfig, sample
from qstep.stages.search import SearchConfig, search
from qstep.tasks import miniature
from scorers import miniature_scorer
from searching import erring_policy, perfect_scorer, run_search

CHILD = Path(__file__).parents[1] / "support" / "searching.py"
COMMON: dict[str, Any] = dict(num_problems=3, split="test", max_new_tokens=24, width=4)
METHODS: list[tuple[SearchMethod, dict[str, int]]] = [
    ("best_of_n", {}),
    ("beam", {"expand": 2}),
    ("dvts", {"expand": 2}),
    ("lookahead", {"expand": 2, "max_steps": 3}),
]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_rows_of_a_model_and_a_scorer(
    method: SearchMethod, options: dict[str, int], base: Path, scorer: Path, tmp_path: Path
) -> None:
    """Untrained ones: tokens read as the text, Qs are the scorer's of whole responses, one row a problem is chosen,
    no problem takes more than its budget, and `qstep grade` and `best-of-n` read the file."""
    config = SearchConfig(
        model_name_or_path=str(base), scorer=str(scorer), output=tmp_path / "found.jsonl", method=method,
        token_budget=120, **COMMON, **options,
    )  # fmt: skip
    rows = list(read_rows(search(config)))
    alone = StepScorer.load(scorer)
    assert {row["problem_id"] for row in rows} == {problem.id for problem in miniature.problems("test", 3)}
    for row in rows:
        check_completion_ids(miniature.tokenizer(), row, row["id"])
        assert len(row["completion_ids"]) <= 24 and row["search"]["tokens_generated"] <= 120
        assert row["completions"] == [line.strip() for line in row["completion"].split("\n") if line.strip()]
        if row["completions"]:
            assert row["q_values"] == pytest.approx(alone.score(row["prompt"], row["completions"]), abs=1e-4)
            assert row["score"] == min(row["q_values"])
        assert row["search"]["method"] == method and ("expand" in row["search"]) == (method != "best_of_n")
    for problem_id in {row["problem_id"] for row in rows}:
        of_problem = [row for row in rows if row["problem_id"] == problem_id]
        [chosen] = [row for row in of_problem if row["chosen"]]
        ended = [row for row in of_problem if row["finish_reason"] == "stop"] or of_problem
        assert chosen["score"] == max((row["score"] for row in ended), key=lambda q: -math.inf if q is None else q)
        assert [row["sample"] for row in of_problem] == [*range(chosen["search"]["candidates"])]
    graded = grade(GradeConfig(tmp_path / "found.jsonl", tmp_path / "graded.jsonl"))
    assert [row["search"] for row in read_rows(graded)] == [row["search"] for row in rows]
    assert main(["best-of-n", "--inputs", str(graded), "--output", str(tmp_path / "best.json"), "--ns", "1"]) == 0
    meta = json.loads((tmp_path / "found.meta.json").read_text())["summary"]
    assert meta["problems"] == 3 and meta["candidates"] == len(rows) and meta["too_long"] == 0


def test_a_search_method_is_one_file_and_one_line(
    base: Path, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy finishes the best of 4 first steps twice. The line says which options it reads, and the rest follows."""
    options = {"model_name_or_path": str(base), "scorer": str(scorer), "output": tmp_path / "found.jsonl"}
    common: dict[str, Any] = {**COMMON, **options, "method": "best_start", "width": 4, "expand": 2}
    monkeypatch.setitem(SEARCHES, "best_start", SearchKind("best start", "toy_search:best_start", reads=("expand",)))
    rows = list(read_rows(search(SearchConfig(**common, token_budget=120))))
    assert {row["problem_id"] for row in rows} == {problem.id for problem in miniature.problems("test", 3)}
    assert max(row["search"]["candidates"] for row in rows) == 2  # equal ones, and those beyond the budget, are fewer
    assert all(row["search"].keys() >= {"method", "width", "expand", "token_budget"} for row in rows)
    assert all("max_steps" not in row["search"] and row["search"]["tokens_generated"] <= 120 for row in rows)
    with pytest.raises(ValueError, match="--max_steps is 2, but it has no effect without --method beam, dvts"):
        SearchConfig(**common, max_steps=2)
    toy = (Path(__file__).parents[1] / "support" / "toy_search.py").read_text()
    assert len(toy.splitlines()) < 60


def test_best_of_n_draws_what_sample_does(base: Path, scorer: Path, tmp_path: Path) -> None:
    options = dict(model_name_or_path=str(base), num_problems=3, split="test", max_new_tokens=24, seed=5)
    sampled = sample(SampleConfig(output=tmp_path / "sampled.jsonl", num_samples=4, **options))
    found = search(
        SearchConfig(output=tmp_path / "found.jsonl", scorer=str(scorer), method="best_of_n", width=4, **options)
    )
    columns = ("id", "completion", "completion_ids", "finish_reason", "prompt", "gold")
    ours, theirs = (sorted([row[c] for c in columns] for row in read_rows(path)) for path in (found, sampled))
    assert ours == theirs


def test_a_killed_search_ends_with_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    """SIGKILL three times, whenever so many more bytes are there: the same bytes in the end, and nothing twice."""
    expected = run_search(tmp_path / "whole").read_bytes()
    rng, output = random.Random(0), tmp_path / "killed" / "search.jsonl"

    def size() -> int:
        return output.stat().st_size if output.exists() else 0

    for _ in range(3):
        killed_at = size() + rng.randrange(1, len(expected) // 4)
        with subprocess.Popen([sys.executable, CHILD, output.parent], stderr=subprocess.DEVNULL) as child:
            while size() < killed_at and child.poll() is None:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
    assert 0 < size() < len(expected)
    assert run_search(output.parent).read_bytes() == expected


def test_a_problem_half_written_is_completed(tmp_path: Path) -> None:
    """A torn write leaves some rows of a problem: those that are missing are added, behind them the other problems."""
    whole = run_search(tmp_path / "whole", method="best_of_n", expand=4)
    lines = whole.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn"
    with pytest.raises(KeyboardInterrupt):
        _stopped_after_a_block(torn)
    (torn / "search.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    assert run_search(torn, method="best_of_n", expand=4).read_bytes() == whole.read_bytes()


def _stopped_after_a_block(folder: Path) -> None:
    policy = erring_policy()
    original, calls = policy.sample, 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    policy.sample = stopping  # type: ignore[method-assign]
    config = SearchConfig(
        model_name_or_path="known", scorer="known", output=folder / "search.jsonl", method="best_of_n",
        num_problems=40, problems_at_once=4, width=4, max_new_tokens=64,
    )  # fmt: skip
    search(config, policy, perfect_scorer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best_of_n", "expand": 2}, "--expand is 2, but it has no effect without --method beam, dvts or"),
        ({"method": "best_of_n", "max_steps": 2}, "--max_steps is 2, but it has no effect"),
        ({"method": "beam", "lookahead_steps": 2}, "--lookahead_steps is 2, .* without --method lookahead"),
        ({"width": 6}, "width 6 is not a multiple of expand 4"),
        ({"width": 0}, "--width is 0; it must be at least 1"),
        ({"token_budget": 0}, "--token_budget is 0; it must be at least 1"),
        ({"temperature": 0.0}, "--temperature is 0, so all .* would be equal"),
        ({"problems_at_once": 0}, "--problems_at_once is 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(model_name_or_path="m", scorer="s", output=Path("o.jsonl"), **options)


def test_what_the_scorer_cannot_hold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SearchConfig(
        model_name_or_path="known", scorer="known", output=tmp_path / "o.jsonl", method="best_of_n", width=2,
        num_problems=2, max_new_tokens=64,
    )  # fmt: skip
    rows = list(read_rows(search(config, erring_policy(), perfect_scorer(max_length=10))))
    assert all(row["score"] is None and "q_values" not in row and row["search"]["too_long"] == 2 for row in rows)
    assert "4 partial responses were longer than the scorer's max_length of 10 tokens" in capsys.readouterr().err


def test_what_the_scorer_cannot_hold_is_read_in_windows(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scorer for 18 tokens: with windows each candidate has a score, the one that the scorer gives it alone."""
    scorer = miniature_scorer(tmp_path / "scorer", max_length=18)
    given = dict(
        model_name_or_path=str(base), scorer=str(scorer), method="best_of_n", width=4, num_problems=2,
        max_new_tokens=24,
    )  # fmt: skip
    plain = list(read_rows(search(SearchConfig(output=tmp_path / "plain.jsonl", **given))))
    rows = list(read_rows(search(SearchConfig(output=tmp_path / "o.jsonl", over_long="window", **given))))
    assert [row["completion"] for row in rows] == [row["completion"] for row in plain]
    alone = load_scorer(str(scorer), windows=True)
    read = 0
    for row, before in zip(rows, plain, strict=True):
        if "q_values" not in before:
            read += "q_values" in row
        if "q_values" in row and row["completions"]:
            assert row["q_values"] == pytest.approx(alone.score(row["prompt"], row["completions"]), abs=1e-4)
    summary = read_meta(tmp_path / "o.jsonl")["summary"]
    assert read > 0 and summary["in_windows"] > 0
    assert "were read in windows over their steps" in " ".join(capsys.readouterr().err.split())
    assert "in_windows" not in read_meta(tmp_path / "plain.jsonl")["summary"]
    assert "in_windows" not in plain[0]["search"]


def graded_search(folder: Path, name: str, **options: Any) -> Path:
    found = run_search(folder / name, **({"num_problems": 60} | options))
    return grade(GradeConfig(found, folder / name / "graded.jsonl"))


def test_searches_are_compared_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exact Q, beam beats best-of-n at the same budget, and its own larger one is compared with neither."""
    files = {
        "beam_400": graded_search(tmp_path, "beam_400", width=8, expand=4, token_budget=400),
        "best_of_n_400": graded_search(tmp_path, "bon", method="best_of_n", width=16, expand=4, token_budget=400),
        "beam_800": graded_search(tmp_path, "beam_800", width=16, expand=4, token_budget=800),
    }
    output = compare_search(CompareSearchConfig(files, tmp_path / "compared.json", task="miniature"))
    report = json.loads(output.read_text())
    assert [*report["differences"]] == ["beam_400 - best_of_n_400"]
    assert report["differences"]["beam_400 - best_of_n_400"]["low"] > 0
    rows = [row for row in read_rows(files["beam_400"]) if row["chosen"]]
    of = report["searches"]["beam_400"]
    assert of["chosen"]["mean"] == sum(row["verdict"] == "right" for row in rows) / 60 and of["chosen"]["n"] == 60
    assert of["tokens_generated"]["mean"] == sum(row["search"]["tokens_generated"] for row in rows) / 60 <= 400
    assert of["method"] == "beam" and of["width"] == 8 and of["token_budget"] == 400
    assert all(of["chosen"]["mean"] <= of["pass"]["mean"] for of in report["searches"].values())
    assert "beam_400" in capsys.readouterr().err

    page, summary = tmp_path / "page.html", tmp_path / "results.json"
    arguments = ["report", "--results", str(output), "--output", str(page), "--summary", str(summary)]
    assert main(arguments) == 0
    text = page.read_text()
    assert "beam_400" in text and "tokens drawn" in text and 'id="searches"' in text
    numbers = json.loads(summary.read_text())
    assert numbers["searches"]["beam_800"]["chosen"] == report["searches"]["beam_800"]["chosen"]
    assert numbers["comparisons"]["beam_400 - best_of_n_400"]["n"] == 60
    assert main(["report", "--results", str(summary), "--output", str(tmp_path / "again.html")]) == 0


def test_candidates_that_were_cut_off_do_not_vote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """p: the wrong answer 1 has two votes, but of candidates that were cut off. q: none ended, so all vote."""
    base = {"task": "miniature", "prompt": "1+1=\n", "gold": "2"}
    spent = {"method": "beam", "width": 4, "expand": 2, "max_steps": None, "token_budget": None}
    spent |= {"tokens_generated": 30, "tokens_scored": 40, "too_long": 0, "candidates": 3}
    rows = [
        base | {"problem_id": p, "id": f"{p}#{i}", "sample": i, "completion": f"#{a}", "score": q, "chosen": i == 2,
                "search": spent, "finish_reason": end if i < 2 else last}
        for p, end, last in (("p", "length", "stop"), ("q", "length", "length"))
        for i, (a, q) in enumerate([(1, 3.0), (1, 3.0), (2, -3.0)])
    ]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    graded = grade(GradeConfig(tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"))
    output = compare_search(CompareSearchConfig({"beam": graded}, tmp_path / "out.json"))
    of = json.loads(output.read_text())["searches"]["beam"]
    assert [of[how]["mean"] for how in ("majority", "weighted")] == [0.5, 0.5]
    assert of["cut_off"] == 0.5 and of["unfinished"] == 5
    assert "5 candidates cut off, 1 choice among them" in capsys.readouterr().err


def test_votes_of_candidates(tmp_path: Path) -> None:
    """Answers 1, 1 and 2 with scores -3, -3 and 3: chosen and weighted are 2, the majority is 1."""
    base = {"problem_id": "p", "task": "miniature", "prompt": "1+1=\n", "gold": "2", "finish_reason": "stop"}
    spent = {"method": "beam", "width": 4, "expand": 2, "max_steps": None, "token_budget": None}
    spent |= {"tokens_generated": 30, "tokens_scored": 40, "too_long": 0, "candidates": 3}
    rows = [
        base | {"id": f"p#{i}", "sample": i, "completion": f"#{a}", "score": q, "chosen": q > 0, "search": spent}
        for i, (a, q) in enumerate([(1, -3.0), (1, -3.0), (2, 3.0)])
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    graded = grade(GradeConfig(tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"))
    output = compare_search(CompareSearchConfig({"beam": graded}, tmp_path / "out.json"))
    of = json.loads(output.read_text())["searches"]["beam"]
    assert [of[how]["mean"] for how in ANSWERS] == [1.0, 0.0, 1.0, 1.0]
    assert of["tokens_generated"] == {"mean": 30.0, "max": 30} and of["cut_off"] == 0.0

    assert of["unfinished"] == 0

    write_jsonl(tmp_path / "bare.jsonl", [{k: v for k, v in r.items() if k != "answer"} for r in read_rows(graded)])
    output = compare_search(CompareSearchConfig({"beam": tmp_path / "bare.jsonl"}, tmp_path / "bare.json"))
    assert json.loads(output.read_text())["searches"]["beam"]["chosen"]["mean"] == 1.0, "a vote needs answers"

    for change, message in (
        (lambda rows: [row | {"chosen": False} for row in rows], "has 3 rows, 0 of them chosen"),
        (lambda rows: rows[:2], "has 2 rows, 0 of them chosen, but its search wrote 3"),
        (lambda rows: [{k: v for k, v in row.items() if k != "search"} for row in rows], "'p#0' has no search: run"),
        (lambda rows: [{k: v for k, v in row.items() if k != "verdict"} for row in rows], "run `qstep grade` on the"),
        (lambda rows: [{k: v for k, v in row.items() if k != "score"} for row in rows], "'p#0' has no score: run"),
        (lambda rows: [row | {"search": "beam"} for row in rows], "'p#0' has 'beam' as its search. Give the rows"),
        (lambda rows: [row | {"search": spent | {"candidates": "3"}} for row in rows], "as its search. Give the rows"),
        (lambda rows: [*rows, *({**r, "problem_id": "q", "id": f"q{r['id']}", "search": spent | {"width": 8}}
                               for r in rows)], "problem 'q' was searched with .*'width': 8"),
    ):  # fmt: skip
        write_jsonl(tmp_path / "bad.jsonl", change(list(read_rows(graded))))
        with pytest.raises(ValueError, match=message):
            compare_search(CompareSearchConfig({"beam": tmp_path / "bad.jsonl"}, tmp_path / "bad.json"))
    write_jsonl(tmp_path / "other.jsonl", [row | {"problem_id": "q"} for row in read_rows(graded)])
    with pytest.raises(ValueError, match="have different problems"):
        compare_search(CompareSearchConfig({"a": graded, "b": tmp_path / "other.jsonl"}, tmp_path / "bad.json"))


def test_the_commands_of_the_page(base: Path, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/search.md, its commands with the tests' own models."""
    of_page = [line.split() for line in commands("docs/search.md")]
    assert {command[1] for command in of_page} >= {"search", "grade", "compare-search", "report"}
    monkeypatch.chdir(tmp_path)
    for command in of_page:
        words = [{"runs/policy": str(base), "runs/pqm": str(scorer)}.get(word, word) for word in command[1:]]
        if words[0] == "search":
            small = {"--num_problems": "2", "--max_new_tokens": "24"}
            small |= {"--token_budget": "100"} if "--token_budget" in words else {}
            options = dict(zip(words[1::2], words[2::2], strict=True)) | small
            words = ["search", *(word for pair in options.items() for word in pair)]
        assert main(words) == 0, command
    assert canonical_json(json.loads((tmp_path / "compared.json").read_text())["problems"]) == b"2"
