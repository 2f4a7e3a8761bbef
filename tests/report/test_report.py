"""The report page: words that match the numbers, and colours that can be read."""

from __future__ import annotations

import math
import os
import re
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qstep.evals import structure
from qstep.evals.measures import Accuracy, Difference
from qstep.report import Examples, charts, choose_examples, findings, render_report, view_problem
from qstep.types import Estimate
from report_samples import Page, estimate, examples, html, page_of, response, results


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(page_of(results()), examples(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(page_path: Path) -> str:
    return page_path.read_text(encoding="utf-8")


# Numbers to words


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.05, "better"),
        (-0.05, -0.01, "worse"),
        (-0.01, 0.05, "cannot tell"),
        (0.0, 0.05, "cannot tell"),  # 0 belongs to the interval
        (-0.05, 0.0, "cannot tell"),
        (math.nan, 0.05, "cannot tell"),
        (0.01, math.inf, "cannot tell"),
    ],
)
def test_a_difference_counts_only_when_its_interval_leaves_out_zero(low: float, high: float, verdict: str) -> None:
    assert findings.judge(Estimate(0.03, low, high, 400)) == verdict


def test_numbers_in_print() -> None:
    """0.7006 is 70.06 %, one decimal 70.1; +0.0002 is 0.02 points, which must not show as 0.0."""
    assert findings.percent_interval(Estimate(0.7006, 0.662, 0.738, 400)) == "70.1\u00a0% [66.2, 73.8]"
    assert findings.percent_interval(Estimate(0.5, math.nan, math.nan, 0)) == "50.0\u00a0%"
    assert findings.percent_interval(Estimate(math.nan, 0.1, 0.2, 0)) == "n/a"
    assert findings.points_interval(Estimate(0.291, 0.0002, 0.331, 1)) == "+29.1 [+0.02, +33.1]"
    assert findings.points(-0.043) == "\u22124.3"
    assert findings.points(0.0) == "0.0"


def difference(mean: float, low: float, high: float, n: int, **names: Any) -> Difference:
    return Difference(mean, low, high, n, **names)


def test_findings_state_both_sides() -> None:
    sides = {
        ("dqo", "sampled"): Estimate(0.701, 0.662, 0.738, 400),
        ("base", "sampled"): Estimate(0.41, 0.38, 0.44, 400),
    }
    policies = {"a": "dqo", "b": "base", "mode": "sampled"}
    finding = findings.find(difference(0.291, 0.25, 0.331, 400, **policies), sides)
    assert findings.lead(finding) == (
        "DQO answers 70.1\u00a0% [66.2, 73.8] of 400 problems when sampled, "
        "base 41.0\u00a0% [38.0, 44.0]: better (difference +29.1 [+25.0, +33.1] points)."
    )
    unsure = findings.find(difference(0.291, -0.25, 0.331, 400, **policies), sides)
    assert "cannot tell them apart" in findings.lead(unsure) and "better" not in findings.lead(unsure)
    ways = {"a": "pqm", "b": "majority", "among": 16}
    at_16 = {("pqm", 16): Estimate(0.7, 0.6, 0.8, 9), ("majority", 16): Estimate(0.5, 0.4, 0.6, 9)}
    assert findings.find(difference(0.2, 0.1, 0.3, 9, **ways), at_16).sentence == (
        "PQM@16 answers 70.0\u00a0% [60.0, 80.0] of 9 problems, majority vote 50.0\u00a0% [40.0, 60.0]"
    )
    unknown = findings.find(difference(0.1, 0.05, 0.2, 1, **ways), {})
    assert unknown.sentence == "PQM@16 \u2212 majority vote"


def test_a_name_may_contain_what_separates_names() -> None:
    """Names are fields, and are not read from the name of the comparison."""
    odd = {"a": "a - b (sampled)", "b": "c@2", "mode": "greedy"}
    sides = {(odd[side], "greedy"): Estimate(0.5, 0.4, 0.6, 9) for side in "ab"}
    finding = findings.find(difference(0.0, -0.1, 0.1, 9, **odd), sides)
    assert finding.label == "a - b (sampled) \u2212 c@2 (greedy)"
    assert finding.sentence == (
        "A - b (sampled) answers 50.0\u00a0% [40.0, 60.0] of 9 problems when decoded greedily, "
        "c@2 50.0\u00a0% [40.0, 60.0]"
    )


