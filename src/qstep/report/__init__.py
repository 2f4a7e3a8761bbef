"""The report: one self-contained HTML page of results, without scripts or remote addresses.

The same results are also available as tables for the terminal and as a model card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.report.card import write_card
    from qstep.report.contents import gathered
    from qstep.report.examples import Examples, choose_examples, choose_judged
    from qstep.report.page import render_report
    from qstep.report.response import view_problem

__all__ = [
    "Examples",
    "choose_examples",
    "choose_judged",
    "gathered",
    "render_report",
    "view_problem",
    "write_card",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Examples": "examples",
        "choose_examples": "examples",
        "choose_judged": "examples",
        "gathered": "contents",
        "render_report": "page",
        "view_problem": "response",
        "write_card": "card",
    },
)
