"""The report: one self-contained HTML page from measured results, without a script or a remote address."""

from __future__ import annotations

from qstep.report.examples import choose_examples
from qstep.report.page import render_report

__all__ = ["choose_examples", "render_report"]