@pytest.mark.parametrize("bad", [{"low": 0.1}, {"mean": "0.5"}, True, {"mean": 0.5, "low": 0.6, "high": 0.7}, [0.5]])
def test_a_malformed_estimate_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"results\['policies'\]\['dqo'\]\['greedy'\]"):
        structure(Accuracy, bad, "results['policies']['dqo']['greedy']")


# The page


def test_the_page_says_what_was_measured(page: str) -> None:
    text = " ".join(Page(page).text.split())
    assert "DQO answers 70.1 % [66.5, 73.7] of 400 problems when sampled, base 41.0 % [37.5, 44.5]" in text
    assert "Of 4 comparisons, 2 show an improvement, 1 shows a loss, and 1 cannot tell." in text
    for said in (
        "93.8 % [93.4, 94.2]",
        "0.861",
        "39,120 steps",
        "train_runtime 55.2",
        "0.871",
    ):
        assert said in text
    assert "versions / torch" in text and "2.13.0" in text
    assert text.index("Policy sampled greedy base 41.0 %") > 0  # sampled stands before greedy


def test_the_page_is_accessible_in_its_structure(page: str) -> None:
    nodes = Page(page).nodes
    levels = [int(tag[1]) for tag, _ in nodes if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    figures = Page(page).tags("svg")
    assert len(figures) == 7  # differences, best-of-n, two policy charts, three metrics
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    ids = [attributes["id"] for _, attributes in nodes if "id" in attributes]
    links = [attributes["href"] for attributes in Page(page).tags("a")]
    assert sorted(links) == sorted(f"#{name}" for name in ids) and len(set(ids)) == len(ids)


def test_nothing_runs_and_nothing_is_remote(page: str) -> None:
    assert Page(page).active() == []
    assert re.findall(r"https?:|//[a-z]|url\(|@import", page.replace("http://www.w3.org/", "")) == []
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in Page(page).tags("meta")


def test_steps_show_q_check_and_the_first_error(page: str) -> None:
    """Shade floor(9 sigmoid(Q)): sigmoid(2) = 0.881, 7; sigmoid(-2.5) = 0.076, 0; sigmoid(0) = 0.5, 4."""
    picked, folded = page.split("<details><summary>1 more response")
    assert "Full text" not in page  # the steps tell all of it
    assert "★ chosen by PQM" in picked and "★ chosen by majority vote" in picked
    assert "← first wrong step" not in picked and folded.count("← first wrong step") == 1
    row = folded.split('<tr class="first-wrong">')[1].split("</tr>")[0]
    assert "5*3=6" in row and "✗" in row and 'class="q q0"' in row and "0.08" in row and "\u22122.50" in row
    assert '<span class="q q7" title="Q = +2.00">0.88</span>' in folded
    assert '<span class="q q4" title="Q = +0.00">0.50</span>' in folded


def test_tooltips_are_sentences(page: str) -> None:
    """Not what Vega makes of columns (`who: PQM; high: 0.5`), nor a line's first point."""
    titles = re.findall(r"<title>([^<]*)</title>", page)
    assert len(titles) > 12 and not [title for title in titles if re.search(r"\b(who|low|high|x|y|mean): ", title)]
    assert any(title.startswith("loss: 1 at step 0") for title in titles)


def test_importance_weights_are_explained_where_they_are_logged(tmp_path: Path) -> None:
    """Whatever the name of the run is."""
    logged = {"mine": [{"step": step, "importance/effective_sample_size": 0.5} for step in range(2)]}
    assert "Importance weights show" in Page(html({"training": logged}, [], tmp_path)).text
    assert "Importance weights" not in Page(html({"training": {"dqo": [{"step": 0, "loss": 1.0}]}}, [], tmp_path)).text


def test_provenance_alone_is_enough(tmp_path: Path) -> None:
    text = Page(html({"provenance": {"date": "2026-01-01"}}, [], tmp_path)).text
    assert "makes no claim of improvement" in text and "2026-01-01" in text
    assert "better" not in text and "Scorers" not in text


def test_empty_parts_and_unknown_numbers_are_shown_as_such(tmp_path: Path) -> None:
    nan = {"mean": None, "low": None, "high": None, "n": 0}
    logs = [{"step": s, "loss": v} for s, v in enumerate([1.0, math.nan, math.inf, -math.inf, None, 3.0, 1e300])]
    measured = {
        "provenance": {},
        "policies": {"base": {"sampled": nan}, "dqo": {}},
        "comparisons": {"dqo - base (sampled)": nan | {"a": "dqo", "b": "base", "mode": "sampled"}},
        "verifiers": {"pqm": {"1": nan, "2": {"mean": 0.5, "low": None, "high": None}}, "bce": {}},
        "training": {"pqm": logs, "dqo": [], "flat": [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 2.0}]},
    }
    bare = {"prompt": "q", "completion": "a"}
    shown = html(measured, [Examples("", [view_problem([bare])])], tmp_path)
    text = " ".join(Page(shown).text.split())
    assert "5 of loss" in text and "n/a" in text and "cannot tell" in text
    assert "NaN" not in shown and "Infinity" not in shown and "undefined" not in shown


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"q_values": [1.0]}, r"rows\[0\] has 3 steps, 1 q_values, 3 labels"),
        ({"completions": ["7+8=5", 6, "#6"]}, r"rows\[0\].*completions.*each must be a string"),
    ],
)
def test_a_malformed_response_is_refused_by_name(broken: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        view_problem([response(**broken)])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"verifiers": {"pqm": {"many": estimate(0.5, 0.1)}}}, "'many' is not a number of responses"),
        ({"training": {"dqo": [{"loss": 1.0}]}}, r"\['dqo'\]\[0\]: \"step\""),
        ({"policies": {"dqo": 0.7}}, r"\['policies'\]\['dqo'\] is 0.7"),
    ],
)
def test_malformed_results_are_refused_by_name(broken: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        render_report(page_of({"provenance": {}} | broken), [], tmp_path / "report.html")


def test_a_failed_write_leaves_the_former_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render_report(page_of({"provenance": {"run": "former"}}), [], tmp_path / "report.html")
    former = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        render_report(page_of({"provenance": {"run": "later"}}), [], tmp_path / "report.html")
    assert path.read_bytes() == former


def test_long_runs_are_thinned_and_it_is_said(tmp_path: Path) -> None:
    """5000 logs make ceil(5000 / 240) = 21 logs a point, 239 points."""
    logs = [{"step": s, "loss": float(s)} for s in range(5000)]
    shown = html({"provenance": {}, "training": {"pqm": logs}}, [], tmp_path)
    assert "Long series are thinned" in shown and len(shown) < 60_000


# Colours


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_in_light_and_dark() -> None:
    css = resources.files("qstep.report").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part))
        for part in css.replace("#fff;", "#ffffff;").split("@media screen")[:2]
    )
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for scheme in (light, dark):
        for text, ground in (("ink", "page"), ("muted", "page"), ("ink", "soft"), ("good", "good-soft")):
            assert contrast(scheme[text], scheme[ground]) >= 4.5
        assert contrast(scheme["bad"], scheme["bad-soft"]) >= 4.5
        for colour in {*charts._COLOURS.values(), *charts._OTHERS}:
            assert contrast(colour, scheme["page"]) >= 3
    ink = re.search(r"\.q \{.*color: (#\w+);", css)
    shades = re.findall(r"\.q\d \{ background: (#\w{6});(?: color: (#fff);)? \}", css)
    assert ink is not None and len(shades) == 9
    assert all(contrast(ground, "#ffffff" if white else ink[1]) >= 4.5 for ground, white in shades)


