"""Finds dead links in the pages: files that are not there, headings that are not in them (`make check`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#{1,6} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        known = target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
        if not known:
            dead.append(link)
    return dead


def main() -> int:
    pages = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    dead = {page: links for page in pages if (links := dead_links(page))}
    for page, links in dead.items():
        print(f"{page.relative_to(ROOT)}: dead links: {', '.join(links)}", file=sys.stderr)
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main())
