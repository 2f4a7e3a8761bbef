"""What holds of every page: its commands parse, its links lead somewhere, its sentences are as short as was agreed."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from pages import ROOT, commands
from qstep.cli import RECIPES
from qstep.stages.commands import COMMANDS, command_name

sys.path.insert(0, str(ROOT / "benchmarks"))
import links
import prose

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_parses(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a page reports to a package that is not installed here."""
    monkeypatch.setattr("qstep.objectives.packages.find_spec", lambda module: True)
    for line in commands(page):
        line = line.removesuffix(" --dry_run")  # the parsers of commands do not know it
        words = shlex.split(line.replace("$'\\n'", "'\n'"), comments=True)[1:]
        if words[0] == "plan":  # it takes the command of a training, and options of its own at the end
            words = [*words[1 : words.index("--hardware")], "--output_dir", "out"]
        name, rest = command_name(words)
        {**RECIPES, **COMMANDS}[name].parse(rest)


def test_the_readme_links_to_every_page() -> None:
    assert set(re.findall(r"\]\((docs/\w+\.md)", (ROOT / "README.md").read_text())) >= {*PAGES[2:]} - {"docs/log.md"}
    assert len(PAGES) > 20


def test_the_picture_of_the_house_is_the_house() -> None:
    """Every folder and module of the package is in it, in the order that import-linter enforces."""
    house = (ROOT / "README.md").read_text(encoding="utf-8").split("## Code layout")[1].split("```")[1]
    shown = re.findall(r"(?<= )([a-z]+)(?:/|\.py)(?= )", house)
    files = (ROOT / "src/qstep").iterdir()
    rooms = {path.stem for path in files if (path / "__init__.py").exists() or re.match(r"[a-z]+\.py", path.name)}
    assert rooms <= set(shown) and {"losses", "calls"} <= rooms
    [layers] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rank = {room: place for place, layer in enumerate(layers["layers"]) for room in layer.split(" | ")}
    places = [rank[room] for room in shown if room in rank]
    assert places == sorted(places)


def test_the_python_of_the_concepts() -> None:
    """Each expression of the block has the value that its comment says."""
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/concepts.md").read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, object] = {}
    for line in block.splitlines():
        code, _, said = line.partition("  # ")
        if said:
            assert eval(code, found) == ast.literal_eval(said), code
        else:
            exec(code, found)


def test_prose_is_measured_as_it_says() -> None:
    """Sentences of 2, 3, 5 and 2 words; the code, the table, the heading and the image do not count; `x y` is one
    word; 1 word of 12 has a digit."""
    page = "# Not this\n\nOne two. Three `x y` four? [Five](a.md) six seven 8 nine: ten eleven.\n"
    page += "| a | b |\n```\nno\n```\n![no](b.png)\n"
    found = prose.measure(page)
    assert found == prose.Figures(lines=8, words=12, numbers_per_100=8.3, sentence_median=3, sentence_90th=5)
    assert prose.exceeded(found, prose.Figures(8, 11, 9, 3, 4)) == ["words 12 (limit 11)", "sentence_90th 5 (limit 4)"]


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `title`, of words\n\n```\n# no title\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "## Here\n[a](other.md) [b](#here) [c](other.md#a-title-of-words) [d](https://example.org) `[no](code.md)`\n"
        "[e](none.md) [f](#there) [g](other.md#no-title)\n"
    )
    assert links.dead_links(page) == ["none.md", "#there", "other.md#no-title"]