# Which problems are shown


def scored_problem(name: str, rows: list[tuple[str, str, float | None]]) -> list[dict[str, Any]]:
    """The rows `(answer, verdict, score)` of one problem as `qstep score` writes them."""
    return [
        {"id": f"{name}#{i}", "problem_id": name, "task": "miniature", "prompt": "7+8=\n", "gold": "5"}
        | {"completion": f"#{answer}", "completions": [f"#{answer}"], "answer": answer, "verdict": verdict}
        | {"score": score, "q_values": [score]}
        for i, (answer, verdict, score) in enumerate(rows)
    ]


WON = [("4", "wrong", -1.0), ("4", "wrong", 0.0), ("6", "wrong", None), ("5", "right", 2.0)]
LOST = [("5", "right", 0.0), ("5", "right", 1.0), ("6", "wrong", None), ("4", "wrong", 2.0)]
BOTH = [("5", "right", 1.0), ("5", "right", 0.0), ("4", "wrong", -1.0), ("5", "right", -2.0)]
NEITHER = [("4", "wrong", 1.0), ("4", "wrong", 0.0)]
UNKNOWN = [("4", "ungradable", 1.0), ("5", "right", 0.0)]


def rows_of(**kinds: tuple[int, list[tuple[str, str, float | None]]]) -> list[dict[str, Any]]:
    """So many problems of each kind, in turns."""
    most = max(count for count, _ in kinds.values())
    return [
        row
        for i in range(most)
        for kind, (count, rows) in kinds.items()
        if i < count
        for row in scored_problem(f"{kind}{i}", rows)
    ]


