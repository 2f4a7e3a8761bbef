"""Results and examples to render, and a reader of the pages they become."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from qstep.evals import Page as Results
from qstep.evals import structure
from qstep.report import Examples, render_report, view_problem


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
        "policies": {
            "base": {"greedy": estimate(0.453, 0.05), "sampled": estimate(0.410, 0.035)},
            "dqo": {"greedy": estimate(0.886, 0.03), "sampled": estimate(0.701, 0.036)},
        },
        "comparisons": {
            "dqo - base (sampled)": estimate(0.291, 0.041) | {"a": "dqo", "b": "base", "mode": "sampled"},
            "pqm@16 - majority": estimate(0.25, 0.05) | {"a": "pqm", "b": "majority", "among": 16},
            "pqm@4 - majority": estimate(0.01, 0.02) | {"a": "pqm", "b": "majority", "among": 4},
            "majority@16 - pass": estimate(-0.47, 0.05) | {"a": "majority", "b": "pass", "among": 16},
        },
        "verifiers": {
            name: {str(n): estimate(a, 0.04, 300) for n, a in zip((1, 4, 16), curve, strict=True)}
            for name, curve in accuracies.items()
        },
        "verifier_auc": {
            "pqm": {"step_within_problem": estimate(0.871, 0.01), "response": estimate(0.84, 0.01), "undefined": None}
        },
        "labels": {
            "n_problems": 400,
            "n_rows": 6400,
            "n_steps": 39120,
            "n_unlabelled_steps": 0,
            "n_untried_steps": 0,
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
        "provenance": {"versions": {"torch": "2.13.0"}, "seeds": {"base": [0, 1]}, "git_commit": 8 * "3f9c2ab"},
    }


def response(**changes: Any) -> dict[str, Any]:
    """A row of a scored file."""
    steps = ["7+8=5\n", "5*3=6\n", "#6"]
    fields = {"problem_id": "p1", "prompt": "7+8*3=", "gold": "5", "completion": "".join(steps), "verdict": "wrong"}
    fields |= {"answer": "6", "completions": steps, "score": -2.5}
    return fields | {"q_values": [2.0, -2.5, 0.0], "labels": [True, False, False]} | changes


def examples() -> list[Examples]:
    picked = response(verdict="right", answer="5", score=1.0, labels=[True, True, None])
    return [Examples("All there is.", [view_problem([response(), picked], {"pqm": 1, "majority": 1})])]


def page_of(results: Any) -> Results:
    """The numbers of a page, as `qstep report --summary` would read them."""
    found = structure(Results, results, "results")
    assert isinstance(found, Results)
    return found


def html(results: Any, examples: Any, folder: Path) -> str:
    return render_report(page_of(results), examples, folder / "new" / "report.html").read_text(encoding="utf-8")
