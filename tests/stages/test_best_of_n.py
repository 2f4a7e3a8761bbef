"""`qstep best-of-n` on files: with and without scorers, on unequal, ungraded, unscored and real rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.runs import progress
from qstep.search import pass_at_k
from qstep.stages.best_of_n import BestOfNConfig, best_of_n
from real_data import DATA, needs


def problem(name: str, verdicts: str, scores: list[float | None] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Graded rows of one problem, a letter a verdict; right answers are equal, wrong ones differ."""
    words = {"r": "right", "w": "wrong", "u": "ungradable"}
    answers = {"r": "5", "u": None}
    return [
        {"id": f"{name}#{i}", "problem_id": name, "prompt": f"question {name}", "task": "miniature"}
        | {"completion": "#", "verdict": words[v], "answer": answers.get(v, f"wrong {i}")}
        | ({} if scores is None else {"score": scores[i]})
        | changes
        for i, v in enumerate(verdicts)
    ]


def report(tmp_path: Path, rows: dict[str, list[Any]] | list[Any], **options: Any) -> dict[str, Any]:
    """What best-of-n makes of rows, or of rows by scorer."""
    if isinstance(rows, dict):
        files: Any = {name: tmp_path / f"{name}.jsonl" for name in rows}
        for name, of_name in rows.items():
            write_jsonl(files[name], of_name)
    else:
        files = tmp_path / "graded.jsonl"
        write_jsonl(files, rows)
    return json.loads(best_of_n(BestOfNConfig(files, tmp_path / "out.json", **options)).read_text())


def test_without_a_scorer(tmp_path: Path) -> None:
    """a: right 3 of 4 with one answer; b: 1 of 4. n = 4: the majority of a is right, all four of b tie."""
    made = report(tmp_path, problem("a", "rrrw") + problem("b", "rwww"))
    assert list(made["curves"]) == ["mean", "majority", "pass"]
    assert made["ns"] == [1, 2, 4] and made["differences"] == {} and made["auc"] == {}
    assert made["curves"]["mean"]["4"]["mean"] == pytest.approx(0.5)
    assert made["curves"]["majority"]["4"]["mean"] == pytest.approx((1 + 1 / 4) / 2)
    assert made["curves"]["pass"]["2"]["mean"] == pytest.approx((1 + 1 / 2) / 2)
    assert (made["problems"], made["responses"], made["ungradable_share"]) == (2, 8, 0)


def test_a_file_without_a_name_is_a_scorers_where_its_rows_are_scored(tmp_path: Path) -> None:
    made = report(tmp_path, problem("a", "rw", [0.0, 1.0]) + problem("b", "rw", [1.0, None]))
    assert made["curves"]["scorer"]["2"]["mean"] == 0.5
    assert set(made["differences"]) >= {"scorer_minus_majority", "scorer_weighted_minus_scorer"}


def test_scorers_may_have_the_names_of_the_reports_parts(tmp_path: Path) -> None:
    rows = problem("a", "rw", [1.0, 0.0], label_source="exact", q_values=[1.0, 0.0], labels=[True, False])
    made = report(tmp_path, {"auc": rows, "differences": rows, "curves": rows})
    for name in ("auc", "differences", "curves"):
        assert made["curves"][name]["2"]["mean"] == 1
        assert made["auc"][name]["step_within_problem"]["mean"] == 1
    for name in ("mean", "majority", "pass"):
        with pytest.raises(ValueError, match=f"called '{name}': give the scorer another name"):
            report(tmp_path, {name: rows})


def test_ungradable_answers_are_told_apart(tmp_path: Path) -> None:
    """a: one of three ungradable; b: nothing gradable. Over the gradable 1/3 of 2/3, of 1 problem; bounds 1/6, 5/6."""
    made = report(tmp_path, problem("a", "rwu") + problem("b", "uuu"), ns="1,3")
    one = made["curves"]["mean"]["1"]
    assert (one["mean"], one["n"]) == (pytest.approx(1 / 2), 1)
    assert (one["as_wrong"], one["as_right"]) == pytest.approx((1 / 6, 5 / 6))
    assert made["ungradable_share"] == pytest.approx(4 / 6)
    nothing = report(tmp_path, problem("b", "uu"))
    assert nothing["curves"]["majority"]["2"]["mean"] is None
    assert nothing["curves"]["pass"]["2"]["as_right"] == 1


def test_a_problem_is_an_id_with_its_prompt(tmp_path: Path) -> None:
    other = [{**row, "id": f"{row['id']}'"} for row in problem("a", "ww", prompt="another question")]
    made = report(tmp_path, problem("a", "rr") + other)
    assert made["problems"] == 2 and made["curves"]["majority"]["2"]["mean"] == 0.5