def test_as_many_losses_as_wins_are_shown_and_all_are_counted() -> None:
    """7 wins, 2 losses, 3 ties of 13: of six examples two are wins and two losses, whatever comes first."""
    rows = rows_of(won=(7, WON), lost=(2, LOST), both=(2, BOTH), neither=(1, NEITHER), unknown=(1, UNKNOWN))
    made = choose_examples(rows, "pqm", problems=6, responses=1)
    assert [problem.id for problem in made.problems] == ["won0", "won1", "lost0", "lost1", "both0", "neither0"]
    assert made.cells == {(True, False): 7, (False, True): 2, (True, True): 2, (False, False): 1}
    assert made.ungradable == 1
    assert "6 of 13 problems" in made.rule and "2 where PQM is right and the majority wrong, 2 where" in made.rule
    first = made.problems[0]
    shown = [(r.answer, r.score, r.chosen_by) for r in first.responses]
    assert shown == [("5", 2.0, ["pqm"]), ("4", -1.0, ["majority"])]
    assert (first.right, first.judged, first.total) == (1, 4, 4)
    assert [r.chosen_by for r in made.problems[4].responses] == [["pqm", "majority"]]
    one = choose_examples(rows_of(won=(3, WON), lost=(1, LOST), both=(4, BOTH)), problems=6)
    assert [problem.id for problem in one.problems] == ["won0", "lost0", "both0", "both1", "both2", "both3"]
    only = choose_examples(rows_of(won=(3, WON)), problems=4)
    assert [problem.id for problem in only.problems] == ["won0", "won1", "won2"] and "3 of 3" in only.rule


def test_examples_choose_what_ended_as_best_of_n_does() -> None:
    """A response that was cut off is chosen only if nothing else is there, and has no vote."""
    rows = scored_problem("p", [("6", "wrong", 9.0), ("6", "wrong", 8.0), ("5", "right", 1.0)])
    ended = [{**row, "finish_reason": reason} for row, reason in zip(rows, ("length", "length", "stop"), strict=True)]
    assert choose_examples(ended, "pqm").cells == {
        (True, True): 1,
        (False, False): 0,
        (True, False): 0,
        (False, True): 0,
    }
    cut = [{**row, "finish_reason": "length"} for row in rows]
    assert choose_examples(cut, "pqm").cells[False, False] == 1  # type: ignore[index]


def test_a_problem_counts_all_of_its_responses(tmp_path: Path) -> None:
    shown = html({}, [choose_examples(rows_of(both=(1, BOTH)), "pqm", responses=1)], tmp_path)
    text = " ".join(Page(shown).text.split())
    assert "3 of 4 responses right, 1 shown" in text
    assert "PQM right 1 0" in text and "PQM wrong 0 0" in text


def test_the_page_says_nothing_it_does_not_know(tmp_path: Path) -> None:
    """No commit outside a repository, no `held-out`, no exact check where no step has one."""
    made = {"provenance": {"date": "2026-01-01", "git_commit": None, "hardware": "2 cores"}}
    shown = html(made, [Examples("", [view_problem([response(labels=[None] * 3)])])], tmp_path)
    assert "None" not in shown and "held-out" not in shown and "exact check" not in shown
    with_labels = html(made, examples(), tmp_path)
    assert "exact check" in with_labels
