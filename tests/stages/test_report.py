"""`qstep report` on the results of evaluations and of best-of-n, alone and together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qstep.cli import main
from qstep.data import RowError, read_rows, write_json, write_jsonl
from qstep.evals import Page as Summary
from qstep.evals import PolicyEvaluation, VerdictCounts, policy_report, read_result, write_result
from qstep.evals.accuracy import digest_of_golds
from qstep.stages.best_of_n import BestOfNConfig, best_of_n
from qstep.stages.report import ReportConfig, report
from report_samples import Page


def evaluation(path: Path, **verdicts: tuple[int, int, int]) -> Path:
    """What `qstep evaluate` writes, from counts (right, wrong, ungradable) by problem; greedy is one of each."""
    sampled = {name: VerdictCounts(*of) for name, of in verdicts.items()}
    greedy = {name: VerdictCounts(int(of.right > 0), int(of.right == 0), 0) for name, of in sampled.items()}
    modes = {"greedy": greedy, "sampled": sampled}
    made = {"command": "qstep evaluate", "git_commit": "3f9c2ab", "hardware": "2 cores", "date": "2026-01-01"}
    result = PolicyEvaluation(
        name=path.stem,
        accuracies={mode: policy_report(counts) for mode, counts in modes.items()},
        problems={
            mode: {problem: [count.right, count.wrong, count.ungradable] for problem, count in counts.items()}
            for mode, counts in modes.items()
        },
        provenance=made,
    )
    write_result(path, result)
    return path


def test_problems_of_the_same_ids_with_other_gold_answers_are_not_compared(tmp_path: Path) -> None:
    """`gsm/test.jsonl` and `math/test.jsonl` both have a problem `test/test/0`."""
    paths = {name: evaluation(tmp_path / f"{name}.json", p=(2, 2, 0)) for name in ("base", "dqo")}
    for gold, name in zip(("5", "6"), paths, strict=True):
        golds = digest_of_golds([{"problem_id": "p", "gold": gold}])
        write_result(paths[name], replace(read_result(paths[name], PolicyEvaluation), golds=golds))
    with pytest.raises(ValueError, match="base and dqo answered problems with other gold answers: evaluate both"):
        report(ReportConfig(results=paths, output=tmp_path / "page.html"))


def test_a_summary_has_a_digest_of_its_problems(tmp_path: Path) -> None:
    """It is that of the ids and gold answers, also if the summary is part of another. Old results have none."""

    def summary(name: str, **results: Path) -> tuple[Path, str | None]:
        path = tmp_path / f"{name}-summary.json"
        report(ReportConfig(results=dict(results), output=tmp_path / f"{name}.html", summary=path))
        return path, read_result(path, Summary).problems

    choices = [
        choice(tmp_path / f"{n}.json", pqm=scored(tmp_path / f"{n}.jsonl", {"a": [of, 0.0]}, gold=gold))
        for n, (of, gold) in enumerate([(1.0, "5"), (2.0, "5"), (1.0, "6")])
    ]
    found = [summary(str(n), choice=path) for n, path in enumerate(choices)]
    assert found[0][1] == found[1][1] != found[2][1]
    again = [summary(f"again{n}", page=path)[1] for n, (path, _) in enumerate(found)]
    assert again[0] == again[1] != again[2]
    assert summary("old", base=evaluation(tmp_path / "base.json", p=(2, 2, 0)))[1] is None


def scored(path: Path, scores: dict[str, list[float]], **changes: Any) -> Path:
    """Two responses a problem, the first right, with their scores."""
    write_jsonl(
        path,
        [
            {"id": f"{name}#{i}", "problem_id": name, "prompt": f"question {name}", "task": "miniature", "gold": "5"}
            | {"completion": f"7+8=5\n#{5 + i}", "completions": ["7+8=5", f"#{5 + i}"], "answer": str(5 + i)}
            | {"verdict": "wrong" if i else "right", "score": score, "q_values": [1.0, score]}
            | {"labels": [True, not i], "label_source": "exact", "successes": [2, 0], "trials": [2, 2 - i]}
            | changes
            for name, of in scores.items()
            for i, score in enumerate(of)
        ],
    )
    return path


def choice(path: Path, **scorers: Path) -> Path:
    return best_of_n(BestOfNConfig(dict(scorers), path))


def shown(output: Path) -> str:
    return " ".join(Page(output.read_text()).text.split())


def test_an_evaluation_alone(tmp_path: Path) -> None:
    """b and c right in 3 of 4 gradable ones, a in 1 of 4: 7/12; the tenth of a hundred decimals is in the table."""
    results = evaluation(tmp_path / "dqo.json", a=(1, 3, 0), b=(3, 1, 0), c=(3, 1, 0))
    text = shown(report(ReportConfig(results, tmp_path / "page.html")))
    assert "makes no claim of improvement" in text and "58.3 %" in text
    assert "cannot be graded" not in text


def test_what_cannot_be_graded_is_on_the_page(tmp_path: Path) -> None:
    """(1/4 + 3/4) / (1/2 + 1) = 2/3 over the gradable; a quarter cannot be graded: 50 % as wrong, 75 % as right."""
    results = evaluation(tmp_path / "dqo.json", a=(1, 1, 2), b=(3, 1, 0))
    text = shown(report(ReportConfig(results, tmp_path / "page.html")))
    assert "66.7 %" in text
    assert "Some answers cannot be graded" in text and "DQO sampled 25.0 % 50.0 % to 75.0 %" in text


def test_policies_are_compared_problem_by_problem(tmp_path: Path) -> None:
    """dqo is right 1/4, 3/4, 4/4, base 0, 2/4, 3/4: each differs by 1/4."""
    dqo = evaluation(tmp_path / "a.json", a=(1, 3, 0), b=(3, 1, 0), c=(4, 0, 0))
    base = evaluation(tmp_path / "b.json", a=(0, 4, 0), c=(3, 1, 0), b=(2, 2, 0))
    config = ReportConfig({"dqo": dqo, "base": base}, tmp_path / "page.html", summary=tmp_path / "results.json")
    text = shown(report(config))
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers["comparisons"]["dqo - base (sampled)"]["mean"] == pytest.approx(0.25)
    assert set(numbers["policies"]) == {"dqo", "base"} and set(numbers["policies"]["dqo"]) == {"greedy", "sampled"}
    assert "DQO answers 66.7 %" in text and "of 3 problems when sampled, base 41.7 %" in text
    other = evaluation(tmp_path / "c.json", z=(1, 1, 0))
    with pytest.raises(ValueError, match="only one of dqo and other answered problem"):
        report(ReportConfig({"dqo": dqo, "other": other}, tmp_path / "page.html"))


def test_any_best_of_n_result(tmp_path: Path) -> None:
    """`good` picks the right one of both problems, `bad` never; together with an evaluation, labels and training."""
    good = scored(tmp_path / "good.jsonl", {"a": [2.0, -1.0], "b": [1.0, 0.0]})
    bad = scored(tmp_path / "bad.jsonl", {"a": [-2.0, 1.0], "b": [0.0, 1.0]})
    both = choice(tmp_path / "both.json", good=good, bad=bad)
    write_jsonl(tmp_path / "run" / "train_log.jsonl", [{"id": "0", "step": s, "loss": 1 / (s + 1)} for s in range(4)])
    config = ReportConfig(
        [both, evaluation(tmp_path / "base.json", a=(1, 1, 0))],
        *(tmp_path / "page.html", "A title"),
        training={"good": tmp_path / "run"},
        labels={"exact": good, "monte_carlo": bad},
        examples={"good": good},
        summary=tmp_path / "results.json",
    )
    text = shown(report(config))
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert {name: e["mean"] for name, e in numbers["comparisons"].items()} == {
        **{"good@2 - majority": 0.5, "good@2 - mean": 0.5, "good@2 - bad": 1}
    }
    assert numbers["labels"]["n_untried_steps"] == 0 and numbers["labels"]["hard"]["agreement"]["mean"] == 0.75
    for said in ("A title", "Good@2 answers 100.0 %", "★ chosen by good", "step within problem", "base", "loss"):
        assert said in text
    again = report(ReportConfig(tmp_path / "results.json", tmp_path / "again.html"))
    assert "Good@2 answers 100.0 %" in shown(again)


def test_the_best_way_to_choose_is_compared_whatever_it_is(tmp_path: Path) -> None:
    """`late` picks both right ones and is named second; its vote is no better. Then the first-named is the best."""
    bad = scored(tmp_path / "bad.jsonl", {"a": [-2.0, 1.0], "b": [0.0, 1.0]})
    late = scored(tmp_path / "late.jsonl", {"a": [2.0, -1.0], "b": [1.0, 0.0]})
    for named, best in (({"bad": bad, "late": late}, {"late@2 - majority"}), ({"late": late, "bad": bad}, set())):
        config = ReportConfig(choice(tmp_path / "c.json", **named), tmp_path / "page.html", summary=tmp_path / "s.json")
        text = shown(report(config))
        comparisons = set(json.loads((tmp_path / "s.json").read_text())["comparisons"])
        first, second = named
        assert comparisons == {f"{first}@2 - majority", f"{first}@2 - mean", f"{first}@2 - {second}"} | best
        assert "Late@2 answers 100.0 %" in text


def test_two_best_of_n_results_are_told_apart(tmp_path: Path) -> None:
    """Names of both sides get the name of the result, so that the sentence finds both accuracies: 1, and 1/2."""
    rows = scored(tmp_path / "rows.jsonl", {"a": [2.0, -1.0], "b": [1.0, 0.0]})
    both = {name: choice(tmp_path / f"{name}.json", pqm=rows) for name in ("old", "new")}
    text = shown(report(ReportConfig(both, tmp_path / "page.html", summary=tmp_path / "s.json")))
    comparisons = json.loads((tmp_path / "s.json").read_text())["comparisons"]
    assert list(comparisons) == [f"{r}: pqm@2 - {r}: {way}" for r in both for way in ("majority", "mean")]
    first = comparisons["old: pqm@2 - old: majority"]
    assert (first["a"], first["b"], first["among"]) == ("old: pqm", "old: majority", 2)
    assert "Old: PQM@2 answers 100.0 % [34.2, 100.0] of 2 problems, old: majority vote 50.0 %" in text


def test_how_many_examples_are_shown_is_an_option(tmp_path: Path) -> None:
    rows = scored(tmp_path / "rows.jsonl", {name: [2.0, -1.0] for name in "abcd"})
    result = choice(tmp_path / "c.json", pqm=rows)
    for problems, responses, counts in ((2, 1, "1 shown"), (4, 2, "2 responses right")):
        config = ReportConfig(result, tmp_path / "page.html", examples={"pqm": rows})
        config.example_problems, config.example_responses = problems, responses
        text = shown(report(config))
        assert text.count("right answer") == problems and f"{problems} of 4 problems" in text and counts in text


def test_several_best_of_n_results_keep_apart(tmp_path: Path) -> None:
    rows = scored(tmp_path / "rows.jsonl", {"a": [2.0, -1.0]})
    named = {name: choice(tmp_path / f"{name}.json", pqm=rows) for name in ("base", "dqo")}
    summary = tmp_path / "results.json"
    report(ReportConfig(named, tmp_path / "page.html", summary=summary))
    numbers = json.loads(summary.read_text())
    assert {"base: pqm", "dqo: pqm", "base: majority"} <= set(numbers["verifiers"])
    assert set(numbers["verifier_auc"]) == {"base: pqm", "dqo: pqm"} == {*numbers["verifier_auc"]}


def test_a_wide_table_becomes_several(tmp_path: Path) -> None:
    """Four scorers make eleven ways to choose: tables of at most five, in which every one has its column."""
    rows = scored(tmp_path / "rows.jsonl", {"a": [2.0, -1.0]})
    names = [f"scorer_{i}" for i in range(4)]
    page = report(ReportConfig(choice(tmp_path / "c.json", **dict.fromkeys(names, rows)), tmp_path / "page.html"))
    tables = page.read_text().split('aria-label="Table of best-of-n accuracies"')[1:]
    heads = [Page(table.split("</thead>")[0]).text.split()[-6:] for table in tables]
    assert len(tables) == 3
    columns = [table.split("</thead>")[0].count('<th scope="col" class="number">') for table in tables]
    assert columns == [5, 5, 1], heads


def test_bad_files_are_named(tmp_path: Path) -> None:
    rows = scored(tmp_path / "rows.jsonl", {"a": [2.0, -1.0]})
    result = choice(tmp_path / "c.json", pqm=rows)
    write_json(tmp_path / "other.json", {"loss": 1.0})
    (tmp_path / "list.json").write_text("[]")
    whole = {"completions": ["7+8=5\n#5"], "labels": [True], "q_values": [1.0], "successes": None, "trials": None}
    other = scored(tmp_path / "steps.jsonl", {"a": [2.0, -1.0]}, **whole)
    page = tmp_path / "page.html"
    for config, says in (
        (ReportConfig(tmp_path / "other.json", page), "other.json is not a result of"),
        (ReportConfig(tmp_path / "list.json", page), "list.json is not a result of"),
        (ReportConfig(rows, page), "rows.jsonl holds rows, one on each line"),
        (ReportConfig([result, result], page), "are both called 'c'"),
        (ReportConfig(result, page, labels={"exact": rows}), "give two files, --labels.exact and --labels.monte_carlo"),
        (ReportConfig(result, page, labels={"exact": other, "monte_carlo": rows}), "no row 'a#0' with the steps of"),
    ):
        with pytest.raises(ValueError, match=says):
            report(config)
    assert not page.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": "high"}, "field 'score': is 'high'; give a finite number"),
        ({"score": None, "verdict": "correct"}, "field 'verdict': is 'correct'; give 'right'"),
        ({"answer": 5}, "field 'answer': is 5; give a string or null"),
        ({"prompt": None}, "field 'prompt'"),
        ({"q_values": [1.0] * 9}, "field 'q_values': has 9 entries, and completions has 2"),
        ({"verdict": None}, "field 'verdict': is missing; run `qstep grade`"),
    ],
)
def test_a_bad_row_of_examples_or_labels_is_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    rows = scored(tmp_path / "rows.jsonl", {"a": [2.0, -1.0]})
    result, bad = choice(tmp_path / "c.json", pqm=rows), tmp_path / "bad.jsonl"
    first, second = read_rows(rows)
    write_jsonl(bad, [first, second | change])
    with pytest.raises(RowError, match=rf"bad\.jsonl, line 2, {says}"):
        report(ReportConfig(result, tmp_path / "page.html", examples={"pqm": bad}))
    write_jsonl(bad, [first, {name: value for name, value in second.items() if name != "id"}])
    with pytest.raises(RowError, match=r"bad\.jsonl, line 2, field 'id': is missing"):
        report(ReportConfig(result, tmp_path / "page.html", labels={"exact": rows, "monte_carlo": bad}))
    write_jsonl(bad, [{name: value for name, value in row.items() if name != "answer"} for row in (first, second)])
    report(ReportConfig(result, tmp_path / "page.html", examples={"pqm": bad}))


def test_the_command_line(tmp_path: Path) -> None:
    dqo, base = (evaluation(tmp_path / f"{name}.json", a=(1, 1, 0), b=(2, 0, 0)) for name in ("dqo", "base"))
    page = str(tmp_path / "page.html")
    assert main(["report", "--results.dqo", str(dqo), "--results.base", str(base), "--output", page]) == 0
    assert main(["report", "--results", str(dqo), "--output", page]) == 0
    assert main(["report", "--results", json.dumps([str(dqo), str(base)]), "--output", page]) == 0


def test_a_damaged_result_is_named_with_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: a difference, a count and a line of the provenance are deleted. The page needs no provenance."""
    graded = scored(tmp_path / "v.jsonl", {"p": [1.0, 0.0], "q": [0.0, 1.0]})
    chosen = best_of_n(BestOfNConfig({"v": graded}, tmp_path / "bon.json"))
    whole = json.loads(chosen.read_text())
    less = {name: value for name, value in whole["differences"].items() if name != "v_minus_mean"}
    write_json(chosen, {**whole, "differences": less})
    assert main(["report", "--results", str(chosen), "--output", str(tmp_path / "report.html")]) == 1
    assert "bon.json: differences has none of 'v' and 'mean'" in " ".join(capsys.readouterr().err.split())
    write_json(chosen, {**whole, "provenance": {"date": "2026-01-01"}})
    assert main(["report", "--results", str(chosen), "--output", str(tmp_path / "report.html")]) == 0
    both = [evaluation(tmp_path / f"{name}.json", p=(3, 1, 0), q=(1, 3, 0)) for name in ("a", "b")]
    counts = json.loads(both[1].read_text())
    counts["problems"]["sampled"]["p"] = [3, 1]
    write_json(both[1], counts)
    with pytest.raises(
        ValueError, match=r"b\.json: problems\['sampled'\]\['p'\] is \[3, 1\]; give the numbers of right"
    ):
        report(ReportConfig(both, tmp_path / "report.html"))