def test_a_problem_has_one_gold_answer(tmp_path: Path) -> None:
    rows = problem("a", "rw", gold="5")
    assert report(tmp_path, rows)["problems"] == 1
    rows[1]["gold"] = "6"
    with pytest.raises(ValueError, match=r"line 2, field 'gold': is '6', but the same problem has '5' on line 1\. Cor"):
        report(tmp_path, rows)


def test_problems_are_named_by_id_and_gold_answer(tmp_path: Path) -> None:
    """Another instruction keeps the names. Two problems with one id and gold answer are named by their prompts."""
    rows = problem("a", "rw", gold="5") + problem("b", "rw", gold="6")
    names = report(tmp_path, rows)["problem_names"]
    other = problem("b", "ww", gold="6", prompt="Think. b") + problem("a", "rr", gold="5", prompt="Think. a")
    assert report(tmp_path, other)["problem_names"] == [*reversed(names)]
    assert report(tmp_path, problem("a", "rw", gold="7"))["problem_names"][0] not in names
    again = [{**row, "id": f"{row['id']}'"} for row in problem("a", "ww", gold="5", prompt="another")]
    twice = report(tmp_path, rows + again)["problem_names"]
    assert len({*twice}) == 3 and twice[1] == names[1]


def test_unequal_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = problem("a", "rrw") + problem("b", "rw")
    assert report(tmp_path, rows)["ns"] == [1, 2]
    assert "The largest n is 2" in capsys.readouterr().err
    made = report(tmp_path, rows, ns=[1, 3])
    assert made["problems"] == 1 and made["left_out"] == {"problems": 1, "with_fewer_responses_than": 3}
    assert "1 problems with fewer than 3 responses are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no problem has 4 responses, and none has more than 3"):
        report(tmp_path, rows, ns="4")


