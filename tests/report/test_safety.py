"""Model text stays text in the report page, and a browser shows what was measured."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from qstep.report import Examples, render_report, view_problem
from report_samples import Page, estimate, examples, html, page_of, response, results

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


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(page_of(results()), examples(), tmp_path_factory.mktemp("page") / "report.html")


# Text stays text


def length(p: str, e: dict[str, float]) -> dict[str, Any]:
    return {"correlation": {p: dict.fromkeys(("all", "right", "wrong", p), e)}, "fewer_steps": {"all": e, p: e}}


def reliability(x: float) -> dict[str, Any]:
    return {"low": x, "high": x, "predicted": x, "right": x, "steps": 3}


def first_errors(p: str, e: dict[str, float]) -> dict[str, Any]:
    return {
        **dict.fromkeys(("f1", "acc_error", "acc_correct"), e),
        **dict.fromkeys(("n_error", "n_correct", "responses", "problems", "steps"), 3),
        "left_out": {p: 3},
        "separators": {"steps_with_a_separator": 3, "rows_split_at_another": 3},
        "auroc": {"step": e, "step_within_problem": None, p: e},
        "calibration": {"ece": e, "reliability": [reliability(x) for x in (0.2, 0.9)]},
        "by_threshold": {"threshold": [0.2, 0.9], **{key: [0.5, None] for key in ("f1", "acc_error", "acc_correct")}},
        "aggregations": {p: e, "min": None},
        "length": length(p, e),
    }


def chosen_on(p: str) -> dict[str, Any]:
    return {"source": p, "rows": 3, "f1": None, "problems_that_are_judged_too": 0}


def hostile(payloads: list[str]) -> tuple[dict[str, Any], list[Examples]]:
    """Every payload in every place where text can flow in."""
    every = " ".join(payloads)
    e = estimate(0.5, 0.1) | {"ungradable_share": 0.2, "as_wrong": 0.4, "as_right": 0.6}
    logs = [{"step": s, every: float(s)} for s in range(3)] + [{"step": 3, **dict.fromkeys(payloads, 1.0)}]
    measured = {
        "title": every,
        "policies": {p: {"sampled": e, every: e} for p in payloads},
        "comparisons": {p: e | {"a": p, "b": p, "mode": "sampled"} for p in payloads}
        | {f"{p} {p}": e | {"a": p, "b": p, "mode": p} for p in payloads},
        "verifiers": {p: {"1": e, "2": e} for p in payloads},
        "verifier_auc": {p: {p: e} for p in payloads},
        "aggregations": {p: {"curves": {p: {"1": e, p: e}}, "differences": {}} for p in payloads},
        "over_optimisation": {p: {"peak_n": 2, "drop": e} for p in payloads},
        "length": {p: length(p, e) for p in payloads},
        "steps": {p: first_errors(p, e) for p in payloads},
        "thresholds": {p: {"value": 0.5, "chosen_on": chosen_on(p)} for p in payloads},
        "labels": {
            **dict.fromkeys(("n_problems", "n_rows", "n_steps", "n_unlabelled_steps", "n_untried_steps"), 3),
            "hard": {"agreement": e, "kappa": None, "confusion": dict.fromkeys(payloads, 3)},
            "half": {"agreement": e, "kappa": None, "confusion": {}},
        },
        "training": {every: logs, "broken": [{"step": 0, **{p: p for p in payloads}}]},
        "provenance": {
            "date": every,
            "git_commit": every,
            "hardware": every,
            "versions": {p: p for p in payloads},
        },
    }
    bodies = [
        response(completion=p, completions=[p, p, "x"], answer=p, verdict=p, problem_id=every, prompt=every, gold=every)
        for p in payloads
    ]
    chat = [{"role": p, "content": p} for p in payloads]
    without = response(completion=every, completions=[], q_values=[], labels=[], prompt=chat)
    chosen = {p: i for i, p in enumerate(payloads) if i % 2}
    problems = [view_problem(bodies, chosen), view_problem([without])]
    cells = {(ours, theirs): 3 for ours in (True, False) for theirs in (True, False)}
    return measured, [Examples(every, problems, every, cells, 3)]


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    measured, shown = hostile(PAYLOADS)
    return render_report(page_of(measured), shown, tmp_path_factory.mktemp("page") / "hostile.html")


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
        {
            "provenance": {"x": "a\x00b\ud800c\x1b[0m\u202ed"},
            "policies": {"\x07\udfff": {"sampled": estimate(0.5, 0.1)}},
        },
        [Examples("a\x1bb", [view_problem([response(answer="\x00")])])],
        tmp_path,
    )
    assert "a\ufffdb\ufffdc\ufffd[0m" in shown and "\x00" not in shown and "\ufffd\ufffd" in shown


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


@in_browser
@pytest.mark.parametrize("width", [390, 500, 1280])
def test_the_page_is_no_wider_than_the_window(width: int, page_path: Path, tmp_path: Path) -> None:
    """Measured in a frame, since a browser's own window has a least width. Tables and charts scroll by themselves."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<iframe id=f width={width} height=900 style="border:0" src="{page_path.as_uri()}"></iframe><p id=p></p>
        <script>onload = () => p.textContent = "wide: " + f.contentDocument.documentElement.scrollWidth</script>"""
    )
    dom = browse(frame, tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom")
    assert f"wide: {width}<" in dom
