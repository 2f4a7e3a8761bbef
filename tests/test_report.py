"""The report page: words that match the numbers, text that stays text, and a page a browser can show."""

from __future__ import annotations

import math
import os
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qstep.report import charts, render_report, summary
from qstep.types import Estimate

PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    "</details><svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><foreignObject><body onload=alert(1)></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data='data:text/html,<script>alert(1)</script>'>",
    "<embed src='https://evil.example/x.swf'>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<form action='https://evil.example'><input autofocus onfocus=alert(1)>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<video><source onerror=alert(1)></video>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "]]><script>alert(1)</script>",
    '" onmouseover="alert(1)" x="\' onclick=\'alert(1)',
    "{{ 7 * 7 }}{% raw %}${alert(1)}`;alert(1)//",
    "&lt;script&gt;alert(1)&lt;/script&gt;<ScRiPt/x>alert(1)</sCrIpT \t>",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.nodes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.nodes.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.nodes if tag in names]

    def active(self) -> list[tuple[str, str, str | None]]:
        """Whatever could run, load or lead away."""
        loaders = "script iframe object embed base link form input button img video audio source image use a"
        found: list[tuple[str, str, str | None]] = []
        for tag, attributes in self.nodes:
            if tag in loaders.split() and not (tag == "a" and list(attributes) == ["href"]):
                found.append((tag, "", None))
            for name, value in attributes.items():
                safe_style = re.fullmatch(r"width: [\d.]+%", value or "")
                local_link = re.fullmatch(r"#[a-z]+", value or "")
                if (
                    name.startswith("on")
                    or name in ("src", "srcdoc", "action", "data", "xlink:href", "formaction")
                    or (name == "style" and not safe_style)
                    or (name == "href" and not local_link)
                    or (name == "http-equiv" and value != "Content-Security-Policy")
                ):
                    found.append((tag, name, value))
        return found


def estimate(mean: float, half: float, n: int = 400) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def results() -> dict[str, Any]:
    """What a small run of everything measured; the numbers are made up."""
    accuracies = {"pqm": (0.42, 0.62, 0.71), "majority": (0.42, 0.44, 0.46), "pass": (0.42, 0.73, 0.93)}
    logs = [
        {
            "step": s,
            "epoch": s / 40,
            "loss": 1 / (s + 1),
            "loss/q": 2 / (s + 1),
            "importance/effective_sample_size": 1 - s / 90,
        }
        for s in range(0, 40, 2)
    ]
    return {
        "title": "Chained arithmetic",
        "stages": {"base": 61.4, "sample": 14.9},
        "policies": {
            "base": {"greedy": estimate(0.453, 0.05), "sampled": estimate(0.410, 0.035)},
            "dqo": {"greedy": estimate(0.886, 0.03), "sampled": estimate(0.701, 0.036)},
        },
        "comparisons": {
            "dqo - base (sampled)": estimate(0.291, 0.041),
            "pqm@16 - majority@16": estimate(0.25, 0.05),
            "pqm@4 - majority@4": estimate(0.01, 0.02),
            "majority@16 - pass@16": estimate(-0.47, 0.05),
        },
        "verifiers": {
            name: {str(n): estimate(a, 0.04, 300) for n, a in zip((1, 4, 16), curve, strict=True)}
            for name, curve in accuracies.items()
        },
        "verifier_auc": {"pqm": {"step_within_problem": 0.871, "response": estimate(0.84, 0.01), "undefined": None}},
        "labels": {
            "n_steps": 39120,
            "hard": {
                "agreement": estimate(0.938, 0.004),
                "kappa": 0.861,
                "confusion": {"both_correct": 24410},
            },
            "half": {
                "agreement": estimate(0.921, 0.004),
                "kappa": None,
                "confusion": {"both_correct": 23999},
            },
        },
        "training": {"dqo": [*logs, {"step": 40, "train_runtime": 55.2}]},
        "provenance": {"versions": {"torch": "2.13.0"}, "seeds": {"base": [0, 1]}, "git_commit": "3f9c2ab"},
    }


def response(**changes: Any) -> dict[str, Any]:
    steps = ["7+8=5\n", "5*3=6\n", "#6"]
    fields = {"completion": "".join(steps), "verdict": "wrong", "answer": "6", "steps": steps, "score": -2.5}
    return fields | {"q_values": [2.0, -2.5, 0.0], "labels": [1, 0, 0], "chosen_by": []} | changes