@pytest.mark.parametrize(("ns", "read"), [("1,4", [1, 4]), ("4", [4]), ([4, 1], [1, 4]), ("2, 3", [2, 3])])
def test_ns_is_a_list_or_numbers_with_commas(ns: Any, read: list[int], tmp_path: Path) -> None:
    assert report(tmp_path, problem("a", "rrww"), ns=ns)["ns"] == read


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded, scored = problem("a", "rw"), problem("a", "rw", [1.0, 0.0])
    for rows, says in (
        (
            [{k: v for k, v in row.items() if k != "verdict"} for row in graded],
            "'a#0' has no verdict: run `qstep grade`",
        ),
        ({"pqm": graded}, "'a#0' has no score: run `qstep score`, which writes it"),
        ({"pqm": scored, "bce": scored[:1]}, "have different rows"),
        ({"pqm": scored, "bce": [scored[0], {**scored[1], "completion": "another"}]}, r"bce.jsonl: row 'a#1' differs"),
        ({"pqm": scored, "bce": [scored[0], {**scored[1], "verdict": "right"}]}, "Score the same graded rows"),
        ({"pqm": scored, "bce": [{**row, "gold": "6"} for row in scored]}, "'a#0' differs .* or gold answer"),
        (graded + graded, "'a#0' occurs twice"),
        ([], "there are no rows"),
        ({"pqm": [{**row, "score": True} for row in scored]}, "'score': is True; give a finite number"),
    ):
        with pytest.raises(ValueError, match=says):
            report(tmp_path, rows)
    with pytest.raises(ValueError, match="--ns is '0'; give whole numbers from 1"):
        report(tmp_path, graded, ns="0")
    assert main(["best-of-n", "--inputs", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "o.json")]) == 1
    assert "none.jsonl" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", problem("a", "rrww", [1.0, 2.0, 0.0, 0.0]))
    for inputs, methods in (("--inputs.pqm", {"pqm", "pqm_weighted"}), ("--inputs", {"scorer", "scorer_weighted"})):
        arguments = [inputs, str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.json"), "--ns", "1,4"]
        assert main(["best-of-n", *arguments]) == 0
        made = json.loads((tmp_path / "out.json").read_text())
        assert set(made["curves"]) == {"mean", "majority", "pass"} | methods and made["ns"] == [1, 4]


def test_unlabelled_steps_have_no_part_in_the_auc(tmp_path: Path) -> None:
    rows = problem("a", "rw", [0.0, 0.0], label_source="exact")
    rows[0] |= {"q_values": [2.0, -9.0, 1.0], "labels": [True, None, True]}
    rows[1] |= {"q_values": [9.0, 1.5, -5.0], "labels": [None, False, False]}
    auc = report(tmp_path, {"v": rows})["auc"]["v"]["step_within_problem"]
    assert auc["mean"] == 0.5  # 2 and 1 right against 1.5, the first wrong step


def test_the_auc_is_within_an_id_with_its_prompt(tmp_path: Path) -> None:
    """1 for one prompt and 0 for the other, whose Qs are all higher: together they would be one problem's .75."""
    steps: dict[str, Any] = {"label_source": "exact"}
    first, second = problem("a", "rw", [0.0, 0.0], **steps), problem("a", "rw", [0.0, 0.0], prompt="other", **steps)
    for rows, q_values in ((first, (1.0, 0.0)), (second, (8.0, 9.0))):
        for row, q_value, label in zip(rows, q_values, (True, False), strict=True):
            row |= {"q_values": [q_value], "labels": [label]}
    rows = first + [{**row, "id": f"{row['id']}'"} for row in second]
    auc = report(tmp_path, {"v": rows})["auc"]["v"]["step_within_problem"]
    assert (auc["mean"], auc["n"]) == (0.5, 2)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_cell_of_a_table_is_cut(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nine columns, too wide for most terminals, become several tables; every number is there, whole."""
    with (tmp_path / "shown").open("w") as shown:
        monkeypatch.setattr(progress, "console", progress.Console(file=shown, width=width))
        cells = [[f"{row}.{column} [0.000, 1.000]" for column in range(9)] for row in range(3)]
        progress.print_table("title", ["", *(f"n = {2**n}" for n in range(9))], [["a name", *row] for row in cells])
    text = (tmp_path / "shown").read_text()
    assert "…" not in text
    assert all(cell in text for row in cells for cell in row)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("n = ") == 9


def test_a_column_wider_than_the_terminal_is_not_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "shown").open("w") as shown:
        monkeypatch.setattr(progress, "console", progress.Console(file=shown, width=40))
        progress.print_table("title", ["", "found"], [["a name that is long", "a finding " * 5]])
    assert "a finding " * 5 in (tmp_path / "shown").read_text()


@needs("gsm8k_responses.jsonl")
def test_real_responses_made_elsewhere(tmp_path: Path) -> None:
    """12 models' responses to 40 problems, as published: graded, then chosen among, without a scorer.

    The figures of the published verdicts, of which some half a percent are wrong, are beside ours within 2 points.
    """
    with (DATA / "gsm8k_responses.jsonl").open() as lines:
        published = [json.loads(next(lines)) for _ in range(40)]
    write_jsonl(tmp_path / "theirs.jsonl", published)
    graded, out = tmp_path / "graded.jsonl", tmp_path / "out.json"
    assert main(["grade", "--input", str(tmp_path / "theirs.jsonl"), "--output", str(graded)]) == 0
    assert main(["best-of-n", "--inputs", str(graded), "--output", str(out), "--ns", "1,4,12"]) == 0
    made = json.loads(out.read_text())
    assert (made["problems"], made["responses"]) == (40, 480)
    for n in (1, 4, 12):
        rights = [sum(response["correct"] for response in problem["responses"]) for problem in published]
        theirs = sum(pass_at_k(12, right, n) for right in rights) / 40
        ours = made["curves"]["pass"][str(n)]
        assert ours["as_wrong"] - 0.02 <= theirs <= ours["as_right"] + 0.02
    means = {method: curve["12"]["mean"] for method, curve in made["curves"].items()}
    assert means["mean"] < means["majority"] < means["pass"]


def scored_problem(name: str, qs: list[list[float]], verdicts: str, **changes: Any) -> list[dict[str, Any]]:
    rows = problem(name, verdicts, [min(q) for q in qs], **changes)
    return [row | {"q_values": q, "completions": ["#"] * len(q)} for row, q in zip(rows, qs, strict=True)]


def test_aggregations_are_compared_from_the_qs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right: Qs 0, 4; wrong: 1, 1: the lowest and the product pick the wrong one, the last and the mean the right."""
    rows = [row for i in range(3) for row in scored_problem(f"p{i}", [[0.0, 4.0], [1.0, 1.0]], "rw")]
    made = report(tmp_path, {"v": rows, "w": rows[::-1]}, aggregations="mean,min,last,product")
    for name in ("v", "w"):
        curves = made["aggregations"][name]["curves"]
        picks = {how: curves[how]["2"]["mean"] for how in ("min", "last", "mean", "product")}
        assert picks == {"min": 0, "last": 1, "mean": 1, "product": 0}
        outcomes = {how: made["outcomes"][f"{name}/{how}"] for how in ("last", "min")}
        assert (
            outcomes["last"]["2"] == {"right": [1, 1, 1], "gradable": [1, 1, 1]}
            and outcomes["min"]["1"]["right"] == [0.5] * 3
        )
    assert made["curves"]["v"]["2"]["mean"] == 0
    assert "one score from many steps" in capsys.readouterr().err
    assert "aggregations" not in report(tmp_path, {"v": rows})
    for aggregations in ("median", "min,min", ["min", "max"]):
        with pytest.raises(ValueError, match="give some of min, last, mean, product, each once"):
            report(tmp_path, {"v": rows}, aggregations=aggregations)
    del rows[3]["q_values"]
    with pytest.raises(ValueError, match="row 'p1#1' of v has no q_values"):
        report(tmp_path, {"v": rows}, aggregations="min")
    with pytest.raises(ValueError, match="--aggregations needs rows with q_values"):
        report(tmp_path, problem("a", "rw"), aggregations="min")


def test_what_scores_go_with(tmp_path: Path) -> None:
    """Each problem's short response scores above its long one; the ungradable one has no part in AUC."""
    qs = [[2.0], [1.0, 1.0], [0.5, 0.5, 0.5]]
    rows = [row for i in range(4) for row in scored_problem(f"p{i}", qs, "rwu")]
    made = report(tmp_path, {"v": rows})
    assert made["auc"]["v"]["response"]["mean"] == made["auc"]["v"]["response_within_problem"]["mean"] == 1
    length = made["length"]["v"]
    assert length["correlation"]["steps"]["all"]["mean"] == pytest.approx(-1)
    assert length["fewer_steps"]["all"]["mean"] == 1 and length["single_step"] == pytest.approx(1 / 3)
    assert made["over_optimisation"]["v"]["peak_n"] == 3 and made["over_optimisation"]["v"]["drop"] is None
    page = tmp_path / "page.html"
    made_file = tmp_path / "out.json"
    assert main(["report", "--results", str(made_file), "--output", str(page)]) == 0
    text = page.read_text()
    assert (
        "Over-optimisation" in text
        and "What the score correlates with" in text
        and "rank correlation with steps" in text
    )


def test_the_chosen_responses_are_written(tmp_path: Path) -> None:
    """The best score, the first response with the commonest answer, and the vote weighted by scores: by hand."""
    answers, scores = ["1", "2", "2", None], [3.0, -1.0, -2.0, 9.0]
    rows = [
        {"id": f"p#{i}", "problem_id": "p", "prompt": "q", "gold": "2", "completion": f"{answer}", "answer": answer,
         "verdict": "right" if answer == "2" else "wrong", "score": score}
        for i, (answer, score) in enumerate(zip(answers, scores, strict=True))
    ]  # fmt: skip
    path, chosen = tmp_path / "rows.jsonl", tmp_path / "chosen.jsonl"
    write_jsonl(path, rows)
    for _ in range(2):  # its own file is replaced
        best_of_n(BestOfNConfig(inputs={"pqm": path}, output=tmp_path / "best.json", chosen=chosen))
    found = {row["id"]: row["chosen_by"] for row in read_rows(chosen)}
    assert found == {"p#0": ["pqm_weighted"], "p#1": ["majority"], "p#3": ["pqm"]}
    chosen.write_text('{"theirs": 1}\n')
    with pytest.raises(ValueError, match=r"--chosen .* exists with other content"):
        best_of_n(BestOfNConfig(inputs={"pqm": path}, output=tmp_path / "best.json", chosen=chosen))


def test_unfinished_responses_lose_to_those_that_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cut-off response with the highest score neither wins nor votes, unless no response of its problem ended."""
    common = {"prompt": "q", "gold": "42", "completion": "x"}
    kinds = [("42", "stop", 1.0), ("30", "length", 3.0), ("41", "stop", -2.0), ("30", "length", 2.0)]
    rows = [
        {**common, "id": f"p#{i}", "problem_id": "p", "answer": answer, "finish_reason": reason, "score": score,
         "q_values": [score], "verdict": "right" if answer == "42" else "wrong"}
        for i, (answer, reason, score) in enumerate(kinds)
    ] + [
        {**common, "id": f"s#{i}", "problem_id": "s", "answer": "42", "finish_reason": "length", "score": 1.0 * i,
         "q_values": [1.0 * i], "verdict": "right"} for i in range(4)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows)
    output = best_of_n(
        BestOfNConfig(inputs={"prm": path}, output=tmp_path / "best.json", ns=[4], aggregations=["last"])
    )
    found = json.loads(output.read_text())
    assert found["unfinished"] == 6
    assert found["aggregations"]["prm"]["curves"]["last"]["4"]["mean"] == 1
    assert found["curves"]["prm"]["4"]["mean"] == 1 and found["curves"]["prm_weighted"]["4"]["mean"] == 1
    assert found["curves"]["majority"]["4"]["mean"] == 0.75, "42 and 41 tie in the first problem"
    assert "6 responses cut off: chosen only if no response to the problem ended" in capsys.readouterr().err
