"""Measures how hard the pages are to read, and refuses those that exceed the limits.

    python benchmarks/prose.py            # a line a page
    python benchmarks/prose.py --check    # fails on a page above a limit (`make check`)

Prose is the text outside code blocks, tables, headings and images; inline code counts as one word. A sentence ends at a
full stop, question mark, exclamation mark or colon. A number is a word that contains a digit.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"log.md"}  # a diary, written once


@dataclass(frozen=True)
class Figures:
    lines: float
    words: float
    numbers_per_100: float
    sentence_median: float
    sentence_90th: float


README = Figures(lines=130, words=1000, numbers_per_100=2, sentence_median=15, sentence_90th=28)
DOCS = Figures(lines=130, words=1000, numbers_per_100=2.5, sentence_median=14, sentence_90th=24)
FIGURES = Figures(lines=210, words=1000, numbers_per_100=7, sentence_median=14, sentence_90th=24)
OF_FIGURES = {"results.md", "scale.md", "paper_index.md"}


def measure(text: str) -> Figures:
    """The figures of a page of Markdown."""
    prose = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    prose = "\n".join(line for line in prose.splitlines() if not line.strip().startswith(("|", "#", "!")))
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    words = re.sub(r"`[^`]*`", "code", prose).split()
    counts = [len(sentence.split()) for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(words))]
    sentences = sorted(count for count in counts if count > 1) or [0]
    numbers = sum(bool(re.search(r"[0-9]", word)) for word in words)
    return Figures(
        lines=text.count("\n"),
        words=len(words),
        numbers_per_100=round(100 * numbers / max(len(words), 1), 1),
        sentence_median=sentences[len(sentences) // 2],
        sentence_90th=sentences[int(0.9 * len(sentences))],
    )


def limits(page: Path) -> Figures:
    if page.name == "README.md":
        return README
    return FIGURES if page.name in OF_FIGURES else DOCS


def exceeded(found: Figures, allowed: Figures) -> list[str]:
    """What is above its limit, in words."""
    pairs = {field.name: (getattr(found, field.name), getattr(allowed, field.name)) for field in fields(Figures)}
    return [f"{name} {value:g} (limit {limit:g})" for name, (value, limit) in pairs.items() if value > limit]


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if page.exists() and page.name not in LEFT_OUT]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail on a page that exceeds a limit")
    check = parser.parse_args().check
    found = {page: measure(page.read_text(encoding="utf-8")) for page in pages()}
    if not check:
        print(f"{'page':24}" + "".join(f"{field.name:>17}" for field in fields(Figures)))
        for page, figures in found.items():
            print(f"{page.relative_to(ROOT)!s:24}" + "".join(f"{value:17g}" for value in astuple(figures)))
    failed = {page: above for page, figures in found.items() if (above := exceeded(figures, limits(page)))}
    for page, above in failed.items():
        print(f"{page.relative_to(ROOT)}: {', '.join(above)}", file=sys.stderr)
    return int(check and bool(failed))


if __name__ == "__main__":
    sys.exit(main())