def examples() -> list[dict[str, Any]]:
    picked = response(verdict="right", answer="5", score=1.0, labels=[1, 1, None], chosen_by=["pqm", "majority"])
    return [{"problem_id": "p1", "prompt": "7+8*3=", "gold": "5", "responses": [response(), picked]}]


def html(results: Any, examples: Any, folder: Path) -> str:
    return render_report(results, examples, folder / "new" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(results(), examples(), tmp_path_factory.mktemp("page") / "report.html")


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
    assert summary.judge(Estimate(0.03, low, high, 400)) == verdict


def test_numbers_in_print() -> None:
    """0.7006 is 70.06 %, one decimal 70.1; +0.0002 is 0.02 points, which must not show as 0.0."""
    assert summary.percent_interval(Estimate(0.7006, 0.662, 0.738, 400)) == "70.1\u00a0% [66.2, 73.8]"
    assert summary.percent_interval(Estimate(0.5, math.nan, math.nan, 0)) == "50.0\u00a0%"
    assert summary.percent_interval(Estimate(math.nan, 0.1, 0.2, 0)) == "n/a"
    assert summary.points_interval(Estimate(0.291, 0.0002, 0.331, 1)) == "+29.1 [+0.02, +33.1]"
    assert summary.points(-0.043) == "\u22124.3"
    assert summary.points(0.0) == "0.0"
    assert [summary.duration(s) for s in (4.14, 48.4, 185, 7800)] == [
        "4.1 s",
        "48 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert summary.duration(59.7) == "1 min 00 s"


def test_findings_state_both_sides() -> None:
    sides = {
        "dqo (sampled)": Estimate(0.701, 0.662, 0.738, 400),
        "base (sampled)": Estimate(0.41, 0.38, 0.44, 400),
    }
    finding = summary.find("dqo - base (sampled)", Estimate(0.291, 0.25, 0.331, 400), sides)
    assert summary.lead(finding) == (
        "DQO answers 70.1\u00a0% [66.2, 73.8] of 400 held-out problems when sampled, "
        "base 41.0\u00a0% [38.0, 44.0]: better (difference +29.1 [+25.0, +33.1] points)."
    )
    unsure = summary.find("dqo - base (sampled)", Estimate(0.291, -0.25, 0.331, 400), sides)
    assert "cannot tell them apart" in summary.lead(unsure) and "better" not in summary.lead(unsure)
    assert summary.find("pqm@64 - majority@64", Estimate(0.1, 0.05, 0.2, 1), {}).sentence == (
        "PQM@64 \u2212 majority vote@64"
    )
    at_16 = {"pqm@16": Estimate(0.7, 0.6, 0.8, 9), "majority@16": Estimate(0.5, 0.4, 0.6, 9)}
    assert summary.find("pqm@16 - majority", Estimate(0.2, 0.1, 0.3, 9), at_16).sentence == (
        "PQM@16 answers 70.0\u00a0% [60.0, 80.0] of 9 held-out problems, majority vote 50.0\u00a0% [40.0, 60.0]"
    )
    assert summary.find("no difference", Estimate(0.1, 0.05, 0.2, 1), {}).sentence == "no difference"


@pytest.mark.parametrize("bad", [{"low": 0.1}, {"mean": "0.5"}, True, {"mean": 0.5, "low": 0.6, "high": 0.7}, [0.5]])
def test_a_malformed_estimate_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"results\['policies'\]\['dqo'\]\['greedy'\]"):
        summary.read_estimate(bad, "results['policies']['dqo']['greedy']")


# The page


def test_the_page_says_what_was_measured(page: str) -> None:
    text = " ".join(Page(page).text.split())
    assert "DQO answers 70.1 % [66.5, 73.7] of 400 held-out problems when sampled, base 41.0 % [37.5, 44.5]" in text
    assert "Of 4 comparisons, 2 show an improvement, 1 shows a loss, and 1 cannot tell." in text
    for said in (
        "93.8 % [93.4, 94.2]",
        "0.861",
        "39,120 steps",
        "train_runtime 55.2",
        "1 min 16 s of work",
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
    assert "★ picked by PQM" in picked and "★ picked by majority vote" in picked
    assert "← first wrong step" not in picked and folded.count("← first wrong step") == 1
    row = folded.split('<tr class="first-wrong">')[1].split("</tr>")[0]
    assert "5*3=6" in row and "✗" in row and 'class="q q0"' in row and "0.08" in row and "\u22122.50" in row
    assert '<span class="q q7" title="Q = +2.00">0.88</span>' in folded
    assert '<span class="q q4" title="Q = +0.00">0.50</span>' in folded


def test_provenance_alone_is_enough_and_needed(tmp_path: Path) -> None:
    text = Page(html({"provenance": {"date": "2026-01-01"}}, [], tmp_path)).text
    assert "makes no claim of improvement" in text and "2026-01-01" in text
    assert "better" not in text and "Verifiers" not in text
    with pytest.raises(ValueError, match="provenance"):
        render_report({}, [], tmp_path / "report.html")


def test_empty_parts_and_unknown_numbers_are_shown_as_such(tmp_path: Path) -> None:
    nan = {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    logs = [{"step": s, "loss": v} for s, v in enumerate([1.0, math.nan, math.inf, -math.inf, None, 3.0, 1e300])]
    measured = {
        "provenance": {},
        "policies": {"base": {"sampled": nan}, "dqo": {}},
        "comparisons": {"dqo - base (sampled)": nan},
        "verifiers": {"pqm": {"1": nan, "2": 0.5}, "bce": {}},
        "labels": {},
        "stages": {},
        "training": {"pqm": logs, "dqo": [], "flat": [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 2.0}]},
    }
    shown = html(measured, [{"prompt": "q", "responses": []}], tmp_path)
    text = " ".join(Page(shown).text.split())
    assert "5 of loss" in text and "n/a" in text and "cannot tell" in text
    assert "NaN" not in shown and "Infinity" not in shown and "undefined" not in shown


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"q_values": [1.0]}, r"examples\[0\]\[\"responses\"\]\[0\] has 3 steps, 1 q_values, 3 labels"),
        ({"steps": ["7+8=5", 6, "#6"]}, r"examples\[0\].*steps.*each must be text"),
        ({"labels": [1, 2, 0]}, r"examples\[0\].*labels.*each must be 1, 0 or null"),
    ],
)
def test_a_malformed_response_is_refused_by_name(broken: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        render_report(
            {"provenance": {}}, [{"prompt": "q", "responses": [response(**broken)]}], tmp_path / "report.html"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"verifiers": {"pqm": {"many": 0.5}}}, "'many' is not a number of responses"),
        ({"training": {"dqo": [{"loss": 1.0}]}}, r"\['dqo'\]\[0\]: \"step\""),
        ({"policies": {"dqo": 0.7}}, r"\['policies'\]\['dqo'\] is 0.7"),
        ({"stages": {"base": math.nan}}, r"\['base'\]: nan is not a number of seconds"),
    ],
)
def test_malformed_results_are_refused_by_name(broken: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        render_report({"provenance": {}} | broken, [], tmp_path / "report.html")


def test_a_problem_without_responses_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"examples\[1\] has no 'responses'"):
        render_report({"provenance": {}}, [*examples(), {"prompt": "q"}], tmp_path / "report.html")


