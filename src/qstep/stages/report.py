"""`qstep report`: results in, one self-contained HTML page out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass
class ReportConfig:
    """Renders a page that needs nothing else and runs no script.

    Args:
        results: a `results.json` as `qstep demo` writes it.
        output: the HTML file to write.
        examples: a JSONL file of scored problems to show, as `qstep demo` writes it.
    """

    results: Path
    output: Path
    examples: Path | None = None


def report(config: ReportConfig) -> Path:
    """Runs the stage and returns its output."""
    from qstep.data import read_rows
    from qstep.report import render_report

    examples = list(read_rows(config.examples)) if config.examples else []
    return render_report(json.loads(config.results.read_text()), examples, config.output)
