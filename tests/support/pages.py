"""The commands of the pages, which tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def section(page: str, heading: str) -> str:
    """What stands under a heading of a page, up to the next one of its rank or a higher one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rank = len(heading) - len(heading.lstrip("#"))
    assert f"\n{heading}\n" in text, f"{page} has no heading {heading!r}"
    return re.split(rf"\n#{{1,{rank}}} ", text.split(f"\n{heading}\n")[1])[0]


def commands(page: str, heading: str | None = None) -> list[str]:
    """The `qstep ...` lines in the code blocks of a page, `README.md` or `docs/labels.md`, or of what stands under one
    of its headings, each continued to its end. What a launcher starts is such a line too."""
    text = section(page, heading) if heading else (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"^(?:torchrun|accelerate launch) .*?-m qstep\.cli ", "qstep ", line) for line in lines]
    return [line for line in lines if line.startswith("qstep ")]