def test_a_failed_write_leaves_the_former_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render_report({"provenance": {"run": "former"}}, [], tmp_path / "report.html")
    former = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        render_report({"provenance": {"run": "later"}}, [], tmp_path / "report.html")
    assert path.read_bytes() == former


def test_long_runs_are_thinned_and_it_is_said(tmp_path: Path) -> None:
    """5000 logs make ceil(5000 / 240) = 21 logs a point, 239 points."""
    logs = [{"step": s, "loss": float(s)} for s in range(5000)]
    shown = html({"provenance": {}, "training": {"pqm": logs}}, [], tmp_path)
    assert "Long series are thinned" in shown and len(shown) < 60_000


# Text stays text


def hostile(payloads: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every payload in every place where text can flow in."""
    every = " ".join(payloads)
    e = estimate(0.5, 0.1)
    logs = [{"step": s, every: float(s)} for s in range(3)] + [{"step": 3, **dict.fromkeys(payloads, 1.0)}]
    measured = {
        "title": every,
        "stages": dict.fromkeys(payloads, 1.0),
        "policies": {p: {"sampled": e, every: e} for p in payloads},
        "comparisons": {f"{p} - {p} (sampled)": e for p in payloads} | dict.fromkeys(payloads, e),
        "verifiers": {p: {"1": e, "2": e} for p in payloads},
        "verifier_auc": {p: {p: e} for p in payloads},
        "labels": {p: {"agreement": e, "confusion": {p: p}} for p in payloads} | {f"n_{every}": 3},
        "training": {every: logs, "broken": [{"step": 0, **{p: p for p in payloads}}]},
        "provenance": {
            "date": every,
            "git_commit": every,
            "hardware": every,
            "versions": {p: p for p in payloads},
        },
    }
    bodies = [
        response(completion=p, steps=[p, p, "x"], answer=p, verdict=p, chosen_by=[p] * (i % 2))
        for i, p in enumerate(payloads)
    ]
    chat = [{"role": p, "content": p} for p in payloads]
    shown = [
        {"problem_id": every, "prompt": every, "gold": every, "responses": bodies},
        {"prompt": chat, "responses": [response(completion=every, steps=[], q_values=[], labels=[])]},
    ]
    return measured, shown


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(*hostile(PAYLOADS), tmp_path_factory.mktemp("page") / "hostile.html")


def test_payloads_change_no_element_of_the_page(hostile_path: Path, tmp_path: Path) -> None:
    """30 payloads in every sink leave the same elements and attributes as 30 harmless words."""
    assert len(PAYLOADS) == 30
    attacked = Page(hostile_path.read_text(encoding="utf-8"))
    harmless = Page(html(*hostile([f"w{i}" for i in range(30)]), tmp_path))
    assert attacked.active() == []
    assert [(tag, sorted(a)) for tag, a in attacked.nodes] == [(tag, sorted(a)) for tag, a in harmless.nodes]
    for payload in PAYLOADS:
        assert payload in attacked.text


def test_what_is_no_text_is_shown_as_replaced(tmp_path: Path) -> None:
    shown = html(
        {"provenance": {"x": "a\x00b\ud800c\x1b[0m\u202ed"}, "policies": {"\x07\udfff": {"sampled": 0.5}}},
        [],
        tmp_path,
    )
    assert "a\ufffdb\ufffdc\ufffd[0m" in shown and "\x00" not in shown and "\ufffd\ufffd" in shown


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


# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


def browse(page: Path, profile: Path, *flags: str) -> str:
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        *(f"--disable-{x}" for x in quiet),
    ]
    command += [f"--user-data-dir={profile}", "--hide-scrollbars", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def png(path: Path) -> tuple[int, int, tuple[int, int, int]]:
    """Width, height and the first pixel (which every PNG filter leaves as it is) of a true-colour PNG."""
    data, at, packed = path.read_bytes(), 8, b""
    width, height = struct.unpack(">II", data[16:24])
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        packed += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    red, green, blue = zlib.decompress(packed)[1:4]
    return width, height, (red, green, blue)


@in_browser
def test_a_browser_shows_headline_and_figures(page_path: Path, tmp_path: Path) -> None:
    dom = Page(browse(page_path, tmp_path / "profile", "--dump-dom"))
    assert "DQO answers 70.1\u00a0%" in dom.text
    assert len(dom.tags("svg")) == 7


@in_browser
def test_a_browser_finds_nothing_active_in_the_hostile_page(hostile_path: Path, tmp_path: Path) -> None:
    dom = Page(browse(hostile_path, tmp_path / "profile", "--dump-dom"))
    assert dom.active() == []
    assert PAYLOADS[0] in dom.text


@in_browser
@pytest.mark.parametrize(("scheme", "ground"), [(1, (255, 255, 255)), (0, (19, 22, 26))], ids=["light", "dark"])
def test_a_browser_paints_the_page(scheme: int, ground: tuple[int, int, int], page_path: Path, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    flags = ("--window-size=1280,1600", f"--blink-settings=preferredColorScheme={scheme}")
    browse(page_path, tmp_path / "profile", *flags, f"--screenshot={shot}")
    assert png(shot) == (1280, 1600, ground)
    assert shot.stat().st_size > 60_000  # an empty page of this size takes some 10 kB
